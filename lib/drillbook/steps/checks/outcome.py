"""What was achieved, compared with what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckStep, Context
from drillbook.evidence.facts import Achieved, Facts
from drillbook.model import Check, Verdict
from drillbook.steps.recovery.copy import Recovered


@dataclass(frozen=True)
class CompareWithObjectives(CheckStep):
    """The achieved recovery time and point, compared with the objectives.

    Times are technical recovery times on this hardware. An objective missed is reported in the headline; it is a
    failure where the profile enforces objectives.
    """

    recovered: Recovered
    to_an_instant: bool = True
    name: ClassVar[str] = "objectives"
    proves: ClassVar[str] = "the promised recovery time and point can be kept"

    def observe(self, ctx: Context) -> Sequence[Check]:
        goals = ctx.site.objectives
        noted = ctx.recorder.facts.archive_lag
        lag = noted.seconds if noted else None
        achieved: dict[str, float | None] = {
            "recovery_seconds": self.recovered.recovery_seconds,
            "recovery_point_seconds": lag,
        }
        seconds = self.recovered.recovery_seconds
        rows = [("recovery time", seconds, goals.recovery_time.total_seconds())]
        if self.to_an_instant:
            rows.insert(0, ("point-in-time recovery", seconds, goals.point_in_time_recovery.total_seconds()))
        else:
            achieved["pitr_seconds"] = None
        ctx.recorder.note(Facts(achieved=Achieved(**achieved)))
        if lag is not None:
            rows.append(("recovery point", lag, goals.recovery_point.total_seconds()))
        checks = []
        for what, seconds, limit in rows:
            checks.append(
                self.result(
                    Verdict.VERIFIED if seconds <= limit else Verdict.FAILED,
                    name=f"objective: {what}",
                    required=goals.enforce,
                    expected=f"at most {limit:g} s",
                    observed=f"{seconds:.1f} s",
                )
            )
        if lag is None:
            checks.append(
                self.result(
                    Verdict.UNPROVEN,
                    name="objective: recovery point",
                    required=goals.enforce,
                    reason="the archive lag was not measured",
                )
            )
        return checks


__all__ = ["CompareWithObjectives"]
