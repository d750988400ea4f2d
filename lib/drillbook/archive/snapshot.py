"""What the archive holds of one server, listed once: base backups, WAL and history files; segments are read on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from drillbook.archive.backup_info import DEFAULT_SEGMENT_BYTES
from drillbook.archive.layout import ArchivedSegment, WalListing, wal_names
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.scan import Scan, record_from, scan
from drillbook.archive.systems import foreign_timelines, system_of
from drillbook.archive.timelines import Stray, own_timeline, pinned, strays, target_timeline, way_to
from drillbook.archive.wal_files import histories
from drillbook.errors import ObjectStoreError
from drillbook.model import BaseBackup, Lsn
from drillbook.postgres.wal import Chain, Histories, NewTablespace, Numbers, SegmentName, chain

LOOK_BACK = 256
"""How many segments are read at most in search of something, unless given."""

CLOCKS = timedelta(minutes=5)
"""By how much the clocks of a store and of a database may differ."""

_KEPT = 16  # scans kept in memory; a busy 16 MiB segment holds some 50,000 commits


@dataclass
class ArchiveSnapshot:
    """The archive of one server as one listing shows it. ``backups`` are the usable ones, oldest first by their end.

    ``timeline`` is the cluster's own as the cluster or the profile says it, 0 where neither does: see `own_timeline`.
    `allow` says how many segments may be read from now on; a read beyond that is an ObjectStoreError with the reason
    "TargetTooFarBack".
    """

    store: ObjectStore
    listing: WalListing
    backups: Sequence[BaseBackup]
    histories: Histories
    system_id: str = ""
    timeline: int = 0
    _own: int = field(default=0, repr=False)
    _names: dict[int, tuple[Numbers, frozenset[str]]] = field(default_factory=dict, repr=False)
    _chains: dict[tuple[str, int], Chain] = field(default_factory=dict, repr=False)
    _scans: OrderedDict[str, Scan] = field(default_factory=OrderedDict, repr=False)
    _tablespaces: dict[Lsn, NewTablespace] = field(default_factory=dict, repr=False)
    _allowed: int = field(default=LOOK_BACK, repr=False)
    _left: int = field(default=LOOK_BACK, repr=False)

    @classmethod
    def read(
        cls,
        store: ObjectStore,
        backups: Sequence[BaseBackup],
        server_name: str,
        *,
        system_id: str = "",
        timeline: int = 0,
    ) -> ArchiveSnapshot:
        """List the WAL that ``backups`` need, and read the history files. Raises what `wal_names` and `histories` raise."""
        since = min((backup.begin_wal for backup in backups), key=lambda name: name[8:], default="")
        first = min((backup.timeline for backup in backups), default=0)
        listing = wal_names(store, server_name, since=f"{first:08X}{since[8:]}" if since else "")
        return cls(store, listing, tuple(backups), histories(store, listing, needed=timeline), system_id, timeline)

    @property
    def own(self) -> int:
        """The cluster's own timeline; raises what `own_timeline` raises."""
        if not self._own:
            # With no answer from the cluster every timeline is looked at, and another system's is none of its.
            doubt = not self.timeline and self.system_id and len(self.listing.timelines) > 1
            ignored = foreign_timelines(self.store, self.listing, self.system_id) if doubt else ()
            self._own = own_timeline(self.timeline, self.listing, self.histories, self.backups, ignored=ignored)
        return self._own

    @property
    def strays(self) -> tuple[Stray, ...]:
        """The timelines that are not on the cluster's way."""
        size = self.backups[-1].segment_bytes if self.backups else DEFAULT_SEGMENT_BYTES
        return strays(self.own, self.listing, self.histories, self._numbers(size)[0], size)

    @property
    def newest_segment(self) -> ArchivedSegment | None:
        """The last segment of the cluster's own timeline, else of the one that it came from; ``None`` without any WAL."""
        on = (self.listing.last(branch.timeline) for branch in reversed(way_to(self.own, self.histories)))
        return next((segment for segment in on if segment is not None), self.listing.newest)

    def unreachable(self, backup: BaseBackup) -> str:
        """Why no WAL leads from ``backup`` to the cluster's timeline, whatever is archived later; "" if some may."""
        reach = self.chain(backup)
        return "" if reach.gaps else reach.problem

    def pinned(self, backup: BaseBackup, timeline: int = 0) -> int | None:
        """What ``targetTLI`` must be to recover from ``backup`` to ``timeline`` (0: the cluster's own); see `pinned`."""
        return pinned(timeline or self.chain(backup).timeline, backup, self.listing.histories)

    def tablespaces_after(self, backup: BaseBackup, *, before: Lsn | None = None) -> tuple[NewTablespace, ...]:
        """Tablespaces created after the backup ended (and ``before`` an LSN), as far as WAL has been read.

        A recovery that replays such a creation fails unless the tablespace's folder is there, which no restore makes.
        """
        end = before.value if before is not None else 1 << 64
        found = (made for lsn, made in sorted(self._tablespaces.items()) if backup.end_lsn <= lsn and lsn.value < end)
        return tuple(found)

    def find(self, backup_id: str) -> BaseBackup | None:
        """The usable backup of this id."""
        return next((backup for backup in self.backups if backup.backup_id == backup_id), None)

    def chain(self, backup: BaseBackup, timeline: int = 0) -> Chain:
        """The WAL chain from ``backup`` on the way to ``timeline`` (0: the cluster's own, as far as its history leads there)."""
        key = backup.backup_id, timeline
        if key not in self._chains:
            size = backup.segment_bytes
            numbers, torn = self._numbers(size)
            target = timeline or target_timeline(self.own, backup, self.histories)
            found = chain(
                backup.begin_wal, target, numbers, self.histories, size, begin_lsn=backup.begin_lsn, torn=torn
            )
            if end := self._leftovers(backup, found):
                numbers = {
                    **numbers,
                    found.timeline: numbers[found.timeline][: bisect_left(numbers[found.timeline], end)],
                }
                found = chain(
                    backup.begin_wal, target, numbers, self.histories, size, begin_lsn=backup.begin_lsn, torn=torn
                )
            if not timeline and target != self.own:
                found = replace(found, unlinked=(self.own,))
            self._chains[key] = found
        return self._chains[key]

    def _leftovers(self, backup: BaseBackup, found: Chain) -> int:
        """The number of the first segment on the way that another system left under its name; 0 for none.

        What was archived before the base backup began can't come after it: determined from the listing, then read.
        """
        size, oldest = backup.segment_bytes, backup.begin_time - CLOCKS

        def left(number: int) -> ArchivedSegment | None:
            segment = self.listing.numbered(found.timeline, number, size)
            return segment if segment is not None and segment.modified < oldest else None

        if not found.newest_segment or not left(last := found.number(found.newest_segment)):
            return 0
        first = bisect_left(range(last), True, lo=found.number(backup.begin_wal), key=lambda number: bool(left(number)))
        segment = left(first)
        return first if segment and system_of(self.store, segment) not in ("", backup.system_id) else 0

    def _numbers(self, segment_bytes: int) -> tuple[Numbers, frozenset[str]]:
        if segment_bytes not in self._names:
            numbers = self.listing.numbers(segment_bytes)
            self._names[segment_bytes] = numbers, frozenset(self.listing.torn(segment_bytes))
        return self._names[segment_bytes]

    def stretch(self, backup: BaseBackup, timeline: int = 0) -> WalRange:
        """The WAL that recovery from ``backup`` can reach."""
        return WalRange(self, backup, self.chain(backup, timeline))

    def allow(self, segments: int) -> None:
        """Let this many segments be read from now on."""
        self._allowed = self._left = segments

    def read_segment(self, reach: Chain, name: str) -> Scan:
        """What segment ``name`` holds; raises what `scan` raises."""
        if name in self._scans:
            self._scans.move_to_end(name)
            return self._scans[name]
        self._spend(name)
        found = self._scans[name] = scan(self.store, self.listing, reach, name, self.system_id)
        self._tablespaces |= {made.lsn: made for made in found.tablespaces}
        if len(self._scans) > _KEPT:
            self._scans.popitem(last=False)
        return found

    def _spend(self, name: str) -> None:
        if self._left <= 0:
            raise ObjectStoreError(
                f"not found in the {self._allowed} segments that were read, the last of them {name}",
                reason="TargetTooFarBack",
                todo="Give the target as a time or an LSN, which are found without reading everything.",
            )
        self._left -= 1


