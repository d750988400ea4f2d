"""Retention: barman removes what the policy lets go, then the Backup objects of what is gone go too.

With the plugin it is a timer of the current primary's sidecar, so it also acts long after the last backup; in-tree it
comes after each backup. Neither knows anything but the catalogue of the *current* `serverName`: a Cluster that has
changed it loses its older Backup objects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from drillbook_lab.agent.log import SIDECAR, Log
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.operator import object_store
from drillbook_lab.operator.context import Operator, holds

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1800.0
AFTER_ERROR_SECONDS = 300.0
"""The wait after a cycle that failed, whatever the interval."""
# A sidecar's first cycle comes at once; here it leaves the machine to the cluster's start.
_FIRST_AFTER_SECONDS = 20.0


class UpkeepFailed(Exception):
    """The policy was not applied, or the catalogue not read: why."""


async def upkeep(worker: PodWorker, policy: str | None, container: str | None = None) -> dict[str, Any]:
    """Apply the policy in the instance's pod, and read the catalogue there; its log lines go to the container's log."""
    process = await worker.run_agent("retention", ["--policy", policy] if policy else [])
    output, errors = await process.communicate()
    lines = output.decode(errors="replace").splitlines()
    result = lines.pop() if process.returncode == 0 and lines else ""
    with worker.log_path(container).open("a", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
    if process.returncode != 0:
        raise UpkeepFailed(lines[-1] if lines else errors.decode(errors="replace").strip()[-300:])
    seen: dict[str, Any] = json.loads(result)
    return seen


def completed(operator: Operator, cluster: Object, use: object_store.StoreUse) -> list[Object]:
    """The Cluster's completed Backups of this store; read before the catalogue, for a newer one is in neither."""
    meta = cluster["metadata"]
    found = []
    for backup in operator.registry.list("Backup", meta["namespace"]):
        told = backup.get("status") or {}
        if backup["spec"]["cluster"]["name"] != meta["name"] or told.get("phase") != "completed":
            continue
        if use.object_store is not None:
            mine = (told.get("pluginMetadata") or {}).get("clusterUID") == meta["uid"]
        else:
            place = (use.configuration["destinationPath"], use.configuration.get("endpointURL"), use.server_name)
            mine = place == (told.get("destinationPath"), told.get("endpointURL"), told.get("serverName"))
        if mine:
            found.append(backup)
    return found


def prune(
    operator: Operator, worker: PodWorker, backups: list[Object], ids: list[str], container: str | None = None
) -> None:
    """Delete the Backup objects whose backup the catalogue no longer has, and say so in the container's log."""
    for backup in backups:
        if backup["status"].get("backupId") in ids:
            continue
        meta = backup["metadata"]
        with worker.log_path(container).open("ab", buffering=0) as out:
            Log(worker.name, fd=out.fileno()).info("Deleting backup not in the catalog", backup=meta["name"])
        try:
            operator.registry.delete("Backup", meta["namespace"], meta["name"])
        except ApiError as fault:
            if fault.code != 404:
                raise


@dataclass
class _Sidecar:
    """When one pod's timer is due next; with the pod it goes, as with the real sidecar's process."""

    since: float
    interval: float | None = None  # None: the ObjectStore's, as it is then
    cycles: int = 0
    task: asyncio.Task[None] | None = None


class Maintenance:
    """The timers of all primaries."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._sidecars: dict[str, _Sidecar] = {}  # by the pod's uid

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                for cluster in self._operator.registry.peek("Cluster"):
                    try:
                        self._look(cluster)
                    except Exception:
                        log.exception("retention of %s", cluster["metadata"]["name"])
                await asyncio.sleep(self._operator.settings.retention_poll_seconds)
        finally:
            tasks = [sidecar.task for sidecar in self._sidecars.values() if sidecar.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, cluster: Object) -> None:
        namespace = cluster["metadata"]["namespace"]
        use = object_store.backup_use(cluster)
        primary = (cluster.get("status") or {}).get("currentPrimary")
        if use is None or use.object_store is None or not primary or cluster["metadata"].get("deletionTimestamp"):
            return
        pod = self._operator.find("Pod", namespace, primary)
        store = self._operator.find("ObjectStore", namespace, use.object_store)
        if pod is None or store is None or pod["metadata"].get("deletionTimestamp") or not holds(pod, "Ready"):
            return
        sidecar = self._sidecars.setdefault(pod["metadata"]["uid"], _Sidecar(time.monotonic()))
        if sidecar.task is not None and not sidecar.task.done():
            return
        configured = store["spec"].get("instanceSidecarConfiguration") or {}
        interval = sidecar.interval or float(configured.get("retentionPolicyIntervalSeconds") or _INTERVAL_SECONDS)
        if not sidecar.cycles:
            interval = min(interval, _FIRST_AFTER_SECONDS)
        if time.monotonic() - sidecar.since >= interval:
            worker = self._operator.kubelet.worker(namespace, primary)
            cycle = self._cycle(sidecar, cluster, use, worker, store["spec"].get("retentionPolicy"))
            sidecar.task = asyncio.get_running_loop().create_task(cycle, name=f"retention {primary}")

    async def _cycle(
        self, sidecar: _Sidecar, cluster: Object, use: object_store.StoreUse, worker: PodWorker, policy: str | None
    ) -> None:
        namespace = cluster["metadata"]["namespace"]
        try:
            backups = completed(self._operator, cluster, use)
            seen = await upkeep(worker, policy, SIDECAR)
            # In the recorded order: anyone who waits for the window finds the Backup objects gone.
            prune(self._operator, worker, backups, seen["backupIds"], SIDECAR)
            object_store.refresh_window(self._operator, namespace, use, seen)
            sidecar.interval = None
        except (UpkeepFailed, ConnectionError, KeyError, ApiError) as fault:
            log.warning("%s/%s: retention: %s", namespace, worker.name, fault)
            sidecar.interval = AFTER_ERROR_SECONDS
        finally:
            sidecar.cycles += 1
            sidecar.since = time.monotonic()
