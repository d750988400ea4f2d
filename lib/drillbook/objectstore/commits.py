"""The commits around a recovery target, in the order of the WAL."""

from __future__ import annotations

from datetime import datetime

from drillbook.errors import ObjectStoreError
from drillbook.model import ArchivedCommit, Lsn
from drillbook.objectstore.layout import WalListing, wal_prefix
from drillbook.objectstore.protocol import ObjectStore
from drillbook.objectstore.scan import commits_in
from drillbook.objectstore.window import LOOK_BACK
from drillbook.wal import Chain, SegmentName


def commits_since(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    *,
    lsn: Lsn,
    at: datetime | None = None,
    system_id: str = "",
    look_back: int = LOOK_BACK,
) -> list[ArchivedCommit]:
    """Every archived commit from the segment that holds ``lsn``, and from one at or before ``at``, to the newest.

    Reads backwards, at most ``look_back`` segments: ObjectStoreError with the reason "TargetTooFarBack" after that.
    Raises what `newest_commit` raises of damaged segments.
    """
    first = lsn.value // reach.segment_bytes
    found: list[ArchivedCommit] = []
    name = ""
    for count, name in enumerate(reach.backwards()):
        if count == look_back:
            raise ObjectStoreError(
                f"the target lies more than {look_back} segments before the newest archived one (read back to {name})",
                reason="TargetTooFarBack",
                todo="Choose a later target, or recover to this one without the drill's proof.",
            )
        found[:0] = commits_in(store, listing, reach, name, system_id)
        if SegmentName.parse(name, reach.segment_bytes).number <= first and (
            at is None or any(commit.committed_at <= at for commit in found)
        ):
            break
    return found


def is_archived(store: ObjectStore, server_name: str, segment: str) -> bool:
    """Whether the segment is in the archive, whatever its compression."""
    prefix = f"{wal_prefix(server_name)}{segment[:16]}/{segment}"
    return any(
        item.size and not item.key.endswith(".partial") and ".backup" not in item.key for item in store.list(prefix)
    )
