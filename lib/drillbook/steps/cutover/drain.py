"""Taking a tenant's application off its database, and bringing it back: before and after every cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo as restoring
from drillbook.engine.plan import Action
from drillbook.engine.step import Context, Obligation, Plan, Step
from drillbook.errors import Changed, ParameterError, StepTimeoutError, VerificationError
from drillbook.evidence.facts import Drain, Facts, Outage
from drillbook.kube import reconcilers, workloads
from drillbook.model import Effect, Frozen, Instant
from drillbook.profile.schema import Application
from drillbook.steps.cutover.swap_check import AppFits, tenant_of
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.names import Before, Synced

BLOCKED = "before"
"""In the promise to let a database take writes again: the setting's old values by role, "" being the database's own."""


class Drained(Frozen):
    """The application has no pod and its role no session; what it was is promised to come back."""

    deployment: str
    replicas_before: int
    began_at: Instant
    drained_at: Instant
    paused: tuple[str, ...]


class InService(Frozen):
    """The application is back. ``outage_seconds`` from the drain's begin to its first healthy answer."""

    deployment: str
    replicas: int
    began_at: Instant | None
    healthy_at: Instant | None  # None: it was at zero before this run, and is again
    outage_seconds: float | None
    put_back: tuple[str, ...]
    line: SourceCluster | None = None  # the cluster that is in service now, where it is another one


def application_of(ctx: Context, fits: AppFits) -> Application:
    """The application of the database that is swapped."""
    found = tenant_of(ctx, fits.names.database).application
    if found is None:
        raise ParameterError([f"the profile names no application of {fits.names.database}"], where="cut-over")
    return found


def sessions_of_the_app(ctx: Context, fits: AppFits) -> list[tuple[str, int]]:
    """Sessions of the application's role in its database, by application name; asked as Drillbook's own role."""
    with ctx.source() as db:
        rows = db.ask("sessions", database=fits.names.database)
    found: dict[str, int] = {}
    for row in rows:
        if row["role"] == fits.app_role:
            name = str(row["application"]) or "no application name"
            found[name] = found.get(name, 0) + int(row["sessions"])
    return sorted(found.items())


def still_there(ctx: Context, fits: AppFits) -> tuple[list[str], list[tuple[str, int]]]:
    """The application's pods and its role's sessions that are there now."""
    app = application_of(ctx, fits)
    left = workloads.pods(ctx.kube, workloads.deployment(ctx.kube, app))
    return [pod["metadata"]["name"] for pod in left], sessions_of_the_app(ctx, fits)


def _changed(fits: AppFits, app: Application, cluster: SourceCluster) -> list[Action]:
    """What a drain changes, in its order: who would undo it, the application, what it connects through."""
    changed = [
        Action("pause automated sync of", k8s.APPLICATION.kind, hand.namespace, hand.name)
        for hand in fits.reconcilers
        if hand.pausable and hand.acts
    ]
    changed.append(Action("scale to 0", k8s.DEPLOYMENT.kind, app.namespace, app.deployment, fits.deployment_uid))
    if app.pooler:
        changed.append(Action("pause", k8s.POOLER.kind, cluster.ref.namespace, app.pooler))
    return changed


def before_the_cut(ctx: Context, fits: AppFits, cluster: SourceCluster) -> Before:
    """How service was before this run drained it, from what it has promised to put back."""
    app, promises = application_of(ctx, fits), ctx.recorder.promises()
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for touch in _changed(fits, app, cluster):
        place = (touch.kind, touch.namespace, touch.name)
        undone = [item.undo or {} for item in promises if (item.kind, item.namespace, item.name) == place]
        found |= dict.fromkeys(
            [place], next((undo for undo in undone if undo.get("set") == _PATCHES[touch.kind][1]), {})
        )
    found = {place: undo for place, undo in found.items() if undo}
    deployment = found.get((k8s.DEPLOYMENT.kind, app.namespace, app.deployment))
    blocked = f"{cluster.ref.name}.{fits.names.database}"
    writes = next((item.undo for item in promises if item.name == blocked and item.undo and BLOCKED in item.undo), None)
    return Before(
        replicas=_replicas(deployment["patch"])
        if deployment
        else (drain.replicas_before if (drain := ctx.recorder.facts.drain) else 0),
        pooler_paused=any(kind == k8s.POOLER.kind for kind, _, _ in found),
        synced=tuple(
            Synced(namespace=namespace, name=name, automated=_flags(undo["patch"]["spec"]["syncPolicy"]["automated"]))
            for (kind, namespace, name), undo in found.items()
            if kind == k8s.APPLICATION.kind
        ),
        writes=writes[BLOCKED] if writes else {},
    )


def _flags(automated: Mapping[str, Any] | None) -> dict[str, bool]:
    return {name: value for name, value in (automated or {}).items() if isinstance(value, bool)}


