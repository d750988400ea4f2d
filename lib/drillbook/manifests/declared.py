"""The Cluster as Git declares it: read from a file of manifests, and what it asks for when it is created again; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.errors import ParameterError
from drillbook.model import (
    ClusterRef,
    Frozen,
    RecoveryTarget,
    parse_backup_id,
    parse_instant,
    parse_lsn,
    parse_restore_point,
    parse_xid,
)

_MOST_BYTES = 4 << 20
_SPEC = (
    "bootstrap",
    "externalClusters",
    "plugins",
    "backup",
    "storage",
    "walStorage",
    "tablespaces",
    "imageName",
    "imageCatalogRef",
    "managed",
    "replica",
)
_TODO = "Give the path of the manifest as it would be applied (rendered, if Helm or Kustomize makes it)."
_TARGETS = {
    "targetTime": ("target_time", parse_instant),
    "targetLSN": ("target_lsn", parse_lsn),
    "targetXID": ("target_xid", parse_xid),
    "targetName": ("target_name", parse_restore_point),
}


class Declared(Frozen):
    """The Cluster, as far as creating it again depends on it, and the ObjectStores declared next to it, by name.

    ``names``: every object of the file as ``Kind/name``. Of no Secret more than its name is kept.
    """

    cluster: dict[str, Any]
    object_stores: dict[str, dict[str, Any]]
    names: tuple[str, ...]
    origin: str
    digest: str

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.cluster["spec"])

    def rows(self) -> Iterator[tuple[str, str]]:
        """As a card shows it."""
        yield "Declared by", self.origin
        yield "bootstrap", ", ".join(self.spec.get("bootstrap") or {"none: initdb by default": None})
        yield "ObjectStores in it", ", ".join(self.object_stores) or "none"
        if self.digest:
            yield "SHA-256", self.digest


class StoreUse(Frozen):
    """A folder that a Cluster recovers from or archives to.

    ``object_store`` is the ObjectStore's name, "" for an in-tree ``section``.
    """

    server_name: str
    object_store: str = ""
    section: dict[str, Any] = Field(default_factory=dict)


class Wanted(Frozen):
    """What creating the declared Cluster asks for.

    ``method``: initdb, import, recovery, volumeSnapshots, pg_basebackup or replica. ``faults``: for what the API server
    refuses the manifest. ``archives`` is False for a ``destination`` that is only checked, ``skips_check`` whether it is
    not even that. ``backup``: the Backup object that recovery names.
    """

    method: str
    faults: tuple[str, ...] = ()
    source: StoreUse | None = None
    destination: StoreUse | None = None
    archives: bool = False
    skips_check: bool = False
    target: RecoveryTarget = RecoveryTarget()
    backup_id: str = ""
    backup: str = ""

    @property
    def stops_early(self) -> bool:
        """Whether a target is set: recovery doesn't go to the end of the archive."""
        return self.target.model_copy(update={"timeline": None}) != RecoveryTarget()


class _Manifests(yaml.SafeLoader):
    """YAML as Kubernetes reads it: an instant stays the text that it is."""


