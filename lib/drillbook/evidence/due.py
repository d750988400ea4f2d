"""Which scheduled tests are done, late, missing, failed or unproven, by the sealed runs alone: silence is not success.

A schedule says how often a runbook must be VERIFIED, and by when within each period. Periods are those of the calendar
in UTC: hours, days, weeks from Monday, months, quarters, years. The first period is the one in which the first run of
that runbook began, or the one of ``since``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from drillbook.evidence.seal import RECORD, sealed_runs
from drillbook.evidence.verify import verify
from drillbook.model import Frozen, Instant, Verdict, parse_instant
from drillbook.profile.schema import Every, Schedule

if TYPE_CHECKING:
    from drillbook.evidence.trust import Trust


class State(StrEnum):
    """How a schedule stands in one period."""

    DONE = "done"
    DONE_LATE = "done late"
    WAITING = "not due yet"
    LATE = "late"
    MISSING = "missing"
    FAILED = "failed"
    UNPROVEN = "unproven"


class SealedRun(Frozen):
    """A sealed run that acted, as its record has it; ``altered`` says what is wrong with its evidence, "" if nothing.

    ``missed`` are the names of the objectives that it missed.
    """

    run_id: str
    runbook: str
    started_at: Instant
    verdict: Verdict | None
    altered: str = ""
    missed: tuple[str, ...] = ()

    @property
    def counts(self) -> Verdict | None:
        """Its verdict, if its evidence is what was sealed."""
        return None if self.altered else self.verdict


class Due(Frozen):
    """A schedule in one period: its state, the run that decides it, and how many runs there were."""

    runbook: str
    every: Every
    begins: Instant
    by: Instant
    ends: Instant
    state: State
    run_id: str = ""
    at: Instant | None = None
    runs: int = 0
    why: str = ""


def runs_of(outputs: Path, site: str, trust: Trust | None = None) -> list[SealedRun]:
    """The sealed runs of ``site`` that acted, oldest first; each with what `verify` finds altered in it."""
    found, altered = [], [str(one) for one in verify(outputs, trust=trust) if one.tampered]
    for folder in sealed_runs(outputs):
        try:
            record = json.loads((folder / RECORD).read_bytes())
            if record["system"]["site"] != site or record["test"]["mode"] != "apply":
                continue
            started, verdict = record["when"]["started_at"], record["verdict"]["verdict"]
            missed = tuple(item["name"] for item in record["objectives"]["measured"] if item["met"] is False)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it can't be said what it was: `drillbook verify` names it, and its period stays open
        found.append(
            SealedRun(
                run_id=folder.name,
                runbook=folder.parent.name,
                started_at=parse_instant(started),
                verdict=Verdict(verdict) if verdict else None,
                altered=next((words for words in altered if folder.name in words), ""),
                missed=missed,
            )
        )
    return sorted(found, key=lambda run: run.started_at)


def due(schedules: Sequence[Schedule], runs: Iterable[SealedRun], now: datetime) -> list[Due]:
    """Every schedule in every period until ``now``, oldest first. Pure."""
    known = list(runs)
    found = []
    for schedule in schedules:
        mine = [run for run in known if run.runbook == schedule.runbook and run.started_at <= now]
        first = schedule.since or min((run.started_at for run in mine), default=now)
        for begins, ends in periods(schedule.every, first, now):
            inside = [run for run in mine if begins <= run.started_at < ends]
            found.append(_state(schedule, begins, ends, inside, now))
    return sorted(found, key=lambda item: (item.begins, item.runbook))


def periods(every: Every, first: datetime, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The calendar's periods in UTC from the one that holds ``first`` to the one that holds ``now``."""
    begins = _begin(every, first.astimezone(UTC))
    while begins <= now:
        ends = _next(every, begins)
        yield begins, ends
        begins = ends


def _state(schedule: Schedule, begins: datetime, ends: datetime, runs: list[SealedRun], now: datetime) -> Due:
    by = min(begins + schedule.within, ends) if schedule.within else ends
    good = next((run for run in runs if run.counts is Verdict.VERIFIED), None)
    newest = runs[-1] if runs else None
    shown = good or newest
    if good is not None:
        state = State.DONE if good.started_at < by else State.DONE_LATE
    elif newest is not None:
        state = State.FAILED if newest.counts is Verdict.FAILED else State.UNPROVEN
    elif now >= ends:
        state = State.MISSING
    else:
        state = State.LATE if now >= by else State.WAITING
    return Due(
        runbook=schedule.runbook,
        every=schedule.every,
        begins=begins,
        by=by,
        ends=ends,
        state=state,
        run_id=shown.run_id if shown else "",
        at=shown.started_at if shown else None,
        runs=len(runs),
        why=shown.altered if shown and good is None else "",
    )


def _begin(every: Every, at: datetime) -> datetime:
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match every:
        case Every.HOUR:
            return day.replace(hour=at.hour)
        case Every.DAY:
            return day
        case Every.WEEK:
            return day - timedelta(days=day.weekday())
        case Every.MONTH:
            return day.replace(day=1)
        case Every.QUARTER:
            return day.replace(month=at.month - (at.month - 1) % 3, day=1)
        case Every.YEAR:
            return day.replace(month=1, day=1)


def _next(every: Every, begins: datetime) -> datetime:
    match every:
        case Every.HOUR:
            return begins + timedelta(hours=1)
        case Every.DAY:
            return begins + timedelta(days=1)
        case Every.WEEK:
            return begins + timedelta(days=7)
    months = {Every.MONTH: 1, Every.QUARTER: 3, Every.YEAR: 12}[every]
    year, month = divmod(begins.year * 12 + begins.month - 1 + months, 12)
    return begins.replace(year=year, month=month + 1)


__all__ = ["Due", "SealedRun", "State", "due", "periods", "runs_of"]
