"""What the Cluster's webhook fills in, refuses, and warns about (recovery targets apart)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from drillbook_lab.apiserver.errors import Fault, Object
from drillbook_lab.apiserver.schema import bad_value

DEFAULT_IMAGE = "ghcr.io/cloudnative-pg/postgresql:18"
PLUGIN = "barman-cloud.cloudnative-pg.io"

# Settings that are always there, unless the author gave another value where that is allowed.
_PARAMETERS = {
    "archive_mode": "on",
    "archive_timeout": "5min",
    "ssl_min_protocol_version": "TLSv1.3",
    "wal_keep_size": "512MB",
    "wal_level": "logical",
}
# The operator's own: refused, unless they repeat what it sets anyway (as a spec that was read back does).
_FIXED = frozenset({
    "archive_mode", "archive_command", "archive_cleanup_command", "restore_command", "data_directory", "hba_file",
    "ident_file", "hot_standby", "listen_addresses", "port", "primary_conninfo", "primary_slot_name",
    "promote_trigger_file", "recovery_end_command", "ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file",
    "unix_socket_directories", "unix_socket_permissions", "synchronous_standby_names", "cluster_name",
})  # fmt: skip

_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_RETENTION = re.compile(r"^[1-9][0-9]*[dwm]$")
_QUANTITY = re.compile(r"^\+?(?P<number>\d+(\.\d*)?|\.\d+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
_UNITS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def default(cluster: Object) -> None:
    """Write what the author left out into the spec, as the operator does: it is never read back as sent."""
    spec = cluster["spec"] if isinstance(cluster.get("spec"), dict) else {}
    if not spec.get("imageName") and not spec.get("imageCatalogRef"):
        spec["imageName"] = DEFAULT_IMAGE
    postgresql = spec.setdefault("postgresql", {})
    if isinstance(postgresql, dict) and isinstance(postgresql.setdefault("parameters", {}), dict):
        for name, value in _PARAMETERS.items():
            postgresql["parameters"].setdefault(name, value)
    bootstrap = spec.setdefault("bootstrap", {})
    if not isinstance(bootstrap, dict):
        return
    if not bootstrap:
        bootstrap["initdb"] = {}
    for method, section in bootstrap.items():
        if not isinstance(section, dict) or (method == "initdb" and "import" in section):
            continue
        if section.get("owner") and not section.get("database"):
            continue  # refused below: whose database it is can't be guessed
        section.setdefault("database", "app")
        section.setdefault("owner", section["database"])
        if method == "initdb":
            section.setdefault("encoding", "UTF8")
            if not section.get("locale"):
                section.setdefault("localeCollate", "C")
                section.setdefault("localeCType", "C")
    monitoring = spec.setdefault("monitoring", {})
    if isinstance(monitoring, dict) and not monitoring.get("disableDefaultQueries"):
        monitoring.setdefault("disableDefaultQueries", False)
        monitoring.setdefault("enablePodMonitor", False)
        queries = monitoring.setdefault("customQueriesConfigMap", [])
        ours = {"name": "cnpg-default-monitoring", "key": "queries"}
        if isinstance(queries, list) and ours not in queries:
            queries.append(ours)


def faults(new: Object, old: Object | None) -> list[Fault]:
    """Everything that is wrong with a Cluster beyond its schema; `old` is the stored one on an update."""
    found = [
        *_name(new),
        *_bootstrap(new["spec"]),
        *_sources(new["spec"]),
        *_sizes(new["spec"]),
        *_parameters(new["spec"]),
        *_stores(new["spec"]),
        *_annotations(new),
        *_replica(new, creating=old is None),
    ]
    if old is not None:
        found.extend(_changes(new["spec"], old["spec"]))
    return found


def warnings(cluster: Object) -> list[str]:
    """What is allowed, but not for long or not to any effect."""
    spec = cluster["spec"]
    backup = spec.get("backup") or {}
    told: list[str] = []
    in_tree = "barmanObjectStore" in backup or any("barmanObjectStore" in e for e in spec.get("externalClusters") or ())
    if in_tree:
        told.append(
            "Native support for Barman Cloud backups and recovery is deprecated and will be completely removed in "
            "CloudNativePG 1.31.0. Please migrate existing clusters to the new Barman Cloud Plugin"
        )
    if backup.get("retentionPolicy") and "barmanObjectStore" not in backup:
        told.append("Retention policies specified in .spec.backup.retentionPolicy are only used by the in-tree backups")
    return told


def _name(cluster: Object) -> Iterator[Fault]:
    name = cluster["metadata"]["name"]
    if not _DNS_1035.match(name):
        yield bad_value("metadata.name", name, "cluster name must be a valid DNS label: a DNS-1035 label must consist "
                        "of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
                        "with an alphanumeric character")  # fmt: skip
    if len(name) > 50:
        yield bad_value("metadata.name", name, "the maximum length of a cluster name is 50 characters")


def _bootstrap(spec: Object) -> Iterator[Fault]:
    bootstrap = spec.get("bootstrap") or {}
    methods = [name for name in ("initdb", "recovery", "pg_basebackup") if bootstrap.get(name) is not None]
    if len(methods) > 1:
        shown = " and ".join(methods)
        yield bad_value("spec.bootstrap", bootstrap, f"Too many bootstrap types specified: {shown}")
    for method in methods:
        section, path = bootstrap[method], f"spec.bootstrap.{method}"
        if section.get("owner") and not section.get("database"):
            yield bad_value(f"{path}.database", "", "You need to specify the database name when the owner is given")
        if section.get("database") and not section.get("owner") and "import" not in section:
            yield bad_value(f"{path}.owner", "", "You need to specify the database owner user")


def _sources(spec: Object) -> Iterator[Fault]:
    known = [entry["name"] for entry in spec.get("externalClusters") or ()]
    for name in sorted({name for name in known if known.count(name) > 1}):
        yield bad_value("spec.externalClusters", name, "the names of external clusters must differ")
    bootstrap = spec.get("bootstrap") or {}
    named = {
        "spec.bootstrap.recovery.source": (bootstrap.get("recovery") or {}).get("source"),
        "spec.bootstrap.pg_basebackup.source": (bootstrap.get("pg_basebackup") or {}).get("source"),
        "spec.bootstrap.initdb.import.source.externalCluster": (
            ((bootstrap.get("initdb") or {}).get("import") or {}).get("source") or {}
        ).get("externalCluster"),
        "spec.replica.source": (spec.get("replica") or {}).get("source"),
    }
    for path, name in named.items():
        if name and name not in known:
            yield bad_value(path, name, f"External cluster {name} not found")


def _volumes(spec: Object) -> Iterator[tuple[str, str, Object]]:
    """(path, what to call it, storage section) of every volume that a Cluster declares."""
    yield "spec.storage", "storage", spec.get("storage") or {}
    if spec.get("walStorage") is not None:
        yield "spec.walStorage", "walStorage", spec["walStorage"]
    for index, tablespace in enumerate(spec.get("tablespaces") or ()):
        yield f"spec.tablespaces[{index}].storage", f"tablespace {tablespace['name']}", tablespace["storage"]


def _size(storage: Object) -> str:
    requested = ((storage.get("pvcTemplate") or {}).get("resources") or {}).get("requests") or {}
    return str(storage.get("size") or requested.get("storage") or "")


def quantity(text: str) -> Decimal | None:
    """A Kubernetes quantity as a number; None if it isn't one."""
    found = _QUANTITY.match(text)
    if not found:
        return None
    number, unit = Decimal(found["number"]), found["unit"] or ""
    if unit.endswith("i"):
        return number * Decimal(1024) ** ("KMGTPE".index(unit[0]) + 1)
    if unit[:1] in ("e", "E") and len(unit) > 1:
        return number * Decimal(10) ** int(unit[1:])
    return number * Decimal(10) ** _UNITS.get(unit, 0)


