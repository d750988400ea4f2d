"""The archive, read before anything is touched: newest base backup, unbroken WAL, archiving, and what a loss would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from pydantic import Field

from drillbook import archive
from drillbook.engine.step import CheckGroup, CheckStep, Context, Step
from drillbook.errors import PreconditionError, TargetOutsideWindow, WalGap
from drillbook.evidence.facts import Facts, MeasuredLag, NotedBackup
from drillbook.model import (
    ArchivedCommit,
    BaseBackup,
    Check,
    Frozen,
    Instant,
    Lsn,
    Verdict,
    parse_instant,
    show_instant,
    show_seconds,
)
from drillbook.postgres.wal import Chain
from drillbook.report import timeline
from drillbook.steps.archive.candidates import UsableBackups, candidates, candidates_of, holdings
from drillbook.steps.preflight.readiness import SourceCluster

PATIENCE_SECONDS = 5
"""How long a segment is waited for that is missing while later ones are there."""


@dataclass(frozen=True)
class ChooseBaseBackup(Step[BaseBackup]):
    """Choose the newest usable base backup, and judge its age.

    The catalogue is read from each backup.info in the bucket: a listed directory may be an unfinished backup. One that
    retention may delete while the recovery runs is not used.
    """

    cluster: SourceCluster
    target_time: str = ""

    def do(self, ctx: Context) -> BaseBackup:
        return choose_base_backup(ctx, self.cluster, target_time=self.target_time)


def choose_base_backup(
    ctx: Context, cluster: SourceCluster, *, target_time: str = "", age_required: bool = True
) -> BaseBackup:
    """The newest usable base backup, at a target_time the newest that ends before it; its age is recorded as a check.

    With the cluster lost an old backup and all WAL after it are what there is: its age is then not required. Raises
    BaseBackupMissing, TargetOutsideWindow.
    """
    asked = parse_instant(target_time) if target_time else None
    found = candidates(ctx, cluster, asked)
    usable = found.usable
    if asked is not None:
        usable = [backup for backup in found.usable if backup.end_time <= asked]
        if not usable:
            first = show_instant(found.usable[0].end_time)
            raise TargetOutsideWindow(
                f"{show_instant(asked)} is before the end of the first usable base backup; the nearest "
                f"reachable instant is {first}{found.refusals}",
                todo=f"Give target_time {first} or later.",
            )
    backup = usable[-1]
    age = backup.age_seconds(datetime.now(UTC))
    ctx.recorder.note(Facts(backup=NotedBackup.of(backup, age_seconds=age, chosen="newest usable")))
    # The schedule is judged by the folder that is archived to now, whichever holds the target.
    current = found if found.server_name == cluster.server_name else candidates(ctx, cluster, None)
    ctx.recorder.check(_backup_age(ctx, current, age_required))
    return backup


def _backup_age(ctx: Context, found: UsableBackups, required: bool) -> Check:
    newest = found.usable[-1]
    age = newest.age_seconds(datetime.now(UTC))
    limit = ctx.site.freshness.backup_age.total_seconds()
    return Check(
        name="backup age",
        proves="the schedule still makes base backups",
        verdict=Verdict.VERIFIED if age <= limit else Verdict.FAILED,
        required=required,
        expected=f"the newest is at most {show_seconds(limit)} old",
        observed=f"{show_seconds(age)} ({newest.backup_id})",
        details=tuple(
            [("candidates", str(len(found.usable)))]
            + [(f"not used: {backup_id}", reason) for backup_id, reason in list(found.refused.items())[:8]]
        ),
    )


@dataclass(frozen=True)
class LastArchivingSucceeded(CheckStep):
    """The last attempt to archive WAL succeeded, by the Cluster's condition and by the server's own statistics."""

    cluster: SourceCluster
    name: ClassVar[str] = "archiving live"
    proves: ClassVar[str] = "the source archives its WAL now"

    def observe(self, ctx: Context) -> Sequence[Check]:
        status = ctx.cluster_object(self.cluster.ref).get("status", {})
        conditions: list[dict[str, str]] = status.get("conditions", [])
        condition = next((c for c in conditions if c["type"] == "ContinuousArchiving"), {})
        with ctx.source() as db:
            archiver = db.ask_one("archiver")
        failing = []
        if condition.get("status") != "True":
            said = f"{condition.get('reason', 'absent')}: {condition.get('message', '')}"
            failing.append(f"ContinuousArchiving is {condition.get('status', 'absent')} ({said})")
        last_ok, last_failed = archiver["last_archived_time"], archiver["last_failed_time"]
        if last_failed is not None and (last_ok is None or last_failed > last_ok):
            failing.append(f"the last attempt failed: {archiver['last_failed_wal']} at {show_instant(last_failed)}")
        if last_ok is None:
            failing.append("no WAL segment has been archived since the statistics were reset")
        observed = "; ".join(failing) or f"{archiver['last_archived_wal']} archived at {show_instant(last_ok)}"
        details = (("archived", str(archiver["archived_count"])), ("failed", str(archiver["failed_count"])))
        verdict = Verdict.FAILED if failing else Verdict.VERIFIED
        return [self.result(verdict, expected="the last attempt succeeded", observed=observed, details=details)]


class ArchivedWal(Frozen):
    """The archive's WAL from the base backup to its newest segment."""

    unbroken: bool
    first_segment: str
    last_segment: str
    segments: int
    end_lsn: Lsn
    timeline: int
    first_missing: str = ""
    newest_commit: ArchivedCommit | None = None
    asked: Instant | None = None  # the target that was asked for; None for this drill's own marker
    server_name: str = ""  # the folder that was read
    drawn: dict[str, Any] = Field(default_factory=dict)  # as `report.timeline` draws it

    def card(self) -> dict[str, str]:
        return timeline.bundle(self.drawn) if self.drawn else {}


