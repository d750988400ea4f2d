"""What is wrong with the archived WAL: each hole in a chain with its state, and damage found by sampling."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

from drillbook.archive.layout import wal_prefix
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.snapshot import ArchiveSnapshot, WalRange
from drillbook.archive.wal_files import read_segment
from drillbook.errors import WalGap
from drillbook.model import BaseBackup, Frozen, show_seconds
from drillbook.postgres.wal import Chain, Gap, WalFormatError, WalReader

ARCHIVE_TIMEOUT_SECONDS = 300.0
"""CloudNativePG's default of ``archive_timeout``."""

SAMPLES = 2
MOST_SAMPLED_BYTES = 32 << 20


class WalState(StrEnum):
    """Why recovery can't use a segment."""

    LOST = "lost"
    DELAYED = "delayed"
    UPLOADING = "uploading"
    PARTIAL = "partial"
    EMPTY = "zero-length"
    DAMAGED = "damaged"

    @property
    def passing(self) -> bool:
        """Whether it may well resolve itself: look again before anything is done."""
        return self in {WalState.DELAYED, WalState.UPLOADING}


_TODO = {
    WalState.LOST: "Bring it back (pg_wal of an instance or another copy of the bucket may still have it), or take a base backup now.",
    WalState.DELAYED: "Look again in a minute; if it is still missing then, it is lost.",
    WalState.UPLOADING: "Look again in a minute; an upload that stays was abandoned.",
    WalState.PARTIAL: "Recovery doesn't read a .partial: the timeline that follows must hold the segment, or take a base backup now.",
    WalState.EMPTY: "Archive it again from pg_wal of an instance, or take a base backup now.",
    WalState.DAMAGED: "Archive it again from pg_wal of an instance, or take a base backup now; find out what damaged it.",
}


class BrokenWal(Frozen):
    """Segments that recovery can't use, from the first to the last, all for one reason."""

    first_segment: str
    last_segment: str
    segments: int
    state: WalState
    why: str

    @property
    def todo(self) -> str:
        """What to do about it."""
        return _TODO[self.state]

    def __str__(self) -> str:
        span = self.first_segment if self.segments == 1 else f"{self.first_segment} to {self.last_segment}"
        return f"{span} {self.state}: {self.why}"


def uploading(store: ObjectStore, server_name: str) -> frozenset[str] | None:
    """The names of the segments that are being uploaded in parts; ``None`` if the store doesn't tell."""
    keys = store.uploads(wal_prefix(server_name))
    return None if keys is None else frozenset(key.rpartition("/")[2][:24] for key in keys)


def broken_wal(
    held: ArchiveSnapshot,
    backup: BaseBackup,
    *,
    now: datetime,
    timeline: int = 0,
    under_way: frozenset[str] | None = None,
    archive_timeout_seconds: float = ARCHIVE_TIMEOUT_SECONDS,
) -> tuple[BrokenWal, ...]:
    """Every gap in the chain from ``backup``, distinguished by state; nothing is read but the listing.

    A segment whose successor came less than ``archive_timeout_seconds`` ago is delayed: ``wal.maxParallel`` uploads may
    end out of order. ``under_way`` is what `uploading` answered.
    """
    reach = held.chain(backup, timeline)
    known = _known(held, reach, under_way)
    found: list[BrokenWal] = []
    for gap in reach.gaps:
        following = held.listing.segment(reach.name_at(reach.number(gap.last_missing) + 1))
        since = (now - (following.modified if following else backup.end_time)).total_seconds()
        if since < archive_timeout_seconds:
            what = "the segment after it" if following else "the base backup"
            rest = WalState.DELAYED, f"missing, but {what} is only {show_seconds(max(since, 0))} old"
        else:
            rest = WalState.LOST, f"missing; what follows has been there for {show_seconds(since)}"
        found += _told_apart(reach, gap, known, rest)
    return tuple(found)


