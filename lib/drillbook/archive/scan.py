"""What one archived segment holds: its commits, its restore points, and where its last record starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drillbook.archive.layout import ArchivedSegment, WalListing
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.wal_files import STOPS, read_segment
from drillbook.errors import ObjectStoreError, WalGap
from drillbook.model import Lsn, RestorePoint
from drillbook.postgres.wal import Chain, Commits, NewTablespace, SegmentName, WalFormatError, WalReader


class Scan(NamedTuple):
    """The commits, restore points and new tablespaces that begin in one segment, oldest first.

    ``last_record`` is where its last record starts, ``None`` if none starts in it.
    """

    commits: Commits
    restore_points: tuple[RestorePoint, ...]
    last_record: Lsn | None
    tablespaces: tuple[NewTablespace, ...] = ()


def scan(store: ObjectStore, listing: WalListing, reach: Chain, name: str, system_id: str) -> Scan:
    """Read segment ``name`` and, where its last record goes on, the rest of it from the segments after it.

    WalGap: a segment on the way is torn, damaged or another system's. ObjectStoreError: the store's own answer.
    """
    reader = WalReader(expected_system_id=system_id)
    commits = Commits()
    last_record: Lsn | None = None
    for here in _from(reach, SegmentName.parse(name, reach.segment_bytes).number):
        found = _feed(reader, store, listing, reach, here)
        if here == name:
            commits, last_record = found, reader.last_record
        elif found and commits.begin <= found[0].lsn.value < found.begin:
            commits.copy(found, 0)
        if not reader.pending:
            break
    return Scan(
        commits,
        tuple(point for point in reader.restore_points if point.segment == name),
        last_record,
        tuple(
            made for made in reader.tablespaces if commits.begin <= made.lsn.value < commits.begin + reach.segment_bytes
        ),
    )


def commits_in(store: ObjectStore, listing: WalListing, reach: Chain, name: str, system_id: str) -> Commits:
    """The commits that begin in segment ``name``."""
    return scan(store, listing, reach, name, system_id).commits


def record_from(
    store: ObjectStore, listing: WalListing, reach: Chain, lsn: Lsn, *, system_id: str, look_ahead: int
) -> tuple[Lsn, Lsn] | None:
    """Where the first whole record at ``lsn`` or later starts and ends, ``None`` if the reachable WAL has none.

    Reads on from the segment that holds ``lsn``, at most ``look_ahead`` segments. Raises what `scan` raises.
    """
    reader = WalReader(expected_system_id=system_id, watch=lsn)
    for count, here in enumerate(_from(reach, lsn.value // reach.segment_bytes)):
        _feed(reader, store, listing, reach, here)
        if reader.watched is not None:
            return reader.watched
        if count + 1 == look_ahead:
            break
    return None


def _from(reach: Chain, number: int) -> Iterator[str]:
    """The names of the reachable segments from ``number`` on."""
    if reach.last_segment:
        for following in range(number, SegmentName.parse(reach.last_segment, reach.segment_bytes).number + 1):
            yield reach.name_at(following)


def _feed(reader: WalReader, store: ObjectStore, listing: WalListing, reach: Chain, here: str) -> Commits:
    try:
        found = reader.feed(here, read_segment(store, _listed(listing, here)))
    except WalFormatError as error:
        raise WalGap(f"segment {error}, in the archive", todo=STOPS) from error
    if reader.stopped and here != reach.last_segment:
        raise WalGap(f"segment {here} in the archive is damaged: {reader.stopped}", todo=STOPS)
    return found


def _listed(listing: WalListing, name: str) -> ArchivedSegment:
    found = listing.segment(name)
    if found is None:
        raise ObjectStoreError(
            f"segment {name} is on the chain but not in this listing",
            reason="ListingTooShort",
            todo="List the WAL again and make the chain from that listing.",
        )
    return found