def newest_in(ctx: Context, cluster: SourceCluster, listing: archive.WalListing, chain: Chain) -> ArchivedCommit | None:
    """The newest commit of a base backup's WAL, None if nothing was committed since. WalGap: a segment is damaged."""
    try:
        return archive.newest_commit(ctx.store, listing, chain, system_id=cluster.system_id)
    except WalGap:
        raise
    except PreconditionError:
        return None


def newest_of(ctx: Context, cluster: SourceCluster, server: str) -> ArchivedCommit | None:
    """The newest commit under a serverName, in the WAL of whichever base backup: one of an idle server has none of its own."""
    usable = candidates_of(ctx, cluster, server).usable
    held = holdings(ctx, cluster, server, usable)
    found = (newest_in(ctx, cluster, held.listing, held.chain(backup)) for backup in reversed(usable))
    return next((commit for commit in found if commit is not None), None)


@dataclass(frozen=True)
class WalChainUnbroken(Step[ArchivedWal]):
    """The WAL from the base backup to now is unbroken.

    A gap is otherwise found only at restore, after the base backup has been fetched. Recovery to a time needs a later
    commit in the archive; otherwise PostgreSQL replays everything and then fails.
    """

    cluster: SourceCluster
    backup: BaseBackup
    until: str = ""
    """The last segment that is needed; "": all of them. A gap behind it is reported, and stops nobody."""
    asked: str = ""
    """The target that was asked for; "" for none."""

    def do(self, ctx: Context) -> ArchivedWal:
        held, broken = self._settled(ctx)
        listing, chain = held.listing, held.chain(self.backup)
        enough = bool(self.until and chain.first_missing) and chain.first_missing[8:] > self.until[8:]
        newest: ArchivedCommit | None = None
        if chain.segments:
            newest = newest_in(ctx, self.cluster, listing, chain)
            newest = newest or newest_of(ctx, self.cluster, self.backup.server_name)
        expected = f"every segment from {self.backup.begin_wal} to {chain.last_segment or 'the newest'}"
        ctx.recorder.check(
            Check(
                name="WAL chain",
                proves="recovery finds every WAL segment from the base backup to the newest",
                verdict=Verdict.VERIFIED if chain.unbroken or enough else Verdict.FAILED,
                expected=f"every segment from {self.backup.begin_wal} to {self.until}" if enough else expected,
                observed=f"{chain.segments} segments, unbroken"
                if chain.unbroken
                else f"unbroken to there; later: {chain.problem}"
                if enough
                else chain.problem,
                details=(
                    *((f"gap {n}", f"{item}. {item.todo}") for n, item in enumerate(broken[:8], 1)),
                    *_strays(held),
                ),
            )
        )
        result = ArchivedWal(
            unbroken=chain.unbroken,
            first_segment=self.backup.begin_wal,
            last_segment=chain.last_segment,
            segments=chain.segments,
            end_lsn=chain.end_lsn,
            timeline=chain.timeline,
            first_missing=chain.first_missing,
            newest_commit=newest,
            asked=self._asked(ctx, newest),
            server_name=self.backup.server_name,
            drawn=archive.reachable(held, now=datetime.now(UTC), samples=0).drawn if chain.segments else {},
        )
        ctx.recorder.note(Facts(chain=result.model_dump(mode="json", exclude={"drawn"})))
        if result.drawn:
            ctx.recorder.note(Facts(reach=result.drawn))
        return result

    def _settled(self, ctx: Context) -> tuple[archive.ArchiveSnapshot, tuple[archive.BrokenWal, ...]]:
        """The archive, listed again while all that is missing may be on its way: uploads in parallel end out of order."""
        name = self.backup.server_name
        for attempt in range(PATIENCE_SECONDS + 1):
            if attempt:
                ctx.recorder.progress("a segment is missing whose successor has just come: looking again")
                ctx.pause(1)
            held = holdings(ctx, self.cluster, name, [self.backup])
            if held.chain(self.backup).unbroken:
                return held, ()
            broken = archive.broken_wal(
                held, self.backup, now=datetime.now(UTC), under_way=archive.uploading(ctx.store, name)
            )
            if not broken or not all(item.state.passing for item in broken):
                break
        return held, broken

    def _asked(self, ctx: Context, newest: ArchivedCommit | None) -> datetime | None:
        if not self.asked:
            return None
        asked = parse_instant(self.asked)
        if newest is not None and asked < newest.committed_at:
            return asked
        nearest = show_instant(newest.committed_at - timedelta(microseconds=1)) if newest else "not known"
        raise TargetOutsideWindow(
            f"{show_instant(asked)} is not before the newest archived commit; the nearest reachable instant is {nearest}",
            todo=f"Give target_time {nearest} or earlier, or wait until later WAL is archived.",
        )