Told = tuple[WalState, str]


def _known(held: ArchiveSnapshot, reach: Chain, under_way: frozenset[str] | None) -> dict[str, Told]:
    """What the listing itself tells of segments that can't be used."""
    listing = held.listing
    known: dict[str, Told] = dict.fromkeys(under_way or (), (WalState.UPLOADING, "an upload in parts is under way"))
    known |= dict.fromkeys(listing.partial, (WalState.PARTIAL, "only a .partial object is there"))
    for name in listing.torn(reach.segment_bytes):
        size = segment.size if (segment := listing.segment(name)) else 0
        known[name] = WalState.DAMAGED, f"stored uncompressed with {size} of {reach.segment_bytes} bytes"
    known |= dict.fromkeys(listing.empty, (WalState.EMPTY, "the object is there and has no byte"))
    return known


def _told_apart(reach: Chain, gap: Gap, known: dict[str, Told], rest: Told) -> Iterator[BrokenWal]:
    """The gap in runs of one state; work is linear in the special segments, however long the gap."""
    begin, end = reach.number(gap.first_missing), reach.number(gap.last_missing)
    numbers = (_number(reach, name) for name in known)
    special = sorted({n for n in numbers if begin <= n <= end and reach.name_at(n) in known})
    at = begin
    for number in [*special, end + 1]:
        if number > at:
            yield _broken(reach, at, number - 1, rest)
        if number <= end:
            yield _broken(reach, number, number, known[reach.name_at(number)])
        at = number + 1


def _number(reach: Chain, name: str) -> int:
    """The segment's number; −1 for what is no segment of this size."""
    try:
        return reach.number(name)
    except ValueError:
        return -1


def _broken(reach: Chain, first: int, last: int, told: Told) -> BrokenWal:
    state, why = told
    return BrokenWal(
        first_segment=reach.name_at(first),
        last_segment=reach.name_at(last),
        segments=last - first + 1,
        state=state,
        why=why,
    )


class SampledSegments(Frozen):
    """Segments that were read through, and those of them that are damaged."""

    segments: tuple[str, ...]
    damaged: tuple[BrokenWal, ...]


def sample(stretch: WalRange, *, most: int = SAMPLES, most_bytes: int = MOST_SAMPLED_BYTES) -> SampledSegments:
    """Read a few segments of a chain through: page headers, the records' links and every record's checksum.

    The newest one, the one in which the base backup ends, and others evenly from a random beginning; at most
    ``most``, and at most ``most_bytes`` (but one in any case). Raises ObjectStoreError.
    """
    reach = stretch.reach
    count = stretch.last - stretch.first + 1
    most = min(most, max(1, most_bytes // reach.segment_bytes), count)
    numbers = [stretch.last, min(stretch.last, stretch.number(stretch.backup.end_lsn))][:most]
    begin = secrets.randbelow(count) if count > 0 else 0
    numbers += [stretch.first + (begin + n * count // most) % count for n in range(most)]
    chosen = list(dict.fromkeys(numbers))[:most]
    told = [(number, _damage(stretch, number)) for number in sorted(chosen)]
    return SampledSegments(
        segments=tuple(reach.name_at(number) for number, _ in told),
        damaged=tuple(_broken(reach, number, number, (WalState.DAMAGED, why)) for number, why in told if why),
    )


def _damage(stretch: WalRange, number: int) -> str:
    name = stretch.reach.name_at(number)
    listed = stretch.held.listing.segment(name)
    if listed is None:
        return "no longer in the listing"
    reader = WalReader(expected_system_id=stretch.held.system_id, checksums=True)
    try:
        reader.feed(name, read_segment(stretch.held.store, listed))
    except WalGap as error:
        return error.what
    except WalFormatError as error:
        return str(error)
    # The newest segment may end early: it was switched before it was full, or its last record goes on in the next.
    return reader.stopped if number != stretch.last else ""
