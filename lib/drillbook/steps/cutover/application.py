"""The application's address of its database: read, given another cluster's name, and put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Context, Obligation
from drillbook.errors import KubernetesError, ParameterError, PreconditionError, StepTimeoutError
from drillbook.kube import connection_env
from drillbook.kube.connection_env import AddressLocation
from drillbook.model import show_seconds
from drillbook.profile.schema import Application, Tenant
from drillbook.steps.preflight.instances import promises_on

REPOINTED = "drillbook.io/repointed-by"


@dataclass(frozen=True)
class Addressed:
    """An application, and every place where one of its containers is given an address.

    ``places`` are those of the profile's variable, and of every other one that names a service of the clusters that
    were asked for.
    """

    tenant: Tenant
    app: Application
    deployment: dict[str, Any]
    places: tuple[AddressLocation, ...]
    namespace: str  # the clusters'
    held: tuple[dict[str, Any], ...] = ()  # the Secrets and ConfigMaps that hold an address
    by_hand: tuple[str, ...] = ()  # what names a cluster and is no variable, or can't be read: in words

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What is changed when it is pointed elsewhere: anyone who controls one of them would put it back."""
        return [self.deployment, *self.held]

    def services_of(self, cluster: str) -> list[str]:
        """The services of this Cluster that the addresses name; one of the same name in another namespace is none."""
        return [name for place in self.places for name in self._services_in(place, cluster)]

    def _services_in(self, place: AddressLocation, cluster: str) -> list[str]:
        return connection_env.services_in(place.value, cluster, self.namespace, self.app.namespace)

    @property
    def where(self) -> str:
        """In words, without a value."""
        return f"{self.app.namespace}/{self.app.deployment}: " + "; ".join(
            f"{place.variable} in {place}" for place in self.places
        )

    def listed(self, *clusters: str) -> list[str]:
        """Each place with the services that it names, and what is left to change by hand; for the gate."""
        about = f"{self.app.namespace}/{self.app.deployment}"
        found = []
        for place in self.places:
            services = [name for cluster in clusters for name in self._services_in(place, cluster)]
            found.append(
                f"{about}: {place.variable} in {place}: {', '.join(services) or f'Pooler {self.app.pooler}, as it is'}"
            )
        return found + [f"{about}: {text}" for text in self.by_hand]


