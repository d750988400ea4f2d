"""The old cluster, stopped and kept: PostgreSQL is down on every instance, pods and volumes stay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Action, Context, Plan, Step
from drillbook.errors import KubernetesError, StepTimeoutError, VerificationError
from drillbook.evidence.facts import Facts
from drillbook.model import Effect, Frozen, show_seconds
from drillbook.steps.preflight.instances import (
    FENCED,
    NODE_IS_DOWN,
    away_words,
    instance_pods,
    is_fenced,
    promises_on,
    server_runs,
)
from drillbook.steps.preflight.old_cluster import STILL_HEALTHY, OldCluster
from drillbook.steps.preflight.readiness import HEALTHY

_WAY_ON = (
    "Make sure that the machine is shut down. Then `kubectl taint nodes NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute` "
    f"says so to Kubernetes, which removes its pods and detaches its volumes; or say why it is down by {NODE_IS_DOWN}."
)


class FencedCluster(Frozen):
    """The old cluster with no server running; ``pods`` are still there, and their volumes with them."""

    name: str
    pods: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class FenceOldCluster(Step[FencedCluster]):
    """Fence the old cluster: no server of it runs, and nobody takes over.

    Two writable primaries of one history would part it for good. Pods and volumes stay: they are the way back, and hold
    what was never archived.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    node_is_down_because: str = ""  # a person's word for machines that can't be asked

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary="Fence the old cluster")
        if self.old.gone:
            return Plan(summary="Nothing: the old Cluster is gone", harmless=True)
        ref = self.old.ref
        found = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name) or {}
        away = [words for name in instance_pods(ctx, self.old) if (words := away_words(ctx, self.old, name))]
        word = self.node_is_down_because
        healthy = found.get("status", {}).get("phase") == HEALTHY and not is_fenced(found)
        return Plan(
            summary=f'Annotation {FENCED}: ["*"] on Cluster {ref}; PostgreSQL stops on each of its instances',
            touches=(Action("fence", "Cluster", ref.namespace, ref.name, self.old.uid),),
            notes=(
                *((f"WARNING: {ref} is healthy now; {STILL_HEALTHY}",) if healthy else ()),
                *(f"WARNING: {words}" for words in away),
                *((f"said to be down: {word}" if word else _WAY_ON,) if away else ()),
            ),
            lost=(f"every session on {ref}, of every tenant",),
            outage=(f"every tenant of {ref}, from the fence until clients are let in again, or the fence is lifted",),
        )

    def do(self, ctx: Context) -> FencedCluster:
        begun = time.monotonic()
        if self.old.gone:
            return FencedCluster(name=self.old.ref.name, pods=(), seconds=0.0)
        undo.change(
            ctx,
            k8s.CLUSTER,
            self.old.ref.namespace,
            self.old.ref.name,
            {"metadata": {"annotations": {FENCED: '["*"]'}}},
            "fenced while it is replaced",
        )
        pods = instance_pods(ctx, self.old)
        limit = ctx.site.limits.step.total_seconds()
        if word := self.node_is_down_because:
            ctx.recorder.note(Facts(node_is_down_because=word))

        def running() -> list[str]:
            return [name for name in pods if server_runs(ctx, self.old, name, down_because=word)]

        def away(names: list[str]) -> list[str]:
            return [words for name in names if (words := away_words(ctx, self.old, name))]

        def late(names: list[str]) -> StepTimeoutError:
            where = away(names)
            stuck = "A stuck archive_command holds up the shutdown: look at the pod's log. Lift the fence to go back."
            return StepTimeoutError(
                f"PostgreSQL may still run in {', '.join([*names, *where])} after {show_seconds(limit)} of fencing",
                todo=_WAY_ON if where else stuck,
            )

        ctx.wait_while(
            running, limit, lambda names: f"waiting for these to stop: {'; '.join([*names, *away(names)])}", late
        )
        for name in pods:
            ctx.forget_pod(self.old.ref.namespace, name)
        return FencedCluster(name=self.old.ref.name, pods=tuple(pods), seconds=time.monotonic() - begun)

    def verify(self, ctx: Context, result: FencedCluster) -> None:
        """By the annotation and by pg_ctl: a pod's Ready condition and the Cluster's phase show a fence only after 20 to 30 s."""
        if not result.pods:
            return
        found = ctx.kube.get(k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        running = [
            name for name in result.pods if server_runs(ctx, self.old, name, down_because=self.node_is_down_because)
        ]
        if running or (found is not None and not is_fenced(found)):
            raise VerificationError(
                f"Cluster {self.old.ref} is not fenced",
                expected=f'annotation {FENCED}: ["*"], and no PostgreSQL server on its instances',
                observed=f"servers on {', '.join(running) or 'none'}; the annotation is "
                + ("there" if found is not None and is_fenced(found) else "gone"),
                todo="See whether another controller removed the annotation, and pause it.",
            )


def lift_fence(ctx: Context, old: OldCluster) -> bool:
    """Put the annotation back as it was and wait until the cluster is healthy; safe to repeat. StepTimeoutError.

    An annotation that was there before this run stays, and nothing is waited for. Returns whether the cluster serves.
    """
    for promise in promises_on(ctx, k8s.CLUSTER, old.ref.namespace, old.ref.name):
        undo.restore(ctx, promise)
    if (ctx.cluster_object(old.ref)["metadata"].get("annotations") or {}).get(FENCED, "[]") != "[]":
        return False  # somebody had fenced it before this run: whether it may serve again is theirs to say
    ctx.kube.wait(
        k8s.CLUSTER,
        old.ref.namespace,
        old.ref.name,
        lambda found: (found or {}).get("status", {}).get("phase") == HEALTHY and _all_serve(ctx, old),
        timeout_seconds=ctx.site.limits.recovery.total_seconds(),
        what=f"Cluster {old.ref} to be healthy again",
    )
    return True


def _is_ready(ctx: Context, old: OldCluster, pod: str) -> bool:
    found = ctx.kube.get(k8s.POD, old.ref.namespace, pod) or {}
    return _ready(found)


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _all_serve(ctx: Context, old: OldCluster) -> bool:
    """Ready, and answering: a fence of a few seconds never shows in the Ready condition."""
    pods = instance_pods(ctx, old)
    return bool(pods) and all(_is_ready(ctx, old, name) and _accepts(ctx, old, name) for name in pods)


def _accepts(ctx: Context, old: OldCluster, pod: str) -> bool:
    """Whether PostgreSQL takes connections, by pg_isready in the pod."""
    try:
        return (
            ctx.kube.exec(
                old.ref.namespace, pod, "postgres", ["pg_isready", "-q"], timeout_seconds=30, repeatable=True
            ).exit_code
            == 0
        )
    except KubernetesError:
        return False  # between two attempts of a container, or the node is away: the wait's limit decides


__all__ = ["FenceOldCluster", "FencedCluster", "lift_fence"]
