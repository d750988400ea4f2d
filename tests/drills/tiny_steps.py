"""A small destructive procedure on harmless objects of the drill namespace: real steps, real changes, real promises."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Action, CheckStep, Context, Obligation, Plan, Step
from drillbook.errors import PreconditionError, VerificationError
from drillbook.kube.kinds import DEPLOYMENT
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.model import Check, Effect, Frozen, Instant, Lsn, Verdict

SUBJECT, APP = "tiny-subject", "tiny-app"


def subject(ctx: Context) -> dict[str, Any]:
    found = ctx.kube.get(k8s.CONFIG_MAP, ctx.site.drill_namespace, SUBJECT)
    if found is None:
        raise PreconditionError(f"ConfigMap {SUBJECT} is gone", todo="Make it.")
    return found


def perhaps_die(name: str) -> None:
    """Die as by kill -9, or wait to be killed or resumed, in the middle of a step that the environment names."""
    if os.environ.get("TINY_DIE_IN") == name:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("TINY_SLEEP_IN") == name:
        time.sleep(600)
    place, _, file = os.environ.get("TINY_HOLD_IN", "").partition(":")
    while place == name and os.path.exists(file):
        time.sleep(0.1)


class Seen(Frozen):
    """What was there before."""

    uid: str
    value: str
    at: Instant
    lsn: Lsn
    history: tuple[str, ...]


class Made(Frozen):
    """The thing that the run made for itself."""

    name: str
    uid: str


class Drained(Frozen):
    """How many replicas there were."""

    replicas: int


class Replaced(Frozen):
    """How often the subject was replaced, in all."""

    times: int


@dataclass(frozen=True)
class LookAround(Step[Seen]):
    """Look at what is there.

    Nothing is changed.
    """

    lasting: ClassVar[bool] = True

    def do(self, ctx: Context) -> Seen:
        perhaps_die("LookAround")
        found = subject(ctx)
        at = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
        history = tuple(found["data"]["history"].split())
        return Seen(uid=found["metadata"]["uid"], value=found["data"]["value"], at=at, lsn=Lsn("1/A0"), history=history)


@dataclass(frozen=True)
class MakeThing(Step[Made]):
    """Make its own thing.

    It is removed at the end.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    seen: Seen

    def do(self, ctx: Context) -> Made:
        name = f"tiny-{ctx.run_id[-6:]}"
        namespace = ctx.site.drill_namespace
        ctx.recorder.progress("making a thing", fraction=0.25, rows=(("name", name),))
        perhaps_die("MakeThing")
        ctx.recorder.obligation(Obligation("ConfigMap", namespace, name, "made by this run"))
        found = ctx.kube.get(k8s.CONFIG_MAP, namespace, name)
        if found is None:
            metadata = {"name": name, "namespace": namespace, "labels": {RUN_LABEL: ctx.run_id}}
            found = ctx.kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
        perhaps_die("MakeThing after")
        return Made(name=name, uid=found["metadata"]["uid"])

    def verify(self, ctx: Context, result: Made) -> None:
        found = ctx.kube.get(k8s.CONFIG_MAP, ctx.site.drill_namespace, result.name)
        if found is None or found["metadata"]["uid"] != result.uid:
            raise VerificationError("the thing", expected=result.uid, observed="none", todo="Start again.")


@dataclass(frozen=True)
class Drain(Step[Drained]):
    """Scale the application to nothing."""

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True

    def plan(self, ctx: Context) -> Plan:
        found = ctx.kube.get(DEPLOYMENT, ctx.site.drill_namespace, APP) or {"metadata": {"uid": ""}}
        touch = Action("scale", "Deployment", ctx.site.drill_namespace, APP, found["metadata"]["uid"])
        return Plan(summary=f"{APP} to 0 replicas", touches=(touch,), notes=("it was busy a moment ago",))

    def do(self, ctx: Context) -> Drained:
        perhaps_die("Drain")
        promise = undo.change(
            ctx,
            DEPLOYMENT,
            ctx.site.drill_namespace,
            APP,
            {"spec": {"replicas": 0}},
            f"{APP} scaled as it was",
            verb="scale",
        )
        perhaps_die("Drain after")
        replicas = (promise.undo or {})["patch"]["spec"]["replicas"] if promise else 0
        return Drained(replicas=replicas)

    def verify(self, ctx: Context, result: Drained) -> None:
        found = ctx.kube.get(DEPLOYMENT, ctx.site.drill_namespace, APP) or {}
        if found["spec"]["replicas"] != 0:
            raise VerificationError("drained", expected="0", observed=str(found["spec"]), todo="Look.")


@dataclass(frozen=True)
class Replace(Step[Replaced]):
    """Replace the subject's value."""

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    seen: Seen
    value: str

    def plan(self, ctx: Context) -> Plan:
        touch = Action("replace", "ConfigMap", ctx.site.drill_namespace, SUBJECT, subject(ctx)["metadata"]["uid"])
        return Plan(
            summary="Replace the value",
            touches=(touch,),
            sql=(f"value = {self.value}",),
            lost=(f"the old value {self.seen.value!r}",),
            notes=(f"made at {datetime.now().astimezone()}",),
        )

    def do(self, ctx: Context) -> Replaced:
        perhaps_die("Replace")
        found = subject(ctx)
        history = found["data"]["history"].split()
        if ctx.run_id not in history:  # it may have happened already
            ctx.require_lease()
            history.append(ctx.run_id)
            merge = {
                "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
                "data": {"value": self.value, "history": " ".join(history)},
            }
            ctx.kube.patch(k8s.CONFIG_MAP, ctx.site.drill_namespace, SUBJECT, merge)
        perhaps_die("Replace after")
        return Replaced(times=history.count(ctx.run_id))

    def verify(self, ctx: Context, result: Replaced) -> None:
        if (found := subject(ctx)["data"]["value"]) != self.value:
            raise VerificationError("the value", expected=self.value, observed=found, todo="Look.")


@dataclass(frozen=True)
class ScaleUp(Step[None]):
    """Scale the application as it was."""

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True

    def do(self, ctx: Context) -> None:
        perhaps_die("ScaleUp")
        for promise in ctx.recorder.promises():
            if promise.undo is not None:
                undo.restore(ctx, promise)
        perhaps_die("ScaleUp after")


@dataclass(frozen=True)
class ValueIsNew(CheckStep):
    """The value is the new one."""

    name: ClassVar[str] = "value"
    proves: ClassVar[str] = "the value was replaced"
    replaced: Replaced
    value: str

    def observe(self, ctx: Context) -> Sequence[Check]:
        perhaps_die("ValueIsNew")
        found = subject(ctx)["data"]["value"]
        verdict = Verdict.VERIFIED if found == self.value else Verdict.FAILED
        return [self.result(verdict, expected=self.value, observed=found)]


@dataclass(frozen=True)
class RemoveThing(Step[None]):
    """Remove the thing."""

    effect: ClassVar[Effect] = Effect.DESTROYS
    settles: ClassVar[bool] = True
    made: Made

    def do(self, ctx: Context) -> None:
        perhaps_die("RemoveThing")
        for promise in ctx.recorder.promises():
            found = ctx.kube.get(k8s.CONFIG_MAP, promise.namespace, promise.name)
            if found is not None:
                ctx.kube.delete(k8s.CONFIG_MAP, promise.namespace, promise.name, uid=found["metadata"]["uid"])
            ctx.recorder.settled(promise, "removed", "404")
