"""What the Cluster's webhook fills in: a spec is never read back as it was sent."""

from __future__ import annotations

from typing import Any

from drillbook_lab.api.errors import Object

DEFAULT_IMAGE = "ghcr.io/cloudnative-pg/postgresql:18.4-system-trixie"
MONITORING_QUERIES = {"name": "cnpg-default-monitoring", "key": "queries"}

# The operator's defaults for every major version; what the author gave another value keeps it.
PARAMETERS = {
    "archive_timeout": "5min",
    "dynamic_shared_memory_type": "posix",
    "full_page_writes": "on",
    "log_destination": "csvlog",
    "log_directory": "/controller/log",
    "log_filename": "postgres",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "false",
    "logging_collector": "on",
    "max_parallel_workers": "32",
    "max_replication_slots": "32",
    "max_worker_processes": "32",
    "shared_memory_type": "mmap",
    "shared_preload_libraries": "",
    "ssl_max_protocol_version": "TLSv1.3",
    "ssl_min_protocol_version": "TLSv1.3",
    "wal_keep_size": "512MB",
    "wal_level": "logical",
    "wal_log_hints": "on",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
}


def archive_mode(cluster: Object) -> str:
    """What the operator sets it to."""
    if (cluster["metadata"].get("annotations") or {}).get("cnpg.io/skipWalArchiving") == "enabled":
        return "off"
    return "always" if is_replica(cluster) else "on"


def is_replica(cluster: Object) -> bool:
    """Whether the spec makes it follow another cluster."""
    replica = cluster["spec"].get("replica")
    if not isinstance(replica, dict):
        return False
    if "enabled" in replica:
        return bool(replica["enabled"])
    own_name = str(replica.get("self") or cluster["metadata"].get("name"))
    return own_name != replica.get("primary")


def default(cluster: Object) -> None:
    """Write what the author left out into the spec. A mistyped part is left as it is: the schema refuses it."""
    spec = cluster.get("spec")
    if not isinstance(spec, dict):
        return
    if not spec.get("imageName") and not spec.get("imageCatalogRef"):
        spec["imageName"] = DEFAULT_IMAGE
    _bootstrap(_section(spec, "bootstrap"))
    affinity = _section(spec, "affinity")
    if affinity.get("enablePodAntiAffinity", True) and not affinity.get("podAntiAffinityType"):
        affinity["podAntiAffinityType"] = "preferred"
    parameters = _section(_section(spec, "postgresql"), "parameters")
    for name, value in PARAMETERS.items():
        parameters.setdefault(name, value)
    parameters["archive_mode"] = archive_mode(cluster)  # whatever was given is overwritten, before anything is judged
    _section(spec["postgresql"], "syncReplicaElectionConstraint").setdefault("enabled", False)
    _section(spec, "resources")
    _monitoring(_section(spec, "monitoring"))
    slots = _section(spec, "replicationSlots")
    slots.setdefault("highAvailability", {"enabled": True, "slotPrefix": "_cnpg_"})
    slots.setdefault("synchronizeReplicas", {"enabled": True})
    liveness = _section(_section(spec, "probes"), "liveness")
    liveness.setdefault("isolationCheck", {"enabled": True, "requestTimeout": 1000, "connectionTimeout": 1000})
    _tablespaces(spec)
    synchronous = spec["postgresql"].get("synchronous") if isinstance(spec["postgresql"], dict) else None
    if isinstance(synchronous, dict):
        synchronous.setdefault("dataDurability", "required")


def _section(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of the spec, made if it isn't there; a throw-away one if something else is in its place."""
    if holder.get(name) is None:
        holder[name] = {}
    found = holder[name]
    return found if isinstance(found, dict) else {}


def _bootstrap(bootstrap: dict[str, Any]) -> None:
    method = next((name for name in ("recovery", "pg_basebackup") if name in bootstrap), "initdb")
    section = _section(bootstrap, method)
    monolith = method == "initdb" and (section.get("import") or {}).get("type") == "monolith"
    if not section.get("database") and not monolith:
        section["database"] = "app"
    if not section.get("owner") and section.get("database"):
        section["owner"] = section["database"]
    if method == "initdb":
        section.setdefault("encoding", "UTF8")
        section.setdefault("localeCollate", "C")
        section.setdefault("localeCType", "C")


def _monitoring(monitoring: dict[str, Any]) -> None:
    if monitoring.get("disableDefaultQueries"):
        return
    queries = monitoring.setdefault("customQueriesConfigMap", [])
    if isinstance(queries, list) and all(
        not isinstance(entry, dict) or entry.get("name") != MONITORING_QUERIES["name"] for entry in queries
    ):
        queries.insert(0, dict(MONITORING_QUERIES))


def _tablespaces(spec: dict[str, Any]) -> None:
    tablespaces = spec.get("tablespaces")
    if not isinstance(tablespaces, list):
        return
    sections = [part for part in (spec.get("bootstrap") or {}).values() if isinstance(part, dict)]
    owner = next((part["owner"] for part in sections if part.get("owner")), "postgres")
    for tablespace in tablespaces:
        if isinstance(tablespace, dict):
            _section(tablespace, "owner").setdefault("name", owner)