@dataclass(frozen=True)
class WalRange:
    """The WAL that recovery from one backup can reach without a gap, by segment numbers."""

    held: ArchiveSnapshot
    backup: BaseBackup
    reach: Chain

    @property
    def first(self) -> int:
        """The number of the backup's first segment."""
        return SegmentName.parse(self.reach.begin_wal, self.reach.segment_bytes).number

    @property
    def last(self) -> int:
        """The number of the last segment that can be reached; before `first` if there isn't one."""
        if not self.reach.last_segment:
            return self.first - 1
        return SegmentName.parse(self.reach.last_segment, self.reach.segment_bytes).number

    @property
    def consistent(self) -> bool:
        """Whether all WAL is there that the backup needs to be consistent."""
        return bool(self.reach.last_segment) and self.reach.end_lsn >= self.backup.end_lsn

    def holds(self, lsn: Lsn) -> bool:
        """Whether the byte at ``lsn`` is in the reachable WAL."""
        return self.first <= self.number(lsn) <= self.last

    def number(self, lsn: Lsn) -> int:
        """The number of the segment that holds ``lsn``."""
        return lsn.value // self.reach.segment_bytes

    def scan(self, number: int) -> Scan:
        """What the segment of this number holds."""
        return self.held.read_segment(self.reach, self.reach.name_at(number))

    def forwards(self, number: int, end: int | None = None) -> Iterator[tuple[int, Scan]]:
        """(number, scan) from ``number`` on, before ``end`` or up to the last."""
        for here in range(max(number, self.first), min(self.last + 1, end or self.last + 1)):
            yield here, self.scan(here)

    def backwards(self, number: int | None = None) -> Iterator[tuple[int, Scan]]:
        """(number, scan) from ``number``, or the last, back to the first."""
        for here in range(min(self.last, self.last if number is None else number), self.first - 1, -1):
            yield here, self.scan(here)

    def record_from(self, lsn: Lsn) -> tuple[Lsn, Lsn] | None:
        """Where the first whole record at ``lsn`` or later starts and ends; ``None`` if the reachable WAL has none."""
        return record_from(
            self.held.store, self.held.listing, self.reach, lsn, system_id=self.held.system_id, look_ahead=LOOK_BACK
        )


def archive_chain(store: ObjectStore, backup: BaseBackup, listing: WalListing, *, timeline: int = 0) -> Chain:
    """The WAL chain from ``backup`` to the newest segment on the way to the cluster's own timeline, ``timeline``.

    0: neither cluster nor profile says it, see `own_timeline`. ``listing`` must go back at least to the backup's begin
    WAL. Segments that the listing already shows to be torn (empty, or stored without compression in another size) count
    as missing. Raises what `histories` and `own_timeline` raise.
    """
    if listing.since > backup.begin_wal:
        raise ObjectStoreError(
            f"the listing begins at {listing.since}, after the base backup's {backup.begin_wal}",
            reason="ListingTooShort",
            todo="List the WAL since the base backup's begin WAL.",
        )
    return ArchiveSnapshot(
        store, listing, (backup,), histories(store, listing, needed=timeline), timeline=timeline
    ).chain(backup)