_Manifests.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_declared(path: str | Path, ref: ClusterRef) -> Declared:
    """The Cluster ``ref`` as the file at ``path`` declares it; reads that file only.

    ParameterError: the file can't be read, is no YAML, or has not exactly one Cluster of that name; every fault is named.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise ParameterError([f"manifest: there is no file {path}"], where="declared manifest", todo=_TODO)
    if place.stat().st_size > _MOST_BYTES:
        fault = f"manifest: {place.name} has more than {_MOST_BYTES >> 20} MiB"
        raise ParameterError([fault], where="declared manifest", todo=_TODO)
    data = place.read_bytes()
    try:
        documents = list(yaml.load_all(data, Loader=_Manifests))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fault = f"manifest: {place.name} can't be read as YAML: {' '.join(str(error).split())[:200]}"
        raise ParameterError([fault], where="declared manifest", todo=_TODO) from error
    return declared_in(documents, ref, origin=place.name, digest=hashlib.sha256(data).hexdigest())


def declared_in(documents: list[Any], ref: ClusterRef, *, origin: str, digest: str = "") -> Declared:
    """The Cluster ``ref`` among manifests, of which each may be a List; ParameterError as for `load_declared`."""
    faults = [
        f"document {number} is no Kubernetes object"
        for number, one in enumerate(documents, 1)
        if one is not None and not (isinstance(one, Mapping) and one.get("kind"))
    ]
    objects = list(_objects(documents))
    clusters = [one for one in objects if one["kind"] == "Cluster" and "cnpg.io" in str(one.get("apiVersion"))]
    mine = [one for one in clusters if _named(one)[1] == ref.name and _named(one)[0] in ("", ref.namespace)]
    known = ", ".join("/".join(filter(None, _named(one))) for one in clusters) or "none"
    if len(mine) != 1:
        faults.append(f"{origin} declares {len(mine) or 'no'} Cluster {ref}; its Clusters: {known}")
    elif not isinstance(mine[0].get("spec"), dict):
        faults.append(f"Cluster {ref.name} has no spec")
    if faults:
        raise ParameterError(faults, where="declared manifest", todo=_TODO)
    here = [one for one in objects if _named(one)[0] in ("", ref.namespace)]
    return Declared(
        cluster=_needed(mine[0]),
        object_stores={
            _named(one)[1]: dict(one.get("spec") or {})
            for one in here
            if one["kind"] == "ObjectStore" and "cnpg.io" in str(one.get("apiVersion"))
        },
        names=tuple(f"{one['kind']}/{_named(one)[1]}" for one in here),
        origin=origin,
        digest=digest,
    )


def wanted(declared: Declared) -> Wanted:
    """What creating the Cluster asks for, by CloudNativePG's own defaults."""
    spec, name = declared.spec, str(declared.cluster["metadata"]["name"])
    bootstrap = spec.get("bootstrap") or {}
    destination, archives = _destination(spec, name)
    faults = [f"spec.bootstrap has {' and '.join(bootstrap)}: only one is allowed"] if len(bootstrap) > 1 else []
    annotations = declared.cluster["metadata"].get("annotations") or {}
    found = Wanted(
        method=_method(spec),
        destination=destination,
        archives=archives and annotations.get("cnpg.io/skipWalArchiving") != "enabled",
        skips_check=annotations.get("cnpg.io/skipEmptyWalArchiveCheck") == "enabled",
    )
    section = bootstrap.get("recovery") or bootstrap.get("pg_basebackup") or {}
    source, wrong = _source(spec, section, name)
    target, backup_id, unclear = _target(section.get("recoveryTarget") or {})
    if "recovery" in bootstrap and not {"source", "backup", "volumeSnapshots"} & set(section):
        faults.append("spec.bootstrap.recovery names no source, backup or volumeSnapshots")
    return found.model_copy(
        update={
            "faults": (*faults, *wrong, *unclear),
            "source": source,
            "target": target,
            "backup_id": backup_id,
            "backup": str((section.get("backup") or {}).get("name", "")),
        }
    )


def _method(spec: Mapping[str, Any]) -> str:
    bootstrap = spec.get("bootstrap") or {}
    replica = spec.get("replica") or {}
    if replica.get("enabled") or (replica.get("primary") and replica["primary"] != replica.get("self")):
        return "replica"
    if "recovery" in bootstrap:
        return "volumeSnapshots" if "volumeSnapshots" in (bootstrap["recovery"] or {}) else "recovery"
    if "pg_basebackup" in bootstrap:
        return "pg_basebackup"
    return "import" if "import" in (bootstrap.get("initdb") or {}) else "initdb"


def _destination(spec: Mapping[str, Any], name: str) -> tuple[StoreUse | None, bool]:
    """Where it archives to, and whether it does: a disabled entry of the plugin names a place that is checked all the same."""
    for entry in spec.get("plugins") or ():
        parameters = entry.get("parameters") or {}
        if entry.get("name") == BARMAN_PLUGIN and parameters.get("barmanObjectName"):
            use = StoreUse(
                server_name=str(parameters.get("serverName") or name), object_store=str(parameters["barmanObjectName"])
            )
            return use, bool(entry.get("isWALArchiver")) and entry.get("enabled", True) is not False
    section = (spec.get("backup") or {}).get("barmanObjectStore")
    if section:
        return StoreUse(server_name=str(section.get("serverName") or name), section=dict(section)), True
    return None, False


