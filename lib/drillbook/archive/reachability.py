"""What recovery can reach now: for each base backup and overall, with every gap, from the archive alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from drillbook.archive.gaps import ARCHIVE_TIMEOUT_SECONDS, SAMPLES, BrokenWal, SampledSegments, broken_wal, sample
from drillbook.archive.snapshot import LOOK_BACK, ArchiveSnapshot, WalRange
from drillbook.errors import WalGap
from drillbook.model import ArchivedCommit, Frozen, Instant, Lsn, show_instant


class BackupReach(Frozen):
    """How far recovery from one base backup gets. ``earliest`` is where the backup ended: nothing before it is consistent.

    ``newest`` is the last commit that it reaches (by LSN or transaction id; by time, 1 µs less), ``None`` if there
    isn't one after the backup; ``last_commit`` is the last one in its WAL, which its own end may hold already.
    ``latest_lsn`` is where the last whole record starts. ``problem`` says why the WAL ends there, "" if that is the
    archive's own end.
    """

    backup_id: str
    timeline: int
    earliest: Instant
    earliest_lsn: Lsn
    newest: ArchivedCommit | None
    latest_lsn: Lsn | None
    first_segment: str
    last_segment: str
    segments: int
    problem: str
    size_bytes: int
    last_commit: ArchivedCommit | None = None

    @property
    def latest(self) -> datetime | None:
        """The last instant that recovery to a time reaches, ``None`` if only the backup's own end can be reached."""
        return None if self.newest is None else self.newest.committed_at - timedelta(microseconds=1)


class Period(Frozen):
    """Instants that recovery reaches without a hole in between."""

    first: Instant
    last: Instant


class DatedGap(Frozen):
    """A gap and about when its WAL was written: between the archiving of what is next to it."""

    broken: BrokenWal
    after: Instant
    before: Instant


class Reachable(Frozen):
    """The recovery window of one server's archive; instants are those of one reading, ``read_at``.

    ``periods`` are the instants that can be reached, oldest first; where there are several, gaps lie between.
    ``new_tablespaces`` were created after the newest base backup ended, in sentences, as far as WAL was read.
    ``unlinked`` timelines hold WAL, but the history file that would lead recovery there is missing.
    """

    server_name: str
    location: str
    read_at: Instant
    backups: tuple[BackupReach, ...]
    unusable: tuple[tuple[str, str], ...]
    periods: tuple[Period, ...]
    gaps: tuple[DatedGap, ...]
    sampled: tuple[str, ...]
    damaged: tuple[BrokenWal, ...]
    uploads_told: bool
    unlinked: tuple[int, ...]
    segments: int
    newest_segment: str
    newest_archived_at: Instant | None
    new_tablespaces: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        newest = self.newest
        return [
            *(("reachable", f"{show_instant(p.first)} to {show_instant(p.last)}") for p in self.periods),
            ("newest commit", f"XID {newest.xid} at {show_instant(newest.committed_at)}" if newest else "none"),
            ("base backups", f"{len(self.backups)} usable, {len(self.unusable)} not"),
            ("WAL", f"{self.segments:,} segments, the newest {self.newest_segment or 'none'}"),
            ("gaps", str(len(self.gaps)) if self.gaps else "none"),
            *(("to do", line) for line in self.todo),
        ]

    @property
    def newest(self) -> ArchivedCommit | None:
        """The newest commit that can be reached at all."""
        found = [reach.newest for reach in self.backups if reach.newest is not None]
        return max(found, key=lambda commit: commit.committed_at) if found else None

    @property
    def drawn(self) -> dict[str, Any]:
        """As the picture wants it: plain data, instants as text."""
        return {
            "server": self.server_name,
            "now": show_instant(self.read_at),
            "backups": [{"id": item.backup_id, "at": show_instant(item.earliest)} for item in self.backups],
            "periods": [{"first": show_instant(item.first), "last": show_instant(item.last)} for item in self.periods],
            "gaps": [
                {
                    "from": show_instant(item.after),
                    "to": show_instant(item.before),
                    "state": str(item.broken.state),
                    "segments": item.broken.segments,
                    "first": item.broken.first_segment,
                    "last": item.broken.last_segment,
                }
                for item in self.gaps
            ],
            "wal_to": show_instant(self.newest_archived_at) if self.newest_archived_at else "",
            "target": "",
        }

    @property
    def todo(self) -> tuple[str, ...]:
        """What to do, most urgent first; empty for a healthy archive."""
        lines = [f"{item}. {item.todo}" for item in (*(gap.broken for gap in self.gaps), *self.damaged)]
        if not self.backups:
            lines.insert(0, "There is no usable base backup: take one now (runbooks/backup-manual.ipynb).")
        elif self.backups[-1].problem:
            lines.insert(0, "The newest base backup doesn't reach the end of the archive: take a new one now.")
        lines += [f"{item}: take a new base backup now." for item in self.new_tablespaces]
        lines += [
            f"Timeline {timeline} has WAL but no history file: archive {timeline:08X}.history from pg_wal of an instance."
            for timeline in self.unlinked
        ]
        return tuple(lines)


