"""The chain says of every archive what a slow look at each segment says."""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drillbook.model import Lsn
from drillbook.postgres.wal import Chain, SegmentName, Switch, chain

MIB = 1 << 20


@dataclass(frozen=True)
class Archive:
    segment_bytes: int
    start: SegmentName
    histories: dict[int, tuple[Switch, ...]]
    present: frozenset[SegmentName]

    def names(self) -> list[str]:
        return [segment.text(self.segment_bytes) for segment in self.present]

    def chain(self, timeline: int = 0) -> Chain:
        return chain(self.start.text(self.segment_bytes), timeline, self.names(), self.histories, self.segment_bytes)


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """A base backup, up to four switches after it, and segments that are there or not on any timeline."""
    size = MIB << draw(st.integers(0, 10))
    first = draw(st.integers(0, 600))
    switches = sorted(draw(st.lists(st.integers((first + 1) * size, (first + 40) * size), max_size=4)))
    own = draw(st.integers(1, 2))
    history: tuple[Switch, ...] = (Switch(1, Lsn(first * size), ""),) if own == 2 else ()
    histories = {2: history} if own == 2 else {}
    for timeline, lsn in enumerate(switches, start=own):
        history = (*history, Switch(timeline, Lsn(lsn), "switched"))
        histories[timeline + 1] = history
    newest = own + len(switches)
    lost = draw(st.sets(st.integers(first, first + 45), max_size=5))
    end = draw(st.integers(first, first + 45))
    mostly = {
        SegmentName(timeline, number)
        for timeline in range(1, newest + 1)
        for number in range(first, end)
        if number not in lost
    }
    dropped = draw(st.sets(st.sampled_from(sorted(mostly)), max_size=5)) if mostly else set()
    return Archive(size, SegmentName(own, first), histories, frozenset(mostly - dropped))


def owner_of(archive: Archive, target: int, number: int) -> int:
    """The timeline whose segment of this number recovery must read, one rule after the other."""
    if number == archive.start.number:
        return archive.start.timeline
    owner = 1
    for switch in archive.histories.get(target, ()):
        if number >= switch.lsn.value // archive.segment_bytes:
            owner = switch.timeline + 1
    return owner


@settings(max_examples=400)
@given(archives())
def test_the_chain_agrees_with_a_look_at_each_segment(archive: Archive) -> None:
    target = max([archive.start.timeline, *archive.histories])
    numbers = range(archive.start.number, archive.start.number + 60)
    there = [n for n in numbers if SegmentName(owner_of(archive, target, n), n) in archive.present]
    newest = max(there, default=archive.start.number - 1)
    missing = [n for n in numbers if n <= newest and n not in there] or ([] if there else [archive.start.number])
    last = next((n - 1 for n in missing), newest)

    found = archive.chain()

    assert found.timeline == target
    assert found.unbroken == (not missing)
    assert sum(gap.count for gap in found.gaps) == len(missing)
    told = itertools.chain.from_iterable(
        range(
            SegmentName.parse(g.first_missing, found.segment_bytes).number,
            SegmentName.parse(g.last_missing, found.segment_bytes).number + 1,
        )
        for g in found.gaps
    )
    assert list(told) == missing
    assert found.end_lsn == Lsn((last + 1) * archive.segment_bytes)
    assert found.segments == len(there)
    reachable = [
        SegmentName(owner_of(archive, target, n), n).text(archive.segment_bytes)
        for n in range(last, archive.start.number - 1, -1)
    ]
    assert list(found.backwards()) == reachable
    assert found.last_segment == (reachable[0] if reachable else "")
    if missing:
        assert found.first_missing in found.problem


# -- any tree of timelines -----------------------------------------------------------------------


