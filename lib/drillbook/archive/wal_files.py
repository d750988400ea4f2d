"""Reading the archived WAL: segments and history files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from drillbook.archive.compression import decompress
from drillbook.archive.layout import PARALLEL, ArchivedSegment, HistoryObject, WalListing
from drillbook.archive.protocol import ObjectStore
from drillbook.errors import WalGap
from drillbook.postgres.wal import (
    MAX_SEGMENT_BYTES,
    Switch,
    WalFormatError,
    parse_history,
    segment_header,
)

_HISTORY_LIMIT = 1 << 20
STOPS = "Recovery stops at this segment. Take a new base backup, and find out what damaged the object."


def read_segment(store: ObjectStore, segment: ArchivedSegment) -> bytes:
    """The segment decompressed and whole.

    WalGap: it is there, but torn, damaged or no WAL of PostgreSQL 14 to 18, and the message names it. ObjectStoreError:
    the store's own answer, or a compression that is not known.
    """
    return unpacked(segment.name, store.get(segment.key), segment.compression)


def unpacked(name: str, stored: bytes, compression: str) -> bytes:
    """A segment's bytes from those that are stored; raises what `read_segment` raises of them."""
    data = decompress(stored, compression, name=f"segment {name}", limit=MAX_SEGMENT_BYTES)
    try:
        header = segment_header(data, f"segment {name}")
    except WalFormatError as error:
        raise WalGap(f"{error}, in the archive", todo=STOPS) from error
    if len(data) != header.segment_bytes:
        raise WalGap(f"segment {name} in the archive is torn: {len(data)} of {header.segment_bytes} bytes", todo=STOPS)
    return data


def read_history(store: ObjectStore, item: HistoryObject) -> tuple[Switch, ...]:
    """A timeline history file, parsed; WalGap: it is damaged."""
    name = f"{item.timeline:08X}.history"
    data = decompress(store.get(item.key), item.compression, name=name, limit=_HISTORY_LIMIT)
    try:
        switches = parse_history(data.decode())
        if not switches or switches[-1].timeline >= item.timeline:
            raise ValueError("it names no ancestor" if not switches else "it names a later timeline")
    except (ValueError, UnicodeDecodeError) as error:
        raise WalGap(
            f"{name} in the archive can't be read: {error}",
            todo="Recovery to this timeline can't find its way: archive the file again from pg_wal.",
        ) from error
    return switches


def histories(store: ObjectStore, listing: WalListing, *, needed: int = 0) -> dict[int, tuple[Switch, ...]]:
    """Every timeline history file of the listing, read and parsed; WalGap names one that is damaged.

    ``needed`` is the one timeline that recovery is to end on: all others' files that are damaged are left out then.
    """

    def read(item: HistoryObject) -> tuple[Switch, ...] | None:
        try:
            return read_history(store, item)
        except WalGap:
            if needed in (0, item.timeline):
                raise
            return None

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="histories") as pool:
        found = zip(listing.histories, pool.map(read, listing.histories.values()), strict=True)
        return {timeline: switches for timeline, switches in found if switches is not None}