def _sizes(spec: Object) -> Iterator[Fault]:
    for path, _, storage in _volumes(spec):
        size = _size(storage)
        if not size:
            yield bad_value(f"{path}.size", "", "Size not configured. Please add it, or a storage request in the "
                            "pvcTemplate.")  # fmt: skip
        elif quantity(size) is None:
            yield bad_value(f"{path}.size", size, "Size value isn't valid")


def _parameters(spec: Object) -> Iterator[Fault]:
    for name, value in ((spec.get("postgresql") or {}).get("parameters") or {}).items():
        fixed = name in _FIXED or name.startswith("recovery_target")
        if fixed and _PARAMETERS.get(name) != value:
            yield bad_value(f"spec.postgresql.parameters.{name}", value, "Can't set fixed configuration parameter")


def _stores(spec: Object) -> Iterator[Fault]:
    backup = spec.get("backup") or {}
    archivers = [
        plugin["name"] for plugin in spec.get("plugins") or () if plugin["enabled"] and plugin["isWALArchiver"]
    ]
    if len(archivers) > 1:
        yield bad_value("spec.plugins", archivers, "Cannot enable more than one WAL archiver plugin")
    if archivers and "barmanObjectStore" in backup:
        yield bad_value("spec.plugins", archivers, "Cannot enable a WAL archiver plugin when barmanObjectStore is "
                        "configured")  # fmt: skip
    retention = backup.get("retentionPolicy")
    if retention and not _RETENTION.match(retention):
        yield bad_value("spec.backup.retentionPolicy", retention, "not a valid retention policy")
    if "barmanObjectStore" in backup:
        yield from _credentials(backup["barmanObjectStore"], "spec.backup.barmanObjectStore")
    for index, entry in enumerate(spec.get("externalClusters") or ()):
        if "barmanObjectStore" in entry:
            yield from _credentials(entry["barmanObjectStore"], f"spec.externalClusters[{index}].barmanObjectStore")


