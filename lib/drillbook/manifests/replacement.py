"""Pure functions from the old cluster to the one that takes its place.

Unlike a drill's copy, a replacement is production: it archives under a ``serverName`` of its own, keeps the source's
roles and settings, and is in the source's namespace. Its Cluster is built from the source's fields by the table in
:mod:`drillbook.profile.fields` (or from the profile, where the source's own object is gone); each one left out is
listed with its reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drillbook.archive.location import BARMAN_PLUGIN, IN_TREE, SourceArchive
from drillbook.archive.lost_cluster import MADE_BY as MADE_BY
from drillbook.manifests.recovery import EXPIRES, RUN_LABEL, recovery_target
from drillbook.model import BaseBackup, ClusterRef, RecoveryTarget, show_instant
from drillbook.profile import Site
from drillbook.profile.fields import REPLACEMENT, as_env, carried

NAME_LIMIT = 50
_OF_OTHERS = re.compile(r"([^/]+\.)?(cnpg\.io|drillbook\.io|kubectl\.kubernetes\.io)/").match


@dataclass(frozen=True)
class ReplacementNames:
    """The names of a replacement; they follow from the run's id, so that a step that is done again finds its own."""

    ref: ClusterRef
    run_id: str
    server_name: str
    made_by: str  # the ConfigMap with the run, its expiry, and what is needed for the way back
    password_secret: str

    @classmethod
    def for_new_cluster(cls, source: ClusterRef, run_id: str, server_name: str = "") -> ReplacementNames:
        """``<source>-<run stamp>``: a new name, compared with the source."""
        name = stamped(source.name, run_id)
        return cls._named(ClusterRef(namespace=source.namespace, name=name), name, run_id, server_name or name)

    @classmethod
    def under_the_old_name(cls, source: ClusterRef, run_id: str, server_name: str = "") -> ReplacementNames:
        """The source's own name, for a restore in place; only its ``serverName`` is new."""
        name = stamped(source.name, run_id)
        return cls._named(source, f"{name}-rebuild", run_id, server_name or name)  # one run may make both

    @classmethod
    def _named(cls, ref: ClusterRef, stem: str, run_id: str, server_name: str) -> ReplacementNames:
        return cls(ref, run_id, server_name, made_by=f"{stem}-run", password_secret=f"{stem}-owner")


def stamp(run_id: str) -> str:
    """The run's begin as digits: ``20261101T101500Z-1a2b3c`` gives ``20261101101500``."""
    return "".join(letter for letter in run_id.partition("-")[0] if letter.isdigit())


def stamped(name: str, run_id: str) -> str:
    """``<name>-<run stamp>``, short enough for a Cluster: CloudNativePG accepts 50 characters."""
    mark = stamp(run_id)
    return f"{name[: NAME_LIMIT - len(mark) - 1].rstrip('-')}-{mark}"


def metadata(replacement: ReplacementNames, name: str, *, stays: bool) -> dict[str, Any]:
    """Name, namespace and labels. Nothing is owned by a ConfigMap: deleting one must never take a database with it."""
    label = MADE_BY if stays else RUN_LABEL
    return {
        "name": name,
        "namespace": replacement.ref.namespace,
        "labels": {label: replacement.run_id, "app.kubernetes.io/managed-by": "drillbook"},
    }


def marks(item: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The labels and annotations that an object keeps when it is made again under its name.

    What declares it in Git is recognised by them. CloudNativePG's own say how the old one stood (fenced, asleep), and
    kubectl's what was last sent.
    """
    found = {key: item["metadata"].get(key) or {} for key in ("labels", "annotations")}
    return {key: {name: text for name, text in values.items() if not _OF_OTHERS(name)} for key, values in found.items()}


def note(replacement: ReplacementNames, *, source: ClusterRef, expires_at: datetime | None) -> dict[str, Any]:
    """The ConfigMap that says which run this belongs to; ``expires_at`` None: it stays."""
    found = metadata(replacement, replacement.made_by, stays=expires_at is None)
    if expires_at is not None:
        found["annotations"] = {EXPIRES: show_instant(expires_at)}
    data = {
        "run": replacement.run_id,
        "source": str(source),
        "replacement": replacement.ref.name,
        "server_name": replacement.server_name,
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": found, "data": data}


def password_secret(replacement: ReplacementNames, *, username: str, password: str, stays: bool) -> dict[str, Any]:
    """The owner's password as it is, in a Secret that no Cluster owns: CloudNativePG's own dies with its Cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": metadata(replacement, replacement.password_secret, stays=stays),
        "stringData": {"username": username, "password": password},
    }


