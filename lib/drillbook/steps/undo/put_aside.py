"""What a recovery or its undo put aside: a database or a cluster, found by the run's note on the cluster, and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import archive
from drillbook.engine.step import CheckStep, Context, Pending, Step
from drillbook.errors import NotReady
from drillbook.model import Check, Frozen, Verdict, show_instant
from drillbook.report.cards import show_bytes
from drillbook.steps.cutover.swap_database import DropDamaged
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.undo.drop_cluster import DropKeptCluster, KeptCluster, kept_cluster, note_of
from drillbook.steps.undo.point_in_time import put_aside


class Aside(Frozen):
    """What the run put aside: a database of the cluster in service, or a cluster (``database`` is "" then)."""

    run: str
    database: str = ""
    cluster: KeptCluster | None = None


@dataclass(frozen=True)
class FindPutAside(Step[Aside]):
    """Find what the run put aside, by its note on the cluster, and make sure that nothing relies on it.

    A database says so in its comment. A cluster is named by the run's ConfigMap; it must be fenced and out of service
    in every way: no client, Pooler, Secret or volume snapshot may go with it. All faults at once.
    """

    cluster: SourceCluster
    of_run: str

    def do(self, ctx: Context) -> Aside:
        if not self.of_run:
            raise NotReady(["of_run: name the run that put something aside"], where=f"{self.cluster.ref}")
        if databases := put_aside(ctx, self.of_run):
            return Aside(run=self.of_run, database=databases[0].database)
        if (note := note_of(ctx, self.of_run)) is not None:
            return Aside(run=self.of_run, cluster=kept_cluster(ctx, note))
        there = ", ".join(f"{one.database} (run {one.note.run})" for one in put_aside(ctx)) or "none"
        raise NotReady(
            [f"of_run: nothing was put aside by run {self.of_run}; databases that were put aside: {there}"],
            where=f"{self.cluster.ref}",
        )


def dropping(cluster: SourceCluster, aside: Aside) -> Step[Any]:
    """The step that drops what was put aside."""
    if not isinstance(aside, Pending) and aside.cluster is not None:
        return DropKeptCluster(aside.cluster)
    return DropDamaged(cluster, aside.database)


@dataclass(frozen=True)
class NewestBackupIsWhole(CheckStep):
    """The newest base backup of the cluster in service is whole in the bucket, with the WAL that it needs.

    From then on it is what a loss is recovered from: what was put aside no longer is.
    """

    cluster: SourceCluster
    name: ClassVar[str] = "backup of the cluster in service"
    proves: ClassVar[str] = "what is in service can be recovered without what is dropped"

    def observe(self, ctx: Context) -> Sequence[Check]:
        serving = self.cluster
        known = archive.catalogue(ctx.store, serving.server_name, system_id=serving.system_id)
        expected = f"a base backup under serverName {serving.server_name}, whole, with its WAL"
        if not known.usable:
            return [self.result(Verdict.FAILED, expected=expected, observed="none: run backup-manual first")]
        backup = known.usable[-1]
        entry = known.entry(backup.backup_id)
        tars = archive.check_tars(ctx.store, entry.tars if entry else ())
        listing = archive.wal_names(ctx.store, serving.server_name, since=backup.begin_wal)
        chain = archive.archive_chain(ctx.store, backup, listing, timeline=serving.timeline)
        faults = [f"{tar.key.rpartition('/')[2]} is {tar.state}: {tar.found}" for tar in tars if tar.state.broken]
        if not chain.unbroken or chain.end_lsn < backup.end_lsn:
            faults.append(chain.problem or f"its WAL is archived only to {chain.last_segment or 'nothing'}")
        unread = [tar for tar in tars if tar.state is archive.TarState.UNREAD]
        verdict = Verdict.FAILED if faults else Verdict.UNPROVEN if unread else Verdict.VERIFIED
        return [
            self.result(
                verdict,
                expected=expected,
                observed="; ".join(
                    [
                        f"{backup.backup_id}, ended {show_instant(backup.end_time)}, {show_bytes(backup.size_bytes)}, WAL to {chain.last_segment}",
                        *faults,
                    ]
                ),
                reason=f"{unread[0].key.rpartition('/')[2]}: {unread[0].found}" if unread and not faults else "",
            )
        ]


__all__ = ["Aside", "FindPutAside", "NewestBackupIsWhole", "dropping"]
