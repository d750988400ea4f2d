"""A commit in the archive whose place is about known, and whether a segment is there."""

from __future__ import annotations

from drillbook.archive.layout import wal_prefix
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.snapshot import WalRange
from drillbook.model import ArchivedCommit, Lsn

_XID_MASK = 0xFFFFFFFF


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


def is_archived(store: ObjectStore, server_name: str, segment: str) -> bool:
    """Whether the segment is in the archive, whatever its compression."""
    prefix = f"{wal_prefix(server_name)}{segment[:16]}/{segment}"
    return any(
        item.size and not item.key.endswith(".partial") and ".backup" not in item.key for item in store.list(prefix)
    )
