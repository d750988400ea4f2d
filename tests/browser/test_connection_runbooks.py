"""The connection runbooks stepped through by hand in JupyterLab, to the sealed end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import DrillLab
from fix_jupyter import NEEDS_CHROMIUM
from test_recoveries import prepared, step_through

pytestmark = [pytest.mark.timeout(1800), NEEDS_CHROMIUM]
SMALL = {"pods": 2, "baseline_pool": 4, "candidate_pool": 4, "rate": 40, "hold_ms": 25, "block_seconds": 1, "pairs": 6}


@pytest.mark.soak
def test_the_check_of_the_connections_is_stepped_through(browser_lab: DrillLab, tmp_path: Path) -> None:
    notebook = prepared("check-connections", tmp_path, mode="apply")
    gates, said = step_through(browser_lab, notebook)
    assert (gates, "role's CONNECTION LIMIT binds" in said) == (0, True), said
    (run,) = sorted((browser_lab.outputs / "check-connections").iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 1, done.stdout + done.stderr  # the first site's own numbers break
    assert "Every limit on the path" in notebook.read_text(encoding="utf-8")


@pytest.mark.soak
def test_c15_the_load_drill_is_stepped_through(browser_lab: DrillLab, tmp_path: Path) -> None:
    notebook = prepared("drill-connection-load", tmp_path, mode="apply", **SMALL)
    passed, said = step_through(browser_lab, notebook)
    assert (passed, "UNSEALED" in said or "NotVerified" in said) == (0, True), said
    (run,) = sorted((browser_lab.outputs / "drill-connection-load").iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode in (0, 2), done.stdout + done.stderr  # on a noisy machine a few seconds may not decide
    assert browser_lab.drillbook("verify", str(run)).returncode == 0 and (run / "report.html").exists()
    assert browser_lab.left() == []


@pytest.mark.soak
def test_k15_a_change_of_connections_and_its_way_back_are_stepped_through(
    browser_lab: DrillLab, tmp_path: Path
) -> None:
    lab = browser_lab
    with lab.changing():
        for runbook, gates in (("change-connections", 2), ("undo-change-connections", 1)):
            folder = tmp_path / runbook
            folder.mkdir()
            notebook = prepared(runbook, folder, mode="apply", watched_seconds=10)
            passed, said = step_through(lab, notebook)
            assert (passed, "UNSEALED" in said) == (gates, True), said
            run = sorted((lab.outputs / runbook).iterdir())[-1]
            done = lab.drillbook("finish", run.name, "--notebook", str(notebook))
            assert done.returncode == 0, done.stdout + done.stderr
            assert lab.drillbook("verify", str(run)).returncode == 0