def reachable(
    held: ArchiveSnapshot,
    *,
    now: datetime,
    unusable: Sequence[tuple[str, str]] = (),
    under_way: frozenset[str] | None = None,
    archive_timeout_seconds: float = ARCHIVE_TIMEOUT_SECONDS,
    samples: int = SAMPLES,
    look_back: int = LOOK_BACK,
) -> Reachable:
    """Everything that the listing tells, the newest commits, and a sample of segments read through.

    A segment that is damaged where a commit is looked for is where recovery stops: what is before it counts.
    ObjectStoreError: the store's own refusals.
    """
    held.allow(look_back * max(1, len(held.backups)))
    stretches = [held.stretch(backup) for backup in held.backups]
    reaches = tuple(_reach(stretch) for stretch in stretches)
    looked = sample(stretches[-1], most=samples) if samples and stretches and stretches[-1].consistent else None
    found = looked or SampledSegments(segments=(), damaged=())
    newest = held.newest_segment
    return Reachable(
        server_name=held.listing.server_name,
        location=held.store.location,
        read_at=now,
        backups=reaches,
        unusable=tuple((backup_id, reason) for backup_id, reason in unusable),
        periods=_periods(reaches),
        gaps=_gaps(held, now, under_way, archive_timeout_seconds),
        sampled=found.segments,
        damaged=found.damaged,
        uploads_told=under_way is not None,
        unlinked=tuple(sorted({timeline for stretch in stretches for timeline in stretch.reach.unlinked})),
        segments=len(held.listing),
        newest_segment=newest.name if newest else "",
        newest_archived_at=newest.modified if newest else None,
        new_tablespaces=tuple(map(str, held.tablespaces_after(held.backups[-1]))) if held.backups else (),
    )


def _reach(stretch: WalRange) -> BackupReach:
    backup, reach = stretch.backup, stretch.reach
    newest: ArchivedCommit | None = None
    last: ArchivedCommit | None = None
    latest: Lsn | None = None
    problem = reach.problem
    if stretch.consistent:
        for number in range(stretch.last, stretch.first - 1, -1):
            try:
                scan = stretch.scan(number)
            except WalGap as error:
                problem, newest, latest = error.what, None, None
                continue
            latest = latest or scan.last_record
            if scan.commits:
                newest = scan.commits[-1]
                break
        last = newest
        if newest is not None and newest.lsn < backup.end_lsn:
            newest = None
    else:
        problem = problem or f"the WAL up to the backup's end at {backup.end_lsn} is not archived yet"
    return BackupReach(
        backup_id=backup.backup_id,
        timeline=reach.timeline,
        earliest=backup.end_time,
        earliest_lsn=backup.end_lsn,
        newest=newest,
        latest_lsn=latest,
        first_segment=backup.begin_wal,
        last_segment=reach.last_segment,
        segments=reach.segments,
        problem=problem,
        size_bytes=backup.size_bytes,
        last_commit=last,
    )


def _periods(reaches: Sequence[BackupReach]) -> tuple[Period, ...]:
    """Overlapping reaches joined."""
    found: list[Period] = []
    for reach in sorted(reaches, key=lambda item: item.earliest):
        if reach.latest is None or reach.latest < reach.earliest:
            continue
        if found and reach.earliest <= found[-1].last:
            found[-1] = Period(first=found[-1].first, last=max(found[-1].last, reach.latest))
        else:
            found.append(Period(first=reach.earliest, last=reach.latest))
    return tuple(found)


def _gaps(
    held: ArchiveSnapshot, now: datetime, under_way: frozenset[str] | None, archive_timeout_seconds: float
) -> tuple[DatedGap, ...]:
    """Every gap once, though several backups' chains meet it, oldest first."""
    found: dict[tuple[str, str], DatedGap] = {}
    for backup in held.backups:
        reach = held.chain(backup)
        for item in broken_wal(
            held, backup, now=now, under_way=under_way, archive_timeout_seconds=archive_timeout_seconds
        ):
            before = held.listing.segment(reach.name_at(reach.number(item.last_segment) + 1))
            after = (
                held.listing.segment(reach.name_at(reach.number(item.first_segment) - 1))
                if item.first_segment != backup.begin_wal
                else None
            )
            begin = after.modified if after else backup.begin_time
            end = before.modified if before else max(begin, backup.end_time)
            found.setdefault(
                (item.first_segment, item.last_segment), DatedGap(broken=item, after=begin, before=max(begin, end))
            )
    return tuple(found[key] for key in sorted(found))
