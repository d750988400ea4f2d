"""The index runbooks stepped through by hand in JupyterLab, to the sealed end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab
from fix_jupyter import NEEDS_CHROMIUM
from test_recoveries import prepared, step_through

pytestmark = [pytest.mark.timeout(1800), NEEDS_CHROMIUM]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("runbook", "migration", "gates"),
    [
        ("drill-index-rehearsal", "sites/synergyflow/V011.yaml", 0),
        ("change-indexes", "sites/lab/V012__open_incidents.sql", 2),
        ("undo-change-indexes", "", 1),  # of the change before
    ],
)
def test_i14_an_index_runbook_is_stepped_through(
    browser_lab: DrillLab, tmp_path: Path, runbook: str, migration: str, gates: int
) -> None:
    given = {"migration": str(ROOT / migration)} if migration else {}
    notebook = prepared(runbook, tmp_path, mode="apply", **given)
    with browser_lab.recovering():
        passed, said = step_through(browser_lab, notebook)
    assert (passed, "UNSEALED" in said) == (gates, True), said
    (run,) = sorted((browser_lab.outputs / runbook).iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 0, done.stdout + done.stderr
