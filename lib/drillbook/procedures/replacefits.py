"""Whether the whole cluster can go back to a point in time, by `repoint` or `rebuild`: asked before any gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.cutover.names import Names
from drillbook.errors import NotReady, PreconditionError
from drillbook.model import Frozen
from drillbook.objectstore import ResolvedTarget
from drillbook.procedures.copy import Recovered
from drillbook.procedures.forecast import ForecastRecovery
from drillbook.procedures.losses import TenantLoss, to_tell
from drillbook.procedures.oldcluster import OldCluster, ReadOldCluster
from drillbook.procedures.readiness import SourceCluster
from drillbook.procedures.rebuild import CheckRebuild, Rebuildable
from drillbook.procedures.replacement import ReplacementCluster
from drillbook.procedures.repoint import follow_faults
from drillbook.procedures.safetycopy import unsaved
from drillbook.procedures.swapfits import AppFits, app_faults, tenant_of
from drillbook.replacements import Replacement
from drillbook.step import Context, Plan, Step, Touch

BUILT = "built"  # the fact that holds the replacement and how it was recovered


class ReplaceFits(AppFits):
    """A replacement that fits: the old cluster, the application's holders, the new serverName."""

    old: OldCluster
    server_name: str
    rebuild: Rebuildable | None = None


class Built(Frozen):
    """The replacement, recovered."""

    replacement: ReplacementCluster
    recovered: Recovered


def built(ctx: Context) -> Built:
    """What this run has built; PreconditionError if it hasn't yet."""
    found = ctx.recorder.seen(BUILT)
    if not found:
        raise PreconditionError("this run has built no replacement", todo="See why the step before it was not done.")
    return Built.model_validate(found)


@dataclass(frozen=True)
class _ReadItAsItIs(ReadOldCluster):
    """Read what is to be replaced: that it is healthy is no surprise here."""

    instead: ClassVar[bool] = False


@dataclass(frozen=True)
class CheckRepointFits(Step[ReplaceFits]):
    """The whole cluster can go back, and everything that points at it can follow.

    Rights, the application's address and who else holds it, and a serverName that was never used are asked together, so
    that all faults are told at once while nothing has been touched.
    """

    cluster: SourceCluster
    database: str
    target: ResolvedTarget

    def do(self, ctx: Context) -> ReplaceFits:
        tenant = tenant_of(ctx, self.database)
        old = _ReadItAsItIs().do(ctx)
        replacement = self._names(ctx, old)
        hands, uid, faults = app_faults(ctx, self.cluster, tenant)
        rebuild, more = self._more(ctx, old, replacement)
        if faults := [*faults, *(fault for fault in more if fault not in faults)]:
            raise NotReady(faults, where=f"a replacement of {self.cluster.ref}")
        ForecastRecovery(self.cluster, self.target.backup, self.target.wal).do(ctx)
        found = ReplaceFits(
            names=Names.of(self.database, ctx.run_id),
            app_role=tenant.app_role,
            hands=tuple(hands),
            deployment_uid=uid,
            old=old,
            server_name=replacement.server_name,
            rebuild=rebuild,
        )
        ctx.recorder.fact("replacement_fits", {"server_name": found.server_name, "hands": [str(hand) for hand in hands]})
        return found

    def _names(self, ctx: Context, old: OldCluster) -> Replacement:
        return Replacement.beside(old.ref, ctx.run_id)

    def _more(self, ctx: Context, old: OldCluster, names: Replacement) -> tuple[Rebuildable | None, list[str]]:
        return None, follow_faults(ctx, old, names)


@dataclass(frozen=True)
class CheckRebuildFits(CheckRepointFits):
    """The whole cluster can be removed, and made again under its name.

    Rights, who else holds the application, orphaned volumes, waiting backups, and a serverName that was never used are
    asked together, so that all faults are told at once while nothing has been touched.
    """

    def _names(self, ctx: Context, old: OldCluster) -> Replacement:
        return Replacement.under_the_old_name(old.ref, ctx.run_id)

    def _more(self, ctx: Context, old: OldCluster, names: Replacement) -> tuple[Rebuildable | None, list[str]]:
        try:
            return CheckRebuild(old).do(ctx), []
        except NotReady as error:
            return None, list(error.faults)


def every_tenants_loss(ctx: Context, cluster: SourceCluster) -> tuple[tuple[Touch, ...], tuple[str, ...]]:
    """What a cut of the whole cluster adds to its plan: each database that loses commits, and how many."""
    seen = [TenantLoss.model_validate(item) for item in ctx.recorder.seen("losses") or []]
    ref, losing = cluster.ref, [one for one in to_tell(ctx.site, seen) if one.commits]
    touches = tuple(Touch("lose commits of", "Database", ref.namespace, f"{ref.name}.{one.database}") for one in losing)
    more, why = unsaved(ctx, ref)
    return touches + more, (*(f"{one.database}: {one}" for one in losing), *why)


def joined(summary: str, *plans: Plan, touches: tuple[Touch, ...] = (), lost: tuple[str, ...] = ()) -> Plan:
    """Several steps' plans as one."""
    return Plan(
        summary=summary,
        objects=tuple(item for plan in plans for item in plan.objects),
        sql=tuple(item for plan in plans for item in plan.sql),
        notes=tuple(item for plan in plans for item in (plan.summary, *plan.notes)),
        touches=(*(item for plan in plans for item in plan.touches), *touches),
        lost=(*(item for plan in plans for item in plan.lost), *lost),
    )


def done(ctx: Context, step: Step[Any]) -> Any:
    """One of the steps that a composed one consists of: checked, done, read back."""
    step.check(ctx)
    result = step.do(ctx)
    step.verify(ctx, result)
    return result


__all__ = [
    "Built", "CheckRebuildFits", "CheckRepointFits", "ReplaceFits", "built", "done", "every_tenants_loss", "joined",
]  # fmt: skip
