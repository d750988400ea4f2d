"""Pure functions from (site, source, target) to the objects of a recovery copy.

The copy's Cluster and ObjectStore are built from the source's fields by the table in :mod:`drillbook.profile.fields`;
each one left out is listed with its reason. The copy is quarantined before its first start: it can't archive (no
``spec.plugins``, no ``spec.backup``), it reads the archive with read-only credentials, it runs no logical replication
worker and preloads no job launcher (:mod:`drillbook.profile.preloads`), and a NetworkPolicy lets out only DNS, the
API server and the object store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from drillbook.archive.location import BARMAN_PLUGIN, IN_TREE, SourceArchive, endpoint_ca
from drillbook.model import BaseBackup, ClusterRef, RecoveryTarget, show_instant
from drillbook.profile import Site, preloads
from drillbook.profile.fields import COPY, OBJECT_STORE, Notes, as_env, carried, store_settings

RUN_LABEL = "drillbook.io/run"
EXPIRES = "drillbook.io/expires-at"


@dataclass(frozen=True)
class Copy:
    """The names of a recovery copy; all of one run and one namespace."""

    ref: ClusterRef
    run_id: str
    owner: str  # the ConfigMap that owns everything, with the expiry
    store: str
    password_secret: str

    @classmethod
    def named(cls, site: Site, run_id: str, started_at: datetime) -> Copy:
        """``<cluster>-<compact UTC time>``, at most 50 characters as CloudNativePG demands."""
        stamp = started_at.strftime("%Y%m%d%H%M%S")
        name = f"{site.cluster.name[: 50 - len(stamp) - 7].rstrip('-')}-{stamp}"
        return cls.of(ClusterRef(namespace=site.drill_namespace, name=name), run_id)

    @classmethod
    def of(cls, ref: ClusterRef, run_id: str) -> Copy:
        """The names that follow from the copy's own."""
        return cls(
            ref=ref,
            run_id=run_id,
            owner=f"{ref.name}-run",
            store=f"{ref.name}-store",
            password_secret=f"{ref.name}-owner",
        )


def metadata_of(copy: Copy, name: str, owner_uid: str) -> dict[str, Any]:
    """The metadata of an object of the run: its label, and the owner that it goes with (``owner_uid`` "" for the owner)."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": copy.ref.namespace,
        "labels": {RUN_LABEL: copy.run_id, "app.kubernetes.io/managed-by": "drillbook"},
    }
    if owner_uid:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": copy.owner, "uid": owner_uid}
        metadata["ownerReferences"] = [owner]
    return metadata


def owner_object(copy: Copy, *, source: ClusterRef, expires_at: datetime) -> dict[str, Any]:
    """The ConfigMap that everything of the run hangs on."""
    metadata = metadata_of(copy, copy.owner, "")
    metadata["annotations"] = {EXPIRES: show_instant(expires_at)}
    data = {"run": copy.run_id, "source": str(source), "copy": copy.ref.name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def backup(source: ClusterRef, run_id: str, *, method: str, reason: str, requested_at: datetime) -> dict[str, Any]:
    """A Backup of the whole Cluster by its own method; without ``method: plugin`` a plugin's cluster would fail it."""
    spec: dict[str, Any] = {"cluster": {"name": source.name}, "method": method}
    if method != IN_TREE:
        spec["pluginConfiguration"] = {"name": BARMAN_PLUGIN}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {
            "name": f"{source.name}-{requested_at.strftime('%Y%m%d%H%M%S')}",
            "namespace": source.namespace,
            "labels": {"cnpg.io/cluster": source.name, RUN_LABEL: run_id, "app.kubernetes.io/managed-by": "drillbook"},
            "annotations": {"drillbook.io/reason": reason},
        },
        "spec": spec,
    }


