"""Queueing models against known values and a simulation of their own; the histogram; what a comparison decides."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.connections import comparison, latency, queueing
from drillbook.connections.comparison import Decision
from drillbook.connections.latency import Latencies

# -- queueing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connections", "load", "known"),
    [
        (1, 0.5, 0.5),  # M/M/1: the server's use
        (2, 1.0, 1 / 3),  # 2ρ²/(1+ρ), ρ = 1/2
        (3, 2.0, 4 / 9),  # (8/6 · 3) / (1 + 2 + 2 + 4)
        (10, 12.0, 1.0),  # not carried
        (5, 0.0, 0.0),
    ],
)
def test_c15_erlang_c_is_the_known_value(connections: int, load: float, known: float) -> None:
    assert queueing.erlang_c(connections, load) == pytest.approx(known)


def test_c15_a_pool_of_one_is_mm1() -> None:
    """Its time in the system is exponential with the rate that is left."""
    assert queueing.mean_wait(1, 50, 0.01) == pytest.approx(0.01)
    assert queueing.latency_quantile(1, 50, 0.01) == pytest.approx(math.log(20) / 50)
    assert queueing.latency_quantile(50, 1, 0.01) == pytest.approx(math.log(20) * 0.01, rel=1e-6)
    assert queueing.mean_wait(2, 200, 0.01) == queueing.latency_quantile(2, 200, 0.01) == math.inf


def _simulated(connections: int, rate: float, holding: float, count: int, seed: int) -> tuple[float, float]:
    """Mean wait and p95 latency of ``count`` exponential transactions, first come first served."""
    rng = random.Random(seed)  # noqa: S311
    free, now, waits, latencies = [0.0] * connections, 0.0, 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        begin = max(now, heapq.heappop(free))
        end = begin + rng.expovariate(1 / holding)
        heapq.heappush(free, end)
        waits += begin - now
        latencies.append(end - now)
    return waits / count, sorted(latencies)[int(0.95 * count)]


@pytest.mark.parametrize(("connections", "rate"), [(1, 30), (3, 110), (5, 220), (12, 550)])
def test_c15_the_model_is_what_a_simulation_finds(connections: int, rate: float) -> None:
    waited, p95 = _simulated(connections, rate, 0.02, 120_000, seed=connections)
    assert queueing.mean_wait(connections, rate, 0.02) == pytest.approx(waited, rel=0.1)
    assert queueing.latency_quantile(connections, rate, 0.02) == pytest.approx(p95, rel=0.07)


def test_c15_mean_value_analysis_is_the_known_closed_network() -> None:
    """One processor and no delay is always busy; two processors carry twice that; machine repair by its closed form."""
    assert queueing.closed_loop(5, 0.01, 1, 0.0) == pytest.approx([100] * 5)
    assert queueing.closed_loop(4, 0.01, 2, 0.0) == pytest.approx([100, 200, 200, 200])
    for servers in (1, 2, 3):
        for population in (1, 4, 9):
            found = queueing.closed_loop(population, 0.01, servers, 0.03)[-1]
            assert found == pytest.approx(_repaired(population, 0.01, servers, 0.03)), (servers, population)


def _repaired(population: int, demand: float, servers: int, delay: float) -> float:
    """M/M/c//N by its birth-and-death equations."""
    weights = [1.0]
    for waiting in range(population):
        weights.append(weights[-1] * (population - waiting) / delay * demand / min(waiting + 1, servers))
    total = sum(weights)
    return sum(min(number, servers) / demand * weight for number, weight in enumerate(weights)) / total


def test_c15_the_knee_is_where_more_connections_gain_nothing() -> None:
    assert queueing.knee({1: math.inf, 2: 0.5, 4: 0.11, 8: 0.1}) == 4
    assert queueing.knee({1: 0.1, 2: 0.1}) == 1
    assert queueing.knee({1: math.inf, 2: math.inf}) is None
    # One that is slow by chance between two good ones: what is above it holds.
    assert queueing.knee({2: 0.1, 4: 0.3, 8: 0.1}) == 8


@pytest.mark.parametrize("wrong", [(0, 1.0), (-1, 1.0), (1, -0.5)])
def test_c15_impossible_pools_are_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="connection"):
        queueing.erlang_c(*wrong)
    with pytest.raises(ValueError, match="no time"):
        queueing.closed_loop(3, 0.0, 1, 0.0)
    with pytest.raises(ValueError, match="no pool size"):
        queueing.knee({})


# -- latencies -----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 3000), min_size=1, max_size=200), st.sampled_from([0, 50, 95, 99, 100]))
def test_c15_a_percentile_is_off_by_a_thirty_second_at_most(values: list[float], percent: int) -> None:
    counted = Latencies()
    for value in values:
        counted.add(value)
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    assert counted.percentile(percent) == pytest.approx(exact, rel=latency.ERROR + 1e-3, abs=1e-6)