@st.composite
def trees(draw: st.DrawFn) -> tuple[Archive, int]:
    """Timelines that leave any earlier one anywhere, some history files lost, and a timeline to recover to (0: latest)."""
    size = MIB << draw(st.integers(0, 10))
    first = draw(st.integers(0, 5000))
    histories: dict[int, tuple[Switch, ...]] = {}
    for timeline in range(2, draw(st.integers(1, 6)) + 1):
        parent = draw(st.integers(1, timeline - 1))
        before = histories.get(parent, ())
        low = before[-1].lsn.value if before else first * size
        left = draw(st.integers(low, low + 15 * size))
        histories[timeline] = (*before, Switch(parent, Lsn(left), ""))
    timelines = [1, *histories]
    own = draw(st.sampled_from(timelines))
    begun = histories[own][-1].lsn.value // size if own in histories else first
    start = SegmentName(own, begun + draw(st.integers(0, 12)))
    # The holes of one timeline as a bit pattern from its end: few draws, every pattern.
    present = set()
    for timeline in timelines:
        end, holes = draw(st.tuples(st.integers(first, first + 40), st.integers(0, 1 << 12)))
        present |= {SegmentName(timeline, n) for n in range(max(0, first - 2), end) if not holes >> (end - n) & 1}
    lost = draw(st.sets(st.sampled_from([*histories, 99]), max_size=1))
    known = {timeline: switches for timeline, switches in histories.items() if timeline not in lost}
    return Archive(size, start, known, frozenset(present)), draw(st.sampled_from([0, *timelines]))


