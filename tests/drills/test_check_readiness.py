"""Go or no-go on the lab: no-go while it is fresh, go after the procedures were run and two people have given their word."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

pytestmark = [pytest.mark.long, pytest.mark.soak]
NOTEBOOK = ROOT / "runbooks" / "check-readiness.ipynb"


def test_i17_no_go_on_a_fresh_lab_and_go_after_the_drills_and_two_attestations(
    drill_lab: DrillLab, tmp_path: Path
) -> None:
    from evidence_sample import SITE, verified  # what earlier days' runs of check-status have left
    from test_launch import sealed

    with drill_lab.on_another_machine(tmp_path / "outputs"):
        fresh = drill_lab.run(NOTEBOOK)
        assert (fresh.code, fresh.verdict) == (2, "UNPROVEN"), fresh.said
        assert fresh.record["facts"]["answer"].startswith("NO-GO. ")
        for day in (1, 2):
            sealed(drill_lab.outputs, "check-status", day, lambda: verified())
        at, until = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 90))
        word = {"by": "Ada Lovelace", "at": at.isoformat(), "until": until.isoformat()}
        profile = drill_lab.profile_with(
            "ready",
            name=SITE,
            attestations=[{"item": item} | word for item in ("team trained", "on-call runbook updated")],
        )
        for runbook in ("check-status", "backup-manual", "drill-monthly-verification", "drill-quarterly-full-restore"):
            done = drill_lab.run(ROOT / "runbooks" / f"{runbook}.ipynb", site=profile)
            assert done.verdict == "VERIFIED", done.said
        go = drill_lab.run(NOTEBOOK, site=profile)
        assert (go.code, go.verdict) == (0, "VERIFIED"), go.said
        assert go.record["facts"]["answer"].startswith("GO. ")
