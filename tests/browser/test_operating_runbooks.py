"""The runbooks of everyday operation stepped through by hand in JupyterLab, to the sealed end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import DrillLab
from fix_jupyter import NEEDS_CHROMIUM
from test_recoveries import prepared, step_through

pytestmark = [pytest.mark.timeout(1800), NEEDS_CHROMIUM]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("runbook", "status", "says"),
    [
        ("check-weekly-backups", 0, "a backup each day"),
        ("check-readiness", 2, "NO-GO"),
        ("troubleshoot-backup-failed", 0, "NOT YOUR PROBLEM"),
    ],
)
def test_i17_it_is_stepped_through(browser_lab: DrillLab, tmp_path: Path, runbook: str, status: int, says: str) -> None:
    folder = browser_lab.outputs / runbook
    before = set(folder.glob("*"))
    notebook = prepared(runbook, tmp_path, mode="apply")
    gates, said = step_through(browser_lab, notebook)
    assert (gates, "UNSEALED" in said or "NotVerified" in said) == (0, True), said
    assert says in notebook.read_text(encoding="utf-8")
    (run,) = set(folder.glob("*")) - before
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == status, done.stdout + done.stderr
    assert browser_lab.drillbook("verify", run.name).returncode == 0
