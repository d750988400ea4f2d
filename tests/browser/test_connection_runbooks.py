"""The check of the connections stepped through by hand in JupyterLab, to the sealed end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import DrillLab
from fix_jupyter import NEEDS_CHROMIUM
from test_recoveries import prepared, step_through

pytestmark = [pytest.mark.timeout(1800), NEEDS_CHROMIUM]


@pytest.mark.soak
def test_the_check_of_the_connections_is_stepped_through(browser_lab: DrillLab, tmp_path: Path) -> None:
    notebook = prepared("check-connections", tmp_path, mode="apply")
    gates, said = step_through(browser_lab, notebook)
    assert (gates, "role's CONNECTION LIMIT binds" in said) == (0, True), said
    (run,) = sorted((browser_lab.outputs / "check-connections").iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 1, done.stdout + done.stderr  # the first site's own numbers break
    assert "Every limit on the path" in notebook.read_text(encoding="utf-8")
