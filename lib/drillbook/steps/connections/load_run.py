"""The load itself: baseline against candidate, and the curve over the pool size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.connections import measuring
from drillbook.connections.findings import Compared, Curve, LoadPlan, Variant
from drillbook.engine.step import Context, Plan, Step
from drillbook.evidence.facts import Facts
from drillbook.model import Effect
from drillbook.report import load as picture
from drillbook.steps.connections.load_path import PooledCopy, load_on
from drillbook.steps.connections.pooler_watch import PoolerSeen, PoolerWatch


class LoadCompared(Compared):
    """Both variants, with what the pooler said in that time and how it was reached."""

    pooler: PoolerSeen
    reached: str

    def card(self) -> dict[str, str]:
        """The variants next to each other."""
        return picture.bundle(comparison_rows(self), picture.comparison_html, picture.comparison_words)


class LoadCurve(Curve):
    """The curve, with what the pooler said in that time."""

    pooler: PoolerSeen

    def card(self) -> dict[str, str]:
        """The picture."""
        return picture.bundle(curve_points(self), picture.curve_html, picture.curve_words) if self.points else {}


@dataclass(frozen=True)
class CompareUnderLoad(Step[LoadCompared]):
    """Load the copy as the application does, with the pools as they are and as they might be.

    Processes of their own, each with a real connection pool. Latency is measured with open arrivals by a Poisson schedule and
    counts from the intended start; throughput in a closed loop. Both variants get the same arrivals, in the order A B B A, so
    that whatever drifts falls on both.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    planned: LoadPlan
    pooled: PooledCopy

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary="Load the copy with both variants, interleaved; its application role gets a new password there"
        )

    def do(self, ctx: Context) -> LoadCompared:
        with (
            load_on(ctx, self.planned, self.pooled) as (pods, how),
            PoolerWatch(ctx, self.pooled, self.planned.database) as watch,
        ):
            found = measuring.compare(
                self.planned, pods.block, lambda text, share: ctx.recorder.progress(text, fraction=share)
            )
        compared = LoadCompared(**dict(found), pooler=watch.seen, reached=how)
        ctx.recorder.note(Facts(load_comparison=comparison_rows(compared)))
        return compared


@dataclass(frozen=True)
class MeasureCurve(Step[LoadCurve]):
    """Throughput and latency over the size of the pool, next to what a queueing model says.

    The same arrivals for each size; the model (Erlang C for the arrivals, exact mean value analysis for the closed loop) knows
    only the rate and how long a connection is held. Where the knee is not the model's, it is said which assumption failed.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    planned: LoadPlan
    pooled: PooledCopy

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Load the copy with one pool size after the other")

    def do(self, ctx: Context) -> LoadCurve:
        limits = (ctx.cluster_object(self.pooled.ref)["spec"].get("resources") or {}).get("limits") or {}
        with (
            load_on(ctx, self.planned, self.pooled) as (pods, _),
            PoolerWatch(ctx, self.pooled, self.planned.database) as watch,
        ):
            found = measuring.curve(
                self.planned,
                pods.block,
                processors=processors(str(limits.get("cpu") or "")),
                queued_behind=lambda: watch.seen.waiting,
                say=lambda text, share: ctx.recorder.progress(text, fraction=share),
            )
        measured = LoadCurve(**dict(found), pooler=watch.seen)
        if measured.points:
            ctx.recorder.note(Facts(load_curve=curve_points(measured)))
        return measured


def processors(quantity: str) -> int:
    """A Kubernetes CPU quantity as whole processors, rounded up; 0 for none: nothing limits them."""
    if not quantity:
        return 0
    return math.ceil(int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity))


def comparison_rows(found: LoadCompared) -> dict[str, Any]:
    """As report and card draw it."""
    return {
        "decision": str(found.comparison.decision),
        "criteria": [item.model_dump(mode="json") for item in found.comparison.criteria],
        "variants": [_variant(found.baseline), _variant(found.candidate)],
        "pooler": str(found.pooler),
        "reached": found.reached,
        "untrusted": found.untrusted,
    }


def _variant(found: Variant) -> dict[str, Any]:
    arriving, driven = found.arriving, found.driven
    return {
        "name": found.name,
        "pool": found.pool,
        "arrivals": arriving.arrivals,
        "acquire": str(arriving.acquire),
        "query": str(arriving.query),
        "latency": str(arriving.latency),
        "throughput": round(driven.throughput, 1),
        "timeouts": arriving.timeouts + driven.timeouts,
        "saturation": f"{arriving.saturation:.0%} open, {driven.saturation:.0%} closed loop",
        "waiting": max(arriving.waiting, driven.waiting),
        "refusals": sorted({*arriving.refusals, *driven.refusals, *arriving.errors, *driven.errors}),
    }


def curve_points(found: LoadCurve) -> dict[str, Any]:
    """As report and card draw it: latency in milliseconds."""
    return {
        "pods": found.pods,
        "rate": found.rate,
        "holding_ms": round(found.holding_seconds * 1000, 2),
        "knee": found.knee,
        "modelled_knee": found.modelled_knee,
        "holds": found.holds,
        "assumption": found.assumption,
        "pooler": str(found.pooler),
        "points": [
            {
                "pool": point.pool,
                "p95_ms": round(point.arriving.latency.p95 * 1000, 2),
                "modelled_p95_ms": None if point.modelled_p95 is None else round(point.modelled_p95 * 1000, 2),
                "throughput": round(point.driven.throughput, 1),
                "modelled_throughput": round(point.modelled_throughput, 1),
                "timeouts": point.arriving.timeouts,
            }
            for point in found.points
        ],
    }


__all__ = [
    "CompareUnderLoad",
    "LoadCompared",
    "LoadCurve",
    "MeasureCurve",
    "comparison_rows",
    "curve_points",
    "processors",
]
