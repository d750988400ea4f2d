"""The commits, restore points and new tablespaces that WAL segments hold.

A small reader of PostgreSQL 14 to 18's WAL: it walks the records of a run of adjoining segments and looks into those
that matter. A record begins on a multiple of eight bytes with a header of 24 (length, transaction id, start of the
record before it, flags, resource manager, CRC) and may continue over pages and segments; each page in between says
how much of it is still to come. What PostgreSQL's own reader checks without looking into records is checked here too:
page magic and address, remaining lengths, the link back to the record before. The CRC is verified for the records
that are looked into, and for all of them on request.

Reading ends at the first thing that is not valid WAL, as recovery does: a zeroed or recycled tail is the normal end of
a segment that was never filled. `WalReader.stopped` says where and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from google_crc32c import extend, value

from drillbook.model import ArchivedCommit, Lsn, RestorePoint
from drillbook.postgres.wal.arithmetic import SegmentName, check_segment_bytes
from drillbook.postgres.wal.commit_list import Commits
from drillbook.postgres.wal.pages import ALL_FLAGS, CONTINUES, OVERWRITTEN, WalFormatError, page_header, segment_header
from drillbook.postgres.wal.transactions import RECORD_BYTES, commit_in, restore_point_in, tablespace_in

_LONGEST_BYTES = 1020 << 20
_SEGMENT_SWITCH, _RESTORE_POINT = 0x40, 0x70
_XLOG, _TRANSACTION, TABLESPACE = 0, 1, 5  # resource managers
_LAST_BUILTIN, _FIRST_CUSTOM = 21, 128
_MANAGERS = 256
_NEVER = 1 << 65

# Length, transaction id, start of the record before, flags, resource manager.
_HEAD = Struct("<IIQBB").unpack_from
_CRC = Struct("<I").unpack_from
_COMMIT_INFO = 0x70
_PLAIN_COMMIT = Struct("<BBq").unpack_from  # a short block of data that begins with the time
_SHORT_DATA = 255

Handler = Callable[[bytes, int, int, int, int, int, int], None]
"""Looks into a whole record: the bytes that hold it, where in them it begins and ends, its transaction id and flags, and
the LSNs of its start and of its end."""


class NewTablespace(NamedTuple):
    """A tablespace that was created: its id and folder, and where the record of it starts."""

    oid: int
    path: str
    lsn: Lsn

    def __str__(self) -> str:
        return (
            f"tablespace {self.path} was created at LSN {self.lsn}, after the base backup: a recovery from it past that LSN "
            "fails unless the folder is there"
        )


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
        self.tablespaces: list[NewTablespace] = []
        """The tablespaces that were created, as far as was read."""
        self.watched: tuple[Lsn, Lsn] | None = None
        """Where the first whole record from ``watch`` on starts and ends, once it was seen."""
        self._watch = watch.value if watch is not None else _NEVER
        self._checksums = checksums
        self._system_id = expected_system_id
        self._next = -1  # where the next segment must begin; -1: anywhere
        self._previous = -1  # where the last whole record starts; -1: not known yet
        self._found = Commits()
        self._major = 0
        self._handlers: list[Handler | None] = [None] * _MANAGERS
        self._handlers[_XLOG], self._handlers[_TRANSACTION] = self._log, self._transaction
        self._handlers[TABLESPACE] = self._tablespace
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
        """Whether the last segment ended inside a record that is looked into: the next segment has the rest."""
        return self._left > 0 and self._parts is not None

    def feed(self, name: str, data: bytes, *, rest_only: bool = False) -> Commits:
        """The commits whose records end in this segment, oldest first.

        ``rest_only``: read no further than the record that the segment before ended in.
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
        self._found = Commits(name, begin, earlier=self._name)
        self._major = header.major
        try:
            self._walk(name, data, begin, page_bytes=header.page_bytes, magic=header.magic, rest_only=rest_only)
        except WalFormatError as error:
            raise WalFormatError(f"{self._name or name} at {Lsn(max(self._start, 0))}: {error}") from error
        return self._found

    def _walk(self, name: str, data: bytes, begin: int, *, page_bytes: int, magic: int, rest_only: bool) -> None:
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
                self._assembled(begin + here)
                if rest_only:
                    return
            else:
                page_end = here - here % page_bytes + page_bytes
                here = self._whole_records(name, data, here, page_end, begin)
                if here >= page_end or self.stopped or self._switch:
                    here = size if self._switch else here
                    self._switch = False
                    continue
                here = self._begun(name, data, here, page_end, begin)
            if self._switch:  # the rest of the segment is padding
                here, self._switch = size, False

    def _whole_records(self, name: str, data: bytes, here: int, page_end: int, begin: int) -> int:
        """The records that are on this page whole, as long as all is in order; gives where the next one begins.

        This is where the time goes: a busy segment holds 200,000 records.
        """
        head, handlers, checksums, watch = _HEAD, self._handlers, self._checksums, self._watch
        previous, last = self._previous, page_end - RECORD_BYTES
        self._name = name
        while here <= last:
            length, xid, link, info, manager = head(data, here)
            end = here + length
            if end > page_end or length < RECORD_BYTES or link != previous or _LAST_BUILTIN < manager < _FIRST_CUSTOM:
                break
            start = begin + here
            after = (end + 7) & -8
            handler = handlers[manager]
            if checksums and not self._right(data, here, end, start):
                break
            if handler is not None:
                self._start = start
                handler(data, here, end, xid, info, start, begin + after)
                if self.stopped:
                    break
            if start >= watch and self.watched is None:
                self.watched = Lsn(start), Lsn(begin + after)
            previous, here = start, after
            if self._switch:
                break
        self._previous = previous
        return here

    def _begun(self, name: str, data: bytes, here: int, page_end: int, begin: int) -> int:
        """A record that goes on on the next page, or is not in order; gives where to go on."""
        length = int.from_bytes(data[here : here + 4], "little")
        if not RECORD_BYTES <= length <= _LONGEST_BYTES:
            self._stop(begin + here, "no further record" if length == 0 else f"a record of {length} bytes")
            return here
        on_page = min(length, page_end - here)
        self._start, self._name, self._left = begin + here, name, length - on_page
        part = data[here : here + on_page]
        if on_page < RECORD_BYTES or self._worth_keeping(part):
            self._parts = [part]
        here = (here + on_page + 7) & -8
        if not self._left:
            self._assembled(begin + here)
        return here

    def _assembled(self, end: int) -> None:
        """Judge the record that is now complete; it ends before ``end``."""
        parts, self._parts = self._parts, None
        if self.stopped or self._start < 0:
            return
        if parts is not None:
            record = b"".join(parts)
            _, xid, link, info, manager = _HEAD(record)
            self._check_link(link, manager)
            if self.stopped or (self._checksums and not self._right(record, 0, len(record), self._start)):
                return
            handler = self._handlers[manager]
            if handler is not None:
                handler(record, 0, len(record), xid, info, self._start, end)
                if self.stopped:
                    return
        self._previous = self._start
        if self._start >= self._watch and self.watched is None:
            self.watched = Lsn(self._start), Lsn(end)

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
        """Whether the record is looked into; stops the reader if it is not linked rightly."""
        self._check_link(int.from_bytes(head[8:16], "little"), head[17])
        return self._checksums or self._handlers[head[17]] is not None

    def _check_link(self, previous: int, manager: int) -> None:
        linked = previous == self._previous if self._previous >= 0 else previous < self._start
        if not linked or _LAST_BUILTIN < manager < _FIRST_CUSTOM:
            self._stop(self._start, "the record is not linked to the one before it")

    def _right(self, data: bytes, at: int, end: int, start: int) -> bool:
        """Whether the record's checksum is right; stops the reader if it is not."""
        if extend(value(data[at + RECORD_BYTES : end]), data[at : at + RECORD_BYTES - 4]) == _CRC(data, at + 20)[0]:
            return True
        self._stop(start, "the record's checksum is wrong")
        return False

    # -- what is looked into -----------------------------------------------------------------------

    def _transaction(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if not self._checksums and not self._right(data, at, end, start):
            return
        if not info & _COMMIT_INFO and end - at > RECORD_BYTES + 9:
            kind, _, microseconds = _PLAIN_COMMIT(data, at + RECORD_BYTES)
            if kind == _SHORT_DATA:
                self._committed(data, at, end, microseconds, xid, start, after)
                return
        found = commit_in(data[at:end], self._major)
        if found is not None:
            self._committed(data, at, end, *found, start, after)

    def _committed(self, data: bytes, at: int, end: int, microseconds: int, xid: int, start: int, after: int) -> None:
        self._found.add(microseconds, xid, start, after)

    def _log(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        kind = info & 0xF0
        if kind not in {_SEGMENT_SWITCH, _RESTORE_POINT} or not (self._checksums or self._right(data, at, end, start)):
            return
        if kind == _SEGMENT_SWITCH:
            self._switch = True
            return
        made, name = restore_point_in(data[at:end])
        point = RestorePoint(name=name, at=made, lsn=Lsn(start), end_lsn=Lsn(after), segment=self._name)
        self.restore_points.append(point)

    def _tablespace(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if info & 0xF0 or not (self._checksums or self._right(data, at, end, start)):
            return
        self.tablespaces.append(NewTablespace(*tablespace_in(data[at:end]), Lsn(start)))

    def _stop(self, position: int, why: str) -> None:
        self.stopped = f"valid WAL ends at {Lsn(position)}: {why}"
        self._left, self._parts = 0, None
