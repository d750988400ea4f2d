"""The check of the connections stepped through by hand in JupyterLab, to the sealed end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import DrillLab
from fix_jupyter import NEEDS_CHROMIUM
from test_recoveries import prepared, step_through

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800), NEEDS_CHROMIUM]


def test_i15_the_check_of_the_connections_is_stepped_through_and_names_what_binds(
    browser_lab: DrillLab, tmp_path: Path
) -> None:
    """The lab has the first site's numbers: three pods with pools of 20, and a role that may have 50 sessions."""
    notebook = prepared("check-connections", tmp_path, mode="apply")
    gates, said = step_through(browser_lab, notebook)
    assert gates == 0 and "FAILED limits now" in said and "60 wanted, 50 served" in said, said
    (run,) = sorted((browser_lab.outputs / "check-connections").iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 1 and "report" in done.stdout, done.stdout + done.stderr
