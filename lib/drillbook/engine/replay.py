"""A resumed run's way back to where it stopped: results from the journal, then the world asked whether they still hold."""

from __future__ import annotations

from typing import Any

from drillbook.engine import results
from drillbook.engine.observations import Observations
from drillbook.engine.previous_attempts import PreviousAttempts, PreviousStep
from drillbook.engine.step import Checks, Context, Step
from drillbook.errors import RunbookError
from drillbook.model import Effect, causes


class Replay:
    """Gives back complete steps in their order, up to the first that isn't; from there on it is silent."""

    def __init__(self, past: PreviousAttempts, context: Context, observations: Observations) -> None:
        self.past = past
        self._context, self._observations = context, observations
        self._over = False
        self._restored: list[tuple[Step[Any], PreviousStep, Any]] = []
        observations.remember(past)

    def step(self, n: int, step: Step[Any]) -> PreviousStep | None:
        """What an earlier attempt did as its step ``n``; NotResumable if that was another step."""
        past = self.past.steps.get(n)
        if past is None or (self._over and past.complete):
            return None
        if past.step != type(step).__name__:
            self.past.refuse(f"its step {n} was {past.step}, and now comes {type(step).__name__}")
        return past

    def restore(self, step: Step[Any], past: PreviousStep) -> Any:
        """The result of a complete step."""
        if past.lost:
            self.past.refuse(f"the result of step {past.n} ({past.title}) can't be restored: {past.lost}")
        try:
            result = results.rebuild(step, past.result)
        except ValueError as error:
            self.past.refuse(str(error))
        self._restored.append((step, past, result))
        return result

    def ask_again(self, *, undoing: bool = False) -> None:
        """Ask the world again: each effect's ``verify``, and what must last while nothing destructive has begun.

        ``undoing``: it was the clean-up that was interrupted, so nobody knows which of the effects are over already.
        Raises NotResumable, naming the step, if something no longer holds. Asks once; nothing is journalled.
        """
        if self._over:
            return
        self._over = True
        self._observations.asking_again = []
        asked: list[int] = []
        try:
            for step, past, result in self._restored:
                if self._ask(step, past, result, undoing):
                    asked.append(past.n)
        finally:
            checks, self._observations.asking_again = self._observations.asking_again, None
        unmet = [check for check in checks if check.unmet]
        if unmet:
            self._refuse(f"what was seen no longer holds: {causes(unmet)}")
        self._observations.journal.append("asked_again", steps=asked)

    def _ask(self, step: Step[Any], past: PreviousStep, result: Any, undoing: bool) -> bool:
        interrupted = self.past.interrupted_section()
        try:
            if step.lasting and step.effect is Effect.READS and not self.past.destruction_has_begun:
                found = step.do(self._context)
                if isinstance(found, Checks):
                    for check in found.checks:
                        self._observations.check(check)
                return True
            # What was undone since by the run itself, or is being changed by the step that was interrupted, is not
            # asked.
            over = undoing or self.past.ended_by_itself(past)
            same_section = bool(interrupted) and (past.section or {}).get("digest") == interrupted
            if step.effect is not Effect.READS and not over and not same_section:
                step.verify(self._context, result)
                return True
        except RunbookError as error:
            self._refuse(f"step {past.n} ({past.title}) no longer holds: {error.what}")
        return False

    def _refuse(self, why: str) -> None:
        self._over = False  # asked again, if the cell is run again
        self.past.refuse(why, f"Fix it and resume again, or `drillbook abandon {self.past.run_id}`.")
