"""Backups: one at a time per Cluster, taken by the real barman in the instance's pod, told in CNPG's phases."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.apiserver.errors import Object
from drillbook_lab.controller import objectstore
from drillbook_lab.controller.context import Operator, holds, timestamp
from drillbook_lab.controller.objects import PLUGIN
from drillbook_lab.podworker import PodWorker

log = logging.getLogger(__name__)

_TERMINAL = ("completed", "failed", "invalid backup definition")
_PENDING_SECONDS = 0.5


class BackupFailed(Exception):
    """The backup can't be taken or was not: the reason for its status."""


class Backups:
    """Reconciles Backup objects; holds the running ones."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._running: dict[str, asyncio.Task[None]] = {}  # by uid

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Start one Backup when its turn has come. One that has ended is never touched again."""
        backup = self._operator.find("Backup", namespace, name)
        if backup is None or _phase(backup) in _TERMINAL or backup["metadata"]["uid"] in self._running:
            return None
        if _phase(backup) in ("started", "running"):
            self._fail(backup, "the instance manager was restarted while the backup was running", event="ReStarting")
            return None
        cluster_name = backup["spec"]["cluster"]["name"]
        cluster = self._operator.find("Cluster", namespace, cluster_name)
        if cluster is None:
            return self._pending(backup, "FindingCluster", f"Unknown cluster {cluster_name}, will retry")
        try:
            use = self._destination(backup, cluster)
        except BackupFailed as fault:
            self._fail(backup, str(fault), event="ClusterHasNoBackupExecutorPlugin")
            return None
        if self._is_behind_another(backup):
            return self._pending(backup, "BackupPending", "Another backup of this cluster is first")
        pod_name = (cluster.get("status") or {}).get("currentPrimary")
        pod = self._operator.find("Pod", namespace, pod_name) if pod_name else None
        if pod is None or not holds(pod, "Ready"):
            return self._pending(backup, "FindingPod", f"Couldn't find target pod {pod_name or ''}, will retry".strip())
        task = asyncio.get_running_loop().create_task(self._take(backup, cluster, pod, use), name=f"backup {name}")
        self._running[backup["metadata"]["uid"]] = task
        return None

    async def close(self) -> None:
        """Stop what runs; the objects stay as they are."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    # -- deciding ----------------------------------------------------------------------------------------------

    def _destination(self, backup: Object, cluster: Object) -> objectstore.StoreUse:
        method = backup["spec"].get("method", "barmanObjectStore")
        if method == "plugin":
            chosen = (backup["spec"].get("pluginConfiguration") or {}).get("name")
            use = objectstore.backup_use(cluster)
            if chosen != PLUGIN or use is None:
                raise BackupFailed(f"requested plugin is not available: {chosen}")
            return use
        use = objectstore.archive_use(cluster)
        if method == "barmanObjectStore" and use is not None and use.object_store is None:
            return use
        if method == "barmanObjectStore":
            raise BackupFailed("no barmanObjectStore section defined on the target cluster")
        raise BackupFailed(f"this lab takes no backups by {method}")

    def _is_behind_another(self, backup: Object) -> bool:
        """Whether an unfinished Backup of the same Cluster is older, by creation and then by name."""
        meta = backup["metadata"]
        mine = (meta["creationTimestamp"], meta["name"])
        for other in self._operator.registry.list("Backup", meta["namespace"]):
            same = other["spec"]["cluster"]["name"] == backup["spec"]["cluster"]["name"]
            if not same or other["metadata"]["uid"] == meta["uid"] or _phase(other) in _TERMINAL:
                continue
            if (other["metadata"]["creationTimestamp"], other["metadata"]["name"]) < mine:
                return True
        return False

    def _pending(self, backup: Object, reason: str, message: str) -> float:
        if _phase(backup) != "pending":
            self._operator.set_status(backup, {"phase": "pending", "method": backup["spec"].get("method")})
            self._operator.event(backup, reason, message)
        return _PENDING_SECONDS

    # -- doing -------------------------------------------------------------------------------------------------

    async def _take(self, backup: Object, cluster: Object, pod: Object, use: objectstore.StoreUse) -> None:
        try:
            await self._run(backup, cluster, pod, use)
        except (BackupFailed, ConnectionError, KeyError) as fault:
            reason = str(fault) if isinstance(fault, BackupFailed) else "the target pod is not running"
            self._fail(backup, reason)
            objectstore.record_window(self._operator, backup["metadata"]["namespace"], use, failed=datetime.now(UTC))
            self._condition(cluster, False, "LastBackupFailed", reason)
            self._operator.set_status(cluster, {"lastFailedBackup": timestamp()})
        finally:
            self._running.pop(backup["metadata"]["uid"], None)

    async def _run(self, backup: Object, cluster: Object, pod: Object, use: objectstore.StoreUse) -> None:
        namespace, method = backup["metadata"]["namespace"], backup["spec"].get("method", "barmanObjectStore")
        in_tree = method != "plugin"
        at = datetime.now(UTC)
        container = (pod["status"]["containerStatuses"][0].get("containerID")) or pod["metadata"]["uid"]
        self._operator.set_status(
            backup,
            {
                "phase": "running" if in_tree else "started",
                "method": method,
                "instanceID": {
                    "podName": pod["metadata"]["name"], "ContainerID": container, "sessionID": pod["metadata"]["uid"]
                },
                "reconciliationStartedAt": timestamp(),
            },
        )  # fmt: skip
        self._operator.event(backup, "Starting", f"Starting backup for cluster {cluster['metadata']['name']}")
        self._condition(cluster, False, "BackupStarted", "New Backup starting up")
        worker = self._operator.kubelet.worker(namespace, pod["metadata"]["name"])
        taken = await _run_barman(worker, f"backup-{at:%Y%m%d%H%M%S}")
        changes: dict[str, Any] = {
            key: taken[key]
            for key in ("backupId", "backupName", "beginWal", "endWal", "beginLSN", "endLSN", "startedAt", "stoppedAt")
        }
        changes |= {"phase": "completed", "online": True, "reconciliationTerminatedAt": timestamp()}
        if taken.get("majorVersion"):
            changes["majorVersion"] = int(taken["majorVersion"])
        if in_tree:
            changes |= {
                "destinationPath": use.configuration["destinationPath"],
                "endpointURL": use.configuration.get("endpointURL"),
                "serverName": use.server_name,
                "s3Credentials": use.configuration.get("s3Credentials"),
            }
        else:
            changes["pluginMetadata"] = {
                "timeline": str(taken["timeline"]),
                "version": "0.14.0",
                "name": PLUGIN,
                "displayName": "BarmanCloudInstance",
                "clusterUID": cluster["metadata"]["uid"],
                "pluginName": PLUGIN,
            }
        objectstore.record_window(
            self._operator,
            namespace,
            use,
            first=_instant(taken["firstRecoverabilityPoint"]),
            succeeded=_instant(taken["lastSuccessfulBackupTime"]),
        )
        self._condition(cluster, True, "LastBackupSucceeded", "Backup was successful")
        self._operator.set_status(backup, changes)
        self._operator.event(backup, "Completed", "Backup completed")

    def _fail(self, backup: Object, reason: str, *, event: str = "Failed") -> None:
        changes = {
            "phase": "failed",
            "error": reason,
            "method": backup["spec"].get("method", "barmanObjectStore"),
            "reconciliationTerminatedAt": timestamp(),
        }
        backup = self._operator.set_status(backup, changes)
        self._operator.event(backup, event, f"Backup failed: {reason}")

    def _condition(self, cluster: Object, ok: bool, reason: str, message: str) -> None:
        self._operator.set_condition(cluster, "LastBackupSucceeded", ok, reason, message)


async def _run_barman(worker: PodWorker, name: str) -> dict[str, Any]:
    """Run the pod's backup program; its log lines go where the pod's other ones go."""
    process = await worker.run_agent("backup", ["--name", name])
    output, errors = await process.communicate()
    lines = output.decode(errors="replace").splitlines()
    result = lines.pop() if process.returncode == 0 and lines else ""
    with worker.log_path(None).open("a", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
    if process.returncode != 0:
        raise BackupFailed(_last_error(lines) or errors.decode(errors="replace").strip()[-300:] or "backup failed")
    taken: dict[str, Any] = json.loads(result)
    return taken


def _last_error(lines: list[str]) -> str:
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("level") == "error":
            return str(record.get("error") or record.get("err") or record.get("msg"))
    return ""


def _phase(backup: Object) -> str:
    return str((backup.get("status") or {}).get("phase") or "")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
