"""What each tenant would lose: its newest commit in production compared with its newest in the copy, by the archived WAL.

The cluster is shared. Every tenant's commits are in one WAL, each with its database's id (CloudNativePG's wal_level is
logical), so nothing has to be read in a tenant's own tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from drillbook.archive import ResolvedTarget
from drillbook.engine.step import Action, CheckStep, Context
from drillbook.evidence.facts import Facts, TenantLoss
from drillbook.model import ArchivedCommit, Check, ClusterRef, Verdict, show_seconds
from drillbook.profile import Site
from drillbook.steps.archive.committed import committed_between
from drillbook.steps.archive.damage import Files
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.superuser import MAINTENANCE

LOOK_BACK = timedelta(hours=1)


def losses(
    ctx: Context,
    cluster: SourceCluster,
    last: ArchivedCommit | None,
    first: ArchivedCommit | None,
    *,
    server_name: str = "",
) -> list[TenantLoss]:
    """The loss of every database if recovery ends between ``last`` and ``first`` (None: at the archive's end).

    ``server_name`` is the folder that recovery reads ("": the one archived to now); what production has in later ones
    is lost with the rest, and what production itself left behind at an earlier cut-over is no loss of this one.
    """
    server = server_name or cluster.server_name
    at = first.committed_at if first else last.committed_at if last else None
    files = Files.read(ctx)
    if at is None:
        return [TenantLoss(database=name) for name in files.databases.values()]
    in_copy: dict[str, datetime] = {}
    in_production: dict[str, datetime] = {}
    commits: Counter[str] = Counter()
    end = datetime.max.replace(tzinfo=at.tzinfo) - timedelta(days=1)
    for one, folder, kept in committed_between(ctx, cluster, at - LOOK_BACK, end, first_folder=server):
        name = files.databases.get(one.database)
        if name is None:
            continue  # a commit that names no database changed no table's row
        lost = folder != server or (first is not None and one.lsn >= first.lsn.value)
        if kept:
            in_production[name] = one.committed_at
        if not lost:
            in_copy[name] = one.committed_at
        elif kept:
            commits[name] += 1
    return [
        TenantLoss(
            database=name, in_copy=in_copy.get(name), in_production=in_production.get(name), commits=commits[name]
        )
        for name in files.databases.values()
    ]


def to_tell(site: Site, found: Iterable[TenantLoss]) -> list[TenantLoss]:
    """The losses that somebody must know of: the profile's tenants, and anyone else who loses commits with the cluster.

    Not Drillbook's own database, and not ``postgres``, in which superusers do what concerns the whole cluster.
    """
    tenants = {tenant.database for tenant in site.tenants}
    nobodys = {site.sql.database, MAINTENANCE} - tenants
    return [one for one in found if one.database in tenants or (one.commits and one.database not in nobodys)]


@dataclass(frozen=True)
class ShowLosses(CheckStep):
    """What each tenant would lose if this copy took the place of the whole cluster, or of the one database that goes back.

    Its newest commit in production compared with its newest in the copy, by the archived WAL. Recovering one database
    alone loses nothing of the others.
    """

    cluster: SourceCluster
    target: ResolvedTarget
    only: str = ""
    name: ClassVar[str] = "loss"
    proves: ClassVar[str] = "what each tenant loses is known before anybody decides"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks = loss_checks(ctx, self.cluster, self.target)
        return [self._untouched(check) for check in checks]

    def _untouched(self, check: Check) -> Check:
        if not self.only or check.name == f"{self.name}: {self.only}":
            return check
        return self.result(
            Verdict.NOT_APPLICABLE, name=check.name, required=False, reason=f"not touched: only {self.only} goes back"
        )


def loss_checks(ctx: Context, cluster: SourceCluster, target: ResolvedTarget) -> list[Check]:
    """What each tenant loses at this target, as checks named ``loss: DATABASE``; recorded as the fact ``losses``."""
    found = losses(ctx, cluster, target.last_before, target.first_after, server_name=target.backup.server_name)
    ctx.recorder.note(Facts(losses=tuple(found)))
    checks = []
    for item in to_tell(ctx.site, found):
        work = f" ({show_seconds(item.seconds)} of work)" if item.seconds else ""
        name, proves = f"{ShowLosses.name}: {item.database}", ShowLosses.proves
        checks.append(
            Check(name=name, proves=proves, verdict=Verdict.VERIFIED, expected="known", observed=f"{item}{work}")
        )
    return checks


def of_every_tenant(ctx: Context, ref: ClusterRef) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    """What a cut of the whole cluster adds to its plan: each database that loses commits, and how many; by the fact ``losses``."""
    losing = [one for one in to_tell(ctx.site, ctx.recorder.facts.losses or ()) if one.commits]
    touches = tuple(
        Action("lose commits of", "Database", ref.namespace, f"{ref.name}.{one.database}") for one in losing
    )
    return touches, tuple(f"{one.database}: {one}" for one in losing)


__all__ = ["ShowLosses", "loss_checks", "losses", "of_every_tenant", "to_tell"]
