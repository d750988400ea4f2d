"""Whose archive it is: database clusters distinguished by PostgreSQL's system identifier.

An ``initdb`` into a folder that was used before leaves two systems in it, whose WAL has the same names. A base backup's
``backup.info`` and the first page of every segment say which system they are of.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drillbook.archive.catalogue import Catalogue
from drillbook.archive.layout import ArchivedSegment, WalListing
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.wal_files import read_segment
from drillbook.errors import PreconditionError, WalGap
from drillbook.model import show_instant
from drillbook.postgres.wal import WalFormatError, segment_header

_MOST_TIMELINES = 16


def own_system(store: ObjectStore, listing: WalListing, found: Catalogue) -> str:
    """The one system that all base backups and WAL of a folder are of; "" if nothing in it can be read.

    Read are every ``backup.info`` and of each of the newest timelines its last segment, by number and by time.
    PreconditionError: there are several systems; which of them is the cluster's is not guessed.
    """
    seen: dict[str, tuple[datetime, str]] = {}

    def note(system_id: str, at: datetime | None, what: str) -> None:
        if at is not None and (system_id not in seen or seen[system_id][0] < at):
            seen[system_id] = at, what

    for entry in found.entries:
        if entry.system_id:
            note(
                entry.system_id,
                entry.backup.end_time if entry.backup else entry.modified,
                f"base backup {entry.backup_id}",
            )
    for segment in _ends(listing):
        if system_id := system_of(store, segment):
            note(system_id, segment.modified, f"segment {segment.name}")
    if len(seen) > 1:
        shown = ", ".join(
            f"{system_id} (newest: {what} at {show_instant(at)})"
            for system_id, (at, what) in sorted(seen.items(), key=lambda item: item[1], reverse=True)
        )
        raise PreconditionError(
            f"{listing.server_name} holds the archives of {len(seen)} database systems: {shown}; nothing says which of them "
            "is the cluster's",
            todo="Set identity.system_identifier in the profile to the one that is meant.",
        )
    return next(iter(seen), "")


def foreign_timelines(store: ObjectStore, listing: WalListing, system_id: str) -> frozenset[int]:
    """The timelines whose last archived segment is another system's."""
    found = ((timeline, listing.latest(timeline)) for timeline in listing.timelines[-_MOST_TIMELINES:])
    return frozenset(
        timeline for timeline, segment in found if segment and system_of(store, segment) not in ("", system_id)
    )


def system_of(store: ObjectStore, segment: ArchivedSegment) -> str:
    """The system that a segment is of; "" if its first page can't be read."""
    try:
        return segment_header(read_segment(store, segment), f"segment {segment.name}").system_id
    except (WalGap, WalFormatError):
        return ""


def _ends(listing: WalListing) -> Iterator[ArchivedSegment]:
    for timeline in listing.timelines[-_MOST_TIMELINES:]:
        ends = (listing.last(timeline), listing.latest(timeline))
        yield from {segment.name: segment for segment in ends if segment}.values()


__all__ = ["foreign_timelines", "own_system", "system_of"]
