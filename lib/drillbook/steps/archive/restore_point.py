"""What a restore of the whole cluster starts from and where it stops: the end of the archive, or the runbook's target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.archive import ResolvedTarget
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import RunbookError
from drillbook.evidence.facts import Facts, NotedBackup
from drillbook.model import AskedTarget, BaseBackup, Check, Frozen, RecoveryTarget, Verdict
from drillbook.steps.archive.base_backup import choose_base_backup
from drillbook.steps.archive.forecast import forecast_recovery
from drillbook.steps.archive.losses import loss_checks
from drillbook.steps.archive.targets import resolve_target
from drillbook.steps.preflight.limits import limits_check
from drillbook.steps.preflight.old_cluster import OldCluster


class RestoreStart(Frozen):
    """The base backup and the target. ``resolved`` is what the archive shows around it; None: the end of the archive."""

    backup: BaseBackup
    target: RecoveryTarget
    resolved: ResolvedTarget | None = None

    @property
    def until(self) -> str:
        """The last segment that is replayed; "" for the end of the archive."""
        return self.resolved.wal.last_segment if self.resolved else ""

    def before_gap(self, first_missing: str) -> bool:
        """Whether all the WAL that this recovery replays comes before the first missing segment."""
        return bool(self.until and first_missing) and first_missing[8:] > self.until[8:]


@dataclass(frozen=True)
class ChooseRestorePoint(Step[RestoreStart]):
    """Choose the base backup, and where recovery stops.

    Without a target everything that is archived is replayed: what is still on the old volume is archived before, so the
    end is not known yet. A target is resolved from the archived WAL, and refused here if the archive does not reach it.
    """

    old: OldCluster
    asked: AskedTarget

    def do(self, ctx: Context) -> RestoreStart:
        if self.asked.end_of_archive:
            return RestoreStart(backup=choose_base_backup(ctx, self.old, age_required=False), target=RecoveryTarget())
        found = resolve_target(ctx, self.old, self.asked)
        ctx.recorder.note(Facts(backup=NotedBackup.of(found.backup, chosen="for the target")))
        return RestoreStart(backup=found.backup, target=found.target, resolved=found)


@dataclass(frozen=True)
class ShowRestoreLosses(CheckStep):
    """What each tenant loses if the whole cluster goes back to the target.

    Each database's newest commit before the target compared with its newest in the archive. To the end of the archive
    nothing that was archived is lost. A cluster that does not answer can't name its databases: then it is not known
    here.
    """

    old: OldCluster
    point: RestoreStart
    name: ClassVar[str] = "loss"
    proves: ClassVar[str] = "what each tenant loses is known before anybody decides"

    def observe(self, ctx: Context) -> Sequence[Check]:
        return [*self._losses(ctx), *self._limits(ctx)]

    def _limits(self, ctx: Context) -> Sequence[Check]:
        """The time limits against what is predicted, while nothing has been stopped yet."""
        try:
            wal = (self.point.resolved or resolve_target(ctx, self.old, AskedTarget())).wal
            found = forecast_recovery(ctx, self.old, self.point.backup, wal)
        except RunbookError:
            return []  # an archive that can't be read so far is judged by its own step
        return [limits_check(ctx, self.old, found, instances=self.old.instances)]

    def _losses(self, ctx: Context) -> Sequence[Check]:
        if self.point.resolved is None:
            return [self.result(Verdict.NOT_APPLICABLE, reason="recovery runs to the end of the archive")]
        try:
            return loss_checks(ctx, self.old, self.point.resolved)
        except RunbookError as error:
            if error.verdict is None:
                raise
            reason = f"the old cluster can't be asked for its databases: {error.what}"
            return [
                self.result(
                    Verdict.UNPROVEN, required=False, expected="each tenant's commits after the target", reason=reason
                )
            ]


__all__ = ["ChooseRestorePoint", "RestoreStart", "ShowRestoreLosses"]
