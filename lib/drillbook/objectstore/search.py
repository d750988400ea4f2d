"""Committed changes in the archived WAL between two instants, in the order of the WAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from drillbook.errors import WalGap
from drillbook.objectstore.archive import STOPS, read_segment
from drillbook.objectstore.holdings import CLOCKS
from drillbook.objectstore.layout import WalListing
from drillbook.objectstore.protocol import ObjectStore
from drillbook.wal import Chain, ChangeReader, Changes, SegmentName, WalFormatError


def changes_between(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    *,
    since: datetime,
    until: datetime,
    system_id: str = "",
    say: Callable[[str], Any] = lambda _: None,
) -> Iterator[Changes]:
    """What was committed between ``since`` and ``until`` along ``reach``: every segment in between is read, however many.

    Reading begins at the newest segment that was archived some minutes before ``since``, so a transaction that began
    earlier is seen with what it did from there on. ``say`` is told of each segment. WalGap: a segment on the way is damaged.
    """
    names = list(_from(reach, listing, since - CLOCKS))
    reader = ChangeReader(expected_system_id=system_id)
    for count, name in enumerate(names, 1):
        say(f"reading {name}, {count} of {len(names)}")
        segment = listing.segment(name)
        if segment is None:
            return
        try:
            found = reader.changes(name, read_segment(store, segment))
        except WalFormatError as error:
            raise WalGap(f"segment {error}, in the archive", todo=STOPS) from error
        for changes in found:
            if since <= changes.committed_at <= until:
                yield changes
        if reader.stopped or (found and found[0].committed_at > until):
            return


def _from(reach: Chain, listing: WalListing, since: datetime) -> Iterator[str]:
    """The chain's segments from the newest that was archived before ``since``, oldest first."""
    if not reach.last_segment:
        return
    first = SegmentName.parse(reach.begin_wal, reach.segment_bytes).number
    last = SegmentName.parse(reach.last_segment, reach.segment_bytes).number
    begin = first
    for name in reach.backwards():
        segment = listing.segment(name)
        if segment is not None and segment.modified < since:
            begin = SegmentName.parse(name, reach.segment_bytes).number
            break
    yield from (reach.name_at(number) for number in range(begin, last + 1))


__all__ = ["changes_between"]