def _strays(held: archive.ArchiveSnapshot) -> Iterator[tuple[str, str]]:
    """Timelines that PostgreSQL's default would follow away from the cluster's own."""
    for stray in held.strays[:4]:
        if stray.timeline > held.own and stray.timeline in held.listing.histories:
            left = f" left timeline {stray.left} at {stray.at} and" if stray.at else ""
            told = f"timeline {stray.timeline}{left} is not the cluster's; check-recovery-window says what to do"
            yield f"timeline {stray.timeline}", told


@dataclass(frozen=True)
class ArchiveLag(CheckStep):
    """Time since the newest archived commit; nothing is lost if no transaction came after it.

    A transaction with a lower id that ran on and committed later is not seen by this: the lag is then reported too low.
    """

    cluster: SourceCluster
    archived: ArchivedWal
    name: ClassVar[str] = "archive lag"
    proves: ClassVar[str] = "how much is lost if the source is lost now"

    def observe(self, ctx: Context) -> Sequence[Check]:
        newest = self._newest(ctx)
        with ctx.source() as db:
            now = db.ask_one("wal_position")
            archiver = db.ask_one("archiver")
        if newest is None:
            return [self._without_commit(ctx, now, archiver["last_archived_time"])]
        # The server's next XID says whether anything was assigned after the newest archived commit.
        idle = int(now["next_xid"]) & 0xFFFFFFFF == newest.xid + 1
        lag = 0.0 if idle else max(0.0, (now["clock"] - newest.committed_at).total_seconds())
        limit = ctx.site.freshness.archive_lag.total_seconds()
        found = {"seconds": lag, "newest_commit": newest.model_dump(mode="json"), "idle": idle}
        ctx.recorder.note(Facts(archive_lag=MeasuredLag.model_validate(found)))
        return [
            self.result(
                Verdict.VERIFIED if lag <= limit else Verdict.FAILED,
                expected=f"at most {limit:g} s",
                observed=f"{lag:.1f} s" + (" (nothing committed since)" if idle else ""),
                details=(
                    ("newest archived commit", show_instant(newest.committed_at)),
                    ("in segment", newest.segment),
                    ("source is at", str(now["lsn"])),
                ),
            )
        ]

    def _without_commit(self, ctx: Context, now: dict[str, Any], last_archived: datetime | None) -> Check:
        """The lag of a quiet new cluster, whose archived WAL holds no commit: by the server's own statistics.

        Nothing was committed since if no transaction id was assigned after a checkpoint whose redo point is archived.
        Else all that may be lost was committed after the last segment was archived.
        """
        if last_archived is None:
            return self.result(
                Verdict.UNPROVEN, reason="no WAL segment has been archived since the statistics were reset"
            )
        covered = Lsn(str(now["checkpoint_lsn"])) <= self.archived.end_lsn
        idle = covered and int(now["checkpoint_next_xid"]) == int(now["next_xid"]) & 0xFFFFFFFF
        lag = 0.0 if idle else max(0.0, (now["clock"] - last_archived).total_seconds())
        limit = ctx.site.freshness.archive_lag.total_seconds()
        ctx.recorder.note(
            Facts(archive_lag=MeasuredLag.model_validate({"seconds": lag, "newest_commit": None, "idle": idle}))
        )
        return self.result(
            Verdict.VERIFIED if lag <= limit else Verdict.FAILED,
            expected=f"at most {limit:g} s",
            observed="nothing committed since the archived checkpoint"
            if idle
            else f"at most {lag:.1f} s: the archived WAL holds no commit, and its last segment was archived then",
            details=(("last segment archived", show_instant(last_archived)), ("source is at", str(now["lsn"]))),
        )

    def _newest(self, ctx: Context) -> ArchivedCommit | None:
        """The newest commit in the folder that is archived to now, whichever holds the target."""
        if self.archived.server_name in ("", self.cluster.server_name):
            return self.archived.newest_commit
        return newest_of(ctx, self.cluster, self.cluster.server_name)


@dataclass(frozen=True)
class ArchivingLive(CheckGroup):
    """WAL archiving works now, and keeps up.

    An archive can stop silently. The lag is what a loss right now would cost; it is read before this run switches a
    segment.
    """

    cluster: SourceCluster
    archived: ArchivedWal

    def checks(self) -> Sequence[CheckStep]:
        return [LastArchivingSucceeded(self.cluster), ArchiveLag(self.cluster, self.archived)]


__all__ = ["ArchivedWal", "ArchivingLive", "ChooseBaseBackup", "WalChainUnbroken", "choose_base_backup", "newest_in"]
