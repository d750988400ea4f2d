"""Whether the site is ready to go live: the launch checklist, each item from sealed runs, live objects, or a named person's word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from drillbook.engine.step import CheckStep, Context, Step
from drillbook.evidence.due import SealedRun, runs_of
from drillbook.evidence.facts import Facts
from drillbook.evidence.seal import RECORD
from drillbook.model import Check, Frozen, Verdict, show_instant, show_seconds
from drillbook.profile.schema import Attested, Every

STATUS_DAYS = 3
RUNS = {
    "manual backup tested": ("backup-manual", timedelta(days=100)),
    "point-in-time recovery tested": ("drill-monthly-verification", timedelta(days=35)),
    "full restore tested": ("drill-quarterly-full-restore", timedelta(days=100)),
}
"""Which runbook must have been VERIFIED how lately."""
MONTHLY = "drill-monthly-verification"


@dataclass(frozen=True)
class StatusOnThreeDays(CheckStep):
    """The status was VERIFIED on each of the last days, today or yesterday being the last of them."""

    name: ClassVar[str] = "status verified on three consecutive days"
    proves: ClassVar[str] = "the backups went on running, and somebody or something looked"

    def observe(self, ctx: Context) -> Sequence[Check]:
        days = {run.started_at.astimezone(UTC).date() for run in _verified(ctx, "check-status")}
        today = datetime.now(UTC).date()
        last = today if today in days else today - timedelta(days=1)
        wanted = [last - timedelta(days=n) for n in range(STATUS_DAYS)]
        there = [day for day in wanted if day in days]
        missing = ", ".join(f"{day}" for day in sorted(set(wanted) - days))
        return [
            self.result(
                Verdict.VERIFIED if len(there) == STATUS_DAYS else Verdict.UNPROVEN,
                expected=f"check-status VERIFIED on {STATUS_DAYS} days in a row",
                observed=f"{len(there)} of {STATUS_DAYS} days",
                reason=f"no such run on {missing}" if missing else "",
            )
        ]


@dataclass(frozen=True)
class ProceduresTested(CheckStep):
    """Manual backup, point-in-time recovery and full restore: the newest sealed run of each was VERIFIED, and lately."""

    name: ClassVar[str] = "tests"
    proves: ClassVar[str] = "the procedures work on this cluster"

    def observe(self, ctx: Context) -> Sequence[Check]:
        return [self._one(ctx, name, runbook, age) for name, (runbook, age) in RUNS.items()]

    def _one(self, ctx: Context, name: str, runbook: str, age: timedelta) -> Check:
        mine = [run for run in _runs(ctx) if run.runbook == runbook]
        expected = f"{runbook} VERIFIED within {age.days} days"
        if not mine:
            return self.result(Verdict.UNPROVEN, name=name, expected=expected, reason="it was never run")
        newest = mine[-1]
        late = datetime.now(UTC) - newest.started_at > age
        verdict = newest.counts or Verdict.UNPROVEN
        return self.result(
            Verdict.UNPROVEN if late else verdict,
            name=name,
            expected=expected,
            observed=f"{newest.run_id}: {newest.verdict or 'no verdict'}, {show_instant(newest.started_at)}",
            reason=newest.altered or ("too long ago" if late else ""),
        )


@dataclass(frozen=True)
class ObjectivesMet(CheckStep):
    """Recovery time and point as the newest verified drill measured them, against what the profile promises."""

    name: ClassVar[str] = "objectives"
    proves: ClassVar[str] = "what was promised was measured on this cluster"

    def observe(self, ctx: Context) -> Sequence[Check]:
        goals = ctx.site.objectives
        wanted = {"recovery time": goals.recovery_time, "recovery point": goals.recovery_point}
        run = next((one for one in reversed(_verified(ctx, MONTHLY))), None)
        measured = _measured(ctx, run) if run else {}
        return [
            self._one(name, goal.total_seconds(), measured.get(name), run.run_id if run else "")
            for name, goal in wanted.items()
        ]

    def _one(self, name: str, goal: float, achieved: float | None, run_id: str) -> Check:
        named, expected = f"{name} measured", f"at most {show_seconds(goal)}"
        if achieved is None:
            return self.result(
                Verdict.UNPROVEN, name=named, expected=expected, reason=f"no verified {MONTHLY} measured it"
            )
        return self.result(
            Verdict.VERIFIED if achieved <= goal else Verdict.FAILED,
            name=named,
            expected=expected,
            observed=f"{show_seconds(achieved)} by {run_id}",
        )


@dataclass(frozen=True)
class DrillScheduled(CheckStep):
    """The profile owes a drill each month, so that a missing one is reported."""

    name: ClassVar[str] = "monthly drill scheduled"
    proves: ClassVar[str] = "the next drill comes by itself, and its absence raises an alarm"

    def observe(self, ctx: Context) -> Sequence[Check]:
        known = {one.runbook: one.every for one in ctx.site.schedules}
        there = known.get(MONTHLY) in (Every.MONTH, Every.WEEK, Every.DAY)
        summary = ", ".join(f"{runbook} each {every}" for runbook, every in known.items()) or "no schedules"
        return [
            self.result(
                Verdict.VERIFIED if there else Verdict.FAILED,
                expected=f"{MONTHLY} each month in the profile's schedules",
                observed=summary,
            )
        ]


@dataclass(frozen=True)
class PeopleReady(CheckStep):
    """What no machine can see: a named person attests it in the profile, with a date and an end."""

    name: ClassVar[str] = "people"
    proves: ClassVar[str] = "a named person vouches for it, until a date"

    def observe(self, ctx: Context) -> Sequence[Check]:
        return [self._one(ctx, item) for item in Attested]

    def _one(self, ctx: Context, item: Attested) -> Check:
        now = datetime.now(UTC)
        mine = [one for one in ctx.site.attestations if one.item is item and one.at <= now]
        newest = max(mine, key=lambda one: one.until, default=None)
        expected = "attested by a named person, not expired"
        if newest is None:
            reason = f"nobody has attested it: write it under attestations in the profile ({item})"
            return self.result(Verdict.UNPROVEN, name=str(item), expected=expected, reason=reason)
        return self.result(
            Verdict.VERIFIED if now < newest.until else Verdict.UNPROVEN,
            name=str(item),
            expected=expected,
            observed=f"by {newest.by} on {newest.at:%Y-%m-%d}, until {newest.until:%Y-%m-%d}",
            reason="" if now < newest.until else "expired: ask again",
        )


class Launch(Frozen):
    """``answer``: go or no-go, with what is missing."""

    answer: str

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has shown it."""