def slow(archive: Archive, wanted: int) -> tuple[list[SegmentName], list[SegmentName]] | None:
    """(there, missing), asking for one segment after the other as recovery does; None: no way leads there.

    Recovery goes from the backup's timeline to the target's by the target's history file alone.
    """
    target = wanted
    if not target:
        target = archive.start.timeline
        while target + 1 in archive.histories:
            target += 1
    if target not in (1, archive.start.timeline) and target not in archive.histories:
        return None  # the backup's own timeline needs no history
    ancestors = list(archive.histories.get(target, ()))
    if archive.start.timeline not in {target, *(switch.timeline for switch in ancestors)}:
        return None
    left = next((switch.lsn for switch in ancestors if switch.timeline == archive.start.timeline), None)
    if left is not None and archive.start.number * archive.segment_bytes > left.value:
        return None
    asked = []
    for number in range(archive.start.number, archive.start.number + 120):
        owner = next(
            (switch.timeline for switch in ancestors if number < switch.lsn.value // archive.segment_bytes), target
        )
        asked.append(SegmentName(archive.start.timeline if number == archive.start.number else owner, number))
    newest = max((i for i, segment in enumerate(asked) if segment in archive.present), default=0)
    needed = asked[: newest + 1]
    return [s for s in needed if s in archive.present], [s for s in needed if s not in archive.present]


@settings(max_examples=300)
@given(trees())
def test_over_any_tree_of_timelines_the_chain_is_what_a_slow_walk_finds(case: tuple[Archive, int]) -> None:
    archive, wanted = case
    found, expected = archive.chain(wanted), slow(archive, wanted)
    if expected is None:
        assert not found.unbroken and not found.gaps and not found.last_segment
        return
    there, missing = expected
    assert found.segments == len(there) and found.unbroken == (not missing)
    told = [n for gap in found.gaps for n in range(found.number(gap.first_missing), found.number(gap.last_missing) + 1)]
    assert told == [segment.number for segment in missing]
    assert [gap.first_missing for gap in found.gaps] == [
        segment.text(archive.segment_bytes)
        for n, segment in enumerate(missing)
        if n == 0 or missing[n - 1].number != segment.number - 1
    ]
    reachable = [segment for segment in there if not missing or segment.number < missing[0].number]
    assert list(found.backwards()) == [segment.text(archive.segment_bytes) for segment in reversed(reachable)]


@given(trees())
def test_numbers_that_were_made_before_give_the_same_chain(case: tuple[Archive, int]) -> None:
    archive, wanted = case
    numbers: dict[int, array[int]] = {}
    for segment in sorted(archive.present):
        numbers.setdefault(segment.timeline, array("Q")).append(segment.number)
    size = archive.segment_bytes
    again = chain(archive.start.text(size), wanted, numbers, archive.histories, size)
    assert again == archive.chain(wanted)


def names(timeline: int, *numbers: int) -> list[str]:
    return [SegmentName(timeline, number).text(MIB) for number in numbers]


def test_a_gap_is_told_by_its_first_and_last_segment() -> None:
    found = chain(names(1, 3)[0], 0, names(1, 3, 4, 8, 9, 11), {}, MIB)
    assert [str(gap) for gap in found.gaps] == [
        "3 segments from 000000010000000000000005 to 000000010000000000000007 are missing",
        "segment 00000001000000000000000A is missing",
    ]
    assert (found.last_segment, found.newest_segment) == (names(1, 4)[0], names(1, 11)[0])


def test_the_segment_of_a_switch_belongs_to_the_later_timeline() -> None:
    histories = {2: (Switch(1, Lsn(5 * MIB + 100), ""),)}
    whole = chain(names(1, 3)[0], 0, [*names(1, 3, 4), *names(2, 5, 6)], histories, MIB)
    assert whole.unbroken and whole.timelines == (1, 2)
    # Segments that the old timeline went on to write are another history's.
    other = chain(names(1, 3)[0], 0, [*names(1, 3, 4, 5, 6, 7), *names(2, 6)], histories, MIB)
    assert other.gaps[0].first_missing == names(2, 5)[0]
    # On the way to the old timeline itself they count.
    assert chain(names(1, 3)[0], 1, [*names(1, 3, 4, 5, 6, 7), *names(2, 6)], histories, MIB).end_lsn == Lsn(8 * MIB)


def test_a_backup_of_a_part_that_was_left_is_named() -> None:
    histories = {2: (Switch(1, Lsn(5 * MIB + 100), ""),)}
    late = chain(names(1, 5)[0], 0, names(2, 5, 6), histories, MIB, begin_lsn=Lsn(5 * MIB + 200))
    assert not late.unbroken and "left timeline 1 at 0/500064, before the base backup began" in late.problem


def test_a_timeline_that_does_not_descend_from_the_backup_is_named() -> None:
    histories = {2: (Switch(1, Lsn(MIB), ""),), 3: (Switch(1, Lsn(5 * MIB), ""),)}
    assert "timeline 3 does not descend from the base backup's timeline 2" in (
        chain(names(2, 5)[0], 0, names(2, 5), histories, MIB).problem
    )


def test_a_missing_history_file_is_named_or_its_timeline_shown() -> None:
    asked = chain(names(1, 3)[0], 2, names(1, 3), {}, MIB)
    assert "the history file of timeline 2 is missing" in asked.problem
    latest = chain(names(1, 3)[0], 0, [*names(1, 3), *names(2, 4)], {}, MIB)
    assert latest.unbroken and latest.timeline == 1 and latest.unlinked == (2,)


def test_a_missing_begin_wal_breaks_the_chain() -> None:
    found = chain(names(1, 3)[0], 0, [], {}, MIB)
    assert (found.first_missing, found.last_segment, found.segments) == (names(1, 3)[0], "", 0)
    assert list(found.backwards()) == []


def test_a_torn_segment_counts_as_missing_and_is_said_to_be_there() -> None:
    found = chain(names(1, 3)[0], 0, names(1, 3, 4, 5), {}, MIB, torn=names(1, 4))
    assert found.problem == f"segment {names(1, 4)[0]} is missing ({names(1, 4)[0]}: there, but torn or empty)"


def test_names_of_another_segment_size_are_shown_as_strange() -> None:
    odd = "0000000100000000000000FF"
    assert chain("000000010000000000000003", 0, ["000000010000000000000003", odd], {}, 64 * MIB).strange == (odd,)


def test_order_and_repetition_do_not_matter() -> None:
    some = names(1, 9, 3, 4, 4, 5, 8, 6, 7)
    assert chain(names(1, 3)[0], 0, some, {}, MIB) == chain(names(1, 3)[0], 0, sorted(set(some)), {}, MIB)


@pytest.mark.parametrize("begin", ["", "nonsense", "000000010000000000000003.gz"])
def test_what_is_no_begin_wal_is_refused(begin: str) -> None:
    with pytest.raises(ValueError, match="not a WAL segment's name"):
        chain(begin, 0, [], {}, MIB)
