"""What is due: a simulated year of sealed runs, with a month missing, a failure, and a drill repeated until it was green."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from evidence_sample import RUNBOOK, SITE, START, failed, unproven, verified, write_journal

from drillbook.cli.app import status
from drillbook.evidence import Ledger, seal
from drillbook.evidence.due import SealedRun, State, due, periods, runs_of
from drillbook.model import Verdict, parse_instant
from drillbook.profile.schema import Every, Schedule
from drillbook.report.page import render

MONTHLY = Schedule(runbook=RUNBOOK, every=Every.MONTH, within=timedelta(days=8))


def day(month: int, number: int, hour: int = 10) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


def run(at: datetime, verdict: Verdict | None = Verdict.VERIFIED, *, altered: str = "") -> SealedRun:
    return SealedRun(run_id=f"{at:%Y%m%dT%H%M%SZ}", runbook=RUNBOOK, started_at=at, verdict=verdict, altered=altered)


YEAR = {
    1: [run(day(1, 4))],
    2: [run(day(2, 1), Verdict.FAILED), run(day(2, 2), Verdict.FAILED), run(day(2, 3))],  # repeated until green
    3: [run(day(3, 1))],
    5: [run(day(5, 3), Verdict.FAILED)],
    6: [run(day(6, 7), Verdict.UNPROVEN)],
    7: [run(day(7, 20))],
    8: [run(day(8, 2), altered="journal.jsonl line 4: was edited")],
    9: [run(day(9, 6), None)],  # abandoned
    10: [run(day(10, 4))],
}
TOLD = {
    1: (State.DONE, 1),
    2: (State.DONE, 3),
    3: (State.DONE, 1),
    4: (State.MISSING, 0),
    5: (State.FAILED, 1),
    6: (State.UNPROVEN, 1),
    7: (State.DONE_LATE, 1),
    8: (State.UNPROVEN, 1),
    9: (State.UNPROVEN, 1),
    10: (State.DONE, 1),
}


@pytest.mark.parametrize(
    ("now", "state"), [(day(11, 5), State.WAITING), (day(11, 9), State.LATE)], ids=["in time", "too late"]
)
def test_i16_a_year_is_told_month_by_month(now: datetime, state: State) -> None:
    found = due([MONTHLY], [one for runs in YEAR.values() for one in runs], now)
    assert {item.begins.month: (item.state, item.runs) for item in found} == TOLD | {11: (state, 0)}
    assert found[7].why == "journal.jsonl line 4: was edited"


def test_i16_what_never_ran_is_owed_from_the_day_that_the_profile_names() -> None:
    never = Schedule(runbook="drill-quarterly-full-restore", every=Every.QUARTER)
    (current,) = due([never], [], day(6, 1))
    assert current.state is State.WAITING and (current.begins.month, current.ends.month) == (4, 7)
    owed = due([never.model_copy(update={"since": day(1, 1)})], [], day(6, 1))
    assert [item.state for item in owed] == [State.MISSING, State.WAITING]


@pytest.mark.parametrize(
    ("every", "first", "begins"),
    [
        (Every.HOUR, "2026-02-28T23:59:59Z", ["2026-02-28T23:00:00Z", "2026-03-01T00:00:00Z"]),
        (Every.DAY, "2026-02-28T23:59:59Z", ["2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"]),
        (Every.WEEK, "2026-02-22T00:00:00Z", ["2026-02-16T00:00:00Z", "2026-02-23T00:00:00Z"]),
        (Every.MONTH, "2026-02-01T00:00:00Z", ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
        (Every.QUARTER, "2025-12-31T00:00:00Z", ["2025-10-01T00:00:00Z", "2026-01-01T00:00:00Z"]),
        (Every.YEAR, "2025-02-28T00:00:00Z", ["2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]),
    ],
)
def test_i16_periods_are_the_calendars_in_utc_and_leave_no_gap(every: Every, first: str, begins: list[str]) -> None:
    found = list(periods(every, parse_instant(first), parse_instant("2026-03-01T00:00:00Z")))
    shown = [f"{begin:%Y-%m-%dT%H:%M:%SZ}" for begin, _ in found]
    assert shown[:2] == begins
    assert all(end == following for (_, end), (following, _) in pairwise(found))
    assert found[-1][0] <= parse_instant("2026-03-01T00:00:00Z") < found[-1][1]


def sealed(outputs: Path, at: datetime, events: Callable[[], list[dict[str, object]]]) -> Path:
    """A run that began at ``at``, sealed as every other."""
    run_id, moved = f"{at:%Y%m%dT%H%M%SZ}-{at.day:06x}", at - START
    ledger, folder = Ledger.of(outputs, SITE), outputs / RUNBOOK / f"{at:%Y%m%dT%H%M%SZ}-{at.day:06x}"
    told = [
        event
        | {"at": (parse_instant(str(event["at"])) + moved).isoformat().replace("+00:00", "Z")}
        | ({"run_id": run_id} if event["type"] == "opened" else {})
        for event in events()
    ]
    ledger.open(run_id, RUNBOOK)
    write_journal(folder / "journal.jsonl", told)
    render(folder)
    seal(folder, ledger)
    return folder


def test_i16_due_reads_sealed_runs_and_says_it_to_people_to_prometheus_and_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    for at, events in ((day(1, 4), verified), (day(2, 1), failed), (day(2, 2), verified), (day(4, 5), unproven)):
        sealed(outputs, at, events)
    profile = tmp_path / "site.yaml"
    lab = Path(__file__).parents[2] / "sites" / "synergyflow.yaml"
    schedules = [{"runbook": RUNBOOK, "every": "month", "within": "8d"}]
    profile.write_text(yaml.safe_dump({"extends": str(lab), "name": SITE, "schedules": schedules}))
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(outputs))
    argv = ["due", "--site", str(profile)]

    assert status([*argv, "--at", "2026-02-05T00:00:00Z"]) == 0
    assert status([*argv, "--at", "2026-04-30T00:00:00Z", "--all"]) == 1
    told = capsys.readouterr().out
    assert [word for word in ("done", "missing", "unproven") if word in told] == ["done", "missing", "unproven"]
    assert status([*argv, "--at", "2026-05-02T00:00:00Z"]) == 2  # April is unproven, May is not due yet
    assert status([*argv, "--at", "2026-05-09T00:00:00Z"]) == 2
    capsys.readouterr()
    assert status([*argv, "--at", "2026-05-09T00:00:00Z", "--prometheus"]) == 2
    text = capsys.readouterr().out
    assert f'drillbook_due{{every="month",runbook="{RUNBOOK}",site="{SITE}",state="late"}} 1.0' in text
    assert f'drillbook_runs_total{{runbook="{RUNBOOK}",site="{SITE}",verdict="FAILED"}} 1.0' in text
    (last,) = re.findall(r"drillbook_last_verified_timestamp_seconds\{.*\} (\S+)", text)
    assert float(last) // 60 == day(2, 2).timestamp() // 60

    folder = next((outputs / RUNBOOK).glob("20260202*"))
    (folder / "record.json").write_bytes((folder / "record.json").read_bytes().replace(b"VERIFIED", b"verified", 1))
    runs = {one.run_id: one for one in runs_of(outputs, SITE)}
    assert runs[folder.name].altered and runs[folder.name].counts is None
    assert status([*argv, "--at", "2026-02-05T00:00:00Z"]) == 2


def test_i16_a_profile_without_schedules_is_told_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path))
    profile = tmp_path / "site.yaml"
    site = Path(__file__).parents[2] / "sites" / "synergyflow.yaml"
    profile.write_text(yaml.safe_dump({"extends": str(site), "schedules": []}))
    assert status(["due", "--site", str(profile)]) == 4
    assert "has no schedules" in capsys.readouterr().err
    assert status(["due", "--at", "yesterday"]) == 4
