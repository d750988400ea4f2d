"""What the image installs, installed here by the same script: its runbooks plan against the lab as the checkout's do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab
from test_annual import Years, years

__all__ = ["years"]

pytestmark = [pytest.mark.long, pytest.mark.soak]
# As `make test-notebooks`: what goes back from a recovery, or clears up after one, has nothing to find where there was none.
PLANNED = [
    path.stem
    for path in sorted((ROOT / "runbooks").glob("*.ipynb"))
    if not path.stem.startswith("undo-") and path.stem != "change-drop-kept"
]


def test_i17_the_installed_core_has_no_lab_and_plans_every_runbook(
    drill_lab: DrillLab, years: Years, tmp_path: Path
) -> None:
    years.make(7)
    prefix = tmp_path / "core"
    subprocess.run(["sh", str(ROOT / "deploy" / "image" / "install.sh"), str(ROOT), str(prefix)], check=True)
    bare = {name: value for name, value in drill_lab.env.items() if name.startswith("DRILLBOOK_")}
    bare |= {name: os.environ[name] for name in ("LANG",) if name in os.environ}
    bare |= {"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"}
    (tmp_path / "elsewhere").mkdir()

    def drillbook(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(prefix / "bin" / "drillbook"), *arguments],
            capture_output=True,
            text=True,
            env=bare,
            cwd=tmp_path / "elsewhere",
            timeout=540,
        )

    assert "the lab is not installed" in drillbook("lab", "status").stderr
    with drill_lab.recovering(), drill_lab.changing():
        for runbook in PLANNED:
            given = ["-p", "migration", str(ROOT / "sites/lab/V012__open_incidents.sql")]
            done = drillbook("run", runbook, *(given if runbook == "change-indexes" else []))
            assert done.returncode == 0, f"{runbook}: {done.stdout}{done.stderr}"
    plans = {path.parent.parent.name for path in drill_lab.outputs.glob("*/*/record.json") if _planned(path)}
    assert set(PLANNED) <= plans


def _planned(path: Path) -> bool:
    record = json.loads(path.read_text())
    return bool(record["test"]["mode"] == "plan" and "PLAN" in (path.parent / "report.html").read_text())
