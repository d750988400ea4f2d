"""Three labs on one machine: each whole, none in another's way, and nothing of any of them left."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from fix_lab import CORE, RunningLab, condition

from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise
from drillbook_lab.node.processes import processes_under


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0


@pytest.mark.soak
def test_three_labs_side_by_side() -> None:
    with tempfile.TemporaryDirectory(prefix="l3-", dir="/tmp") as root:
        homes = [LabHome(Path(root) / name) for name in "abc"]
        daemons = [supervise.start(home, supervise.daemon_command(home, "first", 1.0), detached=True) for home in homes]
        places: set[tuple[str, int]] = set()
        sockets: list[Path] = []
        try:
            for home, daemon in zip(homes, daemons, strict=True):
                supervise.follow(home, daemon, lambda _: None)
            labs = [RunningLab(home) for home in homes]
            assert len({lab.source()["status"]["systemID"] for lab in labs}) == 3
            for lab in labs:
                assert lab.source()["status"]["phase"] == "Cluster in healthy state"
                assert condition(lab.source(), "ContinuousArchiving") == "True"
                assert lab.drill_sql("SELECT 1") == [(1,)]
                pod = lab.get(f"{CORE}/{lab.state['namespace']}/pods/{lab.state['cluster']}-1")
                places.add((pod["status"]["podIP"], 5432))
                places |= {("127.0.0.1", int(lab.state[key].rpartition(":")[2])) for key in ("url", "endpoint")}
                sockets.append(Path(lab.state["socket_dir"]))
            assert len(places) == 9
            assert all(listens(*place) for place in places)
            supervise.down(homes[0])  # the others don't notice
            assert all(lab.drill_sql("SELECT 1") == [(1,)] for lab in labs[1:])
        finally:
            for home, daemon in zip(homes, daemons, strict=True):
                supervise.down(home)
                daemon.wait(60)
        assert not any(listens(*place) for place in places)
        assert not any(path.exists() for path in sockets)
        assert not processes_under([Path(root)])
        assert not list(Path(root).iterdir())
