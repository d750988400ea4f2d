"""Baseline against candidate in the order A B B A, and the curve over the pool size: what is given to the pods, and what follows.

``give`` runs a block and answers what was measured: :meth:`drillbook.connections.load.Pods.block` of running pods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from drillbook.connections import comparison, queueing
from drillbook.connections.blocks import Block, Measured
from drillbook.connections.findings import Compared, Curve, CurvePoint, Figures, LoadPlan, Variant
from drillbook.connections.load import untrusted

Give = Callable[[Block], Measured]
Say = Callable[[str, float], None]
"""What is being done, and which share of it has been."""

WARM_SECONDS = 1.0
LONGER = 3
"""A size of the curve is measured once, and so for longer than a block that is compared."""
GROWTH = 1.2
"""A connection that is held a fifth longer at another pool size is not held independently of the others."""


def compare(plan: LoadPlan, give: Give, say: Say = lambda text, share: None) -> Compared:
    """Measure both variants, interleaved, each pair under the same arrivals. UpstreamError of a pod that fails."""
    pools = {"A": plan.baseline_pool, "B": plan.candidate_pool}
    arriving: dict[str, list[Measured]] = {"A": [], "B": []}
    driven: dict[str, list[Measured]] = {"A": [], "B": []}
    give(arrivals(plan, max(pools.values()), seed=plan.seed).model_copy(update={"seconds": WARM_SECONDS}))
    order = comparison.abba(plan.pairs)
    for pair in range(plan.pairs):
        # Blocks that are compared are next to each other: what else the machine does changes between any two.
        for block, measured in ((arrivals, arriving), (loop, driven)):
            for variant in (name for number, name in order if number == pair):
                what = "baseline" if variant == "A" else "candidate"
                say(f"pair {pair + 1} of {plan.pairs}, {what}", pair / plan.pairs)
                measured[variant].append(give(block(plan, pools[variant], seed=plan.seed + pair)))
    doubts = dict.fromkeys(
        filter(None, (untrusted(*pair) for name in "AB" for pair in zip(arriving[name], driven[name], strict=True)))
    )
    # What fails on the way as it is says nothing about the candidate; what fails with the candidate alone is its own.
    broken = [
        f"the baseline's transactions fail: {why}" for part in (*arriving["A"], *driven["A"]) for why in part.errors
    ]
    doubt = "; ".join(dict.fromkeys([*doubts, *broken]))
    variants = {
        name: Variant(
            name="baseline" if name == "A" else "candidate",
            pool=pools[name],
            arriving=_together(arriving[name]),
            driven=_together(driven[name]),
        )
        for name in "AB"
    }
    return Compared(
        baseline=variants["A"],
        candidate=variants["B"],
        comparison=comparison.compare(
            throughput=_both(driven, lambda part: part.throughput),
            p95=_both(arriving, lambda part: part.latency.percentile(95)),
            timeouts=sum(part.timeouts for part in (*arriving["B"], *driven["B"])),
            failed=sum(sum(part.errors.values()) for part in (*arriving["B"], *driven["B"])),
            untrusted=doubt,
        ),
        untrusted=doubt,
    )


def arrivals(plan: LoadPlan, pool: int, *, seed: int) -> Block:
    """Open arrivals, for latency."""
    return Block(
        pool=pool,
        idle=pool,
        timeout_seconds=plan.timeout_seconds,
        seconds=plan.block_seconds,
        seed=seed,
        hold_seconds=plan.hold_seconds,
        rate=plan.rate,
    )


def loop(plan: LoadPlan, pool: int, *, seed: int) -> Block:
    """A closed loop of as many workers as the larger pool, for throughput: what is given is what a user would wait for."""
    workers = max(plan.baseline_pool, plan.candidate_pool)
    return arrivals(plan, pool, seed=seed).model_copy(update={"rate": 0.0, "workers": workers})


def _both(
    parts: Mapping[str, Sequence[Measured]], value: Callable[[Measured], float]
) -> tuple[list[float], list[float]]:
    # That nothing at all was completed is a throughput, too: the least that can be counted.
    found = {name: [max(value(part), 1e-6) for part in parts[name]] for name in "AB"}
    return found["A"], found["B"]


def _together(parts: Sequence[Measured]) -> Figures:
    """Blocks one after the other as one: times merged, throughput their mean, waiting clients the most."""
    merged = Figures.of(Measured.merged(parts))
    return merged.model_copy(
        update={"throughput": merged.throughput / len(parts), "waiting": max(part.waiting for part in parts)}
    )


def load_seconds(plan: LoadPlan) -> float:
    """How long comparison and curve give load at least, without what is between the blocks."""
    return plan.block_seconds * (4 * plan.pairs + LONGER * (1 + 2 * len(sizes(plan, 0.0))))


def sizes(plan: LoadPlan, holding_seconds: float) -> list[int]:
    """The pool sizes of a curve: each a fifth above the one before, from the first that might carry the load.

    One that can't carry it is not tried: its latency is the timeout.
    """
    largest = max(plan.baseline_pool, plan.candidate_pool)
    first = min(largest, max(1, math.floor(plan.rate / plan.pods * holding_seconds)))
    found = [first]
    while found[-1] < largest:
        found.append(min(largest, max(found[-1] + 1, math.floor(found[-1] * 1.2))))
    return found


def curve(
    plan: LoadPlan,
    give: Give,
    *,
    processors: int = 0,
    queued_behind: Callable[[], int] = lambda: 0,
    say: Say = lambda text, share: None,
) -> Curve:
    """Measure each pool size, under the same arrivals, and put the model next to it.

    ``processors`` are the copy's, 0 if nothing limits them; ``queued_behind`` says how many clients have waited in the
    pooler so far. UpstreamError of a pod that fails.
    """
    largest = max(plan.baseline_pool, plan.candidate_pool)
    plan = plan.model_copy(update={"block_seconds": LONGER * plan.block_seconds})
    whole = give(arrivals(plan, largest, seed=plan.seed))
    holding = whole.held.mean()
    if not holding:
        return Curve(
            points=(),
            pods=plan.pods,
            rate=plan.rate,
            holding_seconds=0.0,
            knee=None,
            modelled_knee=None,
            assumption=f"no transaction succeeded: {'; '.join([*whole.errors, *whole.refusals]) or 'only timeouts'}",
        )
    measured: dict[int, tuple[Measured, Measured]] = {}
    tried = sizes(plan, holding)
    for number, size in enumerate(tried):
        say(f"a pool of {size}", number / len(tried))
        measured[size] = (
            give(arrivals(plan, size, seed=plan.seed)),
            give(loop(plan, size, seed=plan.seed).model_copy(update={"workers": size})),
        )
    rate = plan.rate / plan.pods
    modelled = {size: queueing.latency_quantile(size, rate, holding) for size in measured}
    busy = max(0.0, measured[tried[0]][1].held.mean() - plan.hold_seconds)
    carried = queueing.closed_loop(
        plan.pods * largest, busy, processors or plan.pods * largest, plan.hold_seconds + (0 if busy else 1e-9)
    )
    points = tuple(
        CurvePoint(
            pool=size,
            arriving=Figures.of(open_loop),
            driven=Figures.of(closed_loop),
            modelled_p95=None if math.isinf(modelled[size]) else modelled[size],
            modelled_throughput=carried[plan.pods * size - 1],
        )
        for size, (open_loop, closed_loop) in measured.items()
    )
    # A pool that gave up on clients did not carry the load, whatever the latency of those that it served.
    seen = {p.pool: math.inf if p.arriving.timeouts else p.arriving.latency.p95 for p in points}
    found = Curve(
        points=points,
        pods=plan.pods,
        rate=plan.rate,
        holding_seconds=holding,
        knee=queueing.knee(seen),
        modelled_knee=queueing.knee(modelled),
        assumption="",
    )
    if found.holds:
        return found
    return found.model_copy(update={"assumption": failed_assumption(found, queued_behind(), measured)})


def failed_assumption(found: Curve, queued_behind: int, measured: Mapping[int, tuple[Measured, Measured]]) -> str:
    """Which assumption of the model does not hold, by what shows it; the first that applies, in words."""
    last = found.points[-1]
    doubts = [doubt for pair in measured.values() if (doubt := untrusted(*pair))]
    refused = {why for point in found.points for why in (*point.arriving.refusals, *point.arriving.errors)}
    calm, crowded = found.points[0].driven.held.mean, last.driven.held.mean
    if doubts:
        return f"the load is given as planned: {doubts[0]}"
    if refused:
        return f"every connection of the pool can be had: {'; '.join(sorted(refused))}"
    if queued_behind:
        return f"nobody queues behind the pool: {queued_behind} clients waited in PgBouncer at once"
    if calm and crowded > GROWTH * calm:
        return (
            f"the holding time does not depend on the pool: it grew from {calm * 1000:.1f} ms at {found.points[0].pool} "
            f"connections a pod to {crowded * 1000:.1f} ms at {last.pool}"
        )
    spread = last.arriving.held.p95 / last.arriving.held.mean
    return f"holding times are exponential: their p95 is {spread:.1f} times their mean, an exponential's 3.0 times"


__all__ = ["GROWTH", "Give", "arrivals", "compare", "curve", "failed_assumption", "load_seconds", "loop", "sizes"]
