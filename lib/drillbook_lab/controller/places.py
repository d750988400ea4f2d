"""Where a pod's things lie on this machine: the seam between the kubelet and whoever writes its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from drillbook_lab.apiserver.errors import Object


@dataclass(frozen=True)
class PodPlaces:
    """One pod's directories and address. They belong to it alone and vanish with it (but for its volumes)."""

    run_dir: Path
    socket_dir: Path
    address: str
    volumes: Mapping[str, Path]

    @property
    def spec_file(self) -> Path:
        """The file that tells the pod's programs what to do."""
        return self.run_dir / "spec.json"

    @property
    def pgdata(self) -> Path:
        """The data directory on the volume named `pgdata`."""
        return self.volumes["pgdata"] / "pgdata"


class NotReadyYet(Exception):
    """A pod can't be started yet: why, in words for its status. It is tried again soon."""


Prepare = Callable[[Object, PodPlaces], None]
"""Writes a pod's spec and its mounted secrets before a container starts; raises `NotReadyYet`."""