@dataclass(frozen=True)
class GoOrNoGo(Step[Launch]):
    """Go live, or not yet: go only if every required check of this run is VERIFIED."""

    def do(self, ctx: Context) -> Launch:
        unmet = ctx.recorder.unmet()
        missing = ", ".join(check.name for check in unmet)
        answer = (
            f"NO-GO. Missing: {missing}" if unmet else "GO. Every item of the launch checklist is proven or attested."
        )
        if not unmet:
            ctx.recorder.note(Facts(claim=f"{ctx.source_ref.name} is ready to go live"))
        ctx.recorder.note(Facts(answer=answer))
        return Launch(answer=answer)


def _runs(ctx: Context) -> list[SealedRun]:
    return runs_of(ctx.outputs, ctx.site.name) if ctx.outputs else []


def _verified(ctx: Context, runbook: str) -> list[SealedRun]:
    return [run for run in _runs(ctx) if run.runbook == runbook and run.counts is Verdict.VERIFIED]


def _measured(ctx: Context, run: SealedRun) -> dict[str, float]:
    if ctx.outputs is None:
        return {}
    record: dict[str, Any] = json.loads((ctx.outputs / run.runbook / run.run_id / RECORD).read_bytes())
    found = {item["name"]: item["achieved_seconds"] for item in record["objectives"]["measured"]}
    return {name: float(value) for name, value in found.items() if value is not None}


__all__ = ["DrillScheduled", "GoOrNoGo", "ObjectivesMet", "PeopleReady", "ProceduresTested", "StatusOnThreeDays"]
