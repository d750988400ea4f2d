"""After a kill: what the registry still says of processes that are gone is put right before anybody acts on it.

As a kubelet does after its node's restart: a container that was running has ended by signal 9; a pod that is to
run always is started again in place, a Job's pod has failed, and the Job tries once more.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from drillbook_lab.api.errors import Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.node.pod_worker import now
from drillbook_lab.operator import phases
from drillbook_lab.operator.context import holds

_KILLED = 137
_UNFINISHED_BACKUP = ("started", "running")
_PATIENCE_SECONDS = 300.0
_GLANCE_SECONDS = 0.05


@dataclass
class Losses:
    """What a kill has cost."""

    restarted: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    backups: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("pods started again", self.restarted),
                ("job pods lost, their jobs retry", self.failed),
                ("backups lost", self.backups),
            )
            if names
        ]
        return "; ".join(said) or "nothing was running"


def settle(registry: Registry, pods_dir: Path) -> Losses:
    """Tell the truth about every pod, and remove the directories of those that are gone."""
    losses = Losses()
    kept: set[str] = set()
    for pod in registry.list("Pod"):
        meta, status = pod["metadata"], pod.get("status") or {}
        if not meta.get("deletionTimestamp"):
            kept.add(f"{meta['namespace']}_{meta['name']}_{meta['uid'][:8]}")
        if status.get("phase") != "Running" or not status.get("containerStatuses"):
            continue  # it has ended, or never begun
        ends = pod["spec"].get("restartPolicy", "Always") == "Never"
        (losses.failed if ends else losses.restarted).append(meta["name"])
        registry.patch(
            "Pod", meta["namespace"], meta["name"], {"status": _after_kill(status, ends=ends)}, subresource="status"
        )
    for backup in registry.list("Backup"):
        if (backup.get("status") or {}).get("phase") in _UNFINISHED_BACKUP:
            losses.backups.append(backup["metadata"]["name"])
    if pods_dir.is_dir():
        for path in pods_dir.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
    return losses


def _after_kill(status: Object, *, ends: bool) -> Object:
    containers = [_ended(container, ends=ends) for container in status["containerStatuses"]]
    # Of those that came before it, only one that stays was cut off.
    before = [
        _ended(container, ends=ends) if (container.get("state") or {}).get("running") else container
        for container in status.get("initContainerStatuses") or ()
    ]
    conditions = [
        {**condition, "status": "False", "lastTransitionTime": now()}
        if condition["type"] in ("Ready", "ContainersReady") and condition["status"] == "True"
        else condition
        for condition in status.get("conditions") or ()
    ]
    changes: Object = {"containerStatuses": containers, "conditions": conditions}
    if before:
        changes["initContainerStatuses"] = before
    if ends:
        changes["phase"] = "Failed"
    return changes


def _ended(container: Object, *, ends: bool) -> Object:
    """A container's status after the kill: ended for good, or about to be started again."""
    running = (container.get("state") or {}).get("running")
    ended: Object = {
        "terminated": {
            "exitCode": _KILLED,
            "reason": "Error",
            "startedAt": (running or {}).get("startedAt", now()),
            "finishedAt": now(),
        }
    }
    changed = {**container, "ready": False, "started": False}
    if ends:
        changed["state"] = ended
    elif running is not None:
        changed |= {
            "state": {"waiting": {"reason": "ContainerCreating"}},
            "lastState": ended,
            "restartCount": container.get("restartCount", 0) + 1,
        }
    return changed


async def pods_are_back(registry: Registry, namespace: str, cluster: str) -> str:
    """Wait until a cluster's instances serve again; a lab whose cluster doesn't is up all the same, and says so."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        found = [obj for obj in registry.peek("Cluster", namespace) if obj["metadata"]["name"] == cluster]
        if not found:
            return f"there is no cluster {cluster} any more"
        phase = (found[0].get("status") or {}).get("phase")
        pods = registry.peek("Pod", namespace, labels=f"cnpg.io/cluster={cluster},cnpg.io/podRole=instance")
        instances = [pod for pod in pods if pod["spec"].get("restartPolicy", "Always") == "Always"]
        if phase == phases.HEALTHY and instances and all(holds(pod, "Ready") for pod in instances):
            return f"{cluster}: {phase}"
        hibernated = (found[0]["metadata"].get("annotations") or {}).get("cnpg.io/hibernation") == "on"
        if asyncio.get_running_loop().time() > deadline or (hibernated and not instances):
            return f"{cluster}: {phase or 'no phase yet'}"
        await asyncio.sleep(_GLANCE_SECONDS)
