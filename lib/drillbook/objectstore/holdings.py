"""What the archive holds of one server, listed once: base backups, WAL and history files; segments are read on demand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from drillbook.errors import ObjectStoreError
from drillbook.model import BaseBackup, Lsn
from drillbook.objectstore.archive import histories
from drillbook.objectstore.layout import WalListing, wal_names
from drillbook.objectstore.protocol import ObjectStore
from drillbook.objectstore.scan import Scan, record_from, scan
from drillbook.wal import Chain, Histories, Numbers, SegmentName, chain

LOOK_BACK = 256
"""How many segments are read at most in search of something, unless told otherwise."""

_KEPT = 16  # scans kept in memory; a busy 16 MiB segment holds some 50,000 commits


@dataclass
class Holdings:
    """The archive of one server as one listing shows it. ``backups`` are the usable ones, oldest first by their end.

    `allow` says how many segments may be read from now on; a read beyond that is an ObjectStoreError with the reason
    "TargetTooFarBack".
    """

    store: ObjectStore
    listing: WalListing
    backups: Sequence[BaseBackup]
    histories: Histories
    system_id: str = ""
    _names: dict[int, tuple[Numbers, frozenset[str]]] = field(default_factory=dict, repr=False)
    _chains: dict[tuple[str, int], Chain] = field(default_factory=dict, repr=False)
    _scans: OrderedDict[str, Scan] = field(default_factory=OrderedDict, repr=False)
    _allowed: int = field(default=LOOK_BACK, repr=False)
    _left: int = field(default=LOOK_BACK, repr=False)

    @classmethod
    def read(
        cls, store: ObjectStore, backups: Sequence[BaseBackup], server_name: str, *, system_id: str = ""
    ) -> Holdings:
        """List the WAL that ``backups`` need, and read the history files. Raises what `wal_names` and `histories` raise."""
        since = min((backup.begin_wal for backup in backups), key=lambda name: name[8:], default="")
        first = min((backup.timeline for backup in backups), default=0)
        listing = wal_names(store, server_name, since=f"{first:08X}{since[8:]}" if since else "")
        return cls(store, listing, tuple(backups), histories(store, listing), system_id)

    def find(self, backup_id: str) -> BaseBackup | None:
        """The usable backup of this id."""
        return next((backup for backup in self.backups if backup.backup_id == backup_id), None)

    def chain(self, backup: BaseBackup, timeline: int = 0) -> Chain:
        """The WAL chain from ``backup`` on the way to ``timeline`` (0: the newest)."""
        key = backup.backup_id, timeline
        if key not in self._chains:
            size = backup.segment_bytes
            if size not in self._names:
                self._names[size] = self.listing.numbers(size), frozenset(self.listing.torn(size))
            numbers, torn = self._names[size]
            self._chains[key] = chain(
                backup.begin_wal, timeline, numbers, self.histories, size, begin_lsn=backup.begin_lsn, torn=torn
            )
        return self._chains[key]

    def stretch(self, backup: BaseBackup, timeline: int = 0) -> Stretch:
        """The WAL that recovery from ``backup`` can reach."""
        return Stretch(self, backup, self.chain(backup, timeline))

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
class Stretch:
    """The WAL that recovery from one backup can reach without a gap, by segment numbers."""

    held: Holdings
    backup: BaseBackup
    reach: Chain

    @property
    def first(self) -> int:
        """The number of the backup's first segment."""
        return SegmentName.parse(self.reach.begin_wal, self.reach.segment_bytes).number

    @property
    def last(self) -> int:
        """The number of the last segment that can be reached; before `first` if there is none."""
        if not self.reach.last_segment:
            return self.first - 1
        return SegmentName.parse(self.reach.last_segment, self.reach.segment_bytes).number

    @property
    def consistent(self) -> bool:
        """Whether all WAL is there that the backup needs to be consistent."""
        return bool(self.reach.last_segment) and self.reach.end_lsn >= self.backup.end_lsn

    def holds(self, lsn: Lsn) -> bool:
        """Whether the byte at ``lsn`` lies in the reachable WAL."""
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