def _credentials(store: Object, path: str) -> Iterator[Fault]:
    given = store.get("s3Credentials")
    if given is None:
        yield bad_value(path, store, "missing credentials: s3Credentials is needed")
        return
    keys = [name for name in ("accessKeyId", "secretAccessKey") if given.get(name)]
    role = given.get("inheritFromIAMRole", False)
    if role and keys:
        yield bad_value(f"{path}.s3Credentials", given, "inheritFromIAMRole goes without keys")
    elif not role and len(keys) != 2:
        yield bad_value(f"{path}.s3Credentials", given, "either both accessKeyId and secretAccessKey, or "
                        "inheritFromIAMRole, must be given")  # fmt: skip


def _annotations(cluster: Object) -> Iterator[Fault]:
    value = (cluster["metadata"].get("annotations") or {}).get("cnpg.io/hibernation")
    if value not in (None, "on", "off"):
        yield bad_value("metadata.annotations.cnpg.io/hibernation", value, 'Annotation value for hibernation should be '
                        '"on" or "off"')  # fmt: skip


def _replica(cluster: Object, *, creating: bool) -> Iterator[Fault]:
    spec = cluster["spec"]
    replica = spec.get("replica")
    if not replica:
        return
    own_name = replica.get("self") or cluster["metadata"]["name"]
    follows = replica.get("enabled", replica.get("primary") != own_name)
    if creating and follows and "initdb" in (spec.get("bootstrap") or {}):
        yield bad_value("spec.replica", replica, "replica mode bootstrap is compatible only with pg_basebackup or "
                        "recovery")  # fmt: skip
    if replica.get("promotionToken"):
        if follows:
            yield bad_value("spec.replica.promotionToken", replica["promotionToken"], "promotionToken is only allowed "
                            "for primary clusters")  # fmt: skip
        if replica.get("minApplyDelay"):
            yield bad_value("spec.replica.promotionToken", replica["promotionToken"], "promotionToken cannot be "
                            "applied to clusters with minApplyDelay")  # fmt: skip


def _changes(new: Object, old: Object) -> Iterator[Fault]:
    before = {label: storage for _, label, storage in _volumes(old)}
    after = {label: (path, storage) for path, label, storage in _volumes(new)}
    for label, storage in before.items():
        if label not in after:
            where = "spec.walStorage" if label == "walStorage" else "spec.tablespaces"
            yield Fault(where, f'Invalid value: "": {label} cannot be removed once the cluster is created')
            continue
        path, now = after[label]
        was_size, is_size = quantity(_size(storage)), quantity(_size(now))
        if was_size is not None and is_size is not None and is_size < was_size:
            yield bad_value(f"{path}.size", _size(now), f"can't shrink existing storage from {_size(storage)} to "
                            f"{_size(now)}")  # fmt: skip
    for name in ("postgresUID", "postgresGID"):
        if new.get(name) != old.get(name):
            yield bad_value(f"spec.{name}", new.get(name), f"{name} is an immutable field in the spec")
    majors = _major(old), _major(new)
    if None not in majors and majors[1] < majors[0]:  # type: ignore[operator]
        yield bad_value("spec.imageName", new.get("imageName"), f"can't downgrade from major {majors[0]} to "
                        f"{majors[1]}")  # fmt: skip


def _major(spec: Object) -> int | None:
    """PostgreSQL's major version, read off the image's tag."""
    if spec.get("imageCatalogRef"):
        major: Any = spec["imageCatalogRef"].get("major")
        return int(major)
    found = re.search(r":(\d+)(\D[^/:]*)?(@.*)?$", str(spec.get("imageName", "")))
    return int(found[1]) if found else None