def _source(spec: Mapping[str, Any], section: Mapping[str, Any], name: str) -> tuple[StoreUse | None, list[str]]:
    """Where recovery reads from. The plugin's default folder is the new Cluster's name, and in-tree the entry's."""
    source = str(section.get("source") or "")
    if not source:
        return None, []
    entry = next((one for one in spec.get("externalClusters") or () if one.get("name") == source), None)
    if entry is None:
        return None, [f"External cluster {source} not found: spec.externalClusters has none of that name"]
    parameters = (entry.get("plugin") or {}).get("parameters") or {}
    if parameters.get("barmanObjectName"):
        return StoreUse(
            server_name=str(parameters.get("serverName") or name), object_store=str(parameters["barmanObjectName"])
        ), []
    store = entry.get("barmanObjectStore")
    if store:
        return StoreUse(server_name=str(store.get("serverName") or source), section=dict(store)), []
    if entry.get("connectionParameters"):
        return None, []
    return None, [f"External cluster {source} cannot be used for recovery: it names no object store"]


def _target(section: Mapping[str, Any]) -> tuple[RecoveryTarget, str, list[str]]:
    """The target, the base backup that is pinned, and what is wrong with either."""
    faults: list[str] = []
    given: dict[str, Any] = {"exclusive": bool(section.get("exclusive", False))}
    for theirs, (ours, parse) in _TARGETS.items():
        if section.get(theirs) not in (None, ""):
            value = section[theirs]
            try:
                given[ours] = parse(_zoned(value) if theirs == "targetTime" else value)
            except ValueError as error:
                faults.append(f"recoveryTarget.{theirs}: {error}")
    given["target_immediate"] = bool(section.get("targetImmediate"))
    kinds = [name for name in (*_TARGETS, "targetImmediate") if section.get(name) not in (None, "")]
    if len(kinds) > 1:
        faults.append(f"recoveryTarget has {' and '.join(kinds)}: only one is allowed")
    line = str(section.get("targetTLI") or "latest")
    if line != "latest":
        given["timeline"] = int(line) if line.isdecimal() and int(line) else None
        if given["timeline"] is None:
            faults.append(f"recoveryTarget.targetTLI: {line!r} is neither latest nor a timeline")
    backup_id = str(section.get("backupID") or "")
    try:
        backup_id = parse_backup_id(backup_id) if backup_id else ""
    except ValueError as error:
        faults.append(f"recoveryTarget.backupID: {error}")
    if not backup_id and {"targetName", "targetXID", "targetImmediate"} & set(kinds):
        faults.append(f"recoveryTarget.{kinds[0]} needs a backupID")
    return RecoveryTarget() if faults else RecoveryTarget(**given), backup_id, faults


def _zoned(value: Any) -> Any:
    """An instant without a zone as CloudNativePG reads it: in UTC."""
    text = str(value).strip()
    has_zone = text.endswith("Z") or "+" in text[10:] or "-" in text[10:]
    return text if has_zone else f"{text}Z"


def _objects(documents: list[Any]) -> Iterator[dict[str, Any]]:
    for one in documents:
        if isinstance(one, Mapping) and one.get("kind"):
            if str(one["kind"]).endswith("List") and isinstance(one.get("items"), list):
                yield from _objects(one["items"])
            else:
                yield dict(one)


def _named(one: Mapping[str, Any]) -> tuple[str, str]:
    metadata = one.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def _needed(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """What is judged, and no SQL that it may hold: the journal keeps it."""
    annotations = cluster["metadata"].get("annotations") or {}
    spec = {key: cluster["spec"][key] for key in _SPEC if cluster["spec"].get(key) is not None}
    if initdb := (spec.get("bootstrap") or {}).get("initdb"):
        kept = {key: value for key, value in initdb.items() if not key.startswith("postInit")}
        spec["bootstrap"] = spec["bootstrap"] | {"initdb": kept}
    return {
        "metadata": {
            "name": cluster["metadata"]["name"],
            "annotations": {key: value for key, value in annotations.items() if key.startswith("cnpg.io/")},
        },
        "spec": spec,
    }


__all__ = ["Declared", "StoreUse", "Wanted", "declared_in", "load_declared", "wanted"]
