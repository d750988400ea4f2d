"""Where a pod's things are on this machine: the seam between the kubelet and anyone who writes its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from drillbook_lab.api.errors import Object


@dataclass(frozen=True)
class PodPlaces:
    """One pod's directories and address. They belong to it alone and vanish with it (but for its volumes)."""

    run_dir: Path
    socket_dir: Path
    address: str
    volumes: Mapping[str, Path]
    hosts: Path | None = None  # what its processes see as /etc/hosts, where that can be

    @property
    def spec_file(self) -> Path:
        """The file that tells the pod's programs what to do."""
        return self.run_dir / "spec.json"

    @property
    def pgdata(self) -> Path:
        """The data directory on the volume named `pgdata`."""
        return self.volumes["pgdata"] / "pgdata"


def pod_role(pod: Object) -> str:
    """What a pod is to the lab: an instance of a cluster (or a Job of one), a pooler, or anything else."""
    labels = pod["metadata"].get("labels") or {}
    if "cnpg.io/podRole" in labels:
        return str(labels["cnpg.io/podRole"])
    return "instance" if "cnpg.io/jobRole" in labels else ""


class NotReadyYet(Exception):
    """A pod can't be started yet: why, in words for its status. It is tried again soon."""


def nothing_to_prepare(pod: Object, places: PodPlaces) -> None:
    """For pods that take everything from their environment."""


Prepare = Callable[[Object, PodPlaces], None]
"""Writes a pod's spec and its mounted secrets before a container starts; raises `NotReadyYet`."""

Attend = Callable[[Object, PodPlaces], AbstractAsyncContextManager[None]]
"""What the lab does for a pod while its container runs: begun before the container, ended after it."""
