"""Whether a recovery would reach its target, and the answer in one line."""

from __future__ import annotations

from dataclasses import dataclass

from drillbook.archive import ResolvedTarget
from drillbook.engine.step import Context, Step
from drillbook.errors import TargetOutsideWindow
from drillbook.evidence.facts import Facts
from drillbook.model import Frozen, causes, show_seconds
from drillbook.steps.archive.reading import ArchiveReading
from drillbook.steps.archive.targets import ResolveTarget


@dataclass(frozen=True)
class WouldReach(ResolveTarget):
    """Resolve the target: base backup, timeline, WAL, and the commits on both sides.

    A target that was asked for and can't be reached is refused, with the nearest. Without one it is the end of the
    archive; that it can't be reached is then a consequence of what the checks have found.
    """

    def do(self, ctx: Context) -> ResolvedTarget:
        try:
            return super().do(ctx)
        except TargetOutsideWindow:
            if self.asked.end_of_archive:
                ctx.require_preconditions()
            raise


class Recoverable(Frozen):
    """``answer`` to the question in one line."""

    answer: str

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has shown it."""


@dataclass(frozen=True)
class RecoverabilityVerdict(Step[Recoverable]):
    """Can we recover, to which instants, and how long will it take?

    Yes only if every required check of this run is VERIFIED.
    """

    reading: ArchiveReading
    target: ResolvedTarget

    def do(self, ctx: Context) -> Recoverable:
        unmet, learned = ctx.recorder.unmet(), ctx.recorder.facts
        window = learned.window
        if unmet:
            why = causes(unmet)
            answer = f"NO, OR ONLY PARTLY. {why}"
        elif not window:
            answer = (
                f"YES, but only to the end of base backup {self.target.backup.backup_id}: nothing was committed since."
            )
            ctx.recorder.note(Facts(claim=f"The archive of {ctx.source_ref.name} reaches the end of its base backup"))
        else:
            seconds = learned.forecast.seconds if learned.forecast else None
            goal = show_seconds(ctx.site.objectives.recovery_time.total_seconds())
            takes = f"about {show_seconds(seconds)}" if seconds is not None else "a time that is not known"
            holes = " (with holes)" if len(self.reading.periods) > 1 else ""
            answer = (
                f"YES. Any instant from {_short(window.first_time)} to {_short(window.last_time)} UTC{holes} can be "
                f"recovered. To the {self.target.target} from base backup {self.target.backup.backup_id} it takes {takes} "
                f"(objective {goal})."
            )
            ctx.recorder.note(
                Facts(claim=f"The archive of {ctx.source_ref.name} reaches {_short(window.last_time)} UTC")
            )
        ctx.recorder.note(Facts(answer=answer))
        return Recoverable(answer=answer)


def _short(at: str) -> str:
    """An instant's date and time of day, to the second."""
    return at[:19].replace("T", " ")


__all__ = ["RecoverabilityVerdict", "Recoverable", "WouldReach"]
