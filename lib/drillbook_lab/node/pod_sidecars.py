"""Containers that come before a pod's own: CloudNativePG's bootstrap, and the plugin that stays next to the main one.

The pod's one process does their work here; what is theirs is the name, the state and the log.
"""

from __future__ import annotations

from pathlib import Path

from drillbook_lab.api.errors import Object


def names(pod: Object) -> list[str]:
    """Their names, in the order in which they start."""
    return [str(container["name"]) for container in pod["spec"].get("initContainers") or ()]


def staying(pod: Object) -> list[str]:
    """The names of those that run next to the main container."""
    found = pod["spec"].get("initContainers") or ()
    return [str(container["name"]) for container in found if container.get("restartPolicy") == "Always"]


def begin_logs(pod: Object, folder: Path) -> None:
    """Each has a log from its beginning, if only an empty one."""
    for name in names(pod):
        (folder / f"{name}.log").touch()


def statuses(pod: Object, phase: str, since: str) -> list[Object]:
    """What the kubelet tells of them: one that stays is running while the pod is, the others have done their part."""
    told = []
    for container in pod["spec"].get("initContainers") or ():
        stays = container.get("restartPolicy") == "Always"
        running = stays and phase == "Running"
        state: Object = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": since}}
        if phase == "Pending":
            state = {"waiting": {"reason": "PodInitializing"}}
        elif running:
            state = {"running": {"startedAt": since}}
        told.append(
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "restartCount": 0,
                "ready": running or (not stays and phase != "Pending"),
                "started": running,
                "state": state,
                "lastState": {},
            }
        )
    return told
