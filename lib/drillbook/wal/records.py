"""The commits and restore points that WAL segments hold.

A small reader of PostgreSQL 14 to 18's WAL: it walks the records of a run of adjoining segments and looks into those
of the transaction manager and, for restore points and segment switches, of the log's own. A record begins on a multiple of eight bytes with a header of 24 (length, transaction id,
start of the record before it, flags, resource manager, CRC) and may continue over pages and segments; each page in
between says how much of it is still to come. What PostgreSQL's own reader checks without looking into records is
checked here too: page magic and address, remaining lengths, the link back to the record before. The CRC is verified
for the records that are looked into; for all of them it would cost too much in pure Python.

Reading ends at the first thing that is not valid WAL, as recovery does: a zeroed or recycled tail is the normal end of
a segment that was never filled. `WalReader.stopped` says where and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from drillbook.model import ArchivedCommit, Lsn, RestorePoint
from drillbook.wal.arithmetic import SegmentName, check_segment_bytes
from drillbook.wal.crc32c import crc32c
from drillbook.wal.pages import ALL_FLAGS, CONTINUES, OVERWRITTEN, WalFormatError, page_header, segment_header
from drillbook.wal.transactions import RECORD, RECORD_BYTES, commit_in, restore_point_in

_LONGEST_BYTES = 1020 << 20
_SEGMENT_SWITCH, _RESTORE_POINT = 0x40, 0x70
_XLOG, _TRANSACTION = 0, 1  # resource managers
_LAST_BUILTIN, _FIRST_CUSTOM = 21, 128


def commits(
    segments: Iterable[tuple[str, bytes]], *, expected_system_id: str = "", stopped: list[str] | None = None
) -> Iterator[ArchivedCommit]:
    """The commits in a run of adjoining ``(name, bytes)`` segments, oldest first, up to the end of valid WAL.

    A record that begins before the first segment or ends after the last is not seen. Why reading ended early is
    appended to ``stopped``. WalFormatError: a segment is not what its name says.
    """
    reader = WalReader(expected_system_id=expected_system_id)
    for name, data in segments:
        yield from reader.feed(name, data)
        if reader.stopped:
            if stopped is not None:
                stopped.append(f"{name}: {reader.stopped}")
            return


class WalReader:
    """Reads a run of adjoining segments, one `feed` after the other.

    ``expected_system_id`` is "" or the system identifier that each segment must carry. ``watch`` is an LSN of interest:
    the first whole record that starts there or later is kept in `watched`. ``checksums`` verifies every record's.
    """

    def __init__(self, *, expected_system_id: str = "", watch: Lsn | None = None, checksums: bool = False) -> None:
        self.stopped = ""
        """Where and why reading has ended before a segment's end; "" while all is valid."""
        self.restore_points: list[RestorePoint] = []
        """The restore points seen so far, oldest first."""
        self.watched: tuple[Lsn, Lsn] | None = None
        """Where the first whole record from ``watch`` on starts and ends, once it was seen."""
        self._watch = watch.value if watch is not None else -1
        self._checksums = checksums
        self._system_id = expected_system_id
        self._next = -1  # where the next segment must begin; -1: anywhere
        self._previous = -1  # where the last whole record starts; -1: not known yet
        # The record that is being put together:
        self._start = -1  # where it starts; -1: before the first segment, so it can only be skipped
        self._name = ""  # the segment in which it starts
        self._left = 0  # bytes still to come
        self._parts: list[bytes] | None = None  # what has been seen of it; None: not worth keeping
        self._switch = False

    @property
    def last_record(self) -> Lsn | None:
        """Where the last whole record starts, ``None`` if none was seen."""
        return Lsn(self._previous) if self._previous >= 0 else None

    @property
    def pending(self) -> bool:
        """Whether the last segment ended inside a record that may be a commit: the next segment has the rest."""
        return self._left > 0 and self._parts is not None

    def feed(self, name: str, data: bytes) -> list[ArchivedCommit]:
        """The commits whose records end in this segment, oldest first.

        WalFormatError: ``data`` is not this segment (torn, other content, another system's), or doesn't adjoin the
        segment before.
        """
        header = segment_header(data, name)
        begin, size = header.begin_lsn.value, header.segment_bytes
        if self._system_id and header.system_id != self._system_id:
            raise WalFormatError(f"{name} is WAL of system {header.system_id}, expected {self._system_id}")
        try:
            named = SegmentName.parse(name, check_segment_bytes(size))
        except ValueError as error:
            raise WalFormatError(f"{name}: {error}") from error
        if len(data) != size:
            raise WalFormatError(f"{name} is torn: {len(data)} of {size} bytes")
        if begin != named.number * size or header.timeline > named.timeline:
            raise WalFormatError(f"{name} holds the WAL from {header.begin_lsn} of timeline {header.timeline}")
        if self.stopped or self._next not in {-1, begin}:
            raise WalFormatError(f"{name} does not adjoin what was read: {self.stopped or Lsn(self._next)}")
        self._next = begin + size
        found = []
        for at, what, start, end, segment in self._walk(
            name, data, begin, page_bytes=header.page_bytes, magic=header.magic, major=header.major
        ):
            if isinstance(what, str):
                self.restore_points.append(
                    RestorePoint(name=what, at=at, lsn=Lsn(start), end_lsn=Lsn(end), segment=segment)
                )
            else:
                found.append(
                    ArchivedCommit(committed_at=at, xid=what, lsn=Lsn(start), end_lsn=Lsn(end), segment=segment)
                )
        return found

    def _walk(
        self, name: str, data: bytes, begin: int, *, page_bytes: int, magic: int, major: int
    ) -> Iterator[tuple[datetime, int | str, int, int, str]]:
        size, here = len(data), 0
        while here < size and not self.stopped:
            if here % page_bytes == 0:
                here = self._page(data, here, begin, magic)
                if not self._left or self.stopped:
                    continue
                taken = min(self._left, page_bytes - here % page_bytes)
                if self._parts is not None:
                    self._parts.append(data[here : here + taken])
                self._left -= taken
                here = -(-(here + taken) // 8) * 8
                if self._left:
                    continue
            else:
                length = int.from_bytes(data[here : here + 4], "little")
                if not RECORD_BYTES <= length <= _LONGEST_BYTES:
                    self._stop(begin + here, "no further record" if length == 0 else f"a record of {length} bytes")
                    continue
                on_page = min(length, page_bytes - here % page_bytes)
                self._start, self._name, self._left = begin + here, name, length - on_page
                head = data[here : here + on_page]
                if on_page < RECORD_BYTES or self._worth_keeping(head):
                    self._parts = [head]
                here = -(-(here + on_page) // 8) * 8
                if self._left:
                    continue
            told = self._whole(major)
            if self._start >= self._watch >= 0 and self.watched is None and not self.stopped:
                self.watched = Lsn(self._start), Lsn(begin + here)
            if told is not None:
                yield (*told, self._start, begin + here, self._name)
            self._parts = None
            if self._switch:  # the rest of the segment is padding
                here, self._switch = size, False

    def _page(self, data: bytes, offset: int, begin: int, magic: int) -> int:
        """Check the page header here; returns the offset after it, or stops the reader."""
        page = page_header(data, offset)
        if page.magic != magic or page.address != begin + offset or page.flags & ~ALL_FLAGS:
            self._stop(begin + offset, "never written, or left from an older use of the file")
        elif page.flags & OVERWRITTEN:
            # A crash: the record that was being written will never be complete, and this page says so.
            self._left, self._parts = 0, None
        elif self._left:
            if not page.flags & CONTINUES or page.remaining != self._left:
                self._stop(begin + offset, "the record's continuation is missing")
        elif page.flags & CONTINUES:
            if offset or self._previous >= 0:
                self._stop(begin + offset, "a continuation of no record")
            else:
                self._start, self._left = -1, page.remaining
        return offset + page.size

    def _worth_keeping(self, head: bytes) -> bool:
        """Whether the record may be a commit or a segment switch; stops the reader if it is not linked rightly."""
        self._check_link(int.from_bytes(head[8:16], "little"), head[17])
        return self._checksums or head[17] in {_XLOG, _TRANSACTION}

    def _check_link(self, previous: int, manager: int) -> None:
        linked = previous == self._previous if self._previous >= 0 else previous < self._start
        if not linked or _LAST_BUILTIN < manager < _FIRST_CUSTOM:
            self._stop(self._start, "the record is not linked to the one before it")

    def _whole(self, major: int) -> tuple[datetime, int | str] | None:
        """Judge the record that is now complete: (time, transaction id) of a commit, (time, name) of a restore point."""
        if self.stopped or self._start < 0:
            return None
        if self._parts is not None:
            record = b"".join(self._parts)
            _, _, previous, info, manager, crc = RECORD.unpack_from(record)
            self._check_link(previous, manager)
            if self.stopped:
                return None
            kind = info & 0xF0
            looked_into = manager == _TRANSACTION or (manager == _XLOG and kind in {_SEGMENT_SWITCH, _RESTORE_POINT})
            if (self._checksums or looked_into) and crc32c(record[RECORD_BYTES:], record[: RECORD_BYTES - 4]) != crc:
                self._stop(self._start, "the record's checksum is wrong")
                return None
            if looked_into:
                self._previous = self._start
                if manager == _XLOG and kind == _SEGMENT_SWITCH:
                    self._switch = True
                    return None
                try:
                    return restore_point_in(record) if manager == _XLOG else commit_in(record, major)
                except WalFormatError as error:
                    raise WalFormatError(f"{self._name} at {Lsn(self._start)}: {error}") from error
        self._previous = self._start
        return None

    def _stop(self, position: int, why: str) -> None:
        self.stopped = f"valid WAL ends at {Lsn(position)}: {why}"
        self._left, self._parts = 0, None
