"""Where the application's connections go, and how large everything on the way is, as Kubernetes has it."""

from __future__ import annotations

import http.client
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections import discovery
from drillbook.connections.path import AppPods, PgBouncer
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import KubernetesError, ParameterError, PreconditionError, RunbookError
from drillbook.evidence.facts import Facts, NotedCluster, TestKind
from drillbook.kube import connection_env, workloads
from drillbook.model import Check, Frozen, Verdict
from drillbook.profile.schema import Application, Tenant
from drillbook.steps.preflight.readiness import pin_faults

METRICS_PORT, METRICS_SECONDS = 9127, 10.0
_SAMPLE = re.compile(r"cnpg_pgbouncer_(\w+)(?:\{(.*)\})? ([0-9.eE+-]+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
UNKNOWN = "unknown"


class FoundPath(Frozen):
    """The path of one tenant's application. ``kind`` is what its address leads to, ``unknown`` where that can't be seen.

    ``pooler`` is on the path, ``other`` is not and stands for the second path that is computed: a Pooler of the cluster,
    else the profile's plan (``other_is``). ``declared`` is the Pooler that the profile names, ``pooler_fault`` why the one on
    the path serves nobody now. ``doubts`` is what was not found out, in words; ``addresses`` are those of the
    application's and the Poolers' pods.
    """

    database: str
    role: str
    deployment: str
    kind: str
    leads_to: str
    pods: AppPods
    pooler: PgBouncer | None = None
    other: PgBouncer | None = None
    other_is: str = ""
    declared: str = ""
    pooler_fault: str = ""
    doubts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows."""
        pods = self.pods
        most = f", autoscaler's maximum {pods.most_replicas}" if pods.most_replicas > pods.replicas else ""
        found = [
            ("application", f"Deployment {self.deployment}, role {self.role}, database {self.database}"),
            ("address", self.leads_to),
            (
                "pods",
                f"{pods.replicas} of at most {pods.workers * pods.pool} connections{most}; {pods.surge_of(pods.replicas)} more in a rolling update",
            ),
        ]
        found += [("PgBouncer", _sizes(self.pooler) if self.pooler else "not on this path")]
        found += [("second path", f"{self.other_is}: {_sizes(self.other)}")] if self.other else []
        return found + [("not known", doubt) for doubt in self.doubts]


@dataclass(frozen=True)
class FindPath(Step[FoundPath]):
    """Find the path of the application's connections.

    Its address in the Deployment's variables leads to a Service, and that to a Pooler's or a Cluster's pods. What is
    sized there by nobody has the defaults of Kubernetes and PgBouncer.
    """

    database: str = ""

    def do(self, ctx: Context) -> FoundPath:
        tenant, app = _tenant(ctx, self.database)
        cluster = ctx.cluster_object(ctx.source_ref)
        faults = pin_faults(ctx, cluster)
        if faults:
            raise PreconditionError("; ".join(faults), todo="Correct the profile's identity, or its cluster.")
        ctx.recorder.note(
            Facts(
                test=TestKind(type="reading of the limits on a path; no connection was made along it"),
                cluster=NotedCluster(
                    namespace=ctx.source_ref.namespace,
                    name=ctx.source_ref.name,
                    uid=str(cluster["metadata"].get("uid", "")),
                    system_id=str(cluster.get("status", {}).get("systemID", "")),
                ),
            )
        )
        deployment = workloads.deployment(ctx.kube, app)
        values, doubts = _values(ctx, app, deployment)
        target, why = _target(ctx, app, values)
        autoscalers = ctx.kube.list(k8s.AUTOSCALER, app.namespace)
        pods, guesses = discovery.app_pods(deployment, autoscalers, app.connections, values)
        poolers, faults_of = _poolers(ctx)
        on_path = poolers.get(target.name) if target.kind == discovery.POOLER else None
        if target.kind == discovery.POOLER and on_path is None:
            doubts.append(f"Pooler {target.namespace}/{target.name} is no Pooler of Cluster {ctx.source_ref}")
        other, other_is = _second(app, poolers, on_path)
        if target.kind == discovery.CLUSTER and target.role != "rw":
            doubts.append(f"the address leads to replicas ({target.role}): the limits that are read are the primary's")
        return FoundPath(
            database=tenant.database,
            role=tenant.app_role,
            deployment=f"{app.namespace}/{app.deployment}",
            kind=UNKNOWN if why else target.kind,
            leads_to=why or str(target),
            pods=pods,
            pooler=on_path,
            other=other,
            other_is=other_is,
            declared=app.pooler,
            pooler_fault=faults_of.get(on_path.name, "") if on_path else "",
            doubts=(*doubts, *guesses),
            addresses=_addresses(ctx, workloads.pods(ctx.kube, deployment), list(poolers)),
        )


@dataclass(frozen=True)
class PoolerOnPath(CheckStep):
    """Whether PgBouncer is on the path.

    Where it is not, none of its sizes holds for the application, however well they are chosen.
    """

    found: FoundPath
    name: ClassVar[str] = "pooler on the path"
    proves: ClassVar[str] = "the application's connections go where its Pooler is"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = self.found
        believed = found.declared or (found.other.name if found.other and found.other_is != PLANNED else "")
        if found.pooler is not None:
            if found.pooler_fault:
                return [self.result(Verdict.UNPROVEN, observed=found.leads_to, reason=found.pooler_fault)]
            right = not found.declared or found.declared == found.pooler.name
            observed = found.leads_to if right else f"{found.leads_to}; the profile names Pooler {found.declared}"
            return [self.result(Verdict.VERIFIED if right else Verdict.FAILED, observed=observed)]
        if found.kind in (UNKNOWN, discovery.OTHER, discovery.OUTSIDE):
            return [self.result(Verdict.UNPROVEN, reason=f"where the address leads is not known: {found.leads_to}")]
        observed = f"PgBouncer is not on this path: {found.leads_to}"
        if believed:
            return [self.result(Verdict.FAILED, expected=f"Pooler {believed}", observed=observed)]
        return [self.result(Verdict.NOT_APPLICABLE, observed=observed, reason="the cluster has no Pooler")]


PLANNED = "the profile's plan"


def _tenant(ctx: Context, database: str) -> tuple[Tenant, Application]:
    able = [(item, item.application) for item in ctx.site.tenants if item.application is not None]
    for tenant, app in able:
        if app is not None and database in ("", tenant.database):
            if not app.address_variable:
                raise PreconditionError(
                    f"the profile names no address_variable of the application on {tenant.database}",
                    todo="Set tenants[].application.address_variable: the variable with the database's address.",
                )
            return tenant, app
    known = ", ".join(tenant.database for tenant, _ in able) or "none"
    fault = f"database: {database!r} has no application in the profile (those with one: {known})"
    raise ParameterError([fault], where="check-connections")


def _values(ctx: Context, app: Application, deployment: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The containers' variables, and the objects that could not be read, in words; a value is shown to nobody."""
    doubts: list[str] = []
    kinds = {"Secret": k8s.SECRET, "ConfigMap": k8s.CONFIG_MAP}
    read: dict[tuple[str, str], dict[str, str]] = {}

    def lookup(kind: str, name: str) -> dict[str, str]:
        if (kind, name) in read:
            return read[kind, name]
        read[kind, name] = {}
        try:
            if kind == "Secret":
                read[kind, name] = ctx.kube.secret(app.namespace, name)
            else:
                read[kind, name] = dict((ctx.kube.get(kinds[kind], app.namespace, name) or {}).get("data") or {})
        except (KubernetesError, ParameterError) as error:
            if isinstance(error, KubernetesError) and error.status not in (403, 404):
                raise
            doubts.append(f"{kind} {app.namespace}/{name} can't be read: a variable that is kept there is not seen")
        return read[kind, name]

    places = connection_env.every(deployment, lookup)
    wanted = {app.address_variable, app.connections.pool_variable, app.connections.timeout_variable} - {""}
    seen = {place.variable: place.value for place in reversed(places) if place.variable in wanted}
    # What isn't kept in an object that was refused is none of the reader's business.
    return seen, [] if wanted <= set(seen) else doubts


def _target(ctx: Context, app: Application, values: dict[str, str]) -> tuple[discovery.Target, str]:
    """Where the address leads; and why that can't be seen, "" where it can."""
    nowhere = discovery.Target(kind=discovery.OUTSIDE)
    address = values.get(app.address_variable)
    if address is None:
        return nowhere, f"{app.address_variable} is no variable of the Deployment with a text that can be read"
    hosts = discovery.hosts(address)
    if not hosts:
        return nowhere, f"{app.address_variable} names no host"
    namespaces = dict.fromkeys((ctx.source_ref.namespace, app.namespace))
    services = [item for namespace in namespaces for item in ctx.kube.list(k8s.SERVICE, namespace)]
    found = [discovery.leads_to(host, services, app.namespace) for host in hosts]
    if len({(item.kind, item.namespace, item.name) for item in found}) > 1:
        return found[0], "several hosts that lead to different places: " + "; ".join(map(str, found))
    return found[0], ""


def _poolers(ctx: Context) -> tuple[dict[str, PgBouncer], dict[str, str]]:
    """The cluster's Poolers by name; and of those that serve nobody now, why."""
    ref = ctx.source_ref
    found: dict[str, PgBouncer] = {}
    faults: dict[str, str] = {}
    for pooler in ctx.kube.list(k8s.POOLER, ref.namespace):
        if pooler["spec"]["cluster"]["name"] != ref.name or pooler["spec"].get("type", "rw") != "rw":
            continue
        name = pooler["metadata"]["name"]
        pods = ctx.kube.list(k8s.POD, ref.namespace, labels=f"cnpg.io/poolerName={name}")
        images = [str(item.get("image") or "") for pod in pods for item in pod["spec"].get("containers") or ()]
        found[name] = discovery.pgbouncer(pooler, images)
        status = pooler.get("status") or {}
        if status.get("phase", "active") != "active":  # before CloudNativePG 1.30 there is no phase
            faults[name] = f"Pooler {name} is {status['phase']}: {status.get('phaseReason') or 'no reason is given'}"
    return found, faults


def _second(app: Application, poolers: dict[str, PgBouncer], on_path: PgBouncer | None) -> tuple[PgBouncer | None, str]:
    if on_path is not None:
        return None, ""
    if poolers:
        name = app.pooler if app.pooler in poolers else min(poolers)
        return poolers[name], f"Pooler {name}, which is there"
    return discovery.planned(app.connections.planned_pooler), PLANNED


def _addresses(ctx: Context, pods: list[dict[str, Any]], poolers: list[str]) -> tuple[str, ...]:
    for name in poolers:
        pods = [*pods, *ctx.kube.list(k8s.POD, ctx.source_ref.namespace, labels=f"cnpg.io/poolerName={name}")]
    own = [pod for pod in pods if not pod["spec"].get("hostNetwork")]
    return tuple(sorted({str(ip) for pod in own if (ip := (pod.get("status") or {}).get("podIP"))}))


class PoolerUse(Frozen):
    """What one pod of a Pooler has at a moment: clients of all pairs, and of one pair server connections and who waits."""

    clients: int = 0
    servers: int = 0
    waiting: int = 0


def use_of(ctx: Context, pooler: str, role: str, database: str) -> list[PoolerUse]:
    """What each pod of a Pooler has, by CloudNativePG's own metrics; a pod that doesn't answer is left out."""
    found = []
    for pod in ctx.kube.list(k8s.POD, ctx.source_ref.namespace, labels=f"cnpg.io/poolerName={pooler}"):
        name = str(pod["metadata"]["name"])
        try:
            with ctx.kube.forward(ctx.source_ref.namespace, name, METRICS_PORT) as forward:
                connection = http.client.HTTPConnection(forward.host, forward.port, timeout=METRICS_SECONDS)
                try:
                    connection.request("GET", "/metrics", headers={"Host": name})
                    text = connection.getresponse().read().decode(errors="replace")
                finally:
                    connection.close()
        except (OSError, http.client.HTTPException, RunbookError):
            continue
        found.append(_use(text, role, database))
    return found


def _use(text: str, role: str, database: str) -> PoolerUse:
    counted: dict[str, float] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        labels = dict(_LABEL.findall(sample[2] or ""))
        if not labels or (labels.get("user"), labels.get("database")) == (role, database):
            counted[sample[1]] = float(sample[3])
    servers = sum(counted.get(f"pools_sv_{state}", 0) for state in ("active", "idle", "used", "tested", "login"))
    return PoolerUse(
        clients=int(counted.get("lists_used_clients", 0)),
        servers=int(servers),
        waiting=int(counted.get("pools_cl_waiting", 0)),
    )


def _sizes(pooler: PgBouncer) -> str:
    more = f" + {pooler.reserve} in reserve" if pooler.reserve else ""
    most = f", at most {pooler.max_db_connections} a database" if pooler.max_db_connections else ""
    return (
        f"{pooler.instances} × {pooler.default_pool_size}{more} server connections{most}, {pooler.instances} × "
        f"{pooler.max_client_conn} clients, {pooler.mode} mode"
    )


__all__ = ["PLANNED", "UNKNOWN", "FindPath", "FoundPath", "PoolerOnPath", "PoolerUse", "use_of"]
