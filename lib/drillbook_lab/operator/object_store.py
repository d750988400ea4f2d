"""ObjectStores: what the barman plugin reads of a Cluster and its store, and the recovery window it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.agent.spec import StoreSpec
from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.objects import PLUGIN
from drillbook_lab.operator.places import NotReadyYet


class NoCredentials(NotReadyYet):
    """A Secret that an object store names, or a key in it, isn't there."""


@dataclass(frozen=True)
class StoreUse:
    """One use that a Cluster makes of an object store: which, and under which `serverName`."""

    server_name: str
    object_store: str | None  # the ObjectStore's name; None for an in-tree section
    configuration: Mapping[str, Any]  # the in-tree section; empty for an ObjectStore


def plugin_entry(cluster: Object) -> Object | None:
    """The Cluster's own entry for the barman plugin, enabled or not."""
    for entry in cluster["spec"].get("plugins") or ():
        if entry["name"] == PLUGIN:
            found: Object = entry
            return found
    return None


def unknown_plugins(cluster: Object) -> list[str]:
    """Enabled plugins that this operator doesn't have."""
    entries = cluster["spec"].get("plugins") or ()
    return sorted(entry["name"] for entry in entries if entry.get("enabled", True) and entry["name"] != PLUGIN)


def archive_use(cluster: Object) -> StoreUse | None:
    """Where the Cluster archives its own WAL; None: nowhere."""
    name = cluster["metadata"]["name"]
    entry = plugin_entry(cluster)
    if entry is not None and entry.get("enabled", True) and entry.get("isWALArchiver"):
        parameters = entry.get("parameters") or {}
        return StoreUse(parameters.get("serverName") or name, parameters.get("barmanObjectName"), {})
    section = (cluster["spec"].get("backup") or {}).get("barmanObjectStore")
    if section:
        return StoreUse(section.get("serverName") or name, None, section)
    return None


def backup_use(cluster: Object) -> StoreUse | None:
    """Where plugin backups of the Cluster go: also without being the archiver."""
    entry = plugin_entry(cluster)
    if entry is None or not entry.get("enabled", True):
        return None
    parameters = entry.get("parameters") or {}
    return StoreUse(parameters.get("serverName") or cluster["metadata"]["name"], parameters.get("barmanObjectName"), {})


def source_use(cluster: Object) -> StoreUse | None:
    """Where a recovery reads from. The plugin's default folder is the *new* Cluster's name, not the entry's."""
    method, section = objects.bootstrap(cluster)
    if method != "recovery" or not section.get("source"):
        return None
    for entry in cluster["spec"].get("externalClusters") or ():
        if entry["name"] != section["source"]:
            continue
        plugin = entry.get("plugin")
        if plugin is not None:
            parameters = plugin.get("parameters") or {}
            server = parameters.get("serverName") or cluster["metadata"]["name"]
            return StoreUse(server, parameters.get("barmanObjectName"), {})
        store = entry.get("barmanObjectStore")
        if store is not None:
            return StoreUse(store.get("serverName") or entry["name"], None, store)
    return None


def needed_stores(cluster: Object) -> set[str]:
    """Every ObjectStore that must exist before the Cluster moves at all."""
    entry = plugin_entry(cluster)
    named = {(entry.get("parameters") or {}).get("barmanObjectName")} if entry is not None else set()
    source = source_use(cluster)
    if source is not None:
        named.add(source.object_store)
    return {name for name in named if name}


def missing_stores(operator: Operator, cluster: Object) -> set[str]:
    """The needed ObjectStores that aren't there."""
    namespace = cluster["metadata"]["namespace"]
    return {name for name in needed_stores(cluster) if operator.find("ObjectStore", namespace, name) is None}


def resolve(operator: Operator, namespace: str, use: StoreUse) -> tuple[StoreSpec, dict[str, str]]:
    """The store as barman is given about it, and its credentials, read from their Secrets now."""
    configuration: Mapping[str, Any] = use.configuration
    if use.object_store is not None:
        store = operator.find("ObjectStore", namespace, use.object_store)
        if store is None:
            raise NotReadyYet(f"objectstores.barmancloud.cnpg.io {use.object_store!r} not found")
        configuration = store["spec"]["configuration"]
    wal, data = configuration.get("wal") or {}, configuration.get("data") or {}
    spec = StoreSpec(
        destination_path=configuration["destinationPath"],
        server_name=use.server_name,
        endpoint_url=configuration.get("endpointURL"),
        wal_compression=wal.get("compression"),
        wal_max_parallel=int(wal.get("maxParallel") or 1),
        data_compression=data.get("compression"),
        jobs=data.get("jobs"),
        immediate_checkpoint=bool(data.get("immediateCheckpoint", False)),
        by_plugin=use.object_store is not None,
    )
    return spec, _credentials(operator, namespace, configuration.get("s3Credentials") or {})


def _credentials(operator: Operator, namespace: str, section: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "accessKeyId": "AWS_ACCESS_KEY_ID",
        "secretAccessKey": "AWS_SECRET_ACCESS_KEY",
        "sessionToken": "AWS_SESSION_TOKEN",
        "region": "AWS_DEFAULT_REGION",
    }
    found = {}
    for field, variable in names.items():
        reference = section.get(field)
        if not reference:
            continue
        secret = operator.find("Secret", namespace, reference["name"])
        if secret is None:
            name = reference["name"]
            raise NoCredentials(f'while getting secret {name}: secrets "{name}" not found')
        values = objects.decoded(secret)
        if reference["key"] not in values:
            raise NoCredentials(f"missing key {reference['key']}, inside secret {reference['name']}")
        found[variable] = values[reference["key"]]
    return found


def record_window(
    operator: Operator,
    namespace: str,
    use: StoreUse,
    *,
    first: datetime | None = None,
    succeeded: datetime | None = None,
    failed: datetime | None = None,
) -> None:
    """Write what is known of one server's recovery window into the ObjectStore's status."""
    if use.object_store is None:
        return
    store = operator.find("ObjectStore", namespace, use.object_store)
    if store is None:
        return
    windows = dict((store.get("status") or {}).get("serverRecoveryWindow") or {})
    window = dict(windows.get(use.server_name) or {})
    facts = {
        "firstRecoverabilityPoint": first,
        "lastSuccessfulBackupTime": succeeded,
        "lastFailedBackupTime": failed,
    }
    window.update({key: _format(value) for key, value in facts.items() if value is not None})
    operator.set_status(store, {"serverRecoveryWindow": {**windows, use.server_name: window}})


def refresh_window(operator: Operator, namespace: str, use: StoreUse, seen: Mapping[str, Any]) -> None:
    """Replace one server's window by what its catalogue says now; the last failure stays."""
    store = operator.find("ObjectStore", namespace, use.object_store) if use.object_store else None
    if store is None:
        return
    windows = dict((store.get("status") or {}).get("serverRecoveryWindow") or {})
    window = dict(windows.get(use.server_name) or {})
    for key in ("firstRecoverabilityPoint", "lastSuccessfulBackupTime"):
        window.pop(key, None)
        if seen[key] is not None:
            window[key] = seen[key]
    if not window and use.server_name not in windows:
        return  # nothing was ever backed up there
    operator.set_status(store, {"serverRecoveryWindow": {**windows, use.server_name: window}})


def _format(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
