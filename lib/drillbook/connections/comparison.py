"""A candidate against a baseline by pairs of blocks: the ratio with its 95 % interval, and what it decides. Pure.

Blocks run in the order A B B A, so that whatever drifts slowly falls on both. The interval is that of Wilcoxon's signed
ranks (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963) on the logarithms of the pairs' ratios: exact for any
noise that falls on both alike, and a block that something else has disturbed moves it little, which a mean is moved by. Accepted
and rejected both need the whole interval on their side of the bound; anything else is UNPROVEN. On the same truth one of the
two is wrong in 2.5 % of the runs at most, both only where the truth lies on the bound.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from enum import StrEnum

from drillbook.model import Frozen

THROUGHPUT = 0.95
"""The candidate must carry at least this share of the baseline's throughput (the first site's acceptance)."""
P95_SECONDS = 0.2
"""The candidate's p95 latency must be below this (the same)."""

FEWEST = 6
"""Of fewer pairs no interval holds 95 %, however alike they are."""


class Decision(StrEnum):
    """What a comparison decides."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNPROVEN = "UNPROVEN"


class Interval(Frozen):
    """An estimate with the ends of its 95 % interval."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"

    @property
    def difference(self) -> str:
        """Of a ratio: whether it is seen to differ from 1."""
        return "higher" if self.low > 1 else "lower" if self.high < 1 else "no difference seen"


def interval(values: Sequence[float]) -> Interval:
    """The pseudo-median of the values and its 95 % interval. ValueError for fewer than six, or one that is not positive."""
    if len(values) < FEWEST:
        raise ValueError(f"an interval needs {FEWEST} pairs of blocks at least")
    if min(values) <= 0:
        raise ValueError("a ratio or a time is greater than 0")
    logs = [math.log(value) for value in values]
    means = sorted((one + other) / 2 for number, one in enumerate(logs) for other in logs[number:])
    cut = _outside(len(logs))
    return Interval(low=math.exp(means[cut]), middle=math.exp(statistics.median(means)), high=math.exp(means[-1 - cut]))


@functools.cache
def _outside(count: int) -> int:
    """How many means of two lie outside the interval on each side: the most whose chance is 2.5 % or less."""
    ways = [1]  # in which signs give each sum of ranks
    for rank in range(1, count + 1):
        ways = [
            (ways[total] if total < len(ways) else 0) + (ways[total - rank] if total >= rank else 0)
            for total in range(len(ways) + rank)
        ]
    chances = itertools.accumulate(number / 2**count for number in ways)
    return sum(1 for chance in chances if chance <= 0.025) - 1


def ratios(baseline: Sequence[float], candidate: Sequence[float]) -> list[float]:
    """The candidate's value by the baseline's, pair by pair. ValueError if a value has no partner."""
    return [new / old for old, new in zip(baseline, candidate, strict=True)]


class Criterion(Frozen):
    """One condition of the acceptance: what was measured, and what it decides."""

    name: str
    required: str
    measured: str
    decision: Decision


class Comparison(Frozen):
    """The candidate against the baseline."""

    throughput: Interval
    p95: Interval
    criteria: tuple[Criterion, ...]

    @property
    def decision(self) -> Decision:
        """Rejected if one condition is; accepted if all are."""
        found = {item.decision for item in self.criteria}
        if Decision.REJECTED in found:
            return Decision.REJECTED
        return Decision.UNPROVEN if Decision.UNPROVEN in found else Decision.ACCEPTED


def compare(
    *,
    throughput: tuple[Sequence[float], Sequence[float]],
    p95: tuple[Sequence[float], Sequence[float]],
    timeouts: int,
    failed: int = 0,
    untrusted: str = "",
) -> Comparison:
    """Judge a candidate by the first site's acceptance: no connection timeout, p95 below 200 ms, 95 % of the throughput.

    ``throughput`` and ``p95`` are the baseline's and the candidate's values pair by pair, ``timeouts`` how often the
    candidate gave up waiting for a connection, ``failed`` how many of its transactions ended in an error. ``untrusted`` is
    why the figures may be something else's, the generator's above all: then nothing is accepted or rejected by them.
    """
    carried, slower = interval(ratios(*throughput)), interval(ratios(*p95))
    seconds = interval(p95[1])
    shown = f"{seconds.middle * 1000:.0f} ms ({seconds.low * 1000:.0f} to {seconds.high * 1000:.0f})"
    criteria = (
        Criterion(
            name="connection timeouts",
            required="none",
            measured=f"{timeouts}",
            decision=_trusted(Decision.REJECTED if timeouts else Decision.ACCEPTED, untrusted),
        ),
        Criterion(
            name="failed transactions",
            required="none",
            measured=f"{failed}",
            decision=_trusted(Decision.REJECTED if failed else Decision.ACCEPTED, untrusted),
        ),
        Criterion(
            name="p95 latency",
            required=f"below {P95_SECONDS * 1000:.0f} ms, by the upper end of the 95 % interval",
            measured=f"{shown}; {slower} of the baseline's: {slower.difference}",
            decision=_trusted(_below(seconds, P95_SECONDS), untrusted),
        ),
        Criterion(
            name="throughput",
            required=f"at least {THROUGHPUT:.0%} of the baseline's, by the lower end of the 95 % interval",
            measured=f"{carried} of the baseline's: {carried.difference}",
            decision=_trusted(_at_least(carried, THROUGHPUT), untrusted),
        ),
    )
    return Comparison(throughput=carried, p95=slower, criteria=criteria)


def _at_least(found: Interval, bound: float) -> Decision:
    if found.low >= bound:
        return Decision.ACCEPTED
    return Decision.REJECTED if found.high < bound else Decision.UNPROVEN


def _below(found: Interval, bound: float) -> Decision:
    if found.high < bound:
        return Decision.ACCEPTED
    return Decision.REJECTED if found.low >= bound else Decision.UNPROVEN


def _trusted(decision: Decision, untrusted: str) -> Decision:
    return Decision.UNPROVEN if untrusted else decision


def abba(pairs: int) -> list[tuple[int, str]]:
    """The order of the blocks: the number of the pair, and ``A`` for the baseline or ``B`` for the candidate."""
    return [(pair, variant) for pair in range(pairs) for variant in ("AB" if pair % 2 == 0 else "BA")]


__all__ = [
    "FEWEST",
    "P95_SECONDS",
    "THROUGHPUT",
    "Comparison",
    "Criterion",
    "Decision",
    "Interval",
    "abba",
    "compare",
    "interval",
    "ratios",
]
