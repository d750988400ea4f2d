"""The checks of a full restore: it ended no earlier than the archive, and every instance has joined.

Rows can't be compared digest against digest here: the source goes on writing until the very end of what is restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.errors import PostgresError
from drillbook.model import Check, Lsn, Verdict, show_instant
from drillbook.postgres import checks as integrity
from drillbook.postgres.client import SQL
from drillbook.steps.checks.recovered_copy import (
    NO_LOG,
    NO_TABLE,
    AppCanLogIn,
    CopyQuarantined,
    IntegrityChecks,
    SiteQuestionsAndLogins,
    StructureEqual,
)
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.archive_end import ArchiveEnd, NewestOnSource
from drillbook.steps.recovery.boundary import Baseline
from drillbook.steps.recovery.copy import Recovered


@dataclass(frozen=True)
class ReachedEnd(CheckStep):
    """Recovery ran to the end of the archive's newest timeline, and promoted."""

    cluster: SourceCluster
    end: ArchiveEnd
    recovered: Recovered
    name: ClassVar[str] = "target and timeline"
    proves: ClassVar[str] = "recovery ran to the end, and promoted"

    def observe(self, ctx: Context) -> Sequence[Check]:
        log, newest = self.recovered, self.end.newest.committed_at
        with ctx.copy(log.ref, "postgres", read_only=True) as db:
            facts = db.ask_one("server_facts")
        last = log.last_completed_at
        promoted = "in recovery" if facts["in_recovery"] else "promoted"
        server = (
            not facts["in_recovery"]
            and int(facts["timeline"]) > self.cluster.timeline
            and str(facts["system_identifier"]) == self.cluster.system_id
        )
        holds = server and not log.stopped and last is not None and last >= newest
        unseen = server and not log.timeline and not log.redo_end
        where = f"replayed to {show_instant(last) if last else 'no commit'}"
        if server and not log.timeline and log.redo_end:
            # Without the log's end its own history file says how far it went, which may be compared as well.
            end = self.end.newest.end_lsn
            holds = not log.stopped and Lsn(log.redo_end) >= end
            where = f"the log was not read to its end; replayed to {log.redo_end} by its own history file, the newest commit ends at {end}"
        return [
            self.result(
                Verdict.UNPROVEN if unseen else Verdict.VERIFIED if holds else Verdict.FAILED,
                reason=NO_LOG if unseen else "",
                expected=f"replayed to {show_instant(newest)} or later, a timeline after {self.cluster.timeline}, promoted",
                observed=f"{where}"
                f"{f', stopped {log.stopped} transaction {log.stopped_xid}' if log.stopped else ''}, "
                f"timeline {facts['timeline']}, {promoted}",
                details=(("system identifier", str(facts["system_identifier"])), ("segments", str(log.segments))),
            )
        ]


@dataclass(frozen=True)
class MarkerArrived(CheckStep):
    """What this run wrote on the source before the end is in the copy: its marker, and the rows next to it."""

    baseline: Baseline
    recovered: Recovered
    name: ClassVar[str] = "boundary"
    proves: ClassVar[str] = "what was written just before the end is not lost"

    def observe(self, ctx: Context) -> Sequence[Check]:
        rows = self.baseline.scratch_rows
        with ctx.copy(self.recovered.ref, ctx.site.sql.database, read_only=True) as db:
            try:
                seen = db.ask_one("boundary", run_id=ctx.run_id)
            except PostgresError as error:
                if error.sqlstate not in NO_TABLE:
                    raise
                # The source has the table, since this run wrote into it: a copy without it ends before that.
                expected = f"the marker there, and {rows} rows"
                return [self.result(Verdict.FAILED, expected=expected, observed="not even the markers' table is there")]
        there = seen["before_xid"] == self.baseline.marker.xid
        return [
            self.result(
                Verdict.VERIFIED if there and seen["scratch_rows"] == rows else Verdict.FAILED,
                expected=f"the marker there, and {rows} rows",
                observed=f"the marker {'there' if there else 'absent'}, {seen['scratch_rows']} rows",
            )
        ]


@dataclass(frozen=True)
class ArchiveIsInTheCopy(CheckStep):
    """What the archive held is in the copy: its last segment was replayed, and its newest commit is committed."""

    end: ArchiveEnd
    recovered: Recovered
    name: ClassVar[str] = "completeness"
    proves: ClassVar[str] = "nothing that was archived is missing in the copy"

    def observe(self, ctx: Context) -> Sequence[Check]:
        newest = self.end.newest
        reached = ctx.recorder.facts.reached
        last = (reached.last_segment if reached else "") or "none"
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            committed, status = integrity.is_committed(db, self.end.newest_xid)
        # The timeline is the first part of a segment's name; a later one counts as later WAL.
        holds = bool(committed) and last >= self.end.last_segment
        return [
            self.result(
                Verdict.VERIFIED if holds else Verdict.FAILED,
                expected=f"replayed to segment {self.end.last_segment} or later, XID {self.end.newest_xid} committed",
                observed=f"replayed to {last}, XID {self.end.newest_xid} {status}",
                details=(("newest commit when the restore began", show_instant(newest.committed_at)),),
            )
        ]


