"""What the Cluster's webhook refuses of any Cluster, new or changed (recovery targets apart)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from drillbook_lab.api import cluster_parameters
from drillbook_lab.api.cluster_defaults import is_replica
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import denied_value
from drillbook_lab.quantities import quantity

_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
_RETENTION = re.compile(r"^[1-9][0-9]*[dwm]$")
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_$]*$")
_METHODS = ("initdb", "recovery", "pg_basebackup")
_SOURCES = ("connectionParameters", "barmanObjectStore", "plugin")


OLDEST = 13  # PostgreSQL's major version, as the operator has it


def faults(cluster: Object) -> list[Fault]:
    """Everything that is wrong with a Cluster beyond its schema, all of it at once."""
    spec = cluster["spec"]
    return [
        *_bootstrap(spec),
        *_certificates(spec),
        *_update_strategy(spec),
        *_image(spec),
        *_synchronous(spec),
        *_sizes(spec),
        *_name(cluster),
        *_tablespaces(spec),
        *_sources(spec),
        *_external_clusters(spec),
        *_replica(cluster),
        *_stores(spec),
        *cluster_parameters.faults(cluster),
        *_resources(spec),
        *_roles(spec),
        *_annotations(cluster),
        *_promotion_token(cluster),
    ]


def required(path: str, why: str) -> Fault:
    """`path: Required value: why`."""
    return Fault(path, f"Required value: {why}", "FieldValueRequired")


def forbidden(path: str, why: str) -> Fault:
    """`path: Forbidden: why`."""
    return Fault(path, f"Forbidden: {why}", "FieldValueForbidden")


def _name(cluster: Object) -> Iterator[Fault]:
    name = cluster["metadata"]["name"]
    if not _DNS_1035.match(name):
        yield denied_value("metadata.name", name, "cluster name must be a valid DNS label")
    if len(name) > 50:
        yield denied_value("metadata.name", name, "the maximum length of a cluster name is 50 characters")


def _bootstrap(spec: Object) -> Iterator[Fault]:
    bootstrap = spec.get("bootstrap") or {}
    methods = [name for name in _METHODS if bootstrap.get(name) is not None]
    for method in methods:
        section, path = bootstrap[method], f"spec.bootstrap.{method}"
        if section.get("owner") and not section.get("database"):
            yield denied_value(f"{path}.database", "", "You need to specify the database name")
        if section.get("database") and not section.get("owner"):
            yield denied_value(f"{path}.owner", "", "You need to specify the database owner user")
    initdb = bootstrap.get("initdb") or {}
    size = initdb.get("walSegmentSize") or 0
    if size & (size - 1):
        yield denied_value("spec.bootstrap.initdb.walSegmentSize", size, "WAL segment size must be a power of 2")
    yield from _import(initdb.get("import"))
    if len(methods) > 1:
        yield forbidden("spec.bootstrap", "Only one bootstrap method can be specified at a time")
    recovery = bootstrap.get("recovery") or {}
    if recovery.get("volumeSnapshots") is not None:
        if recovery.get("backup") is not None:
            yield denied_value(
                "spec.bootstrap.recovery.backup",
                recovery["backup"],
                "Recovery from dataSource is not compatible with other types of recovery",
            )
        elif recovery["volumeSnapshots"].get("walStorage") is not None and spec.get("walStorage") is None:
            yield denied_value(
                "spec.bootstrap.recovery.dataSource.walStorage",
                recovery["volumeSnapshots"]["walStorage"],
                "A WAL storage configuration is required when recovering using a DataSource for WALs",
            )


def _import(section: Object | None) -> Iterator[Fault]:
    if not section:
        return
    path, databases = "spec.bootstrap.initdb.import", section.get("databases") or []
    if section.get("type") == "microservice":
        if len(databases) != 1:
            yield denied_value(
                f"{path}.databases",
                databases,
                "You need to specify a single database for the `microservice` import type",
            )
        if section.get("roles"):
            yield denied_value(
                f"{path}.roles", databases, "You cannot specify roles to import for the `microservice` import type"
            )
    elif section.get("type") == "monolith":
        if not databases:
            yield denied_value(
                f"{path}.databases", databases, "You need to specify at least a database for the `monolith` import type"
            )
        if section.get("postImportApplicationSQL"):
            yield denied_value(
                f"{path}.postImportApplicationSQL",
                section["postImportApplicationSQL"],
                "postImportApplicationSQL is not allowed for the `monolith` import type",
            )
    else:
        yield denied_value(f"{path}.type", section.get("type"), "Unrecognized import type")


def _certificates(spec: Object) -> Iterator[Fault]:
    given, path = spec.get("certificates") or {}, "spec.certificates"
    if given.get("serverTLSSecret"):
        if given.get("serverAltDNSNames"):
            yield denied_value(
                f"{path}.serveraltdnsnames",
                given["serverAltDNSNames"],
                "Server alternative DNS names can't be defined when server TLS secret is provided",
            )
        if not given.get("serverCASecret"):
            yield denied_value(
                f"{path}.servercasecret", "", "Server CA secret can't be empty when server TLS secret is provided"
            )
    if given.get("replicationTLSSecret") and not given.get("clientCASecret"):
        yield denied_value(
            f"{path}.clientcasecret", "", "Client CA secret can't be empty when client replication secret is provided"
        )


def _update_strategy(spec: Object) -> Iterator[Fault]:
    if spec.get("primaryUpdateStrategy") == "supervised" and spec["instances"] == 1:
        yield denied_value(
            "spec.primaryUpdateStrategy",
            "supervised",
            "supervised update strategy is not allowed for clusters with a single instance",
        )


def image_tag(image: str) -> str:
    """An image's tag; empty if it has none."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def major(spec: Object) -> int | None:
    """PostgreSQL's major version, read off the catalogue's or the image's name."""
    if spec.get("imageCatalogRef"):
        return int(spec["imageCatalogRef"].get("major"))
    found = re.match(r"\d+", image_tag(str(spec.get("imageName") or "")))
    return int(found[0]) if found else None


