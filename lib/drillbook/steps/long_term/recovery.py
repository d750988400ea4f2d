"""A long-term backup recovered into a quarantined copy, to its own end, from where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from drillbook.archive.location import SourceArchive
from drillbook.archive.long_term import ChosenBackup
from drillbook.archive.retrieval import ReadState
from drillbook.engine.step import Context, PreconditionsNotMet
from drillbook.errors import PreconditionError
from drillbook.evidence.facts import Facts, Reached
from drillbook.model import Verdict, causes
from drillbook.profile import Site
from drillbook.steps.long_term.location import look, place, reading
from drillbook.steps.long_term.retrieval import NowReadable
from drillbook.steps.recovery.copy import CreateRecoveryCluster, RecoveryCopy, WaitForRecovery

COPIES = ("oldest", "random")


@dataclass(frozen=True)
class CreateLongTermCopy(CreateRecoveryCluster):
    """Create a recovery cluster from a long-term backup, in the drill namespace.

    Nothing is copied before: the objects are read where they lie, as long as they are readable. It is quarantined like
    every copy, and recovery stops at the backup's own end. A copy that was found wanting does not keep the next one
    from being made.
    """

    readable: NowReadable | None = None

    def archive_of(self, ctx: Context) -> SourceArchive:
        return place(ctx)

    def site_of(self, ctx: Context) -> Site:
        image = self.target.image if isinstance(self.target, ChosenBackup) else ""
        if not image:
            return ctx.site
        return ctx.site.model_copy(update={"copy_": ctx.site.copy_.model_copy(update={"image": image})})

    def check(self, ctx: Context) -> None:
        unmet = [check for check in ctx.recorder.unmet() if check.name.partition(":")[0] not in COPIES]
        if unmet:
            raise PreconditionsNotMet(causes(unmet), failed=any(check.verdict is Verdict.FAILED for check in unmet))
        if not isinstance(self.target, ChosenBackup):
            return
        until = datetime.now(UTC) + ctx.site.limits.recovery
        with reading(ctx) as store:
            states = look(store, [item.key for item in self.target.archived])
        cold = [one.key for one in states if one.state is not ReadState.READABLE or (one.until and one.until < until)]
        if cold:
            raise PreconditionError(
                f"{len(cold)} objects of backup {self.backup.backup_id} can't be read for as long as a recovery may take, "
                f"the first of them {cold[0]}",
                todo="Their days are over: start a new run, which asks for them again; raise long_term.days if it is slow.",
            )


@dataclass(frozen=True)
class WaitForOldest(WaitForRecovery):
    """Wait for fetch, replay and promotion of the oldest backup, and keep the job's log.

    A failed attempt ends the wait at once: the job's own retries would repeat it for minutes.
    """

    about: ClassVar[str] = "oldest-"

    def noted(self, reached: Reached) -> Facts:
        return Facts()


@dataclass(frozen=True)
class WaitForRandom(WaitForRecovery):
    """Wait for fetch, replay and promotion of the backup chosen at random, and keep the job's log.

    A failed attempt ends the wait at once: the job's own retries would repeat it for minutes.
    """

    about: ClassVar[str] = "random-"

    def noted(self, reached: Reached) -> Facts:
        return Facts()


__all__ = ["COPIES", "CreateLongTermCopy", "RecoveryCopy", "WaitForOldest", "WaitForRandom"]
