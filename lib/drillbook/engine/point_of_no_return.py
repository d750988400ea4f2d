"""The point of no return, and what a failure behind it means: the run halts as it is.

Behind it a client may have written to the new place, or what was replaced no longer exists. So nothing is put back
and nothing removed by itself: the copy stays, nobody is let in, and a person resumes the run or goes back by an undo
runbook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drillbook.engine.step import CheckGroup, CheckStep, Step
from drillbook.errors import Changed, RunbookError, StillRunning, StoppedMidway
from drillbook.evidence import Journal, gates


class Midway:
    """Whether a run has passed its point of no return, and why it has halted since ("" if it hasn't)."""

    def __init__(self, journal: Journal, events: Sequence[Mapping[str, Any]]) -> None:
        self._journal = journal
        self._passed = gates.point_of_no_return(events)
        self._first: Step[Any] | None = None
        self.halted = ""

    def begins(self, step: Step[Any]) -> Mapping[str, bool]:
        """Note that the step begins; what its journal entry says of it."""
        if not step.point_of_no_return:
            return {}
        if not self._passed:
            self._passed, self._first = step.title, step
        return {"point_of_no_return": True}

    def failed(self, step: Step[Any], why: str, *, skipped: bool = False, error: RunbookError | None = None) -> None:
        """Halt, unless the run has not passed the point, or the step only observes, only clears up, or was left out.

        A first step that is known to have changed nothing has not passed it: the run is put back like any other. What
        takes longer than its limit halts a run before that point as well: it goes on by itself, and is waited for
        again.
        """
        if step is self._first and error is not None and error.changed is Changed.NOTHING:
            self._passed, self._first = "", None
        counts = (
            step.gated
            if skipped
            else not isinstance(step, CheckStep | CheckGroup) and (step.serves or not step.settles)
        )
        late = isinstance(error, StillRunning) and gates.resumable(self._journal.events())
        if ((self._passed and counts) or late) and not self.halted:
            self.halted = f"stopped midway: {why}"
            self._journal.append("stopped_midway", why=why, since=self._passed)

    def require_not(self, run_id: str) -> None:
        """Raise StoppedMidway if the run has halted: it is neither judged nor sealed."""
        if self.halted:
            back = f"`drillbook abandon {run_id}` undoes what it has begun."
            if self._passed:
                back = f"`drillbook undo {run_id}` goes back, after it has shown what was written since."
            raise StoppedMidway(
                f"{self.halted}. Nothing was put back or removed"
                + (f" since {self._passed!r} began" if self._passed else ""),
                todo=f"`drillbook resume {run_id}` goes on from there; {back}",
            )


__all__ = ["Midway"]