def _image(spec: Object) -> Iterator[Fault]:
    image = spec.get("imageName")
    if not image:
        return
    tag = image_tag(image)
    if tag == "latest" or (not tag and "@" not in image):
        yield denied_value("spec.imageName", image, "Can't use 'latest' as image tag as we can't detect upgrades")
    elif not tag:
        yield denied_value("spec.imageName", image, "Can't use just the image sha as we can't detect upgrades")
    elif major(spec) is None:
        yield denied_value("spec.imageName", image, "invalid version tag")
    elif (major(spec) or 0) < OLDEST:
        yield denied_value(
            "spec.imageName", image, "Unsupported PostgreSQL version. Versions 13 or newer are supported"
        )


def _synchronous(spec: Object) -> Iterator[Fault]:
    instances, low, high = spec["instances"], spec.get("minSyncReplicas") or 0, spec.get("maxSyncReplicas") or 0
    if high >= instances and high:
        yield denied_value("spec.maxSyncReplicas", high, "maxSyncReplicas must be lower than the number of instances")
    if low > high:
        yield denied_value("spec.minSyncReplicas", low, "minSyncReplicas cannot be greater than maxSyncReplicas")
    chosen = (spec.get("postgresql") or {}).get("synchronous")
    if not chosen:
        return
    standbys = len(chosen.get("standbyNamesPre") or ()) + len(chosen.get("standbyNamesPost") or ())
    if chosen["number"] >= instances + standbys:
        chosen = {**chosen, "failoverQuorum": chosen.get("failoverQuorum", False)}  # the webhook prints it in any case
        yield denied_value(
            "spec.postgresql.synchronous",
            chosen,
            "Invalid synchronous configuration: the number of "
            "synchronous replicas must be less than the total number of instances and the provided "
            "standby names.",
        )


def size_of(storage: Object) -> str:
    """What a storage section asks for."""
    requested = ((storage.get("pvcTemplate") or {}).get("resources") or {}).get("requests") or {}
    return str(storage.get("size") or requested.get("storage") or "")


