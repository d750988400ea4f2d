"""The boundary: a marker before, a simulated mistake, a marker after; WAL seen in the archive; the target proven.

Everything is written into Drillbook's own database on the source, never into a tenant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from pydantic import Field

from drillbook import archive
from drillbook.engine.step import Context, Plan, Step
from drillbook.errors import Changed, PreconditionError, StepTimeoutError, VerificationError
from drillbook.evidence.facts import Facts, RequestedTarget
from drillbook.model import ArchivedCommit, BaseBackup, Effect, Frozen, Instant, Lsn, RecoveryTarget, show_instant
from drillbook.postgres import checks
from drillbook.postgres.wal import segment_name
from drillbook.profile import size_bytes
from drillbook.steps.archive.base_backup import ArchivedWal
from drillbook.steps.archive.candidates import holdings
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.placing import place_of, stop_before
from drillbook.steps.recovery.replicas import replica

SCRATCH_ROWS = 1000


class Marker(Frozen):
    """A marker row: its transaction, and clock and WAL of the server when it was written; it was committed after both."""

    name: str
    xid: int
    written_at: Instant
    lsn: Lsn

    @classmethod
    def written(cls, name: str, row: Mapping[str, Any]) -> Marker:
        """The marker that ``write_marker`` answered."""
        return cls(name=name, xid=int(row["xid"]), written_at=row["written_at"], lsn=Lsn(str(row["lsn"])))


class Baseline(Frozen):
    """The source as it was at a moment just after the marker, before the mistake; structures stay in memory only.

    ``in_snapshot``: the tables, by database, whose digests are those of the moment's snapshot and of no other
    instant. ``unread``: databases whose structure could not be read, and why. ``read_on``: where tables at rest were
    read; ``instead``: which of them on the primary all the same, and why. ``read_bytes`` and ``read_seconds`` are
    what digesting took.
    """

    marker: Marker
    digests: dict[str, dict[str, checks.TableDigest]]
    unproven: dict[str, str]
    attempts: int
    scratch_rows: int
    moment: checks.Moment = Field(default_factory=checks.Moment)
    in_snapshot: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unread: dict[str, str] = Field(default_factory=dict)
    read_on: str = ""
    instead: dict[str, str] = Field(default_factory=dict)
    read_bytes: int = 0
    read_seconds: float = 0.0
    roles: Any = Field(default=None, exclude=True, repr=False)
    structures: dict[str, Any] = Field(default_factory=dict, exclude=True, repr=False)


class Mistake(Frozen):
    """The simulated mistake: rows of Drillbook's own scratch table, deleted and committed."""

    xid: int
    rows_deleted: int
    at: Instant
    after: Marker


class SwitchedWal(Frozen):
    """The segment that holds the boundary, seen in the archive."""

    segment: str
    waited_seconds: float


class ProvenTarget(Frozen):
    """A recovery target that the archived WAL is known to reach, and the commits on both sides of it."""

    target: RecoveryTarget
    last_before: ArchivedCommit
    first_after: ArchivedCommit
    newest: ArchivedCommit
    own_marker: bool
    unsettled: tuple[str, ...] = ()  # databases whose snapshot is not what recovery to this target gives


