"""What a load drill has shown: a decision, a pooler that was on the way, a generator that kept up, and the model's worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook.connections.comparison import Decision
from drillbook.connections.findings import LoadPlan
from drillbook.engine.step import CheckStep, Context
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Verdict
from drillbook.steps.connections.load_path import PooledCopy
from drillbook.steps.connections.load_run import LoadCompared, LoadCurve

_VERDICTS = {
    Decision.ACCEPTED: Verdict.VERIFIED,
    Decision.REJECTED: Verdict.FAILED,
    Decision.UNPROVEN: Verdict.UNPROVEN,
}


@dataclass(frozen=True)
class CandidateJudged(CheckStep):
    """Is the candidate as good as what there is?

    No connection timeout, no failed transaction, p95 latency below 200 ms, and at least 95 % of the baseline's throughput, each
    decided by the whole of its 95 % interval. What the interval does not decide is UNPROVEN, never guessed.
    """

    planned: LoadPlan
    compared: LoadCompared
    name: ClassVar[str] = "candidate"
    proves: ClassVar[str] = "the candidate's pools carry the load as the baseline's do"

    def observe(self, ctx: Context) -> Sequence[Check]:
        plan, found = self.planned, self.compared.comparison
        ctx.recorder.note(
            Facts(
                claim=f"On a copy of {ctx.source_ref.name}, {plan.pods} × {plan.candidate_pool} instead of {plan.pods} × "
                f"{plan.baseline_pool} connections to {plan.database}: {found.decision}"
            )
        )
        seen = [why for variant in (self.compared.baseline, self.compared.candidate) for why in variant.driven.refusals]
        return [
            self.result(
                _VERDICTS[item.decision],
                name=f"{self.name}: {item.name}",
                expected=item.required,
                observed=item.measured,
                reason=self._reason(item.decision),
                details=tuple(("refused", why) for why in dict.fromkeys(seen))[:4],
            )
            for item in found.criteria
        ]

    def _reason(self, decision: Decision) -> str:
        if decision is not Decision.UNPROVEN:
            return ""
        return self.compared.untrusted or "the 95 % interval contains the bound: more pairs or longer blocks decide it"


@dataclass(frozen=True)
class LoadThroughPooler(CheckStep):
    """Real PgBouncer was between the application's pools and the copy."""

    pooled: PooledCopy
    compared: LoadCompared
    name: ClassVar[str] = "pooler on the path"
    proves: ClassVar[str] = "the load went through PgBouncer, as configured by the Pooler"

    def observe(self, ctx: Context) -> Sequence[Check]:
        seen = self.compared.pooler
        why = self.pooled.why_not or seen.unread
        return [
            self.result(
                Verdict.UNPROVEN if why else Verdict.VERIFIED,
                expected=f"Pooler {self.pooled.pooler}, default_pool_size {self.pooled.pool_size}",
                observed="the load went to the copy itself" if self.pooled.why_not else str(seen),
                reason=why,
            )
        ]


@dataclass(frozen=True)
class GeneratorKeptUp(CheckStep):
    """The load was given as planned: the generator was neither late nor out of processor time."""

    compared: LoadCompared
    name: ClassVar[str] = "load generator"
    proves: ClassVar[str] = "the figures are the database's and not the generator's"

    def observe(self, ctx: Context) -> Sequence[Check]:
        parts = [
            part
            for variant in (self.compared.baseline, self.compared.candidate)
            for part in (variant.arriving, variant.driven)
        ]
        late, busy = max(part.late for part in parts), max(part.busy for part in parts)
        return [
            self.result(
                Verdict.UNPROVEN if self.compared.untrusted else Verdict.VERIFIED,
                expected="arrivals begin when they are due, on a processor that is not full",
                observed=f"{late * 1000:.1f} ms late (p95), {busy:.0%} of a processor for the busiest process",
                reason=self.compared.untrusted,
            )
        ]


@dataclass(frozen=True)
class ModelHolds(CheckStep):
    """The knee of the measured curve is the queueing model's, to one connection or a fifth.

    Where it is not, sizes between those that were measured can't be taken from the model; which assumption failed is named.
    """

    curve: LoadCurve
    name: ClassVar[str] = "queueing model"
    proves: ClassVar[str] = "more or fewer connections than were measured can be computed"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = self.curve
        if not found.points:
            return [self.result(Verdict.UNPROVEN, expected="a curve", observed="none", reason=found.assumption)]
        return [
            self.result(
                Verdict.VERIFIED if found.holds else Verdict.FAILED,
                expected=f"by the model: {_connections(found.modelled_knee)}",
                observed=f"measured: {_connections(found.knee)}; a connection is held {found.holding_seconds * 1000:.1f} ms",
                reason=f"this assumption does not hold here: {found.assumption}" if found.assumption else "",
            )
        ]


def _connections(knee: int | None) -> str:
    return "no size that was tried carries the load" if knee is None else f"more than {knee} a pod gain nothing"


__all__ = ["CandidateJudged", "GeneratorKeptUp", "LoadThroughPooler", "ModelHolds"]