def _sizes(spec: Object) -> Iterator[Fault]:
    sections = [("spec.storage", spec.get("storage") or {})]
    if spec.get("walStorage") is not None:
        sections.append(("spec.walStorage", spec["walStorage"]))
    tablespaces = spec.get("tablespaces") or ()
    sections += [(f"spec.tablespaces[{index}]", entry["storage"]) for index, entry in enumerate(tablespaces)]
    for path, storage in sections:
        size = size_of(storage)
        if not size:
            yield denied_value(
                f"{path}.size", "", "Size not configured. Please add it, or a storage request in the pvcTemplate."
            )
        elif quantity(size) is None:
            yield denied_value(f"{path}.size", size, "Size value isn't valid")


def _tablespaces(spec: Object) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, entry in enumerate(spec.get("tablespaces") or ()):
        name, path = entry["name"], f"spec.tablespaces[{index}]"
        if name.lower() in seen:
            yield denied_value(path, name, "duplicate tablespace name")
            continue
        seen.add(name.lower())
        if name.startswith("pg_"):
            yield denied_value(path, name, "tablespace names beginning 'pg_' are reserved for Postgres")
        elif not _IDENTIFIER.match(name):
            yield denied_value(
                path,
                name,
                "tablespace names must be valid Postgres identifiers: alphanumeric characters, "
                "'_', '$', and must start with a letter or an underscore",
            )
        elif len(name) > 63:
            yield denied_value(path, name, "the maximum length of an identifier is 63 characters")


def _sources(spec: Object) -> Iterator[Fault]:
    known = {entry["name"]: entry for entry in spec.get("externalClusters") or ()}
    bootstrap = spec.get("bootstrap") or {}
    copied = bootstrap.get("pg_basebackup")
    if copied is not None and copied.get("source") not in known:
        yield _no_such_source("spec.bootstrap.pg_basebackup.source", copied.get("source"))
    name, path = (bootstrap.get("recovery") or {}).get("source"), "spec.bootstrap.recovery.source"
    if not name:
        return
    if name not in known:
        yield _no_such_source(path, name)
    if not any(known.get(name, {}).get(way) is not None for way in _SOURCES):
        yield denied_value(
            path,
            name,
            f"External cluster {name} cannot be used for recovery: missing connection "
            "parameters, Barman, or CNPG-i configuration",
        )


def _no_such_source(path: str, name: object) -> Fault:
    return denied_value(path, name, f"External cluster {name} not found")


def _external_clusters(spec: Object) -> Iterator[Fault]:
    entries = spec.get("externalClusters") or []
    for index, entry in enumerate(entries):
        path = f"spec.externalClusters[{index}]"
        if not any(entry.get(way) is not None for way in _SOURCES):
            yield required(path, "one of connectionParameters, plugin and barmanObjectStore is required")
        if entry["name"] in (".", "..") or re.search(r"[/\\]", entry["name"]):
            yield denied_value(f"{path}.name", entry["name"], "cannot contain a path separator or a '..' component")
    if len({entry["name"] for entry in entries}) != len(entries):
        yield denied_value("spec.externalClusters", entries, "the list of external clusters contains duplicate values")


def _replica(cluster: Object) -> Iterator[Fault]:
    spec, replica = cluster["spec"], cluster["spec"].get("replica")
    if not replica:
        return
    if replica.get("primary") and "enabled" in replica:
        yield forbidden("spec.replicaCluster.enabled", "replica mode enabled is not compatible with the primary field")
    bootstrap = spec.get("bootstrap") or {}
    creating = not cluster["metadata"].get("resourceVersion")
    if is_replica(cluster) and creating and "recovery" not in bootstrap and "pg_basebackup" not in bootstrap:
        yield denied_value(
            "spec.replicaCluster",
            replica.get("primary", ""),
            "replica mode bootstrap is compatible only with pg_basebackup or recovery",
        )
    known = {entry["name"] for entry in spec.get("externalClusters") or ()}
    for field, key in (("primaryServerName", "source"), ("self", "self"), ("primary", "primary")):
        name = replica.get(key) or ""
        if (name or key == "source") and name not in known:
            yield _no_such_source(f"spec.replicaCluster.{field}", name)


