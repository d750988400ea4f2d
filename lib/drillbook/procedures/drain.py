"""Taking a tenant's application off its database, and bringing it back: before and after every cut."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook.cutover import application, hands
from drillbook.errors import Changed, ParameterError, StepTimeoutError, VerificationError
from drillbook.model import Effect, Frozen, Instant, show_instant
from drillbook.procedures.readiness import SourceCluster
from drillbook.procedures.swapfits import SwapFits, tenant_of
from drillbook.site.profile import Application
from drillbook.step import Context, Obligation, Plan, Step, Touch

DRAIN = "drain"  # the fact that tells when it began


class Drained(Frozen):
    """The application has no pod and its role no session; what it was is noted on its Deployment."""

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
    healthy_at: Instant
    outage_seconds: float | None
    resumed: tuple[str, ...]


def application_of(ctx: Context, fits: SwapFits) -> Application:
    """The application of the database that is swapped."""
    found = tenant_of(ctx, fits.names.database).application
    if found is None:
        raise ParameterError([f"the profile names no application of {fits.names.database}"], where="swap-database")
    return found


def sessions_of_the_app(ctx: Context, fits: SwapFits) -> list[tuple[str, int]]:
    """Sessions of the application's role in its database, by application name; asked as Drillbook's own role."""
    with ctx.source() as db:
        rows = db.ask("sessions", database=fits.names.database)
    found: dict[str, int] = {}
    for row in rows:
        if row["role"] == fits.app_role:
            name = str(row["application"]) or "no application name"
            found[name] = found.get(name, 0) + int(row["sessions"])
    return sorted(found.items())


def still_there(ctx: Context, fits: SwapFits) -> tuple[list[str], list[tuple[str, int]]]:
    """The application's pods and its role's sessions that are there now."""
    app = application_of(ctx, fits)
    left = application.pods(ctx.kube, application.deployment(ctx.kube, app))
    return [pod["metadata"]["name"] for pod in left], sessions_of_the_app(ctx, fits)


def _obligations(ctx: Context, fits: SwapFits, cluster: SourceCluster) -> list[Obligation]:
    app = application_of(ctx, fits)
    made = [Obligation("Deployment", app.namespace, app.deployment, "scaled to 0 for the cut: bring its replicas back")]
    if app.pooler:
        made.append(Obligation("Pooler", cluster.ref.namespace, app.pooler, "paused for the cut: resume it"))
    made += [
        Obligation("Application", hand.namespace, hand.name, "automated sync taken away for the cut: give it back")
        for hand in fits.hands
        if hand.pausable and hand.acts
    ]
    return made


@dataclass(frozen=True)
class DrainApplication(Step[Drained]):
    """Scale the application to nothing, and wait until its last session has ended.

    A pod that is on its way out may still write: the cut comes only after its pods are gone and its role has no session.
    Who would scale it up again is paused first.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: SwapFits

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        app = application_of(ctx, self.fits)
        touches = [Touch("scale to 0", "Deployment", app.namespace, app.deployment, self.fits.deployment_uid)]
        if app.pooler:
            touches.append(Touch("pause", "Pooler", self.cluster.ref.namespace, app.pooler))
        touches += [
            Touch("pause automated sync of", "Application", hand.namespace, hand.name)
            for hand in self.fits.hands
            if hand.pausable and hand.acts
        ]
        return Plan(
            summary=f"Scale Deployment {app.namespace}/{app.deployment} to 0 and wait for the end of its sessions",
            touches=tuple(touches),
            notes=tuple(str(hand) for hand in self.fits.hands),
            lost=(f"{app.deployment} doesn't serve until it is scaled up again",),
        )

    def do(self, ctx: Context) -> Drained:
        app = application_of(ctx, self.fits)
        for promise in _obligations(ctx, self.fits, self.cluster):
            ctx.recorder.obligation(promise)
        paused = [hand for hand in self.fits.hands if hand.pausable and hand.acts]
        for hand in paused:
            hands.pause(ctx.kube, hand, ctx.run_id)
        noted = application.scale_to_nothing(ctx.kube, app, ctx.run_id, datetime.now(UTC))
        ctx.recorder.fact(DRAIN, {"began_at": show_instant(noted.began_at), "replicas_before": noted.replicas})
        self._wait(ctx, app, noted, pods_only=True)
        application.pause_pooler(ctx.kube, self.cluster.ref.namespace, app, paused=True)
        self._wait(ctx, app, noted, pods_only=False)
        drained_at = datetime.now(UTC)
        ctx.recorder.phase(
            "drain", noted.began_at, (drained_at - noted.began_at).total_seconds(), "until the app's last session ended"
        )
        return Drained(
            deployment=f"{app.namespace}/{app.deployment}",
            replicas_before=noted.replicas,
            began_at=noted.began_at,
            drained_at=drained_at,
            paused=tuple(hand.who for hand in paused),
        )

    def _wait(self, ctx: Context, app: Application, noted: application.Before, *, pods_only: bool) -> None:
        limit = ctx.site.limits.step.total_seconds()
        deadline = time.monotonic() + limit
        while True:
            pods, sessions = still_there(ctx, self.fits)
            told = ", ".join([*pods, *(f"{count} sessions of {name}" for name, count in sessions)])
            if not pods and (pods_only or not sessions):
                return
            if time.monotonic() > deadline:
                raise StepTimeoutError(
                    f"the application did not drain within {limit:.0f} s; still there: {told} (role {self.fits.app_role})",
                    changed=Changed.DONE,
                    todo="No database was touched. End what is named, then start again; the way back: the step that scales "
                    f"the application up, or kubectl -n {app.namespace} scale deployment/{app.deployment} "
                    f"--replicas={noted.replicas}.",
                )
            ctx.recorder.progress(f"waiting for the end of {told}")
            ctx.pause(0.3)

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

    Replicas as before the drain, whoever was paused goes on, and the outage is what passed from the drain's begin to
    the first healthy answer. It is also the way back from a drain that led nowhere.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: SwapFits

    def plan(self, ctx: Context) -> Plan:
        app = application_of(ctx, self.fits)
        return Plan(
            summary=f"Scale Deployment {app.namespace}/{app.deployment} to its replicas before the drain; {app.health_path} "
            "must answer that it is well",
            touches=(Touch("scale back", "Deployment", app.namespace, app.deployment, self.fits.deployment_uid),),
        )

    def do(self, ctx: Context) -> InService:
        app = application_of(ctx, self.fits)
        application.pause_pooler(ctx.kube, self.cluster.ref.namespace, app, paused=False)
        noted = application.scale_back(ctx.kube, app, ctx.run_id)
        found = application.deployment(ctx.kube, app)
        replicas = noted.replicas if noted else int(found["spec"].get("replicas", 1))
        resumed = [
            hand.who
            for hand in self.fits.hands
            if hand.pausable and hands.resume(ctx.kube, hand.namespace, hand.name, ctx.run_id)
        ]
        healthy_at, wrong = application.wait_until_well(
            ctx.kube,
            app,
            replicas,
            timeout_seconds=ctx.site.limits.step.total_seconds(),
            say=lambda text: ctx.recorder.progress(text),
        )
        if wrong or healthy_at is None:
            raise VerificationError(
                f"Deployment {app.namespace}/{app.deployment} is not well after it was scaled up",
                expected=f"{replicas} pods ready, {app.health_path} healthy",
                observed=wrong or "no healthy answer",
                todo=f"Read its log; if the recovered data is the cause, swap back: {self.fits.names.kept} is kept.",
            )
        return self._in_service(ctx, app, noted, replicas, healthy_at, resumed)

    def _in_service(
        self,
        ctx: Context,
        app: Application,
        noted: application.Before | None,
        replicas: int,
        healthy_at: datetime,
        resumed: list[str],
    ) -> InService:
        began: Any = noted.began_at if noted else None
        outage = (healthy_at - began).total_seconds() if began else None
        if began:
            ctx.recorder.phase("cut over", began, outage or 0.0, "from the drain's begin to the first healthy answer")
            ctx.recorder.fact("outage", {"deployment": app.deployment, "seconds": round(outage or 0.0, 3)})
        for promise in _obligations(ctx, self.fits, self.cluster):
            how = f"{replicas} pods ready and healthy at {show_instant(healthy_at)}"
            ctx.recorder.settled(promise, "put back", how if promise.kind == "Deployment" else "as it was before")
        # Last of all: until here a killed run finds on the Deployment what it was.
        application.forget(ctx.kube, app)
        return InService(
            deployment=f"{app.namespace}/{app.deployment}",
            replicas=replicas,
            began_at=began,
            healthy_at=healthy_at,
            outage_seconds=outage,
            resumed=tuple(resumed),
        )


__all__ = ["DrainApplication", "Drained", "InService", "ScaleUpApplication", "sessions_of_the_app", "still_there"]
