"""The WAL chain: from a base backup's first segment, over timeline switches, to the archive's newest segment.

What must be there is one segment for each segment number, on the timeline that owns it. At a switch the segment that
holds the switch's LSN belongs to the later timeline: PostgreSQL copies the old timeline's part into it, and the old
timeline's own copy is at best a ``.partial``. Work and memory are linear in the number of names: eight bytes a name.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from drillbook.model import Lsn
from drillbook.postgres.wal.arithmetic import SegmentName, check_segment_bytes
from drillbook.postgres.wal.history import Branch, Histories, branches, newest_timeline

_LOG_BYTES = 1 << 32

Numbers = Mapping[int, "array[int]"]
"""Segment numbers by timeline: ascending, each once."""


@dataclass(frozen=True)
class Gap:
    """Segments that should be there and are not: the first, the last, and how many."""

    first_missing: str
    last_missing: str
    count: int

    def __str__(self) -> str:
        if self.count == 1:
            return f"segment {self.first_missing} is missing"
        return f"{self.count} segments from {self.first_missing} to {self.last_missing} are missing"


@dataclass(frozen=True)
class Chain:
    """What recovery from one base backup finds in the archive.

    ``last_segment`` is the last that can be reached without a gap ("" if not even the first is there), ``end_lsn`` the
    LSN after its last byte, ``newest_segment`` the last that the archive holds on the way. ``problem`` says in a
    sentence why the chain is broken, "" if it isn't. ``strange`` names are no segment of this size; ``unlinked``
    timelines are newer and hold segments, but the history file that would lead recovery there is missing.
    """

    begin_wal: str
    timeline: int
    timelines: tuple[int, ...]
    branches: tuple[Branch, ...]
    segment_bytes: int
    end_lsn: Lsn
    last_segment: str = ""
    newest_segment: str = ""
    segments: int = 0
    gaps: tuple[Gap, ...] = ()
    problem: str = ""
    strange: tuple[str, ...] = ()
    unlinked: tuple[int, ...] = ()

    def number(self, name: str) -> int:
        """The segment number that a name means at this chain's segment size."""
        return SegmentName.parse(name, self.segment_bytes).number

    @property
    def unbroken(self) -> bool:
        """Whether every segment from the first to the newest is there."""
        return not self.problem

    @property
    def first_missing(self) -> str:
        """The first segment that is missing, "" if none is."""
        return self.gaps[0].first_missing if self.gaps else ""

    def backwards(self) -> Iterator[str]:
        """The names that recovery can reach, newest first."""
        if not self.last_segment:
            return
        first = SegmentName.parse(self.begin_wal, self.segment_bytes).number
        last = SegmentName.parse(self.last_segment, self.segment_bytes).number
        for number in range(last, first - 1, -1):
            yield SegmentName(self.owner(number), number).text(self.segment_bytes)

    def owner(self, number: int) -> int:
        """The timeline that owns the segment of this number on the way."""
        first = SegmentName.parse(self.begin_wal, self.segment_bytes)
        if number == first.number:
            return first.timeline
        for branch in reversed(self.branches):
            if branch.begin.value // self.segment_bytes <= number:
                return branch.timeline
        raise ValueError(f"segment number {number} is before every timeline")

    def name_at(self, number: int) -> str:
        """The name of the segment of this number on the way."""
        return SegmentName(self.owner(number), number).text(self.segment_bytes)


def chain(
    begin_wal: str,
    timeline: int,
    names: Iterable[str] | Numbers,
    histories: Histories,
    segment_bytes: int,
    *,
    begin_lsn: Lsn | None = None,
    torn: Iterable[str] = (),
) -> Chain:
    """The chain from ``begin_wal`` to the newest of ``names`` on the way to ``timeline`` (0: the newest timeline).

    ``names`` are segment names in any order (a name twice counts once), or numbers that were made of them before:
    then ``torn`` ones are not among them, but are named so that the sentence can say it. ``begin_lsn`` is the base
    backup's: with it, a backup that was made after its timeline had been left is recognised. ``torn`` names are there
    but can't be used: they count as missing and the sentence says so. ValueError: ``begin_wal`` or ``segment_bytes``
    is no such thing.
    """
    check_segment_bytes(segment_bytes)
    start = SegmentName.parse(begin_wal, segment_bytes)
    target = timeline or newest_timeline(start.timeline, histories)
    unusable = frozenset(torn)
    by_timeline: Numbers
    strange: tuple[str, ...] = ()
    if isinstance(names, Mapping):
        by_timeline = names
    else:
        by_timeline, strange = _by_timeline(names, segment_bytes, unusable)
    try:
        way = branches(target, histories)
    except ValueError as error:
        if target != start.timeline:
            return _empty(begin_wal, target, segment_bytes, (), f"{error}: {begin_wal} can't be linked to it", strange)
        # A base backup's own timeline needs no history: recovery begins on it.
        way = (Branch(target, Lsn(0), None),)
    if problem := _not_on_the_way(start, way, begin_lsn, segment_bytes):
        return _empty(begin_wal, target, segment_bytes, way, problem, strange)

    present = 0
    missing: list[tuple[int, int]] = []  # ranges of segment numbers, end excluded
    expected = start.number
    newest = start.number - 1
    for owner, first, end in _owned(start, way, segment_bytes):
        numbers = by_timeline.get(owner, array("Q"))
        low = bisect_left(numbers, first)
        high = len(numbers) if end is None else bisect_left(numbers, end)
        if low == high:
            continue
        present += high - low
        if numbers[low] > expected:
            missing.append((expected, numbers[low]))
        # Whole stretches without a hole are the rule: only look inside where the count says that something is missing.
        if numbers[high - 1] - numbers[low] != high - low - 1:
            missing.extend((a + 1, b) for a, b in pairwise(numbers[low:high]) if b > a + 1)
        newest = numbers[high - 1]
        expected = newest + 1
    if newest < start.number and not missing:
        missing.append((start.number, start.number + 1))
    last = missing[0][0] - 1 if missing else newest

    found = Chain(
        begin_wal=begin_wal,
        timeline=target,
        timelines=tuple(branch.timeline for branch in way if branch.timeline >= start.timeline),
        branches=way,
        segment_bytes=segment_bytes,
        end_lsn=Lsn((last + 1) * segment_bytes),
        segments=present,
        strange=strange,
        unlinked=() if timeline else tuple(sorted(t for t in by_timeline if t > target)),
    )
    gaps = tuple(Gap(found.name_at(a), found.name_at(b - 1), b - a) for a, b in missing)
    return replace(
        found,
        last_segment=found.name_at(last) if last >= start.number else "",
        newest_segment=found.name_at(newest) if newest >= start.number else "",
        gaps=gaps,
        problem=_told(gaps, unusable),
    )