def test_c15_merged_processes_are_as_one() -> None:
    rng = random.Random(3)  # noqa: S311
    values = [rng.expovariate(50) for _ in range(4000)]
    whole, parts = Latencies(), [Latencies() for _ in range(3)]
    for number, value in enumerate(values):
        whole.add(value)
        parts[number % 3].add(value)
    merged = Latencies.merged(Latencies.from_pairs(part.pairs()) for part in parts)
    assert merged.pairs() == whole.pairs() and len(merged) == 4000
    assert merged.mean() == pytest.approx(sum(values) / 4000, rel=0.01)
    assert Latencies().percentile(95) == Latencies().mean() == 0.0


# -- the comparison ------------------------------------------------------------------------------------------


def _compared(
    rng: random.Random, throughput: float, p95: float, pairs: int = 12, noise: float = 0.02
) -> comparison.Comparison:
    def noisy(middle: float, spread: float) -> list[float]:
        return [middle * math.exp(rng.gauss(0, spread)) for _ in range(pairs)]

    return comparison.compare(
        throughput=(noisy(100, noise), noisy(100 * throughput, noise)),
        p95=(noisy(0.05, 2 * noise), noisy(0.05 * p95, 2 * noise)),
        timeouts=0,
    )


@pytest.mark.parametrize(
    ("truth", "wrong", "at_most"),
    [
        (1.0, Decision.REJECTED, 0.001),
        (0.9, Decision.ACCEPTED, 0.001),
        (0.9499, Decision.ACCEPTED, 0.03),  # on the bound: 2.5 % by design
        (0.9501, Decision.REJECTED, 0.03),
    ],
)
def test_c15_ten_thousand_noisy_runs_decide_wrongly_as_seldom_as_claimed(
    truth: float, wrong: Decision, at_most: float
) -> None:
    rng = random.Random(15)  # noqa: S311
    found = Counter(_compared(rng, truth, 1.0).decision for _ in range(10_000))
    assert found[wrong] / 10_000 <= at_most, found


def test_c15_planted_differences_are_found_and_equal_ones_are_not_left_open() -> None:
    rng = random.Random(16)  # noqa: S311
    worse = [_compared(rng, 0.85, 1.3) for _ in range(1000)]
    assert sum(item.decision is Decision.REJECTED for item in worse) >= 990
    assert sum(item.p95.difference == "higher" for item in worse) >= 990
    equal = Counter(_compared(rng, 1.0, 1.0).decision for _ in range(1000))
    assert equal[Decision.UNPROVEN] <= 200 and equal[Decision.REJECTED] == 0, equal


@pytest.mark.parametrize(
    ("candidate", "timeouts", "untrusted", "decision"),
    [
        ([100, 101, 99], 0, "", Decision.ACCEPTED),
        ([100, 101, 99], 1, "", Decision.REJECTED),
        ([80, 81, 79], 0, "", Decision.REJECTED),
        ([60, 140, 100], 0, "", Decision.UNPROVEN),
        ([80, 81, 79], 5, "the generator was late", Decision.UNPROVEN),
    ],
)
def test_c15_three_outcomes(candidate: list[float], timeouts: int, untrusted: str, decision: Decision) -> None:
    found = comparison.compare(
        throughput=([100] * 6, candidate * 2),
        p95=([0.05] * 6, [0.05, 0.05, 0.051] * 2),
        timeouts=timeouts,
        untrusted=untrusted,
    )
    assert found.decision is decision


@pytest.mark.parametrize(
    ("p95", "decision"),
    [
        ([0.1, 0.11, 0.1], Decision.ACCEPTED),
        ([0.3, 0.31, 0.3], Decision.REJECTED),
        ([0.1, 0.3, 0.2], Decision.UNPROVEN),
    ],
)
def test_c15_latency_is_judged_by_its_interval(p95: list[float], decision: Decision) -> None:
    found = comparison.compare(throughput=([100] * 6, [100] * 6), p95=([0.1] * 6, p95 * 2), timeouts=0)
    assert found.decision is decision


@pytest.mark.parametrize(
    ("values", "why"), [([1.0] * 5, "6 pairs"), ([], "6 pairs"), ([1.0] * 6 + [0.0], "greater than 0")]
)
def test_c15_too_few_pairs_decide_nothing(values: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        comparison.interval(values)


def test_c15_the_interval_is_that_of_the_tables_of_signed_ranks() -> None:
    """Of 6 values the extremes; of 10 the 9th of 55 means from either end, of 20 the 53rd of 210 (any such table)."""
    for count, position in ((6, 1), (10, 9), (20, 53)):
        values = [1.1**number for number in range(count)]
        means = sorted((one + other) / 2 for one in range(count) for other in range(one, count))
        found = comparison.interval(values)
        assert math.log(found.low, 1.1) == pytest.approx(means[position - 1])
        assert math.log(found.high, 1.1) == pytest.approx(means[-position])


def test_c15_a_block_that_something_else_disturbed_moves_the_interval_little() -> None:
    calm = [0.99, 1.0, 1.01] * 5
    assert comparison.interval([*calm, 0.3]).low > 0.97


def test_c15_blocks_run_abba() -> None:
    assert "".join(variant for _, variant in comparison.abba(4)) == "ABBAABBA"
