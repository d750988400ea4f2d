"""Timeline history files, and which timeline owns which part of the WAL.

``0000000N.history`` says by which switches timeline N came to be: a line for each ancestor, oldest first, with the LSN
at which it was left. WAL of an ancestor after that LSN is another history's and is never replayed on the way to N.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from drillbook.model import Lsn


class Switch(NamedTuple):
    """One line of a history file: ``timeline`` was left at ``lsn``."""

    timeline: int
    lsn: Lsn
    reason: str


Histories = Mapping[int, Sequence[Switch]]
"""Each timeline's history by its id; timeline 1 has none."""


class Branch(NamedTuple):
    """The part of the WAL that one timeline owns on the way to a target timeline: from ``begin`` up to ``end``."""

    timeline: int
    begin: Lsn
    end: Lsn | None  # None: the target timeline itself, still open


def parse_history(text: str) -> tuple[Switch, ...]:
    """The switches of a history file; ValueError names the line that is wrong."""
    switches: list[Switch] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = line.split(maxsplit=2)
        try:
            switch = Switch(int(fields[0]), Lsn(fields[1]), fields[2].strip() if len(fields) > 2 else "")
        except (ValueError, IndexError) as error:
            raise ValueError(f"line {number} is not 'timeline LSN reason': {line!r}") from error
        if switch.timeline < 1 or (switches and switch.timeline <= switches[-1].timeline):
            raise ValueError(f"line {number}: timeline {switch.timeline} is out of order")
        if switches and switch.lsn < switches[-1].lsn:
            raise ValueError(f"line {number}: LSN {switch.lsn} is before the earlier switch at {switches[-1].lsn}")
        switches.append(switch)
    return tuple(switches)


def newest_timeline(start: int, histories: Container[int]) -> int:
    """The timeline that ``recovery_target_timeline = latest`` picks from ``start``.

    PostgreSQL asks for one history file after the other and stops at the first that isn't there.
    """
    newest = start
    while newest + 1 in histories:
        newest += 1
    return newest


def branches(timeline: int, histories: Histories) -> tuple[Branch, ...]:
    """The way to ``timeline``, oldest ancestor first; ValueError if its history file is missing."""
    if timeline != 1 and timeline not in histories:
        raise ValueError(f"the history file of timeline {timeline} is missing")
    way: list[Branch] = []
    begin = Lsn(0)
    for switch in histories.get(timeline, ()):
        way.append(Branch(switch.timeline, begin, switch.lsn))
        begin = switch.lsn
    way.append(Branch(timeline, begin, None))
    return tuple(way)
