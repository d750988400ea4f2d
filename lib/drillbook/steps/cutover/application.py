"""The application's address of its database: read, given another cluster's name, and put back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Context, Obligation
from drillbook.errors import KubernetesError, PreconditionError, StepTimeoutError
from drillbook.kube import connection_env
from drillbook.kube.connection_env import AddressLocation
from drillbook.model import show_seconds
from drillbook.profile.schema import Application, Tenant
from drillbook.steps.instances import promises_on

REPOINTED = "drillbook.io/repointed-by"


@dataclass(frozen=True)
class Addressed:
    """An application and where its address stands."""

    tenant: Tenant
    app: Application
    deployment: dict[str, Any]
    place: AddressLocation
    namespace: str  # the clusters'
    held: dict[str, Any] | None = (
        None  # the Secret or ConfigMap that holds the address, where the Deployment doesn't itself
    )

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What is changed when it is pointed elsewhere: anyone who controls one of them would put it back."""
        return [self.deployment, *([self.held] if self.held else [])]

    def services_of(self, cluster: str) -> list[str]:
        """The services of this Cluster that the address names; one of the same name in another namespace is none."""
        return connection_env.services_in(self.place.value, cluster, self.namespace, self.app.namespace)

    @property
    def where(self) -> str:
        """In words, without the value."""
        return f"{self.app.address_variable} of {self.app.namespace}/{self.app.deployment}, in {self.place}"


def addressed(ctx: Context) -> tuple[list[Addressed], list[str]]:
    """The tenants' applications whose address is known; and, in words, the tenants whose address is theirs to change.

    PreconditionError: the profile names a Deployment or a variable that isn't there.
    """
    found: list[Addressed] = []
    others: list[str] = []
    for tenant in ctx.site.tenants:
        app = tenant.application
        if app is None or not app.address_variable:
            others.append(f"{tenant.database}: the profile names no address_variable of its application")
            continue
        deployment = ctx.kube.get(k8s.DEPLOYMENT, app.namespace, app.deployment)
        if deployment is None:
            raise PreconditionError(
                f"Deployment {app.namespace}/{app.deployment} of tenant {tenant.database} does not exist",
                todo="Check tenants[].application in the profile.",
            )
        place = connection_env.find(deployment, app.address_variable, partial(_entries, ctx, app))
        if place is None:
            raise PreconditionError(
                f"Deployment {app.namespace}/{app.deployment} has no variable {app.address_variable} with a text in it",
                todo="Check address_variable in the profile: it is looked for in the first container.",
            )
        kind = {"Secret": k8s.SECRET, "ConfigMap": k8s.CONFIG_MAP}.get(place.kind)
        held = ctx.kube.get(kind, app.namespace, place.name) if kind else None
        found.append(Addressed(tenant, app, deployment, place, ctx.site.cluster.namespace, held))
    return found, others


def _entries(ctx: Context, app: Application, kind: str, name: str) -> dict[str, str]:
    if kind == "Secret":
        try:
            return ctx.kube.secret(app.namespace, name)
        except KubernetesError as error:
            if error.status == 404:
                return {}
            raise
    found = ctx.kube.get(k8s.CONFIG_MAP, app.namespace, name) or {}
    return dict(found.get("data") or {})


def readdress(ctx: Context, one: Addressed, old: str, new: str, *, wait: bool = True) -> bool:
    """Put Cluster ``new``'s services in place of ``old``'s; whether anything had to be changed. Waits for the rollout,
    unless asked not to (``new`` doesn't serve yet).

    What it changes is promised to be put back. A Secret's old value is not kept: the way back is this, the other way.
    """
    value = connection_env.readdressed(one.place.value, old, new, one.namespace, one.app.namespace)
    changed, app = value != one.place.value, one.app
    what = f"{app.address_variable} points at {new}"
    if changed and one.place.kind == "Secret":
        ctx.hold()
        ctx.recorder.obligation(secret_promise(one))
        ctx.kube.patch(k8s.SECRET, app.namespace, one.place.name, {"stringData": {one.place.key: value}})
    elif changed and one.place.kind == "ConfigMap":
        undo.change(ctx, k8s.CONFIG_MAP, app.namespace, one.place.name, {"data": {one.place.key: value}}, what)
    # Pods read their variables when they start: the mark has them recreated wherever the value is.
    template: dict[str, Any] = {"metadata": {"annotations": {REPOINTED: f"{ctx.run_id} {new}"}}}
    if changed and one.place.kind == "Deployment":
        template["spec"] = {"containers": _containers(one, value)}
    undo.change(ctx, k8s.DEPLOYMENT, app.namespace, app.deployment, {"spec": {"template": template}}, what)
    if wait:
        rolled_out(ctx, app)
    return changed


def secret_promise(one: Addressed) -> Obligation:
    """What changing a Secret promises: only this procedure can put it back, as no journal keeps its value."""
    return Obligation(
        "Secret", one.app.namespace, one.place.name, f"{one.app.address_variable} as it was (by undo-full-restore)"
    )


def promises(ctx: Context, one: Addressed) -> list[Obligation]:
    """What pointing this application elsewhere has promised, the newest first."""
    found = promises_on(ctx, k8s.DEPLOYMENT, one.app.namespace, one.app.deployment)
    found = [
        item for item in found if any("template" in key for key in (item.undo or {}).get("set", {}).get("spec", {}))
    ]
    return found + promises_on(ctx, k8s.CONFIG_MAP, one.app.namespace, one.place.name)


def _containers(one: Addressed, value: str) -> list[dict[str, Any]]:
    first, *others = one.deployment["spec"]["template"]["spec"]["containers"]
    env = [entry | {"value": value} if entry["name"] == one.app.address_variable else entry for entry in first["env"]]
    return [first | {"env": env}, *others]


def rolled_out(ctx: Context, app: Application) -> None:
    """Wait until every pod of the Deployment is one of the new; none at all if it is scaled to 0."""
    limit = ctx.site.limits.step.total_seconds()
    try:
        ctx.kube.wait(
            k8s.DEPLOYMENT,
            app.namespace,
            app.deployment,
            _is_rolled_out,
            timeout_seconds=limit,
            what=f"the pods of Deployment {app.namespace}/{app.deployment} to be recreated",
        )
    except StepTimeoutError as error:
        raise StepTimeoutError(
            f"{error.what} (waited {show_seconds(limit)})",
            todo="Look at the new pods: the old ones serve until they are ready. Then resume this run.",
        ) from error


def _is_rolled_out(found: dict[str, Any] | None) -> bool:
    if found is None:
        return False
    status, wanted = found.get("status", {}), int(found["spec"].get("replicas", 1))
    seen = int(status.get("observedGeneration", 0)) >= int(found["metadata"].get("generation", 0))
    counts = [int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
    return seen and all(count == wanted for count in counts)
