"""A wanted recovery target, resolved from the archive alone: base backup, timeline, WAL, and the commits next to it.

PostgreSQL's own rules are followed. A time stops before the first commit after it, so one must be archived. An LSN
stops after (``exclusive``: before) the first record that starts there or later, so one must be archived whole. A
transaction or a restore point stops after its record. Base backups are chosen as CloudNativePG would: for a time the
newest that ended by then, for an LSN the newest whose end LSN is before it; otherwise the newest that ended before
the record. A backup from which the WAL has a gap before the target is passed over, which CloudNativePG would not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain as joined
from itertools import zip_longest

from drillbook.archive.scan import Scan
from drillbook.archive.snapshot import ArchiveSnapshot, WalRange
from drillbook.errors import BaseBackupMissing, TargetOutsideWindow
from drillbook.model import (
    ArchivedCommit,
    BaseBackup,
    Frozen,
    Lsn,
    RecoveryTarget,
    RestorePoint,
    show_instant,
)
from drillbook.postgres.wal import SegmentName

MOST_READ = 1024
"""How many segments are read at most to resolve a target; a time or an LSN needs about twenty."""

_LATER = "Wait until later WAL is archived (commit something and switch the segment), or give an earlier target."
_BARMAN = "barman_"  # barman-cloud-backup on a primary ends with a restore point of this name and the backup's id


class ExpectedWal(Frozen):
    """The WAL that a recovery will fetch and replay; sizes in bytes, as replayed and as stored."""

    first_segment: str
    last_segment: str
    segments: int
    replayed_bytes: int
    stored_bytes: int


class ResolvedTarget(Frozen):
    """A target that the archived WAL is known to reach. ``target`` names its timeline as the manifest must.

    ``timeline`` is the one that recovery ends on; where ``target`` names none, PostgreSQL can't be given its number
    and stays on it by itself. ``last_before`` is the last commit that will be recovered, ``first_after`` the first
    that won't; ``None`` where there is none, or where the archive does not show it. ``new_tablespaces`` is what the
    recovery would fail on, as far as WAL was read.
    """

    target: RecoveryTarget
    timeline: int = 0
    backup: BaseBackup
    wal: ExpectedWal
    last_before: ArchivedCommit | None
    first_after: ArchivedCommit | None
    restore_point: RestorePoint | None = None
    new_tablespaces: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [
            (
                "target",
                f"{self.target}, timeline {self.timeline}"
                + ("" if self.target.timeline else ", the base backup's own: no targetTLI"),
            ),
            ("base backup", f"{self.backup.backup_id}, serverName {self.backup.server_name}"),
            ("WAL", f"{self.wal.segments} segments, {self.wal.first_segment} to {self.wal.last_segment}"),
            ("last commit recovered", _said(self.last_before)),
            ("first commit left out", _said(self.first_after)),
            *(
                ("will fail", f"{item}; take a new base backup, or recover to before it")
                for item in self.new_tablespaces
            ),
        ]


def resolve(
    held: ArchiveSnapshot, wanted: RecoveryTarget, *, backup_id: str = "", look_back: int = MOST_READ
) -> ResolvedTarget:
    """What recovery to ``wanted`` needs and gives; ``backup_id`` pins the base backup (always so for immediate).

    A target without a kind is the end of the archive. At most ``look_back`` segments are read: ObjectStoreError with
    the reason "TargetTooFarBack" after that. BaseBackupMissing: there is no usable backup at all.
    TargetOutsideWindow: the target can't be reached; it names the nearest that can. WalGap: a segment that had to be
    read is damaged.
    """
    if not held.backups:
        raise BaseBackupMissing(
            f"{held.store.location} holds no usable base backup of {held.listing.server_name}",
            todo="Take a base backup.",
        )
    held.allow(look_back)
    search = _Search(held, wanted, _candidates(held, backup_id))
    if wanted.target_time is not None:
        return search.time(wanted.target_time)
    if wanted.target_lsn is not None:
        return search.lsn(wanted.target_lsn)
    if wanted.target_xid is not None:
        return search.transaction(wanted.target_xid)
    if wanted.target_name is not None:
        return search.restore_point(wanted.target_name)
    return search.immediate() if wanted.target_immediate else search.latest()


def _candidates(held: ArchiveSnapshot, backup_id: str) -> Sequence[BaseBackup]:
    """Newest first."""
    if not backup_id:
        return tuple(reversed(held.backups))
    named = held.find(backup_id)
    if named is None:
        known = ", ".join(backup.backup_id for backup in held.backups[-6:])
        raise TargetOutsideWindow(
            f"{backup_id} is no usable base backup of {held.listing.server_name}; usable are {known}",
            todo="Give the id of a usable backup; drillbook window shows them all.",
        )
    return (named,)


class _Search:
    def __init__(self, held: ArchiveSnapshot, wanted: RecoveryTarget, candidates: Sequence[BaseBackup]) -> None:
        self.held, self.wanted, self.candidates = held, wanted, candidates

    # -- the kinds of target -------------------------------------------------------------------

    def time(self, at: datetime) -> ResolvedTarget:
        nearest: list[str] = []
        eligible = [backup for backup in self.candidates if backup.end_time <= at]
        for stretch in self._stretches(eligible):
            newest = _newest(stretch)
            if newest is not None and self._after(newest, at):
                stop = self._first_after(stretch, at, newest)
                return self._resolved(stretch, stop.lsn, until=stop.end_lsn, included=False)
            if newest is not None and newest.committed_at > stretch.backup.end_time:
                nearest.append(_by_time(newest))
        ends = (backup for backup in self.candidates[::-1] if backup.end_time > at)
        later = [f"{show_instant(backup.end_time)}, where base backup {backup.backup_id} ends" for backup in ends]
        raise self._outside(f"{show_instant(at)} can't be reached", [*nearest[:1], *later[:1]])

    def lsn(self, wanted: Lsn) -> ResolvedTarget:
        nearest: list[str] = []
        for stretch in self._stretches([backup for backup in self.candidates if backup.end_lsn < wanted]):
            found = stretch.record_from(wanted) if stretch.holds(wanted) else None
            if found is not None:
                inclusive = not self.wanted.exclusive
                return self._resolved(stretch, found[0], until=found[1], included=inclusive)
            last = next((scan.last_record for _, scan in stretch.backwards() if scan.last_record), None)
            if last is not None and last > stretch.backup.end_lsn:
                nearest.append(f"LSN {last}")
        ends = (backup for backup in self.candidates[::-1] if backup.end_lsn >= wanted)
        later = [f"an LSN after {backup.end_lsn}, where base backup {backup.backup_id} ends" for backup in ends]
        raise self._outside(f"LSN {wanted} can't be reached", [*nearest[:1], *later[:1]])

    def transaction(self, xid: int) -> ResolvedTarget:
        for timeline in self._timelines():
            for stretch in self._regions(timeline):
                for scan in _outwards(stretch, xid):
                    found = scan.commits.last_of(xid)
                    if found is not None:
                        return self._at_record(found.lsn, found.end_lsn, timeline, f"the commit of XID {xid}")
        newest = next((commit for stretch in self._regions(0) if (commit := _newest(stretch))), None)
        raise self._outside(
            f"the reachable WAL holds no commit of XID {xid}",
            [f"XID {newest.xid} (committed {show_instant(newest.committed_at)}), the newest commit"] if newest else [],
        )

    def restore_point(self, name: str) -> ResolvedTarget:
        for timeline in self._timelines():
            for stretch in self._regions(timeline):
                found = next((point for point in _points(stretch, name) if point.name == name), None)
                if found is None:
                    continue
                resolved = self._at_record(found.lsn, found.end_lsn, timeline, f"restore point {name!r}")
                self._refuse_twice(resolved, found, timeline)
                return resolved.model_copy(update={"restore_point": found})
        raise self._outside(f"the reachable WAL holds no restore point {name!r}", [])

    def immediate(self) -> ResolvedTarget:
        (backup,) = self.candidates[:1]
        for timeline in dict.fromkeys((self.wanted.timeline or 0, backup.timeline)):
            stretch = self.held.stretch(backup, timeline)
            if stretch.consistent:
                return self._resolved(stretch, backup.end_lsn, until=backup.end_lsn, included=False)
        raise self._outside(
            f"base backup {backup.backup_id} can't become consistent: its WAL up to {backup.end_lsn} is not in the archive",
            [],
        )

    def latest(self) -> ResolvedTarget:
        stretch = next(self._stretches(self.candidates), None)
        if stretch is None or not stretch.reach.unbroken:
            gap = stretch.reach.problem if stretch else "no base backup has the WAL that it needs"
            newest = _newest(stretch) if stretch else None
            raise self._outside(
                f"the end of the archive can't be reached: {gap}", [_by_time(newest)] if newest is not None else []
            )
        newest = _newest(stretch)
        return self._build(stretch, stretch.reach.last_segment, newest, None)

    # -- finding -------------------------------------------------------------------------------

    def _timelines(self) -> list[int]:
        """The timelines to look on: the wanted one, else the cluster's own (0), then those that were left before it."""
        if self.wanted.timeline:
            return [self.wanted.timeline]
        return [0, *(found for found in reversed(self.held.listing.timelines) if found < self.held.own)]

    def _stretches(self, backups: Sequence[BaseBackup], timeline: int | None = None) -> Iterator[WalRange]:
        """The reachable WAL of each backup that can become consistent."""
        for backup in backups:
            stretch = self.held.stretch(backup, self.wanted.timeline or 0 if timeline is None else timeline)
            if stretch.consistent:
                yield stretch

    def _regions(self, timeline: int) -> list[WalRange]:
        """Each run of reachable WAL once, newest first, from the oldest backup that reaches its end."""
        by_end = {stretch.last: stretch for stretch in self._stretches(self.candidates, timeline)}
        return [by_end[last] for last in sorted(by_end, reverse=True)]

    def _after(self, commit: ArchivedCommit, at: datetime) -> bool:
        return commit.committed_at > at or (self.wanted.exclusive and commit.committed_at == at)

    def _first_after(self, stretch: WalRange, at: datetime, newest: ArchivedCommit) -> ArchivedCommit:
        """The first commit in the WAL that stops a recovery to ``at``; ``newest`` is known to be one that would.

        Commit times follow the WAL's order but for what concurrent sessions overtake, so the segment is found by
        halving; then the segments before it are asked until one holds no such commit.
        """
        answer, low = stretch.number(newest.lsn), stretch.first
        high = answer
        while low < high:
            middle = (low + high) // 2
            found = next(((n, scan) for n, scan in stretch.forwards(middle, high) if scan.commits), None)
            if found is None:
                high = middle
            elif self._stops(found[1], at) is not None:
                answer, high = found[0], middle
            else:
                low = found[0] + 1
        for number, scan in stretch.backwards(answer - 1):
            if self._stops(scan, at) is not None:
                answer = number
            elif scan.commits:
                break
        stop = self._stops(stretch.scan(answer), at)
        assert stop is not None  # noqa: S101 - this segment was chosen for it
        return stop

    def _stops(self, scan: Scan, at: datetime) -> ArchivedCommit | None:
        """The segment's first commit that stops a recovery to ``at``, in the order of the WAL."""
        return scan.commits.first_later(at, at_it_too=self.wanted.exclusive)

    def _at_record(self, lsn: Lsn, end: Lsn, timeline: int, what: str) -> ResolvedTarget:
        """Stops after the record at ``lsn``, from the newest backup that ended before it."""
        backups = [backup for backup in self.candidates if backup.end_lsn <= lsn]
        for stretch in self._stretches(backups, timeline):
            if stretch.holds(Lsn(end.value - 1)):
                return self._resolved(stretch, lsn, until=end, included=not self.wanted.exclusive)
        raise self._outside(f"{what} at {lsn} is before the end of every base backup that could be used", [])

    def _refuse_twice(self, resolved: ResolvedTarget, found: RestorePoint, timeline: int) -> None:
        """PostgreSQL stops at the first restore point of a name: a second one can't be reached by it."""
        stretch = self.held.stretch(resolved.backup, timeline)
        for _, scan in stretch.forwards(stretch.number(resolved.backup.end_lsn), stretch.number(found.lsn) + 1):
            for point in scan.restore_points:
                if point.name == found.name and resolved.backup.end_lsn <= point.lsn < found.lsn:
                    raise TargetOutsideWindow(
                        f"restore point {found.name!r} was made twice since base backup {resolved.backup.backup_id} "
                        f"ended: at {point.lsn} ({show_instant(point.at)}) and at {found.lsn} ({show_instant(found.at)})",
                        todo=f"PostgreSQL stops at the first. Give the one that you mean by target_lsn: {point.lsn} or {found.lsn}.",
                    )

    # -- telling -------------------------------------------------------------------------------

    def _resolved(self, stretch: WalRange, stop: Lsn, *, until: Lsn, included: bool) -> ResolvedTarget:
        """Recovery that stops at the record at ``stop``, after it if ``included``; the WAL is needed up to ``until``."""

        def recovered(commit: ArchivedCommit) -> bool:
            return commit.lsn <= stop if included else commit.lsn < stop

        number = stretch.number(stop)
        before = joined(stretch.backwards(number), self._earlier(stretch))
        after = (commit for _, scan in stretch.forwards(number) for commit in scan.commits)
        needed = stretch.reach.name_at(stretch.number(Lsn(until.value - 1)))
        return self._build(
            stretch,
            needed,
            next((c for _, scan in before for c in reversed(scan.commits) if recovered(c)), None),
            next((commit for commit in after if not recovered(commit)), None),
            until=until,
        )

    def _earlier(self, stretch: WalRange) -> Iterator[tuple[int, Scan]]:
        """The WAL before the base backup, as far as an older backup's reaches without a gap: it is in the backup."""
        for backup in self.held.backups:
            older = self.held.stretch(backup, stretch.reach.timeline)
            if older.first < stretch.first <= older.last:
                yield from older.backwards(stretch.first - 1)
                return

    def _build(
        self,
        stretch: WalRange,
        last_segment: str,
        last: ArchivedCommit | None,
        first: ArchivedCommit | None,
        *,
        until: Lsn | None = None,
    ) -> ResolvedTarget:
        size = stretch.reach.segment_bytes
        end = SegmentName.parse(last_segment, size).number
        names = [stretch.reach.name_at(number) for number in range(stretch.first, end + 1)]
        stored = sum(found.size for name in names if (found := self.held.listing.segment(name)))
        return ResolvedTarget(
            target=self.wanted.model_copy(
                update={"timeline": self.held.pinned(stretch.backup, stretch.reach.timeline)}
            ),
            timeline=stretch.reach.timeline,
            backup=stretch.backup,
            wal=ExpectedWal(
                first_segment=names[0],
                last_segment=last_segment,
                segments=len(names),
                replayed_bytes=len(names) * size,
                stored_bytes=stored,
            ),
            last_before=last,
            first_after=first,
            new_tablespaces=tuple(map(str, self.held.tablespaces_after(stretch.backup, before=until))),
        )

    def _outside(self, what: str, nearest: Sequence[str]) -> TargetOutsideWindow:
        if nearest:
            return TargetOutsideWindow(
                f"{what}; the nearest reachable: {', or '.join(nearest)}",
                todo="Give one of these, or wait until later WAL is archived; drillbook window shows what can be reached.",
            )
        return TargetOutsideWindow(what, todo=f"{_LATER} drillbook window shows what can be reached.")