@dataclass(frozen=True)
class NewestArrived(CheckStep):
    """The newest change of each chosen table is committed in the copy."""

    noted: NewestOnSource
    recovered: Recovered
    name: ClassVar[str] = "newest changes"
    proves: ClassVar[str] = "what was committed last in each table is in the copy"

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks = []
        for database, expected in self.noted.tables.items():
            with ctx.copy(self.recovered.ref, database, read_only=True) as db:
                check = integrity.changes_arrived(db, expected, integrity.newest_changes(db, expected))
            checks.append(check.model_copy(update={"name": f"{self.name}: {database}"}))
        return checks or [self.result(Verdict.UNPROVEN, reason="the profile names no digest_tables")]


@dataclass(frozen=True)
class InstancesJoined(CheckStep):
    """Every instance is ready, and the replicas stream from the primary."""

    recovered: Recovered
    instances: int
    name: ClassVar[str] = "instances"
    proves: ClassVar[str] = "the restored cluster has its replicas"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if self.instances == 1:
            return [self.result(Verdict.NOT_APPLICABLE, reason="the source has one instance")]
        ready = int(ctx.cluster_object(self.recovered.ref)["status"].get("readyInstances") or 0)
        with ctx.copy(self.recovered.ref, "postgres", read_only=True) as db:
            streaming = db.ask_one(SQL("select count(*) as n from pg_stat_replication where state = 'streaming'"))["n"]
        holds = ready == self.instances and streaming == self.instances - 1
        return [
            self.result(
                Verdict.VERIFIED if holds else Verdict.FAILED,
                expected=f"{self.instances} ready, {self.instances - 1} streaming",
                observed=f"{ready} ready, {streaming} streaming",
            )
        ]


@dataclass(frozen=True)
class PendingEvents(CheckStep):
    """How many events would be sent again.

    Events sent after the end of the archive are pending again in what was restored: their receivers get them twice.
    """

    recovered: Recovered
    name: ClassVar[str] = "pending events"
    proves: ClassVar[str] = "how many events will be sent again is known before the application starts"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        checks = []
        for tenant in ctx.site.tenants:
            if tenant.pending_events:
                with ctx.copy(self.recovered.ref, tenant.database, read_only=True) as db:
                    ((pending,),) = db.ask_text(tenant.pending_events)
                name = f"{self.name}: {tenant.database}"
                checks.append(self.result(Verdict.VERIFIED, name=name, observed=f"{pending} pending in the copy"))
        return checks or [self.result(Verdict.NOT_APPLICABLE, reason="the profile names no pending_events")]


@dataclass(frozen=True)
class EndAndCompleteness(CheckGroup):
    """Recovery ran to the end of the archive, and nothing of it is missing.

    A healthy restored cluster proves nothing about this: with WAL that can't be fetched CloudNativePG may promote
    early, silently.
    """

    cluster: SourceCluster
    baseline: Baseline
    end: ArchiveEnd
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [
            ReachedEnd(self.cluster, self.end, self.recovered),
            MarkerArrived(self.baseline, self.recovered),
            ArchiveIsInTheCopy(self.end, self.recovered),
        ]


@dataclass(frozen=True)
class NewestAndStructure(CheckGroup):
    """The newest changes arrived, and the structure is the source's.

    The transaction that wrote each chosen table's newest row is committed in the copy; every table, index, constraint,
    function, role, grant and extension is compared by name and definition.
    """

    baseline: Baseline
    noted: NewestOnSource
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        return [NewestArrived(self.noted, self.recovered), StructureEqual(self.baseline, self.recovered)]


@dataclass(frozen=True)
class InstancesEventsAndQuarantine(CheckGroup):
    """Every instance has joined, pending events are counted, and the copy keeps to itself.

    An event that was sent after the end of the archive is pending again: its receiver would get it a second time. The
    quarantine is asked of the server, not of the manifest.
    """

    recovered: Recovered
    instances: int

    def checks(self) -> Sequence[CheckStep]:
        return [
            InstancesJoined(self.recovered, self.instances),
            PendingEvents(self.recovered),
            CopyQuarantined(self.recovered),
        ]


@dataclass(frozen=True)
class ReplacementSound(CheckGroup):
    """The replacement is sound, and answers as it should.

    Every instance has joined; heaps, indexes, sequences and catalogue are whole; the site's questions are answered and
    its roles log in; the events that will be sent a second time are counted before anybody is let in.
    """

    recovered: Recovered
    instances: int

    def checks(self) -> Sequence[CheckStep]:
        return [
            InstancesJoined(self.recovered, self.instances),
            *IntegrityChecks(self.recovered).checks(),
            *SiteQuestionsAndLogins(self.recovered).checks(),
            PendingEvents(self.recovered),
        ]


@dataclass(frozen=True)
class ClosedReplacementSound(ReplacementSound):
    """The new cluster is sound, and answers as it should.

    Every instance has joined; heaps, indexes, sequences and catalogue are whole; the site's questions are answered;
    the events that will be sent a second time are counted. It is shut to its clients: their logins are tried once it
    is open.
    """

    def checks(self) -> Sequence[CheckStep]:
        return [check for check in super().checks() if not isinstance(check, AppCanLogIn)]


__all__ = [
    "ClosedReplacementSound",
    "EndAndCompleteness",
    "InstancesEventsAndQuarantine",
    "NewestAndStructure",
    "ReplacementSound",
]