def _replicas(item: Mapping[str, Any]) -> int:
    found = item["spec"].get("replicas")
    return 1 if found is None else int(found)


def promises_of_the_cut(ctx: Context, fits: AppFits, cluster: SourceCluster) -> list[Obligation]:
    """What another run drained and did not put back, by its note on the cluster: promises of this run's own, to put it back.

    Only of objects that still stand as that run left them, and of none that this run has changed itself.
    """
    if fits.before is None:
        return []
    app, found = application_of(ctx, fits), []
    values: dict[tuple[str, str, str], dict[str, Any]] = {}
    if fits.before.replicas:
        values[k8s.DEPLOYMENT.kind, app.namespace, app.deployment] = {"spec": {"replicas": fits.before.replicas}}
    if fits.before.pooler_paused and app.pooler:
        values[k8s.POOLER.kind, cluster.ref.namespace, app.pooler] = {"spec": {"pgbouncer": {"paused": False}}}
    known = {(hand.namespace, hand.name) for hand in fits.reconcilers if hand.pausable}
    for one in fits.before.synced:
        if (one.namespace, one.name) in known:
            values[k8s.APPLICATION.kind, one.namespace, one.name] = {
                "spec": {"syncPolicy": {"automated": one.automated}}
            }
    mine = {(item.kind, item.namespace, item.name) for item in ctx.recorder.promises()}
    for place, patch in reversed(values.items()):
        kind, set_, what = _PATCHES[place[0]]
        obj = ctx.kube.get(kind, place[1], place[2])
        if place in mine or obj is None or not restoring.matches(obj, set_):
            continue
        undo = {
            "verb": "patch",
            "kind": place[0],
            "namespace": place[1],
            "name": place[2],
            "uid": obj["metadata"]["uid"],
            "patch": patch,
            "set": set_,
        }
        found.append(Obligation(*place, what, undo=undo))
    return found


_PATCHES: dict[str, tuple[k8s.Kind, dict[str, Any], str]] = {
    "Application": (k8s.APPLICATION, reconcilers.UNSYNCED, "doesn't sync by itself during the cut"),
    "Deployment": (k8s.DEPLOYMENT, {"spec": {"replicas": 0}}, "scaled to zero for the cut"),
    "Pooler": (k8s.POOLER, {"spec": {"pgbouncer": {"paused": True}}}, "paused for the cut"),
}