def _said(commit: ArchivedCommit | None) -> str:
    return (
        f"XID {commit.xid} at {show_instant(commit.committed_at)}, LSN {commit.lsn}"
        if commit
        else "none in the archive"
    )


def _newest(stretch: WalRange) -> ArchivedCommit | None:
    """The last commit that can be reached, by position in the WAL."""
    return next((scan.commits[-1] for _, scan in stretch.backwards() if scan.commits), None)


def _by_time(newest: ArchivedCommit) -> str:
    return (
        f"{show_instant(newest.committed_at - timedelta(microseconds=1))}, and the commit after it by "
        f"target_xid {newest.xid} or target_lsn {newest.lsn}"
    )


def _outwards(stretch: WalRange, xid: int) -> Iterator[Scan]:
    """Every segment, beginning where the transaction is likely: ids grow along the WAL, though not strictly."""
    low, high = stretch.first, stretch.last
    while low < high:
        middle = (low + high) // 2
        found = next(((n, scan) for n, scan in stretch.forwards(middle, high) if scan.commits), None)
        if found is None or (found[1].commits[-1].xid - xid) & 0xFFFFFFFF < 1 << 31:
            high = middle
        else:
            low = found[0] + 1
    both = zip_longest(stretch.forwards(low), stretch.backwards(low - 1))
    return (item[1] for item in joined.from_iterable(both) if item is not None)


def _points(stretch: WalRange, name: str) -> Iterator[RestorePoint]:
    """Restore points, newest first; one of barman's is looked for where its backup ends."""
    backup = stretch.held.find(name.removeprefix(_BARMAN)) if name.startswith(_BARMAN) else None
    if backup is not None and stretch.holds(backup.end_lsn):
        for _, scan in stretch.forwards(stretch.number(backup.end_lsn)):
            yield from scan.restore_points
    else:
        for _, scan in stretch.backwards():
            yield from reversed(scan.restore_points)
