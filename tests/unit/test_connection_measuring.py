"""Baseline against candidate, and the curve, on a simulated queue: planted differences, knees, and assumptions that fail."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest

from drillbook.connections import measuring
from drillbook.connections.blocks import Block, Measured
from drillbook.connections.comparison import Decision
from drillbook.connections.findings import LoadPlan
from drillbook.connections.latency import Latencies

PLAN = LoadPlan(
    database="d",
    role="r",
    baseline_pool=6,
    candidate_pool=6,
    pods=2,
    pooler_size=50,
    rate=160,
    hold_seconds=0.02,
    block_seconds=4,
    pairs=12,
    timeout_seconds=5,
    seed=1,
)


class Queue:
    """Pods with pools, simulated: ``own`` is what the database takes of its own for ``pool`` connections, in seconds."""

    def __init__(self, plan: LoadPlan, own: Callable[[int], float] = lambda pool: 0.001, *, late: float = 0.0) -> None:
        self.plan, self.own, self.late = plan, own, late
        self.blocks = 0

    def __call__(self, block: Block) -> Measured:
        self.blocks += 1
        # A machine is never twice the same: a little faster or slower, block by block.
        pace = random.Random(self.blocks).gauss(1, 0.01)  # noqa: S311
        return Measured.merged([self._pod(block, number, pace) for number in range(self.plan.pods)])

    def _pod(self, block: Block, number: int, pace: float) -> Measured:
        chance = random.Random(block.seed * 1000 + number)  # noqa: S311
        times = {name: Latencies() for name in ("latency", "acquire", "query", "held", "lateness")}
        counts: Counter[str] = Counter()
        free = [0.0] * block.pool
        workers = [0.0] * block.workers
        at = 0.0
        while True:
            if block.rate:
                at += chance.expovariate(block.rate / self.plan.pods)
                hold = chance.expovariate(1 / block.hold_seconds)
            else:
                at = heapq.heappop(workers)
                hold = chance.uniform(0.5, 1.5) * block.hold_seconds
            if at >= block.seconds:
                break
            counts["arrivals"] += 1
            begin = max(at, heapq.heappop(free))
            if begin - at > block.timeout_seconds:
                heapq.heappush(free, begin)
                counts["timeouts"] += 1
                continue
            own = self.own(block.pool) * pace
            end = begin + own + hold
            heapq.heappush(free, end)
            if block.workers:
                heapq.heappush(workers, end)
            counts["completed"] += end <= block.seconds
            for name, seconds in (
                ("latency", end - at),
                ("acquire", begin - at),
                ("query", own),
                ("held", end - begin),
                ("lateness", self.late),
            ):
                times[name].add(seconds)
        return Measured(
            **times,
            **{name: counts[name] for name in ("arrivals", "completed", "timeouts")},
            seconds=block.seconds,
            busy=0.1,
            samples=0,
            full=0,
            waiting=0,
            errors={},
            refusals={},
        )


def _with(**changes: object) -> LoadPlan:
    return PLAN.model_copy(update=changes)


@pytest.mark.parametrize("seed", range(3))
def test_c15_equal_pools_are_accepted(seed: int) -> None:
    plan = _with(seed=seed)
    found = measuring.compare(plan, Queue(plan))
    assert found.comparison.decision is Decision.ACCEPTED
    assert not found.untrusted


@pytest.mark.parametrize("seed", range(3))
def test_c15_a_throughput_of_six_sevenths_is_found(seed: int) -> None:
    """A pool of 6 instead of 7 in a closed loop: 14 % less."""
    plan = _with(seed=seed, baseline_pool=7)
    found = measuring.compare(plan, Queue(plan))
    throughput = found.comparison.criteria[-1]
    assert (throughput.name, throughput.decision) == ("throughput", Decision.REJECTED)
    assert found.comparison.throughput.difference == "lower"
    assert found.comparison.decision is Decision.REJECTED


@pytest.mark.parametrize("seed", range(3))
def test_c15_a_p95_that_is_a_third_higher_is_found(seed: int) -> None:
    plan = _with(seed=seed, candidate_pool=3, rate=180)
    found = measuring.compare(plan, Queue(plan))
    assert found.comparison.p95.difference == "higher" and found.comparison.p95.middle > 1.2


def test_c15_a_late_generator_decides_nothing() -> None:
    plan = _with(baseline_pool=7)
    found = measuring.compare(plan, Queue(plan, late=0.1))
    assert found.comparison.decision is Decision.UNPROVEN and "late" in found.untrusted


def test_c15_a_pool_that_times_out_is_rejected() -> None:
    plan = _with(candidate_pool=1, timeout_seconds=0.5)
    found = measuring.compare(plan, Queue(plan))
    assert found.comparison.criteria[0].decision is found.comparison.decision is Decision.REJECTED


@pytest.mark.parametrize(("rate", "pods"), [(40, 1), (120, 2), (200, 1), (180, 3)])
def test_c15_the_measured_knee_is_the_models(rate: int, pods: int) -> None:
    plan = _with(rate=rate, pods=pods, baseline_pool=16, block_seconds=7)
    found = measuring.curve(plan, Queue(plan))
    assert found.holds and not found.assumption, (found.knee, found.modelled_knee)
    assert found.modelled_knee is not None and found.modelled_knee < 16
    assert [point.pool for point in found.points][-1] == 16


def test_c15_a_pool_that_never_carries_the_load_has_no_knee_in_either() -> None:
    plan = _with(rate=900, timeout_seconds=0.2)
    found = measuring.curve(plan, Queue(plan))
    assert (found.knee, found.modelled_knee, found.holds) == (None, None, True)


def test_c15_a_holding_time_that_grows_with_the_pool_is_the_assumption_that_fails() -> None:
    """As of processors that many connections share: more of them make each slower."""
    plan = _with(rate=120, baseline_pool=16)
    found = measuring.curve(plan, Queue(plan, own=lambda pool: 0.004 * pool))
    assert not found.holds and "the holding time does not depend on the pool: it grew" in found.assumption


def test_c15_clients_that_queue_in_the_pooler_are_the_assumption_that_fails() -> None:
    plan = _with(rate=120, baseline_pool=16)
    found = measuring.curve(plan, Queue(plan, own=lambda pool: 0.004 * pool), queued_behind=lambda: 7)
    assert not found.holds and "7 clients waited in PgBouncer" in found.assumption


def test_c15_sizes_of_a_curve_are_a_fifth_apart_and_begin_where_the_load_is_carried() -> None:
    assert measuring.sizes(_with(baseline_pool=20, rate=100, pods=1), 0.02) == [
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        12,
        14,
        16,
        19,
        20,
    ]
    assert measuring.sizes(_with(baseline_pool=3, candidate_pool=2, rate=1000), 0.02) == [3]
    assert measuring.sizes(_with(baseline_pool=1, candidate_pool=1, rate=1), 0.02) == [1]


def test_c15_a_load_of_which_nothing_succeeds_has_no_curve_and_says_why() -> None:
    class Broken(Queue):
        def __call__(self, block: Block) -> Measured:
            empty = {name: Latencies() for name in ("latency", "acquire", "query", "held")}
            refused = {"errors": {"42501 permission denied for table t": 9}, "completed": 0}
            return super().__call__(block).model_copy(update=empty | refused)

    plan = _with()
    found = measuring.curve(plan, Broken(plan))
    assert not found.points and "permission denied" in found.assumption
    compared = measuring.compare(plan, Broken(plan))
    assert compared.comparison.decision is Decision.UNPROVEN and "permission denied" in compared.untrusted
