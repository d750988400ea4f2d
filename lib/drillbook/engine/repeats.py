"""A cell that is run again: the step is done already, so its recorded result is returned and nothing is done twice.

One that is there to look again, after a person's fix, looks again as long as what it looks for is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook.engine.show import cell
from drillbook.engine.step import Plan, Step
from drillbook.model import Check, Verdict


@dataclass(frozen=True)
class Done:
    """A step that was seen to end well in this run, and what its card shows."""

    step: Step[Any]
    cell: str
    n: int
    result: Any
    checks: tuple[Check, ...]
    plan: Plan | None
    seconds: float
    at: datetime
    section: str = ""

    @property
    def over(self) -> bool:
        """Whether there is nothing to look for again. What a required check has said stays so for the run."""
        unmet = [check for check in self.checks if check.verdict in (Verdict.FAILED, Verdict.UNPROVEN)]
        return not (self.step.looks_again and unmet and not any(check.required for check in unmet))

    @property
    def says(self) -> str:
        """The line on the card that is drawn again."""
        return f"already done at {self.at.astimezone(UTC):%H:%M:%S} UTC: this is its recorded result, nothing was done again"


class Repeats:
    """The done steps of a run, each with its cell: an equal step of another cell is another step."""

    def __init__(self) -> None:
        self._done: list[Done] = []

    def note(
        self,
        step: Step[Any],
        n: int,
        result: Any,
        checks: Sequence[Check],
        *,
        plan: Plan | None = None,
        seconds: float = 0.0,
        at: datetime | None = None,
        section: str = "",
    ) -> None:
        """Remember a step that is done; ``at`` is when, if not now."""
        self._done.append(Done(step, cell(), n, result, tuple(checks), plan, seconds, at or datetime.now(UTC), section))

    def forget(self, since: int) -> None:
        """The steps from this number on are to be done again."""
        self._done = [one for one in self._done if one.n < since]

    def find(self, step: Step[Any], section: str = "") -> Done | None:
        """The same step of the same cell, if it is done and over; of the same destructive ``section``, by its title."""
        here = cell()
        last = next(
            (
                one
                for one in reversed(self._done)
                if one.cell == here and one.section == section and (one.step is step or one.step == step)
            ),
            None,
        )
        return last if last is not None and last.over else None
