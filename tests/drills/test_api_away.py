"""A control plane that goes away, or loses answers, under a whole drill: it goes on, and nothing is done twice."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fix_drills import NOTEBOOK, ROOT, Drill, DrillLab, until

from drillbook import kube as k8s
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.home import LabHome

pytestmark = pytest.mark.long


def test_g02_the_drill_goes_on_when_the_api_server_was_away_in_its_wait(drill_lab: DrillLab) -> None:
    """As long as one of the real control plane's own restarts; the first answers after it may be refusals that pass."""
    before = set(drill_lab.folders())
    argv = [sys.executable, "-m", "drillbook", "run", str(NOTEBOOK), "--mode", "apply"]
    with subprocess.Popen(
        argv, cwd=ROOT, env=drill_lab.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        until(lambda: drill_lab.admin.list(k8s.JOB, drill_lab.site.drill_namespace), "the recovery job is there")
        faults.control(LabHome(drill_lab.home), {"op": "api", "away": 8})
        said = running.communicate(timeout=500)[0]
    (folder,) = set(drill_lab.folders()) - before
    run = Drill(running.returncode, folder, said)
    assert (run.code, run.verdict) == (0, "VERIFIED"), said


def test_g02_the_drill_is_verified_though_every_second_change_loses_its_answer(drill_lab: DrillLab) -> None:
    with drill_lab.fault("api-unsure"):
        run = drill_lab.drill()
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
