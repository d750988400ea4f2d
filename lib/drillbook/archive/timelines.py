"""Which timeline of an archive is the cluster's own, how recovery keeps to it, and which other timelines lie there.

PostgreSQL's ``latest`` asks for one history file after the other, from the base backup's timeline on. Anyone who
archives into the same folder, a restored cluster that was never configured not to, makes it leave the cluster's own
timeline. So the own timeline is taken from the cluster, and every recovery names it, unless PostgreSQL can't be given
its number: of a timeline without a history file it says "recovery target timeline N does not exist", though a base
backup of that timeline needs none.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from drillbook.archive.layout import ArchivedSegment, WalListing
from drillbook.errors import PreconditionError
from drillbook.model import BaseBackup, Lsn, show_instant
from drillbook.postgres.wal import Branch, Histories, Numbers, Switch, branches, newest_timeline

_SEGMENT_BYTES = 16 << 20  # what fork points are divided by where no base backup says the segment size


def own_timeline(
    said: int, listing: WalListing, histories: Histories, backups: Sequence[BaseBackup], *, ignored: Iterable[int] = ()
) -> int:
    """The cluster's own timeline: ``said`` by the cluster or the profile, else what the archive leaves no doubt about.

    Without ``said`` (0) it is the newest timeline, ``ignored`` ones (another system's) aside. PreconditionError:
    another timeline went on after the newest one had left it, so that either may be the cluster's: nothing is
    guessed.
    """
    if said:
        return said
    found = {*listing.timelines, *histories, *(backup.timeline for backup in backups)} - set(ignored)
    if not found:
        return 1
    newest = max(found)
    rivals = _rivals(newest, found, listing, histories, _segment_bytes(backups))
    if rivals:
        last = listing.last(newest)
        shown = [f"timeline {newest} ({_newest(last)})" if last else f"timeline {newest} (no segment)"]
        shown += [f"timeline {segment.name[:8].lstrip('0')} ({_newest(segment)})" for segment in rivals]
        raise PreconditionError(
            f"{listing.server_name} holds several timelines that went on after they had parted: {', '.join(shown)}; "
            "nothing says which of them is the cluster's",
            todo="Set archive.timeline in the profile (for an older folder the timeline of its entry in "
            "archive.server_names) to the one that production was on; the other one was archived by a restored or "
            "failed-over server.",
        )
    return newest


def target_timeline(own: int, backup: BaseBackup, histories: Histories) -> int:
    """The timeline that recovery from ``backup`` can be led to: the cluster's own, wherever its history is archived.

    Where ``own``'s history file is missing and the backup is of an older timeline, recovery gets no further than the
    newest one before it that ``latest`` would find.
    """
    if own in (1, backup.timeline) or own in histories:
        return own
    return newest_timeline(backup.timeline, {number: way for number, way in histories.items() if number < own})


def pinned(timeline: int, backup: BaseBackup, histories: Container[int]) -> int | None:
    """What ``targetTLI`` must be so that recovery from ``backup`` ends on ``timeline``; ``None``: it must be left out.

    ``histories`` are the timelines whose history files are there, whether they can be read or not.
    PreconditionError: PostgreSQL can't be given the number, and without it would leave the timeline.
    """
    if timeline == 1 or timeline in histories:
        return timeline
    if newest_timeline(backup.timeline, histories) == timeline:
        return None
    raise PreconditionError(
        f"{timeline:08X}.history is not in the archive, so that recovery can't be given targetTLI {timeline}; without it "
        f"PostgreSQL would leave the cluster's timeline by {timeline + 1:08X}.history",
        todo=f"Archive {timeline:08X}.history again from pg_wal of an instance, or move {timeline + 1:08X}.history out of "
        "the folder if another server archived it.",
    )


class Stray(NamedTuple):
    """A timeline of the archive that is neither the cluster's own nor one that it came from.

    It left ``left`` at ``at`` (0 and ``None``: its history does not meet the cluster's, or is not there). ``beyond``
    segments of the cluster's own way end after that, the newest of them ``newest``: what following it would lose.
    """

    timeline: int
    left: int
    at: Lsn | None
    segments: int
    archived_at: datetime | None
    beyond: int
    newest: ArchivedSegment | None


def strays(
    own: int, listing: WalListing, histories: Histories, numbers: Numbers, segment_bytes: int
) -> tuple[Stray, ...]:
    """Every timeline that is not on the way to ``own``, ascending."""
    way = way_to(own, histories)
    on = {branch.timeline: branch for branch in way}
    found = []
    for timeline in sorted({*listing.timelines, *histories} - set(on)):
        left, at = _fork(histories.get(timeline, ()), on)
        if at is None and timeline < way[0].timeline:
            continue  # from before the way that is known: an ancestor, or of no use to anybody
        beyond = _beyond(way, at, numbers, segment_bytes) if at is not None else []
        history = listing.histories.get(timeline)
        last = listing.last(timeline)
        newest = None
        if beyond:
            owner, number = beyond[-1][0], beyond[-1][2]
            newest = listing.numbered(owner, number, segment_bytes)
        found.append(
            Stray(
                timeline,
                left,
                at,
                len(numbers.get(timeline, ())),
                history.modified if history else last.modified if last else None,
                sum(count for _, count, _ in beyond),
                newest,
            )
        )
    return tuple(found)


def way_to(own: int, histories: Histories) -> tuple[Branch, ...]:
    """The way to ``own`` as far as it is known: without its history file, only the timeline itself."""
    try:
        return branches(own, histories)
    except ValueError:
        return (Branch(own, Lsn(0), None),)


def _fork(history: Sequence[Switch], on: dict[int, Branch]) -> tuple[int, Lsn | None]:
    """Where a history leaves the cluster's way: the last of the way's timelines that it was on, and until when."""
    found: tuple[int, Lsn | None] = (0, None)
    for timeline, lsn, _ in history:
        if timeline not in on:
            break
        found = timeline, lsn
        if on[timeline].end != lsn:
            break
    return found


def _beyond(way: Sequence[Branch], at: Lsn, numbers: Numbers, segment_bytes: int) -> list[tuple[int, int, int]]:
    """(timeline, count, last number) of the way's segments from the one on that holds ``at``."""
    first = at.value // segment_bytes
    found = []
    for branch in way:
        mine = numbers.get(branch.timeline, array("Q"))
        low = bisect_left(mine, max(first, branch.begin.value // segment_bytes))
        high = len(mine) if branch.end is None else bisect_left(mine, branch.end.value // segment_bytes)
        if high > low:
            found.append((branch.timeline, high - low, mine[high - 1]))
    return found


def _rivals(
    newest: int, found: set[int], listing: WalListing, histories: Histories, segment_bytes: int
) -> list[ArchivedSegment]:
    """The newest segments of the timelines that went on after ``newest`` was there."""
    history = listing.histories.get(newest)
    first = listing.first(newest)
    born = min((item.modified for item in (history, first) if item is not None), default=None)
    if born is None:
        return []
    ends = {branch.timeline: branch.end for branch in way_to(newest, histories)}
    rivals = []
    for timeline in sorted(found - {newest}):
        last = listing.last(timeline)
        if last is None or last.modified <= born:
            continue
        end = ends.get(timeline)
        if end is None or last.number(segment_bytes) > end.value // segment_bytes:
            rivals.append(last)
    return rivals


def _segment_bytes(backups: Sequence[BaseBackup]) -> int:
    return backups[-1].segment_bytes if backups else _SEGMENT_BYTES


def _newest(segment: ArchivedSegment) -> str:
    return f"its newest segment {segment.name} archived {show_instant(segment.modified)}"


__all__ = ["Stray", "own_timeline", "pinned", "strays", "target_timeline", "way_to"]
