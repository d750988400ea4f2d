"""Which line of a chain is wrong, and in which way: edited, reordered, dropped, inserted or truncated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from drillbook.evidence.chain import Line

Problem = tuple[int, str]
"""A line's number and what is wrong with it."""


def journal_problems(lines: Sequence[Line], rest: bytes, *, sealed: bool) -> Iterator[Problem]:
    """What is wrong with a journal; ``rest`` is what is behind the last newline."""
    if rest:
        after = "it was truncated" if sealed else "its writer died midway (the next append notes it)"
        yield len(lines) + 1, f"does not end in a newline: {after}"
    yield from _broken_lines(lines, sealed=sealed)
    if reordered := _reordered(lines):
        yield reordered
        return
    told: set[int] = set()
    for number, what in _broken_links(lines):
        if number not in told:
            told.add(number)
            yield number, what


def _broken_lines(lines: Sequence[Line], *, sealed: bool) -> Iterator[Problem]:
    """Lines that are no JSON and of which no ``torn`` event tells."""
    junk: list[Line] = []
    after = ""
    for line in lines:
        if line.value is None:
            junk.append(line)
            continue
        if junk:
            noted = {"type": "torn", "lines": len(junk), "bytes": sum(len(item.raw) for item in junk), "after": after}
            if {key: line.value.get(key) for key in noted} != noted:
                yield junk[0].number, "is no JSON object, and no event behind it says that a writer died there"
        junk, after = [], line.sha256
    if junk and sealed:
        yield junk[0].number, "is no JSON object"


def _seq(line: Line) -> int:
    found = (line.value or {}).get("seq")
    return found if isinstance(found, int) else 0


def _reordered(lines: Sequence[Line]) -> Problem | None:
    """The first line out of place, if all events are there and only their order is not."""
    events = [line for line in lines if line.value is not None]
    found = [_seq(line) for line in events]
    if found == sorted(found) or sorted(found) != list(range(1, len(found) + 1)):
        return None
    expected, line = next((n, line) for n, line in enumerate(events, start=1) if _seq(line) != n)
    other = events[found.index(expected)]
    return line.number, f"holds event {_seq(line)}, and event {expected} is on line {other.number}: order changed"


def _broken_links(lines: Sequence[Line]) -> Iterator[Problem]:
    """Every line that doesn't continue the line before it, reported of the line that is to blame."""
    numbers = {line.sha256: line.number for line in lines}
    continued = {str(line.value.get("prev")): line.number for line in lines if line.value is not None}
    head, seq = "", 0
    for line in lines:
        if line.value is not None:
            if line.value.get("prev") != head:
                yield _to_blame(line, head, seq, numbers, continued)
            elif _seq(line) != seq + 1:
                yield line.number, f"has seq {line.value.get('seq')}, expected {seq + 1}: it was edited"
            seq = _seq(line)
        head = line.sha256


def _to_blame(line: Line, head: str, seq: int, numbers: dict[str, int], continued: dict[str, int]) -> Problem:
    before = line.number - 1
    attached = numbers.get(str((line.value or {}).get("prev")))
    if attached is not None and attached < before:
        count = before - attached
        what = "was" if count == 1 else f"and the {count - 1} after it were"
        return attached + 1, f"{what} inserted: line {line.number} continues line {attached}"
    if _seq(line) > seq + 1:
        lost = f"event {seq + 1} was" if _seq(line) == seq + 2 else f"events {seq + 1} to {_seq(line) - 1} were"
        return line.number, f"holds event {_seq(line)}, and {lost} dropped before it"
    if head in continued and before:
        return line.number, f"was inserted: line {continued[head]} continues line {before}"
    if not before:
        return line.number, "names a line before it; none exists: lines were dropped"
    return before, f"was edited: line {line.number} does not continue it"


def ledger_problems(lines: Sequence[Line], rest: bytes) -> Iterator[Problem]:
    """What is wrong with a ledger; ``rest`` is what is behind the last newline."""
    if rest:
        yield len(lines) + 1, "does not end in a newline: its writer died midway (the next entry notes it)"
    seen: set[str] = set()
    head = ""
    junk = 0
    for line in lines:
        if line.value is None:
            junk += 1
        else:
            if junk and (line.value.get("torn") or {}).get("lines") != junk:
                yield line.number - junk, "is no JSON object, and no entry behind it says that a writer died there"
            if problem := _ledger_link(line, head, seen):
                yield problem
            junk = 0
        head = line.sha256
        seen.add(head)


def _ledger_link(line: Line, head: str, seen: set[str]) -> Problem | None:
    previous: Any = (line.value or {}).get("previous")
    named = {str(item) for item in previous} if isinstance(previous, list) else set()
    before = line.number - 1
    if named <= seen and (not head or head in named):
        return None
    if not before:
        return line.number, "names an entry before it; none exists: entries were removed"
    if named - seen:
        return line.number, f"names an entry that is not there: line {before} was edited, or entries were removed"
    return line.number, f"does not continue line {before}: it was inserted or the order was changed"