def password_secret(copy: Copy, *, username: str, password: str, owner_uid: str) -> dict[str, Any]:
    """Keeps the owner's password as it is: without it CloudNativePG would generate a new one."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": metadata_of(copy, copy.password_secret, owner_uid),
        "stringData": {"username": username, "password": password},
    }


def archive_as_read(site: Site, archive: SourceArchive) -> tuple[dict[str, Any], Notes]:
    """The archive as the copy sees it, and what is left out of the source's ObjectStore or ``barmanObjectStore``.

    The source's place, and the read-only credentials of the drill namespace.
    """
    spec, left_out = carried(OBJECT_STORE, {**archive.store_spec, "configuration": archive.configuration})
    found = spec.setdefault("configuration", {})
    if "endpointURL" in found:
        found["endpointURL"] = _from_another_namespace(site, found["endpointURL"], left_out)
    found["s3Credentials"] = _credentials(site)
    found.pop("endpointCA", None)
    if (ca := endpoint_ca(site, archive.configuration)) is not None:
        found["endpointCA"] = {"name": ca.name, "key": ca.key}
    sidecar = spec.pop("instanceSidecarConfiguration", {})
    left_out += store_settings(sidecar.pop("env", []), "instanceSidecarConfiguration.env")[1]
    settings = as_env(_environment(site, archive))
    sidecar |= {"env": settings} if settings else {}
    spec |= {"instanceSidecarConfiguration": sidecar} if sidecar else {}
    return spec, left_out


def _credentials(site: Site) -> dict[str, Any]:
    reader = site.archive.reader_secret
    if reader is None:
        return {"inheritFromIAMRole": True}
    named = {
        "accessKeyId": reader.access_key_id,
        "secretAccessKey": reader.secret_access_key,
        "sessionToken": reader.session_token,
        "region": reader.region,
    }
    return {field: {"name": reader.name, "key": key} for field, key in named.items() if key}


def _environment(site: Site, archive: SourceArchive) -> dict[str, str]:
    """The variables by which the copy's barman talks to the store, and says who it is."""
    identity = site.archive.identity
    return archive.settings(site) | (identity.environment if identity is not None else {})


def _from_another_namespace(site: Site, url: str, left_out: Notes) -> str:
    """An address that also leads there from the drill namespace: a Service's short name is one of the source's."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", host) or host == "localhost":
        return url
    full = f"{host}.{site.cluster.namespace}.svc"
    left_out.append(("configuration.endpointURL", f"the short name {host} is completed: {full}"))
    return parts._replace(netloc=parts.netloc.replace(host, full, 1)).geturl()


def object_store(copy: Copy, site: Site, archive: SourceArchive, *, owner_uid: str) -> tuple[dict[str, Any], Notes]:
    """The ObjectStore that the plugin reads for the copy, and each field of the source's that was left out."""
    spec, left_out = archive_as_read(site, archive)
    made = {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": metadata_of(copy, copy.store, owner_uid),
        "spec": spec,
    }
    return made, [(f"ObjectStore.{name}", why) for name, why in left_out]


def network_policy(
    copy: Copy, ways_out: Sequence[dict[str, Any]], *, owner_uid: str, instances: int = 1
) -> dict[str, Any]:
    """Lets the copy's pods out by the rules that are given and nowhere else; several instances, to each other too."""
    own = {"podSelector": {"matchLabels": {"cnpg.io/cluster": copy.ref.name}}}
    # Replicas are made from the primary and follow it; the instances ask each other for their state.
    ports = [{"protocol": "TCP", "port": 5432}, {"protocol": "TCP", "port": 8000}]
    among = instances > 1
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata_of(copy, f"{copy.ref.name}-quarantine", owner_uid),
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            # The operator's probes and the instance's own status port; a port-forward does not pass here.
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": 8000}]},
                *([{"from": [own], "ports": ports}] if among else []),
            ],
            "egress": [*ways_out, *([{"to": [own], "ports": ports}] if among else [])],
        },
    }


def recovery_target(target: RecoveryTarget, backup: BaseBackup) -> dict[str, Any]:
    """CloudNativePG's ``recoveryTarget``; the backup is pinned, and times carry their zone.

    The timeline is explicit but where PostgreSQL can't be given its number, see `objectstore.timelines`: it must be
    left out then, and PostgreSQL stays on the base backup's own.
    """
    found: dict[str, Any] = {"backupID": backup.backup_id}
    if target.target_time is not None:
        found["targetTime"] = show_instant(target.target_time)
    if target.target_lsn is not None:
        found["targetLSN"] = str(target.target_lsn)
    if target.target_xid is not None:
        found["targetXID"] = str(target.target_xid)
    if target.target_name is not None:
        found["targetName"] = target.target_name
    if target.target_immediate:
        found["targetImmediate"] = True
    if target.exclusive:
        found["exclusive"] = True
    if target.timeline is not None:
        found["targetTLI"] = str(target.timeline)
    return found