def _promotion_token(cluster: Object) -> Iterator[Fault]:
    replica = cluster["spec"].get("replica") or {}
    token = replica.get("promotionToken")
    if not token:
        return
    if replica.get("minApplyDelay") is not None:
        yield denied_value(
            "spec.replicaCluster.minApplyDelay", token, "minApplyDelay cannot be applied with a promotion token"
        )
    elif is_replica(cluster):
        yield denied_value("spec.replicaCluster.token", token, "promotionToken is only allowed for primary clusters")


def _stores(spec: Object) -> Iterator[Fault]:
    backup = spec.get("backup") or {}
    store, path = backup.get("barmanObjectStore"), "spec.backup.barmanObjectStore"
    if store is not None and store.get("s3Credentials") is None:
        yield denied_value(
            path,
            store,
            "missing credentials. One and only one of azureCredentials, s3Credentials and "
            "googleCredentials are required",
        )
    elif store is not None:
        yield from _credentials(store["s3Credentials"], f"{path}.awsCredentials")
    retention = backup.get("retentionPolicy")
    if retention and not _RETENTION.match(retention):
        yield denied_value("spec.backup.retentionPolicy", retention, "not a valid retention policy")
    plugins = spec.get("plugins") or ()
    archivers = [entry["name"] for entry in plugins if entry.get("enabled", True) and entry.get("isWALArchiver")]
    if archivers and store is not None:
        yield denied_value(
            "spec.plugins", archivers, "Cannot enable a WAL archiver plugin when barmanObjectStore is configured"
        )
    if len(archivers) > 1:
        yield denied_value("spec.plugins", archivers, "Cannot enable more than one WAL archiver plugin")


def _credentials(given: Object, path: str) -> Iterator[Fault]:
    keys = [name for name in ("accessKeyId", "secretAccessKey") if given.get(name) is not None]
    ways = int(bool(given.get("inheritFromIAMRole"))) + int(bool(keys))
    if len(keys) == 1:
        yield denied_value(
            path, given, "when using AWS credentials both accessKeyId and secretAccessKey must be provided"
        )
    if not ways:
        yield denied_value(path, given, "at least one AWS authentication method should be supplied")
    if ways > 1:
        yield denied_value(path, given, "only one AWS authentication method should be supplied")


def _resources(spec: Object) -> Iterator[Fault]:
    resources = spec.get("resources") or {}
    asked, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, told in (("cpu", "CPU"), ("memory", "Memory")):
        low, high = quantity(str(asked.get(name, "0"))), quantity(str(limits.get(name, "0")))
        if low and high and low > high:
            yield denied_value(
                f"spec.resources.requests.{name}", str(asked[name]), f"{told} request is greater than the limit"
            )
    buffers = (spec.get("postgresql") or {}).get("parameters", {}).get("shared_buffers")
    memory: Decimal | None = quantity(str(asked.get("memory", "0")))
    wanted = cluster_parameters.size(buffers) if buffers else None
    if wanted and memory and wanted > memory:
        yield denied_value(
            "spec.resources.requests",
            str(asked["memory"]),
            "Memory request is lower than PostgreSQL `shared_buffers` value",
        )


def _roles(spec: Object) -> Iterator[Fault]:
    seen: set[str] = set()
    for role in (spec.get("managed") or {}).get("roles") or ():
        name, path = role["name"], "spec.managed.roles"
        if name in seen:
            yield denied_value(path, name, "Role name is duplicate of another")
        seen.add(name)
        if role.get("connectionLimit", -1) < -1:
            yield denied_value(
                path, role["connectionLimit"], "Connection limit should be positive, unless defaulting to -1"
            )
        if name in ("postgres", "streaming_replica") or name.startswith(("pg_", "cnpg_")):
            yield denied_value(path, name, "This role is reserved for operator use")
        if role.get("disablePassword") and role.get("passwordSecret") is not None:
            yield denied_value(path, name, "This role both sets and disables a password")


def _annotations(cluster: Object) -> Iterator[Fault]:
    value = (cluster["metadata"].get("annotations") or {}).get("cnpg.io/hibernation")
    if value not in (None, "on", "off"):
        yield denied_value(
            "metadata.annotations.cnpg.io/hibernation",
            value,
            'Annotation value for hibernation should be "on" or "off"',
        )
