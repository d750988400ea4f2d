"""Each runbook to its end while the API server goes away in each of its waits, or refuses each change once.

The whole matrix takes hours: it belongs to the soak. ``DRILLBOOK_MATRIX`` names the runbooks to take, separated by
commas.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill, until

from drillbook import kube as k8s
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.home import LabHome

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "backup": ("backup-manual", {}),
    "drill": ("drill-monthly-verification", {}),
    "quarterly": ("drill-quarterly-full-restore", {}),
    "swap": ("recover-point-in-time", {}),
    "full": ("recover-full-restore", {}),
    "in place": ("recover-full-restore-in-place", {}),
}
CHOSEN = [name for name in RUNS if name in os.environ.get("DRILLBOOK_MATRIX", ",".join(RUNS)).split(",")]
# Steps in which a run waits for Kubernetes: for a recovery, a backup, pods that go or come, objects that go.
WAITS = {
    "WaitForRecovery",
    "WaitForBackup",
    "BackUpBeforeCutover",
    "BackUpNewTimeline",
    "DrainApplication",
    "ScaleUpApplication",
    "WaitForReplacement",
    "RepointPoolers",
    "RepointApplication",
    "OpenToClients",
    "BackUpOld",
    "BackUpReplacement",
    "RemoveRecoveryCluster",
    "PutBack",
    "FenceOldCluster",
    "RemoveOldCluster",
    "FinishRebuild",
}
LONGEST = {"WaitForRecovery", "WaitForBackup", "WaitForReplacement", "CreateReplacementCluster", "RemoveOldCluster"}
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


@dataclass
class Walk:
    """A runbook from its beginning to its end, with each gate confirmed, while something is watched and done to it."""

    lab: CutLab
    notebook: Path
    parameters: dict[str, str]

    def __post_init__(self) -> None:
        self.folder = Path()

    def to_its_end(self) -> Drill:
        known = set(self.lab.lab.folders(self.notebook))
        given = [word for name, value in self.parameters.items() for word in ("-p", name, value)]
        argv = ["run", str(self.notebook), "--mode", "apply", *given]
        said = ""
        while True:
            with subprocess.Popen(
                [sys.executable, "-m", "drillbook", *argv],
                cwd=ROOT,
                env=self.lab.lab.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as running:
                fresh = until(
                    lambda: set(self.lab.lab.folders(self.notebook)) - known or {Path()}, "the run has a folder"
                )
                while fresh == {Path()} and running.poll() is None:
                    fresh = set(self.lab.lab.folders(self.notebook)) - known or {Path()}
                (self.folder,) = fresh
                said += running.communicate(timeout=7000)[0]
            done = Drill(running.returncode, self.folder, said)
            if done.code != 3:
                return done
            argv = ["resume", self.folder.name, "--confirm", done.of("waiting")[-1]["phrase"]]

    @contextmanager
    def disturbed(self, disturb: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """``disturb`` is given each event of the journal as it comes."""
        over = threading.Event()

        def watch() -> None:
            seen = 0
            while not over.wait(0.05):
                journal = self.folder / "journal.jsonl"
                lines = journal.read_text().splitlines() if journal.is_file() else []
                for line in lines[seen:]:
                    disturb(json.loads(line))
                seen = len(lines)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.fixture
def walk(cut_lab: CutLab, request: pytest.FixtureRequest) -> Iterator[Walk]:
    """The runbook that the test names, a mistake made where it needs one, and the rights that it needs."""
    name, parameters = RUNS[request.param]
    given = dict(parameters)
    if name == "recover-point-in-time":
        database = cut_lab.site.tenants[0].database
        cut_lab.sql(cut_lab.name, "create table kept (text text)", database)
        given |= {"database": database, "target_time": cut_lab.sql(cut_lab.name, NOW, database)}
        cut_lab.sql(cut_lab.name, "insert into kept values ('mistake')", database)
    with cut_lab.lab.recovering():
        yield Walk(cut_lab, ROOT / "runbooks" / f"{name}.ipynb", given)
        control(cut_lab, rules=[])


def control(lab: CutLab, **asked: Any) -> None:
    faults.control(LabHome(lab.lab.home), {"op": "api", **asked})


def ended_well(run: Drill, lab: CutLab) -> None:
    """VERIFIED, everything put back, no step begun twice, one Cluster of each name, and the evidence holds."""
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said[-6000:]
    assert {event["id"] for event in run.of("obligation")} <= {event["id"] for event in run.of("settled")}
    begun = Counter((event["n"], event["step"]) for event in run.of("step_started"))
    assert {step: count for step, count in begun.items() if count > 1} == {}
    assert lab.lab.left() == []
    assert lab.lab.drillbook("verify", run.folder.name).returncode == 0
    assert len(lab.admin.list(k8s.BACKUP, lab.namespace)) <= 4, "no Backup was asked for twice"


def matrix(walk: Walk, seconds: int, steps: set[str]) -> Drill:
    """Walk it while the API server is away for so long a moment after each of these steps has begun."""
    met = []

    def away(event: dict[str, Any]) -> None:
        if event["type"] == "step_started" and event["step"] in steps:
            met.append(event["step"])
            control(walk.lab, away=seconds)

    with walk.disturbed(away):
        run = walk.to_its_end()
    assert met, "none of these steps is in the runbook"
    return run


@pytest.mark.parametrize("walk", CHOSEN, indirect=True)
@pytest.mark.parametrize("seconds", [5, 60])
def test_g02_it_goes_on_though_the_api_server_was_away_in_each_wait(walk: Walk, seconds: int) -> None:
    ended_well(matrix(walk, seconds, WAITS), walk.lab)


@pytest.mark.parametrize("walk", CHOSEN, indirect=True)
def test_g02_it_goes_on_though_the_api_server_was_away_for_five_minutes(walk: Walk) -> None:
    ended_well(matrix(walk, 300, LONGEST), walk.lab)


@pytest.mark.parametrize("walk", CHOSEN, indirect=True)
def test_g02_it_goes_on_though_each_change_is_refused_once(walk: Walk) -> None:
    control(walk.lab, rules=[{"times": 0, "once_each": True}])
    ended_well(walk.to_its_end(), walk.lab)