def _quieten(section: dict[str, Any], left_out: Notes) -> None:
    """The server's settings and preloads, so that nothing in the copy acts by itself."""
    given = section.get("parameters", {})
    parameters = {}
    for name, value in given.items():
        if why := preloads.outward(name):
            left_out.append((f"postgresql.parameters.{name}", why))
        else:
            parameters[name] = value
    libraries, acting = preloads.kept(section.pop("shared_preload_libraries", []))
    left_out += [(f"postgresql.shared_preload_libraries: {name}", why) for name, why in acting]
    quiet = preloads.quiet_settings(libraries)
    left_out += [
        (f"postgresql.parameters.{name}", f"{given[name]} in the source; {value} keeps its workers quiet")
        for name, value in quiet.items()
        if name in given and given[name] != value
    ]
    # A subscription in the copy would consume the source's publisher slot.
    section["parameters"] = parameters | quiet | {"max_logical_replication_workers": "0"}
    if libraries:
        section["shared_preload_libraries"] = libraries


def _images(site: Site, source: dict[str, Any], spec: dict[str, Any], left_out: Notes) -> None:
    """The images that run, in place of references to catalogues: a namespaced one isn't there in the drill namespace."""
    reference = spec.get("imageCatalogRef")
    status = source.get("status", {})
    running = {item["name"]: item for item in (status.get("pgDataImageInfo") or {}).get("extensions") or []}
    extensions = [_with_image(item, running) for item in spec.get("postgresql", {}).get("extensions", [])]
    if site.copy_.image:
        spec["imageName"] = site.copy_.image
        if spec.pop("imageCatalogRef", None):
            left_out.append(("imageCatalogRef", "copy.image of the profile is used"))
    elif reference and has_version(str(status.get("image", ""))) and all(map(_has_image, extensions)):
        spec["imageName"] = status["image"]
        left_out.append(("imageCatalogRef", f"replaced by the image that runs: {status['image']}"))
        del spec["imageCatalogRef"]
    if extensions and "imageCatalogRef" not in spec:
        spec["postgresql"]["extensions"] = extensions


def _with_image(extension: dict[str, Any], running: dict[str, Any]) -> dict[str, Any]:
    known = running.get(extension["name"], {})
    return extension if _has_image(extension) or not known else {**known, **extension, "image": known.get("image", {})}


def _has_image(extension: dict[str, Any]) -> bool:
    return bool((extension.get("image") or {}).get("reference"))


def has_version(image: str) -> bool:
    """Whether an image's tag begins with PostgreSQL's version: CloudNativePG takes no other as ``imageName``."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return bool(re.match(r"[0-9]", tag))


def image_faults(site: Site, source: dict[str, Any]) -> list[str]:
    """Why the copy would not get the image that the source runs, or one of an extension's; empty if it would."""
    spec, _ = carried(COPY, source["spec"])
    _images(site, source, spec, [])
    reference = spec.get("imageCatalogRef")
    if reference and reference["kind"] != "ClusterImageCatalog":
        running = source.get("status", {}).get("image") or "unknown"
        return [
            f"the source's image comes from {reference['kind']} {reference['name']}, which only its own namespace has, "
            f"and the image that runs ({running}) can't stand in for it: name the images in copy.image, and in "
            "postgresql.extensions of the source"
        ]
    lost = [item["name"] for item in spec.get("postgresql", {}).get("extensions", []) if not _has_image(item)]
    if reference or not lost:
        return []
    return [f"extension {name} has no image: a catalogue gives it, and copy.image is used instead" for name in lost]


