"""The launch checklist: go only when each item is proven by a sealed run or attested by a named person, and not too long ago."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from evidence_sample import SITE, START, failed, unproven, verified, write_journal

from drillbook.engine.step import CheckStep, Context, NullRecorder
from drillbook.evidence import Ledger, seal
from drillbook.model import Verdict, parse_instant
from drillbook.profile import load_site
from drillbook.steps.checks.launch import (
    DrillScheduled,
    ObjectivesMet,
    PeopleReady,
    ProceduresTested,
    StatusOnThreeDays,
)

NOW = datetime.now(UTC)
Events = Callable[[], list[dict[str, Any]]]


def sealed(outputs: Path, runbook: str, days_ago: float, events: Events = verified) -> Path:
    """A run of this runbook that began so many days ago, sealed as every other."""
    at = NOW - timedelta(days=days_ago)
    run_id, moved = f"{at:%Y%m%dT%H%M%SZ}-{abs(hash((runbook, days_ago))) % 0xFFFFFF:06x}", at - START
    told = [
        event
        | {"at": (parse_instant(str(event["at"])) + moved).isoformat().replace("+00:00", "Z")}
        | ({"run_id": run_id, "runbook": runbook} if event["type"] == "opened" else {})
        for event in events()
    ]
    folder, ledger = outputs / runbook / run_id, Ledger.of(outputs, SITE)
    ledger.open(run_id, runbook)
    write_journal(folder / "journal.jsonl", told)
    seal(folder, ledger)
    return folder


def context(tmp_path: Path, **profile: Any) -> Context:
    path = tmp_path / "site.yaml"
    base = Path(__file__).parents[2] / "sites" / "synergyflow.yaml"
    path.write_text(yaml.safe_dump({"extends": str(base), "name": SITE} | profile))
    return Context(
        site=load_site(str(path)),
        run_id="",
        mode="plan",
        recorder=NullRecorder(),
        mask=lambda _: None,
        outputs=tmp_path / "outputs",
    )


def verdicts(step: CheckStep, ctx: Context) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in step.observe(ctx)}


@pytest.mark.parametrize(
    ("days", "events", "verdict"),
    [
        ((0, 1, 2), verified, Verdict.VERIFIED),
        ((1, 2, 3), verified, Verdict.VERIFIED),  # today's has not run yet
        ((0, 1), verified, Verdict.UNPROVEN),
        ((0, 2, 3), verified, Verdict.UNPROVEN),  # a day without
        ((0, 1, 2), failed, Verdict.UNPROVEN),
        ((2, 3, 4), verified, Verdict.UNPROVEN),  # it has stopped
    ],
)
def test_i17_the_status_must_have_been_verified_on_three_days_in_a_row(
    tmp_path: Path, days: tuple[int, ...], events: Events, verdict: Verdict
) -> None:
    for day in days:
        sealed(tmp_path / "outputs", "check-status", day, events)
    assert set(verdicts(StatusOnThreeDays(), context(tmp_path)).values()) == {verdict}


def test_i17_the_newest_run_of_each_procedure_decides_and_only_while_it_is_recent(tmp_path: Path) -> None:
    ctx, outputs = context(tmp_path), tmp_path / "outputs"
    assert set(verdicts(ProceduresTested(), ctx).values()) == {Verdict.UNPROVEN}
    sealed(outputs, "backup-manual", 5)
    sealed(outputs, "drill-quarterly-full-restore", 150)
    sealed(outputs, "drill-monthly-verification", 20)
    newest = sealed(outputs, "drill-monthly-verification", 10, failed)
    assert verdicts(ProceduresTested(), ctx) == {
        "manual backup tested": Verdict.VERIFIED,
        "point-in-time recovery tested": Verdict.FAILED,
        "full restore tested": Verdict.UNPROVEN,
    }
    sealed(outputs, "drill-monthly-verification", 9, unproven)
    assert verdicts(ProceduresTested(), ctx)["point-in-time recovery tested"] is Verdict.UNPROVEN
    last = sealed(outputs, "drill-monthly-verification", 1)
    assert verdicts(ProceduresTested(), ctx)["point-in-time recovery tested"] is Verdict.VERIFIED
    (last / "journal.jsonl").write_bytes((newest / "journal.jsonl").read_bytes())
    assert verdicts(ProceduresTested(), ctx)["point-in-time recovery tested"] is Verdict.UNPROVEN, "it was altered"


def test_i17_what_was_measured_is_compared_with_what_this_profile_promises(tmp_path: Path) -> None:
    assert set(verdicts(ObjectivesMet(), context(tmp_path)).values()) == {Verdict.UNPROVEN}
    sealed(tmp_path / "outputs", "drill-monthly-verification", 1)
    assert set(verdicts(ObjectivesMet(), context(tmp_path)).values()) == {Verdict.VERIFIED}
    tight = context(
        tmp_path, objectives={"recovery_time": "1m", "recovery_point": "1h", "point_in_time_recovery": "1m"}
    )
    assert verdicts(ObjectivesMet(), tight) == {
        "recovery time measured": Verdict.FAILED,
        "recovery point measured": Verdict.VERIFIED,
    }


def test_i17_a_drill_that_nobody_owes_is_no_schedule(tmp_path: Path) -> None:
    monthly = {"runbook": "drill-monthly-verification", "every": "month"}
    assert set(verdicts(DrillScheduled(), context(tmp_path, schedules=[monthly])).values()) == {Verdict.VERIFIED}
    for schedules in ([], [monthly | {"every": "year"}], [monthly | {"runbook": "check-status"}]):
        assert set(verdicts(DrillScheduled(), context(tmp_path, schedules=schedules)).values()) == {Verdict.FAILED}


def test_i17_a_persons_word_has_a_name_a_date_and_an_end(tmp_path: Path) -> None:
    def attested(item: str, begin: float, end: float) -> dict[str, str]:
        at, until = (json.dumps((NOW + timedelta(days=days)).isoformat()).strip('"') for days in (begin, end))
        return {"item": item, "by": "Ada Lovelace", "at": at, "until": until}

    team, on_call = "team trained", "on-call runbook updated"
    assert verdicts(PeopleReady(), context(tmp_path)) == {team: Verdict.UNPROVEN, on_call: Verdict.UNPROVEN}
    both = context(tmp_path, attestations=[attested(team, -10, 90), attested(on_call, -10, 90)])
    assert verdicts(PeopleReady(), both) == {team: Verdict.VERIFIED, on_call: Verdict.VERIFIED}
    stale = context(tmp_path, attestations=[attested(team, -100, -1), attested(on_call, 1, 90)])
    assert verdicts(PeopleReady(), stale) == {team: Verdict.UNPROVEN, on_call: Verdict.UNPROVEN}
