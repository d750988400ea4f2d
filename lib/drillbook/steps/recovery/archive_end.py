"""The end of the archive: what a full restore must reach, read from the archived WAL before anything is created."""

from __future__ import annotations

from dataclasses import dataclass

from drillbook import archive
from drillbook.engine.step import Context, Step
from drillbook.errors import Changed, PreconditionError
from drillbook.evidence.facts import Facts, RequestedTarget, TestKind
from drillbook.model import ArchivedCommit, BaseBackup, Frozen, RecoveryTarget
from drillbook.postgres import checks
from drillbook.steps.archive.candidates import holdings
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.boundary import Baseline, SwitchedWal


class ArchiveEnd(Frozen):
    """The end of the archived WAL as it was seen: a restore may go further, and must not end earlier."""

    target: RecoveryTarget
    marker: ArchivedCommit
    newest: ArchivedCommit
    newest_xid: int  # with its epoch: a WAL record has the lower 32 bits only
    last_segment: str


class NewestOnSource(Frozen):
    """By database and table, the newest change that the source showed before the end of the archive."""

    tables: dict[str, dict[str, checks.NewestChange]]


@dataclass(frozen=True)
class NoteNewestChanges(Step[NewestOnSource]):
    """Note the newest change of each chosen table.

    What is committed now is before the WAL switch that follows: a full restore must bring it back.
    """

    baseline: Baseline

    def do(self, ctx: Context) -> NewestOnSource:
        ctx.recorder.note(Facts(test=TestKind(type="full restore on a throwaway copy")))
        found = {}
        for tenant in ctx.site.tenants:
            if tenant.digest_tables:
                with checks.Watch(ctx.source()) as watch, ctx.source(tenant.database) as db:
                    found[tenant.database] = checks.newest_changes(db, tenant.digest_tables, watch)
        return NewestOnSource(tables=found)


@dataclass(frozen=True)
class ReadArchiveEnd(Step[ArchiveEnd]):
    """Read the end of the archive from its WAL.

    A restored cluster is healthy also when CloudNativePG promoted it before the end: what it must hold is known first.
    """

    cluster: SourceCluster
    backup: BaseBackup
    baseline: Baseline
    switched: SwitchedWal

    def do(self, ctx: Context) -> ArchiveEnd:
        held = holdings(ctx, self.cluster, self.backup.server_name, [self.backup])
        stretch, xid = held.stretch(self.backup), self.baseline.marker.xid
        marker = archive.commit_from(stretch, xid, self.baseline.marker.lsn, last_segment=self.switched.segment)
        if marker is None:
            raise PreconditionError(
                f"the marker's commit (XID {xid}) is not in the archived WAL up to {self.switched.segment}",
                changed=Changed.DONE,
                todo="Read the archive with pg_waldump of the source's major version; start a new run.",
            )
        newest = archive.newest_commit(ctx.store, held.listing, stretch.reach, system_id=self.cluster.system_id)
        end = ArchiveEnd(
            target=RecoveryTarget(timeline=held.pinned(self.backup)),
            marker=marker,
            newest=newest,
            newest_xid=checks.near_xid(newest.xid, xid),
            last_segment=stretch.reach.last_segment,
        )
        claim = f"{self.cluster.ref.name} was restored to the end of its archive"
        ctx.recorder.note(Facts(target=RequestedTarget.of(end), claim=claim))
        return end


__all__ = ["ArchiveEnd", "NewestOnSource", "NoteNewestChanges", "ReadArchiveEnd"]
