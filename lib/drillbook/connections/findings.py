"""What a load drill was to do, and what it found, as data. Times in seconds, rates in transactions a second."""

from __future__ import annotations

from typing import Self

from drillbook.connections.blocks import Measured
from drillbook.connections.comparison import Comparison
from drillbook.connections.latency import Latencies
from drillbook.model import Frozen


class LoadPlan(Frozen):
    """The load of a drill: the application as it is (baseline) and as it might be (candidate), and how long it is tried."""

    database: str
    role: str
    baseline_pool: int
    candidate_pool: int
    pods: int
    pooler_size: int
    rate: float
    hold_seconds: float
    block_seconds: float
    pairs: int
    timeout_seconds: float
    seed: int

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [
            ("database", f"{self.database}, as {self.role}"),
            ("baseline", f"{self.pods} pods × {self.baseline_pool} = {self.pods * self.baseline_pool} connections"),
            ("candidate", f"{self.pods} pods × {self.candidate_pool} = {self.pods * self.candidate_pool} connections"),
            ("pooler", f"one PgBouncer in transaction mode, default_pool_size {self.pooler_size}"),
            ("arrivals", f"{self.rate:g} a second by a Poisson schedule, seed {self.seed}"),
            ("a transaction", f"one look-up, then {self.hold_seconds * 1000:g} ms of the application's own work"),
            ("blocks", f"{self.pairs} pairs in the order A B B A, {self.block_seconds:g} s each, open and closed loop"),
            ("acquire timeout", f"{self.timeout_seconds:g} s"),
        ]


class Quantiles(Frozen):
    """Of one kind of time."""

    p50: float
    p95: float
    p99: float
    mean: float

    @classmethod
    def of(cls, found: Latencies) -> Self:
        return cls(p50=found.percentile(50), p95=found.percentile(95), p99=found.percentile(99), mean=found.mean())

    def __str__(self) -> str:
        return f"{self.p50 * 1000:.1f} / {self.p95 * 1000:.1f} / {self.p99 * 1000:.1f} ms"


class Figures(Frozen):
    """One or more blocks of a kind, in figures."""

    arrivals: int
    throughput: float
    latency: Quantiles
    acquire: Quantiles
    query: Quantiles
    held: Quantiles
    timeouts: int
    saturation: float
    waiting: int
    late: float
    busy: float
    errors: dict[str, int]
    refusals: dict[str, int]

    @classmethod
    def of(cls, found: Measured) -> Self:
        return cls(
            arrivals=found.arrivals,
            throughput=found.throughput,
            latency=Quantiles.of(found.latency),
            acquire=Quantiles.of(found.acquire),
            query=Quantiles.of(found.query),
            held=Quantiles.of(found.held),
            timeouts=found.timeouts,
            saturation=found.saturation,
            waiting=found.waiting,
            late=found.lateness.percentile(95),
            busy=found.busy,
            errors=found.errors,
            refusals=found.refusals,
        )


class Variant(Frozen):
    """One variant over all its blocks: open arrivals for latency, a closed loop for throughput."""

    name: str
    pool: int
    arriving: Figures
    driven: Figures


class Compared(Frozen):
    """Baseline and candidate, interleaved."""

    baseline: Variant
    candidate: Variant
    comparison: Comparison
    untrusted: str
    """Why the generator may have set the figures itself; "" if it did not."""


class CurvePoint(Frozen):
    """One pool size: measured, and by the model. None: the model says that this pool does not carry the load."""

    pool: int
    arriving: Figures
    driven: Figures
    modelled_p95: float | None
    modelled_throughput: float


class Curve(Frozen):
    """Throughput and p95 over the size of each pod's pool, with the knee as it was measured and as the model has it."""

    points: tuple[CurvePoint, ...]
    pods: int
    rate: float
    holding_seconds: float
    knee: int | None
    modelled_knee: int | None
    assumption: str
    """Which assumption of the model fails here; "" where it holds."""

    @property
    def holds(self) -> bool:
        """Whether the measured knee is within one connection or a fifth of the model's."""
        if self.knee is None or self.modelled_knee is None:
            return self.knee == self.modelled_knee
        return abs(self.knee - self.modelled_knee) <= max(1.0, 0.2 * self.modelled_knee)


__all__ = ["Compared", "Curve", "CurvePoint", "Figures", "LoadPlan", "Quantiles", "Variant"]