@dataclass(frozen=True)
class MarkBefore(Step[Baseline]):
    """Write the marker that must be restored.

    The chosen tables are read before and after it, or where they are written to, in a snapshot just after it. Each
    table has a transaction of its own, which gives way to any session that waits for its lock. Rows stay in the
    database: only counts and keyed digests leave it.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    cluster: SourceCluster
    archived: ArchivedWal

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"One marker row and {SCRATCH_ROWS} scratch rows in database {ctx.site.sql.database}",
            sql=("INSERT INTO drillbook.scratch …", "INSERT INTO drillbook.marker … 'before'"),
            notes=tuple(
                f"digest {tenant.database}: {', '.join(tenant.digest_tables)}"
                for tenant in ctx.site.tenants
                if tenant.digest_tables
            ),
        )

    def do(self, ctx: Context) -> Baseline:
        tables = {tenant.database: list(tenant.digest_tables) for tenant in ctx.site.tenants}
        with ctx.source(read_only=False) as own:
            own.run("ensure_scratch")
            own.run("insert_scratch", run_id=ctx.run_id, rows=SCRATCH_ROWS)

            def write_marker() -> Marker:
                return Marker.written("before", own.run_one("write_marker", run_id=ctx.run_id, name="before"))

            ctx.recorder.progress("digesting the chosen tables around the marker")
            limits = ctx.site.digests
            budget = checks.Budget(
                bytes=size_bytes(limits.bytes) if limits.bytes else None,
                seconds=limits.time.total_seconds(),
                without_key=limits.without_key,
            )
            other, why = replica(ctx, lambda: own.run_one("write_marker", run_id=ctx.run_id, name="passed"))
            found = checks.digests_at_boundary(
                ctx.source, write_marker, tables, ctx.digest_key, budget=budget, replica=other
            )
        with ctx.source() as db:
            roles = checks.cluster_structure(db)
        return Baseline(
            marker=found.marker,
            digests=found.digests,
            unproven=found.unproven,
            attempts=found.attempts,
            scratch_rows=SCRATCH_ROWS,
            moment=found.moment,
            in_snapshot=found.in_snapshot,
            unread=found.unread,
            read_on=f"replica {found.replica}" if found.replica else f"the primary: {why}",
            instead=found.instead,
            read_bytes=found.read_bytes,
            read_seconds=round(found.read_seconds, 1),
            roles=roles,
            structures=found.structures,
        )

    def verify(self, ctx: Context, result: Baseline) -> None:
        with ctx.source() as db:
            seen = db.ask_one("boundary", run_id=ctx.run_id)
        if not seen["before"] or seen["after"] or seen["scratch_rows"] != SCRATCH_ROWS:
            raise VerificationError(
                "the source does not show the marker as written",
                expected=f"marker before, none after, {SCRATCH_ROWS} scratch rows",
                observed=f"before={seen['before']}, after={seen['after']}, {seen['scratch_rows']} scratch rows",
                todo="Look at database drillbook on the source; start a new run.",
            )


@dataclass(frozen=True)
class SimulateMistake(Step[Mistake]):
    """Simulate the mistake, then write the second marker.

    This run's scratch rows in Drillbook's own database are the damage that the recovery must undo; no tenant's row is
    ever touched. The marker must not come back: without it a copy that ran on past the target would look as good as
    one that stopped there.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    cluster: SourceCluster
    baseline: Baseline

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"Delete the {SCRATCH_ROWS} scratch rows of this run from {ctx.site.sql.database}",
            sql=(
                "DELETE FROM drillbook.scratch WHERE run_id = <this run>",
                "INSERT INTO drillbook.marker … 'after'",
            ),
        )

    def do(self, ctx: Context) -> Mistake:
        with ctx.source(read_only=False) as own:
            row = own.run_one("delete_scratch", run_id=ctx.run_id)
            after = own.run_one("write_marker", run_id=ctx.run_id, name="after")
        marker = Marker.written("after", after)
        return Mistake(xid=int(row["xid"]), rows_deleted=int(row["rows"]), at=row["at"], after=marker)

    def verify(self, ctx: Context, result: Mistake) -> None:
        with ctx.source() as db:
            left = db.ask_one("boundary", run_id=ctx.run_id)["scratch_rows"]
        if left or result.rows_deleted != self.baseline.scratch_rows:
            raise VerificationError(
                "the mistake did not delete this run's scratch rows",
                expected=f"{self.baseline.scratch_rows} deleted, 0 left",
                observed=f"{result.rows_deleted} deleted, {left} left",
                todo="Look at drillbook.scratch on the source; start a new run.",
            )
        if result.after.written_at <= self.baseline.marker.written_at:
            raise VerificationError(
                "the source's clock ran backwards between the markers",
                expected=f"later than {show_instant(self.baseline.marker.written_at)}",
                observed=show_instant(result.after.written_at),
                todo="Fix the clock of the source's node: recovery to a time can't be trusted.",
            )


ASK_ARCHIVER_SECONDS = 2.0
"""How often a wait for a segment asks production whether its upload has failed: each time is a session of its own."""


