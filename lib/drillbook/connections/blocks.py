"""A block of load and what was measured in it, in one process or in several together. Pure; times in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Self

from drillbook.connections.latency import Latencies
from drillbook.model import Frozen


class Block(Frozen):
    """What one process does: open arrivals at ``rate`` a second by a Poisson schedule, or ``workers`` in a closed loop.

    Exactly one of the two is set. Each transaction runs one of the statements and then holds its connection for a
    time of mean ``hold_seconds``, the application's own work within the transaction: exponential in open arrivals, from half
    to one and a half of it in a closed loop. Arrivals and holding
    times follow ``seed`` alone: two blocks of one seed are given the same load. ``idle`` connections are opened before.
    """

    pool: int
    idle: int
    timeout_seconds: float
    seconds: float
    seed: int
    hold_seconds: float = 0.0
    rate: float = 0.0
    workers: int = 0


class Measured(Frozen):
    """What a block showed. Latency and acquire count from the arrival that was intended, not from when it was begun.

    ``lateness`` is how much later than intended the generator itself began; ``held`` from having a connection to giving
    it back; ``query`` the statement alone. ``busy`` is the processor time that the busiest process used of the block.
    ``full`` of ``samples`` times every connection of a pool was in use; ``waiting`` is the most clients that waited.
    """

    arrivals: int
    """Transactions that were begun."""
    completed: int
    timeouts: int
    seconds: float
    latency: Latencies
    acquire: Latencies
    query: Latencies
    held: Latencies
    lateness: Latencies
    busy: float
    samples: int
    full: int
    waiting: int
    errors: dict[str, int]
    """What failed, as the application sees it: SQLSTATE and message, and how often."""
    refusals: dict[str, int]
    """Why the pool could not open a connection, in the server's words, and how often."""

    @property
    def throughput(self) -> float:
        """Transactions completed a second, within the block."""
        return self.completed / self.seconds

    @property
    def saturation(self) -> float:
        """The share of looks at a pool that found all its connections in use."""
        return self.full / self.samples if self.samples else 0.0

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Several processes, or several blocks of equal length, as one; ValueError for none."""
        if not parts:
            raise ValueError("nothing was measured")
        values: dict[str, Any] = {
            name: sum(getattr(part, name) for part in parts)
            for name in ("arrivals", "completed", "timeouts", "samples", "full", "waiting")
        }
        values |= {
            name: Latencies.merged(getattr(part, name) for part in parts)
            for name in ("latency", "acquire", "query", "held", "lateness")
        }
        values |= {name: _added(getattr(part, name) for part in parts) for name in ("errors", "refusals")}
        return cls(seconds=parts[0].seconds, busy=max(part.busy for part in parts), **values)


def _added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


__all__ = ["Block", "Measured"]
