"""LSN, segment number and file name, for any segment size.

A WAL segment's file name is 24 upper-case hexadecimal digits: 8 of the timeline, then the segment number written as a
"log" of 4 GiB (8 digits) and the segment within it (8 digits). How many segments a log has depends on the segment
size, which is fixed by ``initdb``: a power of two from 1 MiB to 1 GiB. The base backup's ``backup.info`` says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Self

from drillbook.model import Lsn

MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 30
_LOG_BYTES = 1 << 32
_SEGMENT = re.compile(r"[0-9A-F]{24}")


def check_segment_bytes(segment_bytes: int) -> int:
    """``segment_bytes`` itself; ValueError unless it is a power of two from 1 MiB to 1 GiB."""
    power_of_two = segment_bytes > 0 and segment_bytes & (segment_bytes - 1) == 0
    if not power_of_two or not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
        raise ValueError(f"not a WAL segment size: {segment_bytes} bytes (expected a power of two, 1 MiB to 1 GiB)")
    return segment_bytes


class SegmentName(NamedTuple):
    """A WAL segment by timeline and segment number (its first LSN divided by the segment size)."""

    timeline: int
    number: int

    @classmethod
    def parse(cls, name: str, segment_bytes: int) -> Self:
        """The segment that a file name means; ValueError if it is none at this segment size."""
        if not _SEGMENT.fullmatch(name):
            raise ValueError(f"not a WAL segment's name: {name!r} (expected 24 upper-case hexadecimal digits)")
        per_log = _LOG_BYTES // segment_bytes
        timeline, log, within = int(name[:8], 16), int(name[8:16], 16), int(name[16:], 16)
        if within >= per_log or timeline == 0:
            raise ValueError(f"not a WAL segment's name at {segment_bytes} bytes a segment: {name}")
        return cls(timeline, log * per_log + within)

    def text(self, segment_bytes: int) -> str:
        """The file name."""
        log, within = divmod(self.number, _LOG_BYTES // segment_bytes)
        return f"{self.timeline:08X}{log:08X}{within:08X}"


def segment_name(timeline: int, lsn: Lsn | int, segment_bytes: int) -> str:
    """The name of the segment that holds the byte at ``lsn``. An LSN on a boundary belongs to the later segment."""
    value = lsn.value if isinstance(lsn, Lsn) else lsn
    return SegmentName(timeline, value // segment_bytes).text(segment_bytes)


def first_lsn(name: str, segment_bytes: int) -> Lsn:
    """The LSN of a segment's first byte; ValueError if ``name`` is no segment's name."""
    return Lsn(SegmentName.parse(name, segment_bytes).number * segment_bytes)


def next_segment(name: str, segment_bytes: int) -> str:
    """The name of the segment after ``name`` on the same timeline."""
    here = SegmentName.parse(name, segment_bytes)
    return here._replace(number=here.number + 1).text(segment_bytes)


def segment_names(first: str, last: str, segment_bytes: int) -> Iterator[str]:
    """The names from ``first`` to ``last``, both included; ValueError if they are on different timelines."""
    begin, end = SegmentName.parse(first, segment_bytes), SegmentName.parse(last, segment_bytes)
    if begin.timeline != end.timeline:
        raise ValueError(f"{first} and {last} lie on different timelines")
    for number in range(begin.number, end.number + 1):
        yield SegmentName(begin.timeline, number).text(segment_bytes)
