"""A commit in the archive whose place is about known, and whether a segment is there with those before it."""

from __future__ import annotations

from drillbook.archive.layout import wal_names, wal_prefix
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.snapshot import WalRange
from drillbook.model import ArchivedCommit, Lsn
from drillbook.postgres.wal import SegmentName

_XID_MASK = 0xFFFFFFFF
_SIDE_BY_SIDE = 128
"""More segments than any archiver sends at once."""


def commit_from(stretch: WalRange, xid: int, lsn: Lsn, *, last_segment: str = "") -> ArchivedCommit | None:
    """The commit of transaction ``xid``, whose record is at ``lsn`` or later; ``None`` if it isn't archived.

    Reads on from the segment that holds ``lsn``, at most to ``last_segment`` ("": the last that can be reached). Of a
    64-bit transaction id the lower 32 bits are compared. Raises what `WalRange.scan` raises.
    """
    end = stretch.reach.number(last_segment) + 1 if last_segment else None
    for _, scan in stretch.forwards(stretch.number(lsn), end):
        found = scan.commits.last_of(xid & _XID_MASK)
        if found is not None:
            return found
    return None


def is_archived(store: ObjectStore, server_name: str, segment: str, segment_bytes: int) -> bool:
    """Whether the segment is in the archive, whatever its compression, and none is missing just before it.

    Archivers send several segments side by side (CloudNativePG's ``wal.maxParallel``): the last may be there first.
    """
    prefix = f"{wal_prefix(server_name)}{segment[:16]}/{segment}"
    if not any(
        item.size and not item.key.endswith(".partial") and ".backup" not in item.key for item in store.list(prefix)
    ):
        return False
    name = SegmentName.parse(segment, segment_bytes)
    since = SegmentName(name.timeline, max(name.number - _SIDE_BY_SIDE, 0)).text(segment_bytes)
    numbers = wal_names(store, server_name, since=since).numbers(segment_bytes).get(name.timeline, ())
    near = [number for number in numbers if name.number - _SIDE_BY_SIDE <= number <= name.number]
    # An archive may begin anywhere: what is older than its first segment is not missing.
    return bool(near) and near == list(range(near[0], name.number + 1))
