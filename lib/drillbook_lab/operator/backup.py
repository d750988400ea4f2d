"""Backups: one at a time per Cluster, taken by the real barman in the instance's pod, told in CNPG's phases."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.api.errors import Object
from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.operator import backup_target, guard, hibernation, object_store, retention
from drillbook_lab.operator import in_tree as intree
from drillbook_lab.operator.context import Operator, holds, timestamp
from drillbook_lab.operator.objects import PLUGIN, PLUGIN_VERSION

log = logging.getLogger(__name__)

_TERMINAL = ("completed", "failed", "invalid backup definition")
_PENDING_SECONDS = 0.5
_RETRY = "will retry in 30 seconds"  # CNPG's words; it is sooner here


class BackupFailed(Exception):
    """The backup can't be taken or was not: the reason for its status, and the event that tells it."""

    def __init__(self, reason: str, *, event: str = "Failed") -> None:
        super().__init__(reason)
        self.event = event


class ManagerRestarted(BackupFailed):
    """The instance manager that was taking the backup is another one now."""

    def __init__(self, pod: str) -> None:
        self.pod = pod
        super().__init__(f"instance manager was restarted during backup on pod {pod}")


class Backups:
    """Reconciles Backup objects; holds the running ones."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._running: dict[str, asyncio.Task[None]] = {}  # by uid

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Start one Backup when its turn has come. One that has ended is never touched again."""
        backup = self._operator.find("Backup", namespace, name)
        if backup is None or not guard.admits_backup(self._operator, backup):
            return None
        if backup["metadata"]["uid"] in self._running:
            return None
        if _phase(backup) in _TERMINAL or _phase(backup) == "walArchivingFailing":
            return None  # the latter isn't an end, but nobody goes on with it: it is in the way until deleted
        if _phase(backup) in ("started", "running"):
            return self._orphaned(backup)
        cluster_name = backup["spec"]["cluster"]["name"]
        cluster = self._operator.find("Cluster", namespace, cluster_name)
        if cluster is None:
            return self._without_cluster(backup)
        if hibernation.is_on(cluster):
            self._refuse(backup, cluster, BackupFailed(hibernation.REFUSAL, event="ClusterIsHibernated"))
            return None
        try:
            use = self._destination(backup, cluster)
        except BackupFailed as fault:
            self._refuse(backup, cluster, fault)
            return None
        if self._is_behind_another(backup):
            return self._pending(backup)
        version = int(self._operator.settings.pg_version.partition(".")[0])
        backup = self._operator.set_status(backup, {"majorVersion": version})
        pod_name, pod = backup_target.choose(self._operator, cluster, backup)
        if pod is None or not holds(pod, "Ready"):
            return self._pending(backup, "FindingPod", f"Couldn't find target pod {pod_name}, {_RETRY}")
        task = asyncio.get_running_loop().create_task(self._take(backup, cluster, pod, use), name=f"backup {name}")
        self._running[backup["metadata"]["uid"]] = task
        return None

    async def close(self) -> None:
        """Stop what runs; the objects stay as they are."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    # -- deciding ----------------------------------------------------------------------------------------------

    def _destination(self, backup: Object, cluster: Object) -> object_store.StoreUse:
        method = backup["spec"].get("method", intree.METHOD)
        if method == "plugin":
            chosen = (backup["spec"].get("pluginConfiguration") or {}).get("name")
            use = object_store.backup_use(cluster)
            if chosen != PLUGIN or use is None:
                raise BackupFailed(
                    f"requested plugin is not available: {chosen}", event="ClusterHasNoBackupExecutorPlugin"
                )
            return use
        if method != intree.METHOD:
            raise BackupFailed(f"this lab takes no backups by {method}")
        if not cluster["spec"].get("backup"):
            why = "cannot proceed with the backup as the cluster has no backup section"
            raise BackupFailed(why, event="ClusterHasBackupConfigured")
        use = object_store.archive_use(cluster)
        if use is None or use.object_store is not None:
            raise BackupFailed("no barmanObjectStore section defined on the target cluster")
        return use

    def _orphaned(self, backup: Object) -> float | None:
        """It was begun, and nobody here works at it: anyone who did has gone with an earlier daemon, or with its pod."""
        namespace = backup["metadata"]["namespace"]
        name = ((backup.get("status") or {}).get("instanceID") or {}).get("podName", "")
        pod = self._operator.find("Pod", namespace, name)
        if pod is None:
            return self._restart(backup)
        if not holds(pod, "Ready"):
            self._operator.event(backup, "TargetPodNotHealthy", f"Target pod {name} is not healthy")
        cluster = self._operator.find("Cluster", namespace, backup["spec"]["cluster"]["name"])
        self._failed(backup, cluster, ManagerRestarted(name))
        return None

    def _restart(self, backup: Object) -> float:
        if self._operator.find("Cluster", backup["metadata"]["namespace"], backup["spec"]["cluster"]["name"]) is None:
            return self._without_cluster(backup)
        name = ((backup.get("status") or {}).get("instanceID") or {}).get("podName", "")
        self._operator.event(backup, "ReStarting", f"Target pod {name} was not found, the backup is restarted")
        self._operator.set_status(backup, {"phase": "pending", "instanceID": None, "reconciliationStartedAt": None})
        return _PENDING_SECONDS

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

    def _without_cluster(self, backup: Object) -> float:
        why = f"Unknown cluster {backup['spec']['cluster']['name']}, {_RETRY}"
        return self._pending(backup, "FindingCluster", why)

    def _pending(self, backup: Object, reason: str = "", message: str = "") -> float:
        if _phase(backup) != "pending":
            if reason:
                self._operator.event(backup, reason, message, kind="Warning")
            self._operator.set_status(backup, {"phase": "pending"})
        return _PENDING_SECONDS

    # -- doing -------------------------------------------------------------------------------------------------

    async def _take(self, backup: Object, cluster: Object, pod: Object, use: object_store.StoreUse) -> None:
        try:
            await self._run(backup, cluster, pod, use)
        except (BackupFailed, ConnectionError, KeyError) as fault:
            meta = backup["metadata"]
            if self._is_gone(pod):
                self._restart(self._operator.find("Backup", meta["namespace"], meta["name"]) or backup)
                return
            reason = str(fault) if isinstance(fault, BackupFailed) else "the target pod is not running"
            self._failed(backup, cluster, fault if isinstance(fault, BackupFailed) else BackupFailed(reason))
            object_store.record_window(self._operator, meta["namespace"], use, failed=datetime.now(UTC))
        finally:
            self._running.pop(backup["metadata"]["uid"], None)

    def _is_gone(self, pod: Object) -> bool:
        now = self._operator.find("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        same = now is not None and now["metadata"]["uid"] == pod["metadata"]["uid"]
        return not same or bool(now and now["metadata"].get("deletionTimestamp"))

    async def _run(self, backup: Object, cluster: Object, pod: Object, use: object_store.StoreUse) -> None:
        namespace, method = backup["metadata"]["namespace"], backup["spec"].get("method", intree.METHOD)
        in_tree = use.object_store is None
        at = datetime.now(UTC)
        container = (pod["status"]["containerStatuses"][0].get("containerID")) or pod["metadata"]["uid"]
        self._operator.set_status(
            backup,
            {
                "phase": "started",
                "method": method,
                "instanceID": {
                    "podName": pod["metadata"]["name"],
                    "ContainerID": container,
                    "sessionID": pod["metadata"]["uid"],
                },
                "reconciliationStartedAt": timestamp(),
            },
        )
        self._operator.event(backup, "Starting", f"Starting backup for cluster {cluster['metadata']['name']}")
        name = f"backup-{at:%Y%m%d%H%M%S}"
        if in_tree and not await self._begin_in_tree(backup, cluster, use, name):
            return
        self._operator.event(backup, "Starting", "Backup started")
        self._condition(cluster, False, "BackupStarted", "New Backup starting up")
        worker = self._operator.kubelet.worker(namespace, pod["metadata"]["name"])
        session = worker.pid
        try:
            taken = await _run_barman(worker, name)
        except BackupFailed:
            if worker.pid != session:
                raise ManagerRestarted(pod["metadata"]["name"]) from None
            raise
        changes: dict[str, Any] = {
            key: taken[key]
            for key in ("backupId", "backupName", "beginWal", "endWal", "beginLSN", "endLSN", "startedAt", "stoppedAt")
        }
        changes |= {"phase": "completed", "reconciliationTerminatedAt": timestamp()}
        if taken.get("majorVersion"):
            changes["majorVersion"] = int(taken["majorVersion"])
        if not in_tree:
            changes["online"] = True
            changes["pluginMetadata"] = {
                "timeline": str(taken["timeline"]),
                "version": PLUGIN_VERSION,
                "name": PLUGIN,
                "displayName": "BarmanCloudInstance",
                "clusterUID": cluster["metadata"]["uid"],
                "pluginName": PLUGIN,
            }
            object_store.record_window(
                self._operator,
                namespace,
                use,
                first=_instant(taken["firstRecoverabilityPoint"]),
                succeeded=_instant(taken["lastSuccessfulBackupTime"]),
            )
        self._condition(cluster, True, "LastBackupSucceeded", "Backup was successful")
        self._operator.set_status(backup, changes)
        self._operator.event(backup, "Completed", "Backup completed")
        if in_tree:
            await self._end_in_tree(cluster, use, worker, taken)

    async def _begin_in_tree(self, backup: Object, cluster: Object, use: object_store.StoreUse, name: str) -> bool:
        """Say where it will lie; whether it makes sense to begin, for a backup without its WAL is none."""
        self._operator.set_status(backup, {**intree.place(use), "backupName": name})
        primary = self._operator.kubelet.worker(cluster["metadata"]["namespace"], cluster["status"]["currentPrimary"])
        works = await intree.archiving_works(str(primary.places.socket_dir))
        self._operator.set_status(backup, {"phase": "running" if works else "walArchivingFailing"})
        return works

    async def _end_in_tree(
        self, cluster: Object, use: object_store.StoreUse, worker: PodWorker, taken: dict[str, Any]
    ) -> None:
        """After each backup: the Cluster's window, the retention policy, and the objects of what it let go."""
        intree.record_window(self._operator, cluster, taken)
        backups = retention.completed(self._operator, cluster, use)
        policy = intree.retention_policy(cluster)
        seen = taken
        if policy:
            try:
                seen = await retention.upkeep(worker, policy)
            except (retention.UpkeepFailed, ConnectionError) as fault:
                log.warning("%s: retention: %s", cluster["metadata"]["name"], fault)
                return
        intree.record_window(self._operator, cluster, seen)
        retention.prune(self._operator, worker, backups, seen["backupIds"])

    def _failed(self, backup: Object, cluster: Object | None, fault: BackupFailed) -> None:
        """A backup that had begun has failed: told on the Backup and on its Cluster."""
        if isinstance(fault, ManagerRestarted):
            message = f"Backup failed: instance manager was restarted on pod {fault.pod}"
            self._operator.event(backup, "InstanceManagerRestarted", message, kind="Warning")
        backup = self._end(backup, str(fault))
        self._operator.event(backup, "Failed", f"Backup failed: {fault}")
        if cluster is not None:
            self._condition(cluster, False, "LastBackupFailed", str(fault))
            self._operator.set_status(cluster, {"lastFailedBackup": timestamp()})

    def _refuse(self, backup: Object, cluster: Object, fault: BackupFailed) -> None:
        """One that can't even begin, whatever else is under way: its Cluster's condition says so, too."""
        backup = self._end(backup, str(fault))
        self._operator.event(backup, fault.event, str(fault), kind="Warning")
        self._condition(cluster, False, "LastBackupFailed", str(fault))
        self._operator.set_status(cluster, {"lastFailedBackup": timestamp()})

    def _end(self, backup: Object, reason: str) -> Object:
        changes = {
            "phase": "failed",
            "error": reason,
            "method": backup["spec"].get("method", "barmanObjectStore"),
            "reconciliationTerminatedAt": timestamp(),
        }
        return self._operator.set_status(backup, changes)

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