def object_store(namespace: str, site: Site, archive: SourceArchive) -> dict[str, Any]:
    """The ObjectStore recreated from the profile: the old one is gone with all else but the bucket."""
    writer = site.archive.writer_secret
    assert writer is not None  # noqa: S101 - checked before anything is made
    configuration = dict(archive.configuration)
    configuration["s3Credentials"] = {
        "accessKeyId": {"name": writer.name, "key": writer.access_key_id},
        "secretAccessKey": {"name": writer.name, "key": writer.secret_access_key},
    }
    settings = archive.settings(site)
    sidecar = {"instanceSidecarConfiguration": {"env": as_env(settings)}} if settings else {}
    return {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {
            "name": store_name(site),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "drillbook"},
        },
        "spec": {"configuration": configuration, **sidecar},
    }


def store_name(site: Site) -> str:
    """The ObjectStore that the profile names, else ``<cluster>-store``."""
    return site.archive.object_store or f"{site.cluster.name}-store"


def from_profile(site: Site) -> dict[str, Any]:
    """A Cluster as the profile's ``replacement`` describes it, where the source's own object is gone."""
    wanted = site.replacement
    storage = {"size": wanted.storage_size} | ({"storageClass": wanted.storage_class} if wanted.storage_class else {})
    spec: dict[str, Any] = {"instances": wanted.instances, "storage": storage}
    if wanted.image:
        spec["imageName"] = wanted.image
    if wanted.parameters:
        spec["postgresql"] = {"parameters": dict(wanted.parameters)}
    return {"metadata": {"name": site.cluster.name, "namespace": site.cluster.namespace}, "spec": spec}


def replacement_cluster(
    replacement: ReplacementNames,
    source: dict[str, Any],
    *,
    site: Site,
    archive: SourceArchive,
    backup: BaseBackup,
    target: RecoveryTarget,
    database: str,
    owner: str,
    secret: str,
    instances: int = 0,
    stays: bool = False,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The replacement's Cluster, and each of the source's fields that was left out with its reason.

    Database, owner and secret are named as they are in the source, so that no password changes and no stray ``app``
    role comes to be. ``instances`` 0 is as many as the source has.
    """
    same_name = replacement.ref.name == source["metadata"]["name"]
    spec, left_out = carried(REPLACEMENT, source["spec"])
    for name in ("managed", "certificates"):
        if name in spec and not same_name:
            kept = _of_another_name(name, spec.pop(name), left_out)
            spec |= {name: kept} if kept else {}
    if instances:
        spec["instances"] = instances
    spec |= {
        "description": f"Recovered from {backup.server_name} by Drillbook, run {replacement.run_id}",
        "enableSuperuserAccess": True,
        "bootstrap": {
            "recovery": {
                "source": "source",
                "database": database,
                "owner": owner,
                "secret": {"name": secret},
                "recoveryTarget": recovery_target(target, backup),
            }
        },
    }
    spec |= _archives(replacement, source, site, archive, backup.server_name)
    meta = metadata(replacement, replacement.ref.name, stays=stays)
    if same_name:
        kept = marks(source)
        meta = meta | {"labels": meta["labels"] | kept["labels"], "annotations": kept["annotations"]}
        gone = sorted(set(source["metadata"].get("annotations") or {}) - set(kept["annotations"]))
        left_out += [(f"metadata.annotations.{name}", "said of the old cluster") for name in gone]
    cluster = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": meta, "spec": spec}
    return cluster, left_out


def _of_another_name(name: str, value: dict[str, Any], left_out: list[tuple[str, str]]) -> dict[str, Any]:
    """What of ``managed`` and ``certificates`` a cluster of another name can have."""
    if name == "managed":
        if "services" in value:
            left_out.append(("managed.services", "a Service belongs to one Cluster: move it when the old one is gone"))
        return {key: item for key, item in value.items() if key != "services"}
    left_out += [
        (f"certificates.{key}", "issued for the old cluster's names; CloudNativePG issues the replacement's own")
        for key in value
        if key != "serverAltDNSNames"
    ]
    return {key: item for key, item in value.items() if key == "serverAltDNSNames"}


def _archives(
    replacement: ReplacementNames, source: dict[str, Any], site: Site, archive: SourceArchive, old_server: str
) -> dict[str, Any]:
    """Where it reads from and where it archives to: one place, two folders, each named."""
    if archive.method == IN_TREE:
        section = dict(archive.configuration)
        backup = {key: item for key, item in source["spec"].get("backup", {}).items() if key != "barmanObjectStore"}
        return {
            "externalClusters": [{"name": "source", "barmanObjectStore": section | {"serverName": old_server}}],
            "backup": backup | {"barmanObjectStore": section | {"serverName": replacement.server_name}},
        }
    store = archive.object_store or store_name(site)
    others = [entry for entry in source["spec"].get("plugins", []) if entry.get("name") != BARMAN_PLUGIN]
    writes = {"barmanObjectName": store, "serverName": replacement.server_name}
    reads = {"barmanObjectName": store, "serverName": old_server}
    return {
        "externalClusters": [{"name": "source", "plugin": {"name": BARMAN_PLUGIN, "parameters": reads}}],
        "plugins": [*others, {"name": BARMAN_PLUGIN, "isWALArchiver": True, "parameters": writes}],
    }
