"""What only the in-tree method does: `spec.backup.barmanObjectStore`, which CloudNativePG 1.31 drops.

Its Backups say where they are, so that one of them can be the source of a recovery by itself; it looks whether WAL
archiving works before it begins; and it tells the Cluster, not an ObjectStore, what can be recovered.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import object_store, objects, roles
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.object_store import StoreUse

METHOD = "barmanObjectStore"
_ARCHIVER = """
SELECT last_archived_time IS NOT NULL,
       coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
FROM pg_stat_archiver
"""
_FIRST_WAL_SECONDS = 30.0


def place(use: StoreUse) -> Object:
    """What a Backup's status says of where it is."""
    section = use.configuration
    return {
        "destinationPath": section["destinationPath"],
        "endpointURL": section.get("endpointURL"),
        "endpointCA": section.get("endpointCA"),
        "serverName": use.server_name,
        "encryption": (section.get("data") or {}).get("encryption"),
        "s3Credentials": section.get("s3Credentials"),
    }


async def archiving_works(socket_dir: str) -> bool:
    """Whether the primary's last attempt to archive succeeded; if it made none yet, it is made to."""
    try:
        async with await roles.connect(socket_dir) as connection:
            archived, failing = await _archiver(connection)
            if not archived and not failing:
                await connection.execute("CHECKPOINT")
                await connection.execute("SELECT pg_switch_wal()")
            deadline = asyncio.get_running_loop().time() + _FIRST_WAL_SECONDS
            while not archived and not failing and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.2)
                archived, failing = await _archiver(connection)
            return archived and not failing
    except psycopg.OperationalError as fault:
        raise ConnectionError(str(fault)) from fault


async def _archiver(connection: psycopg.AsyncConnection[Any]) -> tuple[bool, bool]:
    cursor = await connection.execute(_ARCHIVER)
    archived, failing = await cursor.fetchone() or (False, False)
    return bool(archived), bool(failing)


def record_window(operator: Operator, cluster: Object, seen: dict[str, Any]) -> None:
    """What the Cluster's status says of its backups, by what the catalogue says."""
    told = cluster.get("status") or {}
    changes: Object = {}
    for field, key in (
        ("firstRecoverabilityPoint", "firstRecoverabilityPoint"),
        ("lastSuccessfulBackup", "lastSuccessfulBackupTime"),
    ):
        by_method = dict(told.get(f"{field}ByMethod") or {})
        by_method.pop(METHOD, None)
        if seen[key] is not None:
            by_method[METHOD] = seen[key]
        changes[field] = seen[key]
        changes[f"{field}ByMethod"] = by_method or None
    operator.set_status(cluster, changes)


def retention_policy(cluster: Object) -> str | None:
    """`spec.backup.retentionPolicy`."""
    return (cluster["spec"].get("backup") or {}).get("retentionPolicy")


def recovery_backup(operator: Operator, cluster: Object) -> Object | None:
    """The completed Backup that `bootstrap.recovery.backup` names; None: none exists, or not yet.

    That it is missing is given by an event; that it isn't completed, nowhere.
    """
    name = _named(cluster)
    if not name:
        return None
    backup = operator.find("Backup", cluster["metadata"]["namespace"], name)
    if backup is None:
        operator.event(cluster, "ErrorNoBackup", f'Backup object "{name}" is missing', kind="Warning")
        return None
    return backup if (backup.get("status") or {}).get("phase") == "completed" else None


def recovery_use(operator: Operator, cluster: Object) -> StoreUse | None:
    """Where a recovery reads from: its `source`, or where the Backup that it names says that it is.

    A Backup made by the plugin doesn't say it: barman is then called without a destination, and refuses.
    """
    use = object_store.source_use(cluster)
    if use is not None:
        return use
    name = _named(cluster)
    backup = operator.find("Backup", cluster["metadata"]["namespace"], name) if name else None
    if backup is None:
        return None
    told = backup.get("status") or {}
    section = {key: told.get(key) for key in ("destinationPath", "endpointURL", "endpointCA", "s3Credentials")}
    section["destinationPath"] = section["destinationPath"] or ""
    return StoreUse(told.get("serverName") or "", None, section)


def recovery_backup_id(operator: Operator, cluster: Object) -> str | None:
    """The backup that `bootstrap.recovery.backup` pins."""
    backup = operator.find("Backup", cluster["metadata"]["namespace"], _named(cluster)) if _named(cluster) else None
    return None if backup is None else (backup.get("status") or {}).get("backupId")


def _named(cluster: Object) -> str:
    method, section = objects.bootstrap(cluster)
    return str((section.get("backup") or {}).get("name") or "") if method == "recovery" else ""
