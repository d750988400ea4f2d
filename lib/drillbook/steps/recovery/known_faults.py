"""Faults of CloudNativePG releases that change what a recovery gives, by the release notes and their issues."""

from __future__ import annotations

import re
from typing import Any

_HISTORY_REFUSED = frozenset({(1, 27, 3), (1, 27, 4), (1, 28, 1), (1, 28, 2), (1, 28, 3), (1, 29, 0), (1, 29, 1)})
"""Releases whose ``wal-restore`` refuses timeline history files to a recovery: in-tree since pull request 9650, through
plugins since 9849; put right by 10818 in 1.28.4, 1.29.2 and 1.30.0. Issues 10442 and 10817."""


def of_operator(version: str) -> tuple[str, str]:
    """What is known of an operator's release, and what to do; both "" if nothing is. ``version`` as 1.29.1 or v1.29.1."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2]), int(found[3])) not in _HISTORY_REFUSED:
        return "", ""
    return (
        f"CloudNativePG {version} may refuse timeline history files to a recovery (cloudnative-pg issues 10442, 10817): it then "
        "ends on the base backup's timeline, whatever targetTLI says, and loses what came after a failover",
        "Update the operator to 1.28.4, 1.29.2, 1.30.0 or later; until then take a base backup after every failover and "
        "switchover, so that no recovery has to change timelines.",
    )


def operator_version(pod: dict[str, Any]) -> str:
    """The release that made an instance's pod, by its annotation, else by the image of its init container; "" for unknown."""
    said = str((pod.get("metadata", {}).get("annotations") or {}).get("cnpg.io/operatorVersion", ""))
    containers = pod.get("spec", {}).get("initContainers") or ()
    images = [str(item.get("image", "")) for item in containers if item.get("name") == "bootstrap-controller"]
    tags = (image.partition("@")[0].rpartition("/")[2].partition(":")[2] for image in images)
    return said or next(tags, "")


__all__ = ["of_operator", "operator_version"]
