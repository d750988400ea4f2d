"""A restored copy of three instances, and a lab of three whose daemon is killed while the primary changes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from fix_lab import BARMAN, CNPG, CORE, RunningLab, until
from test_lab_recovery import DRILLS, copy, store

from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise

HEALTHY = "Cluster in healthy state"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Its own lab: its daemon is killed here."""
    made = Three(LabHome(tmp_path_factory.mktemp("three") / "home"))
    try:
        made.up()
        yield made
    finally:
        supervise.down(made.home)
        made.daemon.wait(30)


class Three:
    """A lab of three instances, and its daemon as our child."""

    daemon: subprocess.Popen[bytes]

    def __init__(self, home: LabHome) -> None:
        self.home = home

    def up(self) -> None:
        argv = supervise.daemon_command(self.home, "first", 1.0, "--job-retry-seconds", "0.1", "--instances", "3")
        self.daemon = supervise.start(self.home, argv, detached=True)
        supervise.follow(self.home, self.daemon, lambda _: None)


def healthy(lab: RunningLab, path: str, **wanted: Any) -> Any:
    status = (lab.find(path) or {}).get("status") or {}
    well = status.get("phase") == HEALTHY and status.get("readyInstances") == 3
    return status if well and all(status.get(key) == value for key, value in wanted.items()) else None


@pytest.mark.soak
def test_a_restored_copy_gets_its_standbys(three: Three) -> None:
    lab = RunningLab(three.home)
    lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, "source"))
    login = lab.secret("drillbook", "app-login-synergyflow")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "copy-login"},
        "stringData": login,
        "type": "kubernetes.io/basic-auth",
    }
    lab.create(f"{CORE}/{DRILLS}/secrets", secret)
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "copy3", instances=3))
    path = f"{CNPG}/{DRILLS}/clusters/copy3"
    status = until(lambda: healthy(lab, path))
    assert status["instanceNames"] == ["copy3-1", "copy3-2", "copy3-3"]
    assert status["timelineID"] == 2
    query = "SELECT count(*), pg_is_in_recovery() FROM synergyflow_incidents.incidents"
    answers = [
        lab.sql(login["username"], login["password"], "synergyflow", query, pod=lab.get(f"{CORE}/{DRILLS}/pods/{name}"))
        for name in status["instanceNames"]
    ]
    rows = answers[0][0][0]
    assert rows > 100
    assert answers == [[(rows, False)], [(rows, True)], [(rows, True)]]
    lab.delete(path)
    until(lambda: not lab.get(f"{CORE}/{DRILLS}/persistentvolumeclaims")["items"])


@pytest.mark.soak
def test_a_switchover_goes_on_after_the_daemon_was_killed(three: Three) -> None:
    lab = RunningLab(three.home)
    name, path = lab.state["cluster"], f"{CNPG}/{lab.state['namespace']}/clusters/{lab.state['cluster']}"
    target = f"{name}-3"
    status = {"targetPrimary": target, "phase": "Switchover in progress", "phaseReason": f"Switching over to {target}"}
    lab.patch(f"{path}/status", {"status": status})
    three.daemon.kill()
    three.daemon.wait(30)
    three.up()
    lab = RunningLab(three.home)
    found = until(lambda: healthy(lab, path, currentPrimary=target, targetPrimary=target))
    assert found["timelineID"] == 2
    assert until(lambda: lab.source()["status"]["instancesReportedState"][target]["isPrimary"])
