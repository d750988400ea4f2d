"""People are informed of what went wrong or is owed, where the profile asks for it, and the address is in no output."""

from __future__ import annotations

import pytest
from fix_drills import ROOT, DrillLab
from test_backup_manual import SECRET_PATH, webhook

pytestmark = pytest.mark.long
NOTEBOOK = ROOT / "runbooks" / "check-status.ipynb"


def test_i17_a_run_that_failed_and_a_test_that_is_missing_are_told_and_success_is_not(drill_lab: DrillLab) -> None:
    schedule = {"runbook": "drill-quarterly-full-restore", "every": "quarter", "since": "2024-01-01T00:00:00Z"}
    with webhook(drill_lab, 200) as (told, section):
        asked = section | {"on": ["failed", "unproven", "missing"]}
        site = drill_lab.profile_with("notified", name="notified", announce=asked, schedules=[schedule])
        well = drill_lab.run(NOTEBOOK, site=site)
        assert (well.code, told) == (0, []), well.said
        with drill_lab.fault("store-refusing"):
            broken = drill_lab.run(NOTEBOOK, site=site)
        assert broken.code == 2 and len(told) == 1, broken.said
        assert (
            told[0]["text"].startswith("[notified] UNPROVEN: check-status: ") and broken.folder.name in told[0]["text"]
        )
        owed = drill_lab.drillbook("due", "--site", str(site), "--notify")
        assert owed.returncode == 1 and len(told) == 2, owed.stdout
        assert told[1]["text"].startswith("[notified] MISSING: restore tests: drill-quarterly-full-restore is ")
    assert "informed" in broken.said and SECRET_PATH not in broken.said + owed.stdout
    with webhook(drill_lab, 500) as (_, section):
        site = drill_lab.profile_with(
            "refused", name="notified", announce=section | {"on": ["missing"]}, schedules=[schedule]
        )
        refused = drill_lab.drillbook("due", "--site", str(site), "--notify")
    assert refused.returncode == 1 and "nobody was informed" in refused.stdout and SECRET_PATH not in refused.stdout