@dataclass(frozen=True)
class DrainApplication(Step[Drained]):
    """Scale the application to zero, and wait until its last session has ended.

    A pod that is on its way out may still write: the cut comes only after its pods are gone and its role has no
    session. Who would scale it up again is paused first.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: AppFits

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        app = application_of(ctx, self.fits)
        return Plan(
            summary=f"Scale Deployment {app.namespace}/{app.deployment} to 0 and wait for the end of its sessions",
            touches=tuple(_changed(self.fits, app, self.cluster)),
            notes=tuple(str(hand) for hand in self.fits.reconcilers),
            outage=(f"{app.deployment}, from here until it is scaled up again",),
        )

    def do(self, ctx: Context) -> Drained:
        app = application_of(ctx, self.fits)
        before = int(workloads.deployment(ctx.kube, app)["spec"].get("replicas", 1))
        drain = ctx.recorder.facts.drain
        if before or drain is None:
            drain = Drain(began_at=datetime.now(UTC), replicas_before=before)
            ctx.recorder.note(Facts(drain=drain))
        changed = _changed(self.fits, app, self.cluster)
        for touch in [touch for touch in changed if touch.kind != k8s.POOLER.kind]:
            self._change(ctx, touch)
        self._wait(ctx, app, drain.replicas_before, pods_only=True)
        # The Pooler's own sessions end with it, once nobody asks through it any more.
        for touch in [touch for touch in changed if touch.kind == k8s.POOLER.kind]:
            self._change(ctx, touch)
        self._wait(ctx, app, drain.replicas_before, pods_only=False)
        began, now = drain.began_at, datetime.now(UTC)
        ctx.recorder.phase("drain", began, (now - began).total_seconds(), "until the app's last session ended")
        return Drained(
            deployment=f"{app.namespace}/{app.deployment}",
            replicas_before=drain.replicas_before,
            began_at=began,
            drained_at=now,
            paused=tuple(hand.who for hand in self.fits.reconcilers if hand.pausable and hand.acts),
        )

    def _change(self, ctx: Context, touch: Action) -> None:
        kind, patch, what = _PATCHES[touch.kind]
        restoring.change(ctx, kind, touch.namespace, touch.name, patch, what)

    def _wait(self, ctx: Context, app: Application, replicas: int, *, pods_only: bool) -> None:
        limit = ctx.site.limits.step.total_seconds()

        def left() -> str:
            pods, sessions = still_there(ctx, self.fits)
            counts = [] if pods_only and not pods else [f"{count} sessions of {name}" for name, count in sessions]
            return ", ".join([*pods, *counts])

        def late(names: str) -> StepTimeoutError:
            back = f"kubectl -n {app.namespace} scale deployment/{app.deployment} --replicas={replicas}"
            return StepTimeoutError(
                f"the application did not drain within {limit:.0f} s; still there: {names} (role {self.fits.app_role})",
                changed=Changed.DONE,
                todo="No database was touched. End what is named, then start again; the way back: the step that scales "
                f"the application up, or {back}.",
            )

        ctx.wait_while(left, limit, lambda names: f"waiting for the end of {names}", late)

    def verify(self, ctx: Context, result: Drained) -> None:
        pods, sessions = still_there(ctx, self.fits)
        if pods or sessions:
            raise VerificationError(
                "the application is on its database again",
                expected="no pod and no session",
                observed=", ".join([*pods, *(f"{count} sessions of {name}" for name, count in sessions)]),
                todo="Find who scales it up; no database was touched.",
            )


@dataclass(frozen=True)
class ScaleUpApplication(Step[InService]):
    """Bring the application back as it was, and ask it whether it is well.

    Replicas as before the drain, paused controllers resume, and the outage is what passed from the drain's begin to
    the first healthy answer. It is also the way back from a drain that led nowhere.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    settles: ClassVar[bool] = True
    serves: ClassVar[bool] = True
    cluster: SourceCluster
    fits: AppFits

    def plan(self, ctx: Context) -> Plan:
        app = application_of(ctx, self.fits)
        return Plan(
            summary=f"Scale Deployment {app.namespace}/{app.deployment} to its replicas before the drain; {app.health_path} "
            "must answer that it is well",
            notes=(
                f"the run that made the cut noted {self.fits.before.replicas} replicas: they count where it is at 0 now",
            )
            if self.fits.before
            else (),
            touches=(Action("scale back", "Deployment", app.namespace, app.deployment, self.fits.deployment_uid),),
        )

    def do(self, ctx: Context) -> InService:
        app = application_of(ctx, self.fits)
        changed = _changed(self.fits, app, self.cluster)
        mine = {(touch.kind, touch.namespace, touch.name): _PATCHES[touch.kind][1] for touch in changed}
        promises = [
            promise
            for promise in ctx.recorder.promises()
            # What a cut has changed on the same object is not the drain's to put back.
            if promise.undo and promise.undo.get("set") == mine.get((promise.kind, promise.namespace, promise.name), {})
        ]
        for promise in promises_of_the_cut(ctx, self.fits, self.cluster):
            ctx.recorder.obligation(promise)
            promises.append(promise)
        if not promises and not ctx.recorder.facts.drain:
            # Nothing was drained: there is nothing to bring back, and how the application is now is not this run's
            # doing.
            return self._in_service(
                ctx, app, int(workloads.deployment(ctx.kube, app)["spec"].get("replicas", 1)), None, ()
            )
        # The last one that was changed comes back first: the Pooler before the application, who acts on it last of all.
        for promise in reversed(promises):
            restoring.restore(ctx, promise)
        replicas = int(workloads.deployment(ctx.kube, app)["spec"].get("replicas", 1))
        healthy_at, wrong = workloads.wait_until_well(
            ctx.kube,
            app,
            replicas,
            timeout_seconds=ctx.site.limits.step.total_seconds(),
            say=lambda text: ctx.recorder.progress(text),
        )
        if wrong:
            raise VerificationError(
                f"Deployment {app.namespace}/{app.deployment} is not well after it was scaled up",
                expected=f"{replicas} pods ready, {app.health_path} healthy",
                observed=wrong,
                todo=f"Read its log; if the recovered data is the cause: swap back, {self.fits.names.kept} is kept.",
            )
        return self._in_service(ctx, app, replicas, healthy_at, tuple(str(promise.id) for promise in promises))

    def _in_service(
        self, ctx: Context, app: Application, replicas: int, healthy_at: datetime | None, back: tuple[str, ...]
    ) -> InService:
        drain = ctx.recorder.facts.drain
        began = drain.began_at if drain else None
        outage = (healthy_at - began).total_seconds() if began and healthy_at else None
        if began and outage is not None:
            ctx.recorder.phase("cut over", began, outage, "from the drain's begin to the first healthy answer")
            ctx.recorder.note(Facts(outage=Outage(deployment=app.deployment, seconds=round(outage, 3))))
        return InService(
            deployment=f"{app.namespace}/{app.deployment}",
            replicas=replicas,
            began_at=began,
            healthy_at=healthy_at,
            outage_seconds=outage,
            put_back=back,
        )


__all__ = [
    "BLOCKED",
    "DrainApplication",
    "Drained",
    "InService",
    "ScaleUpApplication",
    "before_the_cut",
    "promises_of_the_cut",
    "sessions_of_the_app",
    "still_there",
]