def _told(gaps: tuple[Gap, ...], torn: frozenset[str]) -> str:
    """The gaps as a sentence; at most three of them, and which segments are there but can't be used."""
    if not gaps:
        return ""
    text = "; ".join(str(gap) for gap in gaps[:3])
    if len(gaps) > 3:
        text += f"; and {len(gaps) - 3} more gaps"
    damaged = sorted(torn & {name for gap in gaps for name in (gap.first_missing, gap.last_missing)})
    return f"{text} ({', '.join(damaged)}: there, but torn or empty)" if damaged else text


def _by_timeline(
    names: Iterable[str], segment_bytes: int, torn: frozenset[str]
) -> tuple[dict[int, array[int]], tuple[str, ...]]:
    """Sorted segment numbers by timeline, each once, and the first names that are none at this segment size."""
    per_log = _LOG_BYTES // segment_bytes
    found: dict[str, array[int]] = {}
    strange: list[str] = []
    prefix, numbers = "", array("Q")
    for name in names:
        if name in torn:
            continue
        if name[:8] != prefix:
            prefix = name[:8]
            numbers = found.setdefault(prefix, array("Q"))
        try:
            key = int(name[8:], 16)
            within = key & 0xFFFFFFFF
            if len(name) != 24 or within >= per_log:
                raise ValueError(name)
            numbers.append((key >> 32) * per_log + within)
        except ValueError:
            if len(strange) < 12:
                strange.append(name)
    return {int(prefix, 16): sorted_once(numbers) for prefix, numbers in found.items() if numbers}, tuple(strange)


def sorted_once(numbers: array[int]) -> array[int]:
    """Ascending and each number once; a listing is nearly always that already."""
    if all(a < b for a, b in pairwise(numbers)):
        return numbers
    once = array("Q")
    for number in sorted(numbers):
        if not once or once[-1] != number:
            once.append(number)
    return once


def _owned(start: SegmentName, way: tuple[Branch, ...], segment_bytes: int) -> Iterator[tuple[int, int, int | None]]:
    """(timeline, first segment number, end) from ``start`` on; the first segment is the backup's own timeline's."""
    yield start.timeline, start.number, start.number + 1
    for branch in way:
        first = max(branch.begin.value // segment_bytes, start.number + 1)
        end = None if branch.end is None else branch.end.value // segment_bytes
        if branch.timeline >= start.timeline and (end is None or end > first):
            yield branch.timeline, first, end


def _not_on_the_way(start: SegmentName, way: tuple[Branch, ...], begin_lsn: Lsn | None, segment_bytes: int) -> str:
    """Why a backup that starts here can't reach the end of ``way``, "" if it can."""
    target = way[-1].timeline
    own = next((branch for branch in way if branch.timeline == start.timeline), None)
    if own is None:
        return f"timeline {target} does not descend from the base backup's timeline {start.timeline}"
    begin = begin_lsn.value if begin_lsn is not None else start.number * segment_bytes
    if own.end is not None and begin > own.end.value:
        return (
            f"timeline {target} left timeline {own.timeline} at {own.end}, before the base backup began at {Lsn(begin)}"
        )
    return ""


def _empty(
    begin_wal: str, target: int, segment_bytes: int, way: tuple[Branch, ...], problem: str, strange: tuple[str, ...]
) -> Chain:
    begin = Lsn(SegmentName.parse(begin_wal, segment_bytes).number * segment_bytes)
    return Chain(begin_wal, target, (), way, segment_bytes, begin, problem=problem, strange=strange)
