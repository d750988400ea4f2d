"""Other controllers that hold what a cut-over changes: paused as a promise, or named; and resumed once Git agrees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Action, CheckStep, Context, Obligation, Plan
from drillbook.engine.undo import SYNCED, synced
from drillbook.errors import PreconditionError
from drillbook.evidence.facts import Facts
from drillbook.kube.reconcilers import UNSYNCED, Reconciler, reconcilers_on
from drillbook.model import Check, Effect, Verdict

Objects = Sequence[dict[str, Any]]
PATIENCE_SECONDS = 20.0
"""How long a comparison is waited for. Argo CD watches what it holds; Git it asks every three minutes."""


def reconcilers_of(ctx: Context, objects: Objects) -> list[Reconciler]:
    """Everybody who holds one of the objects, each once."""
    found: dict[str, Reconciler] = {}
    for item in objects:
        for hand in reconcilers_on(ctx.kube, item):
            found.setdefault(hand.who, hand)
    return list(found.values())


def faults(ctx: Context, objects: Objects) -> list[str]:
    """Everybody who would put one of the objects back and can't be paused by a run, in words."""
    return [
        f"another controller would revert this change: {hand}"
        for hand in reconcilers_of(ctx, objects)
        if hand.in_the_way
    ]


def require_free(ctx: Context, objects: Objects) -> None:
    """Raise, naming them, if somebody would put an object back and can't be paused by this run."""
    if blocking := [hand for hand in reconcilers_of(ctx, objects) if hand.in_the_way]:
        raise PreconditionError(
            "another controller would put back what the cut changes: " + "; ".join(str(hand) for hand in blocking),
            todo="Pause it, or make the change where it reads its manifests; then go on.",
        )


def touches(ctx: Context, objects: Objects) -> tuple[Action, ...]:
    """What pausing will touch; the same whether it is paused already."""
    return tuple(
        Action("pause automated sync of", k8s.APPLICATION.kind, hand.namespace, hand.name)
        for hand in reconcilers_of(ctx, objects)
        if hand.pausable
    )


def pause(ctx: Context, objects: Objects) -> None:
    """Pause who would put the objects back; each is promised to go on. Safe to repeat."""
    for hand in reconcilers_of(ctx, objects):
        if hand.pausable and hand.acts:
            what = "doesn't sync by itself while its declared state is the one before the cut"
            undo.change(ctx, k8s.APPLICATION, hand.namespace, hand.name, UNSYNCED, what)


def paused(ctx: Context) -> list[Obligation]:
    """The open promises to let an Application sync by itself again."""
    return [item for item in ctx.recorder.promises() if item.kind == k8s.APPLICATION.kind and item.undo]


def stay_paused(ctx: Context, why: str) -> None:
    """From here on what is declared is not what is there, and is not to come back: however this run ends, what it has
    paused goes on only once Git agrees."""
    ctx.recorder.note(Facts(replaced=why))


def resume_reconcilers(ctx: Context) -> None:
    """Let everybody go on who was paused: what is declared is what is there again."""
    if ctx.recorder.facts.replaced:
        ctx.recorder.note(Facts(replaced=""))
    for promise in paused(ctx):
        undo.restore(ctx, promise)


@dataclass(frozen=True)
class DeclaredStateAgrees(CheckStep):
    """What is declared agrees with the cut, so that reconcilers can go on.

    Argo CD compares while it is paused. As long as Git declares the state before the cut it stays paused, and this run
    is UNPROVEN: the next sync would undo the cut. The patch for Git is part of the result.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    name: ClassVar[str] = "declared state"
    proves: ClassVar[str] = "no reconciler would bring the state before the cut back"

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Let Argo CD sync by itself again, where what it declares is what is there")

    def observe(self, ctx: Context) -> Sequence[Check]:
        promises = paused(ctx)
        if not promises:
            return [self.result(Verdict.NOT_APPLICABLE, reason="nobody had to be paused")]
        return [self._agrees(ctx, promise) for promise in promises]

    def _agrees(self, ctx: Context, promise: Obligation) -> Check:
        name = f"{self.name}: {promise.namespace}/{promise.name}"
        deadline = time.monotonic() + min(PATIENCE_SECONDS, ctx.site.limits.step.total_seconds())
        while (status := synced(ctx.kube, promise.namespace, promise.name)) != SYNCED and time.monotonic() < deadline:
            ctx.recorder.progress(f"Argo CD says {status or 'nothing'} of {promise.name}")
            ctx.pause(1.0)
        if status != SYNCED:
            return self.result(
                Verdict.UNPROVEN,
                name=name,
                expected="Synced: Git declares what is there",
                observed=status or "no status",
                reason="it stays paused: change Git by the patch that this run shows, then let it sync by itself again",
            )
        undo.restore(ctx, promise)
        return self.result(Verdict.VERIFIED, name=name, expected="Synced", observed="Synced; it syncs by itself again")


__all__ = [
    "DeclaredStateAgrees",
    "faults",
    "pause",
    "paused",
    "reconcilers_of",
    "require_free",
    "resume_reconcilers",
    "stay_paused",
    "touches",
]
