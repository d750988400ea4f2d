"""The application's own pools: one pod first, alongside the others; then the rest. A missed threshold takes all of it back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections import change as changing
from drillbook.connections.change import ConnectionChange
from drillbook.connections.comparison import Decision
from drillbook.engine import undo
from drillbook.engine.step import Action, CheckStep, Context, Obligation, Plan, Step
from drillbook.errors import (
    Changed,
    ConflictError,
    StepTimeoutError,
    VerificationError,
)
from drillbook.evidence.facts import Facts
from drillbook.kube import workloads
from drillbook.manifests import canary as manifests
from drillbook.model import Check, Effect, Verdict
from drillbook.profile.schema import Application
from drillbook.steps.connections.change import application_of, differences, note_begin, set_values
from drillbook.steps.connections.change_limits import ChangedLimits
from drillbook.steps.connections.change_probe import Pod, SessionsSeen, canary_pods, is_ready, restarts, unchanged_pods
from drillbook.steps.connections.change_watch import ThresholdsMissed, Watched, watch
from drillbook.steps.connections.path import FoundPath
from drillbook.steps.preflight.instances import promises_on
from drillbook.steps.preflight.readiness import SourceCluster

_GLANCE = 0.3


@dataclass(frozen=True)
class _ChangePools(Step[Watched]):
    """What the canary and the rest have in common."""

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    found: FoundPath
    change: ConnectionChange
    watched_seconds: int = 300
    probe_clients: int = 4

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    @property
    def _pool(self) -> int:
        """The connections that one new pod may have, those of its start with them."""
        pods = self.found.pods
        return pods.connections(1) + pods.startup_pool

    def _missed(self, ctx: Context, app: Application, reasons: str, watched: Watched | None) -> VerificationError:
        """Take back what this run has changed of the application, prove it, and say why."""
        if watched is not None:
            ctx.recorder.note(Facts(connection_watch=watched.model_dump(mode="json")))
        ctx.recorder.progress(f"taken back, because of {reasons}")
        take_back(ctx, app, self.change)
        left = differences(ctx, _of_pools(self.change))
        error = VerificationError(
            "a threshold was missed, and the change of the pools was taken back",
            expected="every threshold kept",
            observed=reasons,
            todo="Nothing is left of it: look at the application's log of that time, and try another value."
            if not left
            else f"Not as before: {'; '.join(left)}. Put it right by hand.",
            changed=Changed.DONE if left else Changed.NOTHING,
        )
        error.rolled_back = not left
        return error


@dataclass(frozen=True)
class RunCanary(_ChangePools):
    """Run one pod with the new settings alongside the others, and watch it.

    It is a Deployment of its own with the same template and labels, so the same Services send to it. The first threshold
    that is missed removes it. It is named by the run: done again after a kill, the step finds it and watches it from the
    beginning. Where the limits behind it were to be changed and were not, no canary is run.
    """

    limits: ChangedLimits | None = None

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        if not self.change.of_pools:
            return Plan(summary="The application's own settings stay as they are: no canary", harmless=True)
        _, app = application_of(ctx, self.change.database)
        return Plan(
            summary=f"One pod with the new settings alongside Deployment {app.namespace}/{app.deployment}, watched for "
            f"{self.watched_seconds} s",
            objects=(self._object(ctx, app),),
            touches=_touches("try as a canary", self.change),
            notes=(
                "the same Services send requests to it as to the other pods; so do what reads its labels: an autoscaler's "
                "average, a PodDisruptionBudget, a PodMonitor",
                f"asked by {self.probe_clients} clients at once, and an unchanged pod in turn with it",
            ),
        )

    def _object(self, ctx: Context, app: Application) -> dict[str, Any]:
        deployment = workloads.deployment(ctx.kube, app)
        return manifests.canary(deployment, changing.patch(deployment, self.change.of_pools), ctx.run_id)

    def do(self, ctx: Context) -> Watched:
        if not self.change.of_pools:
            return Watched()
        _, app = application_of(ctx, self.change.database)
        note_begin(ctx, self.change, self.change.of_pools)
        before = SessionsSeen(ctx, self.found).look()
        self._make(ctx, app)
        deployment = workloads.deployment(ctx.kube, app)
        try:
            self._wait_ready(ctx, app)
            watched = watch(
                ctx,
                app,
                self.found,
                where="the canary",
                new=lambda: canary_pods(ctx, app.namespace, ctx.run_id),
                unchanged=lambda: unchanged_pods(ctx, deployment),
                more=self._pool,
                before=before,
                seconds=self.watched_seconds,
                clients=self.probe_clients,
            )
        except ThresholdsMissed as missed:
            raise self._missed(ctx, app, str(missed), missed.watched) from missed
        ctx.recorder.note(Facts(connection_watch=watched.model_dump(mode="json")))
        return watched

    def _make(self, ctx: Context, app: Application) -> None:
        wanted = self._object(ctx, app)
        name = wanted["metadata"]["name"]
        there = ctx.kube.get(k8s.DEPLOYMENT, app.namespace, name)
        if there is not None:
            if (there["metadata"].get("labels") or {}).get(manifests.CANARY) != ctx.run_id:
                raise ConflictError(
                    f"Deployment {app.namespace}/{name} is there, and is no canary of this run",
                    todo="Nothing was changed. Find out whose it is.",
                )
            return
        ctx.require_lease()
        undoing = {"verb": "delete", "kind": "Deployment", "namespace": app.namespace, "name": name, "uid": ""}
        ctx.recorder.obligation(Obligation("Deployment", app.namespace, name, "the canary of this run", undo=undoing))
        ctx.kube.create(wanted)

    def _wait_ready(self, ctx: Context, app: Application) -> None:
        deadline = time.monotonic() + ctx.site.limits.step.total_seconds()
        while True:
            pods = [pod for pod in canary_pods(ctx, app.namespace, ctx.run_id) if not _going(pod)]
            if any(is_ready(pod) for pod in pods):
                return
            crashed = [pod["metadata"]["name"] for pod in pods if restarts(pod)]
            if crashed:
                raise ThresholdsMissed(
                    [f"restarts: {crashed[0]} ended before it was ready"], Watched(where="the canary")
                )
            if time.monotonic() > deadline:
                raise ThresholdsMissed([f"health: {_state(pods)}"], Watched(where="the canary"))
            ctx.recorder.progress(f"the canary's pod: {_state(pods)}")
            ctx.pause(_GLANCE)


@dataclass(frozen=True)
class RollOut(_ChangePools):
    """Give the settings to every pod, by the Deployment's own rolling update, and watch that too.

    The canary is removed first: so at no time are more connections wanted than in any rolling update. Only the Deployment
    that was read is changed. A threshold that is missed puts it back as it was.
    """

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        if not self.change.of_pools:
            return Plan(summary="The application's own settings stay as they are", harmless=True)
        _, app = application_of(ctx, self.change.database)
        return Plan(
            summary=f"A rolling update of Deployment {app.namespace}/{app.deployment}, watched for {self.watched_seconds} s after it",
            touches=_touches("set in", self.change),
            notes=("its pods are replaced as its own strategy says: this restarts every one of them",),
        )

    def do(self, ctx: Context) -> Watched:
        if not self.change.of_pools:
            return Watched()
        _, app = application_of(ctx, self.change.database)
        note_begin(ctx, self.change, self.change.of_pools)
        remove_canary(ctx, app)
        before = SessionsSeen(ctx, self.found).look()
        set_values(ctx, self.change, changing.DEPLOYMENT)
        try:
            self._wait_rolled_out(ctx, app)
            deployment = workloads.deployment(ctx.kube, app)
            watched = watch(
                ctx,
                app,
                self.found,
                where="every pod",
                new=lambda: unchanged_pods(ctx, deployment),
                unchanged=list,
                more=self._pool * self.found.pods.replicas,
                before=before,
                seconds=self.watched_seconds,
                clients=self.probe_clients,
            )
        except ThresholdsMissed as missed:
            raise self._missed(ctx, app, str(missed), missed.watched) from missed
        ctx.recorder.note(Facts(connection_watch=watched.model_dump(mode="json")))
        return watched

    def _wait_rolled_out(self, ctx: Context, app: Application) -> None:
        deadline = time.monotonic() + ctx.site.limits.step.total_seconds()
        while not rolled_out(found := workloads.deployment(ctx.kube, app)):
            new = [pod for pod in unchanged_pods(ctx, found) if self._is_new(pod)]
            if crashed := [pod["metadata"]["name"] for pod in new if restarts(pod)]:
                raise ThresholdsMissed(
                    [f"restarts: {crashed[0]} has ended and was started again"], Watched(where="every pod")
                )
            if time.monotonic() > deadline:
                raise ThresholdsMissed([f"health: {_state(new)}"], Watched(where="every pod"))
            ctx.recorder.progress(f"rolling update: {_counts(found)}; new pods: {_state(new)}")
            ctx.pause(_GLANCE)

    def _is_new(self, pod: Pod) -> bool:
        return all(changing.current({"spec": {"template": pod}}, item) == item.after for item in self.change.of_pools)


def take_back(ctx: Context, app: Application, change: ConnectionChange) -> None:
    """Put the Deployment back, wait for its pods, remove the canary and wait until its pod is gone. Safe to repeat."""
    changed = promises_on(ctx, k8s.DEPLOYMENT, app.namespace, app.deployment)
    for promise in changed:
        undo.restore(ctx, promise)
    if changed:
        limit = ctx.site.limits.step.total_seconds()
        ctx.wait_while(
            lambda: "" if rolled_out(found := workloads.deployment(ctx.kube, app)) else _counts(found),
            limit,
            lambda words: f"putting the pods back: {words}",
            lambda words: StepTimeoutError(
                f"Deployment {app.namespace}/{app.deployment} has its old template, and {words} after {limit:.0f} s",
                todo="Look at its pods; the old settings are in place.",
            ),
        )
    remove_canary(ctx, app)


def remove_canary(ctx: Context, app: Application) -> bool:
    """Remove the canary and wait until its pod is gone; whether there was one. Safe to repeat."""
    name = manifests.name_of(app.deployment, ctx.run_id)
    mine = [
        item
        for item in ctx.recorder.promises()
        if (item.kind, item.namespace, item.name) == ("Deployment", app.namespace, name)
    ]
    for promise in mine:
        undo.restore(ctx, promise)
    limit = ctx.site.limits.step.total_seconds()
    ctx.wait_while(
        lambda: [pod["metadata"]["name"] for pod in canary_pods(ctx, app.namespace, ctx.run_id)],
        limit,
        lambda pods: f"the canary ends: {', '.join(pods)}",
        lambda pods: StepTimeoutError(
            f"the canary's Deployment is deleted, and pod {pods[0]} is still there after {limit:.0f} s",
            todo="It ends once its requests have; look at it.",
        ),
    )
    return bool(mine)


def rolled_out(found: dict[str, Any]) -> bool:
    """Whether every pod of the Deployment is one of its present template, and ready."""
    status, wanted = found.get("status") or {}, int(found["spec"].get("replicas", 1))
    seen = int(status.get("observedGeneration", 0)) >= int(found["metadata"].get("generation", 0))
    counts = [int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
    return seen and all(count == wanted for count in counts)


def _counts(found: dict[str, Any]) -> str:
    status = found.get("status") or {}
    return f"{status.get('updatedReplicas') or 0} new and {status.get('readyReplicas') or 0} ready of {found['spec'].get('replicas', 1)}"


def _going(pod: Pod) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _state(pods: Sequence[Pod]) -> str:
    if not pods:
        return "no pod yet"
    return ", ".join(
        f"{pod['metadata']['name']} {'ready' if is_ready(pod) else str((pod.get('status') or {}).get('phase', 'pending'))}"
        for pod in pods
    )


def _touches(verb: str, change: ConnectionChange) -> tuple[Action, ...]:
    seen = next((item for item in change.objects if item.kind == changing.DEPLOYMENT), None)
    return tuple(
        Action(
            f"{item.key} {item.old} → {item.new}: {verb}",
            item.kind,
            item.namespace,
            item.name,
            seen.uid if seen else "",
        )
        for item in change.of_pools
    )


def _of_pools(change: ConnectionChange) -> ConnectionChange:
    return change.model_copy(
        update={
            "settings": change.of_pools,
            "objects": tuple(item for item in change.objects if item.kind == changing.DEPLOYMENT),
        }
    )


@dataclass(frozen=True)
class CanaryHolds(CheckStep):
    """Every threshold was kept by the one pod, so that the others may follow."""

    change: ConnectionChange
    watched: Watched
    name: ClassVar[str] = "canary"
    proves: ClassVar[str] = "a pod with the new settings serves as the others do"

    def observe(self, ctx: Context) -> Sequence[Check]:
        return held(self, self.watched)


@dataclass(frozen=True)
class RolloutHolds(CheckStep):
    """Every threshold was kept by all pods, while they were replaced and after."""

    change: ConnectionChange
    watched: Watched
    name: ClassVar[str] = "all pods"
    proves: ClassVar[str] = "the application serves with the new settings"

    def observe(self, ctx: Context) -> Sequence[Check]:
        return held(self, self.watched)


def held(step: CheckStep, watched: Watched) -> list[Check]:
    """A watch as a check: UNPROVEN where a threshold could not be decided."""
    if not watched.where:
        return [step.result(Verdict.NOT_APPLICABLE, reason="the application's own settings stay as they are")]
    undecided = [one for one in watched.criteria if one.decision is not Decision.ACCEPTED]
    found = [
        step.result(
            Verdict.UNPROVEN if undecided else Verdict.VERIFIED,
            expected="every threshold kept",
            observed="; ".join(f"{one.name}: {one.measured}" for one in undecided or watched.criteria),
            reason="not decided: watch it for longer (watched_seconds), or when the machine is quieter"
            if undecided
            else "",
            details=tuple((one.name, f"{one.decision}; required: {one.required}") for one in watched.criteria),
        )
    ]
    if not watched.counted:
        found.append(
            step.result(
                Verdict.UNPROVEN,
                name=f"{step.name}: pool gauges",
                required=False,
                reason="the profile names no metrics_path of the application: saturation and time-outs of its pool were not seen",
            )
        )
    return found


__all__ = [
    "CanaryHolds",
    "RollOut",
    "RolloutHolds",
    "RunCanary",
    "remove_canary",
    "rolled_out",
    "take_back",
]