def volumes(site: Site, spec: dict[str, Any]) -> dict[str, str]:
    """The StorageClass of each of the copy's volumes, by the field that asks for it; "" is the cluster's default."""
    sections = {"storage": spec.get("storage") or {}, "walStorage": spec.get("walStorage")}
    sections |= {f"tablespaces[{item['name']}].storage": item.get("storage") for item in spec.get("tablespaces") or []}
    return {
        name: site.copy_.storage_class
        or section.get("storageClass")
        or (section.get("pvcTemplate") or {}).get("storageClassName")
        or ""
        for name, section in sections.items()
        if section is not None
    }


def apply_storage(site: Site, spec: dict[str, Any]) -> None:
    """Set the copy's class and size as the profile wants them. CloudNativePG applies both after a ``pvcTemplate``."""
    wanted = site.copy_
    sections = [spec.setdefault("storage", {})]
    sections += [spec["walStorage"]] if "walStorage" in spec else []
    sections += [item["storage"] for item in spec.get("tablespaces", []) if "storage" in item]
    for section in sections:
        section |= {"storageClass": wanted.storage_class} if wanted.storage_class else {}
    spec["storage"] |= {"size": wanted.storage_size} if wanted.storage_size else {}


def _identity(site: Site) -> dict[str, Any]:
    """The Cluster's fields by which its pods prove who they are, where no Secret does."""
    identity = site.archive.identity
    if identity is None:
        return {}
    found: dict[str, Any] = {}
    if identity.service_account:
        found["serviceAccountName"] = identity.service_account
    if identity.annotations:
        found["serviceAccountTemplate"] = {"metadata": {"annotations": dict(identity.annotations)}}
    if identity.token is not None:
        seconds = round(identity.token.expires.total_seconds())
        token = {"audience": identity.token.audience, "path": identity.token.path, "expirationSeconds": seconds}
        found["projectedVolumeTemplate"] = {"sources": [{"serviceAccountToken": token}]}
    return found


def _recovery_source(
    copy: Copy, site: Site, archive: SourceArchive, backup: BaseBackup, left_out: Notes
) -> dict[str, Any]:
    """The archive by the source's own method: where that works, what reads it is there.

    ``serverName`` is always named: its defaults differ, the plugin's is the copy's name and the other the entry's.
    """
    if archive.method == IN_TREE:
        read, lost = archive_as_read(site, archive)
        left_out += [(f"backup.barmanObjectStore.{name.removeprefix('configuration.')}", why) for name, why in lost]
        return {"barmanObjectStore": {**read["configuration"], "serverName": backup.server_name}}
    parameters = {"barmanObjectName": copy.store, "serverName": backup.server_name}
    return {"plugin": {"name": BARMAN_PLUGIN, "parameters": parameters}}


def recovery_cluster(
    copy: Copy,
    site: Site,
    source: dict[str, Any],
    *,
    archive: SourceArchive,
    backup: BaseBackup,
    target: RecoveryTarget,
    owner_uid: str,
    instances: int = 1,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The copy's Cluster, and each of the source's fields that was left out with its reason.

    ``recovery`` names Drillbook's own database, owner and secret: unnamed, CloudNativePG would add a stray ``app``
    role, and without the secret it would change the owner's password.
    """
    spec, left_out = carried(COPY, deepcopy(source["spec"]))
    spec["instances"] = instances
    _quieten(spec.setdefault("postgresql", {}), left_out)
    _images(site, source, spec, left_out)
    apply_storage(site, spec)
    left_out += store_settings(spec.pop("env", []), "env")[1]
    if archive.method == IN_TREE and (settings := as_env(_environment(site, archive))):
        spec["env"] = settings
    spec |= {
        "description": f"Drillbook copy of {source['metadata']['namespace']}/{source['metadata']['name']}: removed by its run",
        "enableSuperuserAccess": True,
        "bootstrap": {
            "recovery": {
                "source": "source",
                "database": site.sql.database,
                "owner": site.sql.role,
                "secret": {"name": copy.password_secret},
                "recoveryTarget": recovery_target(target, backup),
            }
        },
        "externalClusters": [{"name": "source", **_recovery_source(copy, site, archive, backup, left_out)}],
        **_identity(site),
    }
    metadata = metadata_of(copy, copy.ref.name, owner_uid)
    cluster = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": metadata, "spec": spec}
    return cluster, left_out