@dataclass(frozen=True)
class SwitchWal(Step[SwitchedWal]):
    """Switch one WAL segment and see it in the archive.

    The commit after the marker lands before the switch, in its own transaction, so that it is archived with it.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    cluster: SourceCluster
    backup: BaseBackup
    marked: Baseline | Mistake

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary="One later commit, then one WAL switch on the source; wait until the segment is in the bucket",
            sql=("INSERT INTO drillbook.marker … 'later'", "SELECT pg_switch_wal()"),
        )

    def do(self, ctx: Context) -> SwitchedWal:
        started = datetime.now(UTC)
        with ctx.source(read_only=False) as own:
            own.run_one("write_marker", run_id=ctx.run_id, name="later")
            switched = own.run_one("switch_wal")
        # pg_switch_wal answers with the end of the switched segment's used part; one byte less lies within it.
        inside = Lsn(Lsn(str(switched["lsn"])).value - 1)
        segment = segment_name(self.cluster.timeline, inside, self.backup.segment_bytes)
        deadline = started + timedelta(seconds=ctx.site.limits.step.total_seconds())
        asked_after = 0.0
        while True:
            waited = (datetime.now(UTC) - started).total_seconds()
            if archive.is_archived(ctx.store, self.cluster.server_name, segment, self.backup.segment_bytes):
                return SwitchedWal(segment=segment, waited_seconds=waited)
            ctx.recorder.progress(
                f"waiting for {segment} in the archive", fraction=None, rows=(("waited", f"{waited:.0f} s"),)
            )
            if waited >= asked_after + ASK_ARCHIVER_SECONDS:
                self._stop_on_failure(ctx, started, segment)
                asked_after = waited
            if datetime.now(UTC) > deadline:
                raise StepTimeoutError(
                    f"segment {segment} was not seen in the archive within {waited:.0f} s",
                    todo="Look at pg_stat_archiver and the Cluster's ContinuousArchiving condition.",
                )
            ctx.pause(0.25)

    def _stop_on_failure(self, ctx: Context, started: datetime, segment: str) -> None:
        with ctx.source() as db:
            archiver = db.ask_one("archiver")
        failed = archiver["last_failed_time"]
        if failed is not None and failed > started and archiver["last_failed_wal"] == segment:
            raise PreconditionError(
                f"archiving of {segment} failed at {show_instant(failed)}",
                changed=Changed.DONE,
                todo="Fix the archiver (the Cluster's ContinuousArchiving condition has its message), then start again.",
            )


@dataclass(frozen=True)
class ProveTargetReachable(Step[ProvenTarget]):
    """Prove from the archived WAL itself that the target is reachable.

    The commits on both sides of the target are read from the archive, not guessed from the times of objects. Recovery
    is to stop before the first commit that the source's snapshot did not see: by time where that names this very
    commit, else by its transaction.
    """

    cluster: SourceCluster
    backup: BaseBackup
    archived: ArchivedWal
    baseline: Baseline
    mistake: Mistake
    switched: SwitchedWal

    def do(self, ctx: Context) -> ProvenTarget:
        held = holdings(ctx, self.cluster, self.backup.server_name, [self.backup])
        ctx.recorder.note(Facts(reach=archive.reachable(held, now=datetime.now(UTC), samples=0).drawn))
        stretch = held.stretch(self.backup)
        # After a cut-over a target may be under an older serverName: the markers are not there, nor in its past.
        older = self.backup.server_name != self.cluster.server_name
        before = None if older else self._marker(stretch, self.baseline.marker)
        after = None if older else self._marker(stretch, self.mistake.after)
        if not older and (before is None or after is None):
            raise PreconditionError(
                f"the commits of the markers (XID {self.baseline.marker.xid}, {self.mistake.after.xid}) are not in the archived "
                f"WAL up to {self.switched.segment}",
                changed=Changed.DONE,
                todo="Read the archive with pg_waldump of the source's major version; start a new run.",
            )
        newest = archive.newest_commit(ctx.store, held.listing, stretch.reach, system_id=self.cluster.system_id)
        unsettled: tuple[str, ...] = ()
        if self.archived.asked is not None or before is None:
            wanted = RecoveryTarget(target_time=self.archived.asked or newest.committed_at)
            resolved = archive.resolve(held, wanted, backup_id=self.backup.backup_id)
        else:
            place = place_of(stretch, before, self.baseline.moment, self.baseline.in_snapshot, self.switched.segment)
            resolved, unsettled = stop_before(held, self.backup, place), place.unsettled
        last, first_after = resolved.last_before, resolved.first_after
        if last is None or first_after is None:
            raise PreconditionError(
                f"no commit before {resolved.target} is in the archived WAL since base backup {self.backup.backup_id}",
                changed=Changed.DONE,
                todo="Ask for a later target_time: nothing else proves where recovery stopped.",
            )
        found = ProvenTarget(
            target=resolved.target,
            last_before=last,
            first_after=first_after,
            newest=newest,
            own_marker=self.archived.asked is None,
            unsettled=unsettled,
        )
        ctx.recorder.note(Facts(target=RequestedTarget.of(found)))
        return found

    def _marker(self, stretch: archive.WalRange, marker: Marker) -> ArchivedCommit | None:
        """The marker's commit in the archive, searched from where the WAL was when the marker was written."""
        return archive.commit_from(stretch, marker.xid, marker.lsn, last_segment=self.switched.segment)


__all__ = [
    "ArchivedWal",
    "Baseline",
    "MarkBefore",
    "Marker",
    "Mistake",
    "ProveTargetReachable",
    "ProvenTarget",
    "SimulateMistake",
    "SwitchWal",
    "SwitchedWal",
]