def addressed(ctx: Context, *clusters: str) -> tuple[list[Addressed], list[str]]:
    """The tenants' applications whose addresses are known; and, in words, the tenants whose address is theirs to change.

    ``clusters`` are the names whose services count. PreconditionError: the profile names a Deployment or a variable
    that isn't there.
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
        found.append(_addressed(ctx, tenant, app, deployment, clusters))
    return found, others


def _addressed(
    ctx: Context, tenant: Tenant, app: Application, deployment: dict[str, Any], clusters: tuple[str, ...]
) -> Addressed:
    home, namespace = app.namespace, ctx.site.cluster.namespace
    read: dict[tuple[str, str], dict[str, str]] = {}
    refused: list[str] = []

    def lookup(kind: str, name: str) -> dict[str, str]:
        if (kind, name) not in read:
            try:
                read[kind, name] = _entries(ctx, app, kind, name)
            except (KubernetesError, ParameterError) as error:
                if isinstance(error, KubernetesError) and error.status != 403:
                    raise
                read[kind, name] = {}
                why = "; ".join(error.faults) if isinstance(error, ParameterError) else error.what
                refused.append(f"{kind} {name} can't be read, and may hold an address: {why}")
        return read[kind, name]

    def names_one(place: AddressLocation) -> bool:
        return any(connection_env.services_in(place.value, cluster, namespace, home) for cluster in clusters)

    known = connection_env.every(deployment, lookup)
    places = tuple(place for place in known if place.variable == app.address_variable or names_one(place))
    if not any(place.variable == app.address_variable for place in places):
        raise PreconditionError(
            f"Deployment {home}/{app.deployment} has no variable {app.address_variable} with a text in it"
            + "".join(f"; {text}" for text in refused),
            todo="Check address_variable in the profile: it is looked for in all containers, init containers too.",
        )
    kinds = {"Secret": k8s.SECRET, "ConfigMap": k8s.CONFIG_MAP}
    held = dict.fromkeys((place.kind, place.name) for place in places if place.kind in kinds)
    objects = (ctx.kube.get(kinds[kind], home, name) for kind, name in held)
    arguments = [
        f"{text}: change it by hand"
        for cluster in clusters
        for text in connection_env.in_arguments(deployment, cluster, namespace, home)
    ]
    return Addressed(
        tenant,
        app,
        deployment,
        places,
        namespace,
        tuple(item for item in objects if item),
        (*refused, *dict.fromkeys(arguments)),
    )


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
    """Put Cluster ``new``'s services in place of ``old``'s in every place; whether anything had to be changed. Waits for
    the rollout, unless ``wait`` is False (``new`` doesn't serve yet).

    What it changes is promised to be put back. A Secret's old value is not kept: the way back is this, the other way.
    """
    app, what = one.app, f"{one.app.deployment} points at {new}"
    moved = [
        (place, value)
        for place in one.places
        if (value := connection_env.readdressed(place.value, old, new, one.namespace, app.namespace)) != place.value
    ]
    for kind, name in dict.fromkeys((place.kind, place.name) for place, _ in moved):
        entries = {place.key: value for place, value in moved if (place.kind, place.name) == (kind, name)}
        if kind == "Secret":
            ctx.require_lease()
            ctx.recorder.obligation(_secret_promise(one, name))
            ctx.kube.patch(k8s.SECRET, app.namespace, name, {"stringData": entries})
        elif kind == "ConfigMap":
            undo.change(ctx, k8s.CONFIG_MAP, app.namespace, name, {"data": entries}, what)
    # Pods read their variables when they start: the mark replaces them wherever the value is.
    template: dict[str, Any] = {"metadata": {"annotations": {REPOINTED: f"{ctx.run_id} {new}"}}}
    inside = {(place.container, place.key): value for place, value in moved if place.kind == "Deployment"}
    if inside:
        template["spec"] = _with_values(one.deployment, inside)
    undo.change(ctx, k8s.DEPLOYMENT, app.namespace, app.deployment, {"spec": {"template": template}}, what)
    if wait:
        rolled_out(ctx, app)
    return bool(moved)


def _with_values(deployment: dict[str, Any], values: dict[tuple[str, str], str]) -> dict[str, Any]:
    """The lists of containers with other values in their variables, as a merge patch wants them: whole."""
    spec, found = deployment["spec"]["template"]["spec"], {}
    for word, name in (("container", "containers"), ("init container", "initContainers")):
        changed = [
            container
            | {
                "env": [
                    entry | {"value": values[place]}
                    if "valueFrom" not in entry and (place := (f"{word} {container['name']}", entry["name"])) in values
                    else entry
                    for entry in container["env"]
                ]
            }
            if container.get("env")
            else container
            for container in spec.get(name) or ()
        ]
        if changed and changed != spec.get(name):
            found[name] = changed
    return found


def secret_promises(one: Addressed) -> list[Obligation]:
    """What changing the application's Secrets promises: only this procedure can put them back, as no journal keeps their values."""
    names = dict.fromkeys(place.name for place in one.places if place.kind == "Secret")
    return [_secret_promise(one, name) for name in names]


def _secret_promise(one: Addressed, name: str) -> Obligation:
    return Obligation(
        "Secret", one.app.namespace, name, "the application's addresses as they were (by undo-full-restore)"
    )


def promises(ctx: Context, one: Addressed) -> list[Obligation]:
    """What pointing this application elsewhere has promised, the newest first."""
    found = promises_on(ctx, k8s.DEPLOYMENT, one.app.namespace, one.app.deployment)
    found = [
        item for item in found if any("template" in key for key in (item.undo or {}).get("set", {}).get("spec", {}))
    ]
    maps = dict.fromkeys(place.name for place in one.places if place.kind == "ConfigMap")
    return (
        found
        + [item for name in maps for item in promises_on(ctx, k8s.CONFIG_MAP, one.app.namespace, name)]
        + secret_promises(one)
    )


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
            what=f"the pods of Deployment {app.namespace}/{app.deployment} to be replaced",
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
