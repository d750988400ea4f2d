"""WAL page headers, PostgreSQL 14 to 18, little-endian.

A segment is a run of pages (8 KiB unless PostgreSQL was built otherwise). Each begins with a header: 16 bits magic (one
value a major version), 16 bits flags, timeline, the page's LSN, and how many bytes of a record from the pages before
are still to come; padded to 24 bytes. A segment's first page adds system identifier, segment size and page size: 40.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from drillbook.model import Lsn

MAJOR_BY_MAGIC = {0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
CONTINUES = 0x0001  # the page begins with the rest of a record
LONG_HEADER = 0x0002
OVERWRITTEN = 0x0008  # the record before was never finished (a crash); what begins here replaces its rest
ALL_FLAGS = 0x000F
SHORT_BYTES = 24
LONG_BYTES = 40

_HEADER = Struct("<HHIQI")
_LONG = Struct("<QII")


class WalFormatError(ValueError):
    """The bytes are not the WAL that they should be; the message says what was found and expected."""


class PageHeader(NamedTuple):
    """The header of one page; ``remaining`` in bytes."""

    magic: int
    flags: int
    timeline: int
    address: int
    remaining: int

    @property
    def size(self) -> int:
        """Bytes of this header."""
        return LONG_BYTES if self.flags & LONG_HEADER else SHORT_BYTES


@dataclass(frozen=True)
class SegmentHeader:
    """What a segment says of itself on its first page; sizes in bytes."""

    major: int
    timeline: int
    begin_lsn: Lsn
    system_id: str
    segment_bytes: int
    page_bytes: int
    magic: int


def page_header(data: bytes, offset: int) -> PageHeader:
    """The page header at ``offset``, unchecked."""
    return PageHeader(*_HEADER.unpack_from(data, offset))


def segment_header(data: bytes, name: str = "segment") -> SegmentHeader:
    """What the first page says; WalFormatError names the segment if it is no WAL of PostgreSQL 14 to 18."""
    if len(data) < LONG_BYTES:
        raise WalFormatError(f"{name} has {len(data)} bytes: not even a page header")
    page = page_header(data, 0)
    major = MAJOR_BY_MAGIC.get(page.magic)
    if major is None or not page.flags & LONG_HEADER:
        raise WalFormatError(f"{name} does not begin like WAL of PostgreSQL 14 to 18 (page magic {page.magic:04X})")
    system_id, segment_bytes, page_bytes = _LONG.unpack_from(data, SHORT_BYTES)
    return SegmentHeader(major, page.timeline, Lsn(page.address), str(system_id), segment_bytes, page_bytes, page.magic)
