"""An application can't connect since something changed: the symptom first, then each possible cause, then the one that it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections import discovery
from drillbook.engine.step import CheckStep, Context, Step, pod_of
from drillbook.errors import KubernetesError, ParameterError, PostgresError, RunbookError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.kube import connection_env, workloads
from drillbook.model import Check, Frozen, parse_instant
from drillbook.postgres.client import Database
from drillbook.profile.schema import Application, Tenant
from drillbook.steps.archive.weekly import go_time
from drillbook.steps.troubleshoot.answer import Named
from drillbook.steps.troubleshoot.connection_causes import (
    AppState,
    PoolerState,
    RoleState,
    Seen,
    checked,
    symptoms,
)
from drillbook.steps.troubleshoot.fix import AfterFix
from drillbook.steps.troubleshoot.search import cause_checks, record_answer, symptom_checks

LATELY = timedelta(minutes=2)
"""How far back PostgreSQL's log counts: a pool tries again every few seconds."""

# Authentication, connections, no such database, no right to it, it is closed.
_REFUSALS = ("28", "53", "3D000", "42501", "55000")
_READ_ONLY, _NO_TLS = "25006", "could not accept SSL connection"
WELL = "the application's pods are ready, and PostgreSQL refuses neither its role nor its database"


class ConnectionState(Frozen):
    """What was read, as a card shows it."""

    seen: Seen
    log_read: str  # how much of PostgreSQL's log could be read

    def rows(self) -> Iterator[tuple[str, str]]:
        seen, app, server = self.seen, self.seen.app, self.seen.server
        yield "Application", f"Deployment {app.deployment}: {app.ready} of {app.wanted} pods ready"
        way = f"Service {app.service} to {app.kind} {app.name}".strip() if app.service else ", ".join(app.hosts)
        yield "Address", app.unread or f"{app.variable}: {way or 'no host'}"
        yield "Cluster", f"{seen.namespace}/{seen.name}: {seen.phase or 'no phase'}"
        if seen.pooler:
            yield "Pooler", f"{seen.pooler.name}: {'paused' if seen.pooler.paused else seen.pooler.phase}"
        if server is not None:
            login = "not tried" if server.login is None else server.login or "succeeded"
            yield "Login", f"role {seen.role}, database {seen.database}: {login}"
        yield "PostgreSQL", f"can't be asked: {seen.unreachable}" if seen.unreachable else "answers"
        yield "Its log", self.log_read
        for text in seen.words[-3:]:
            yield "It refused", text


@dataclass(frozen=True)
class ReadConnectionState(Step[ConnectionState]):
    """Read the application's Deployment and address, the Services and Pooler on the way, the Cluster, and PostgreSQL's own view.

    The role's password is tried once, as the profile's Secret has it, on the primary itself. Without the right to read
    PostgreSQL's log (deploy/rbac/troubleshoot.yaml) its refusals are missing, and the card says so. Another database's
    application is chosen by ``database``. Raises ParameterError if none of that name has an application in the profile.
    """

    database: str = ""

    def do(self, ctx: Context) -> ConnectionState:
        ctx.recorder.note(Facts(test=TestKind(type="search for the cause of refused connections; nothing was changed")))
        return _state(ctx, self.database)


@dataclass(frozen=True)
class ConnectionSymptom(CheckStep):
    """Whether the application's connections are in trouble at all: if not, this is not your problem."""

    state: ConnectionState
    name: ClassVar[str] = "symptom"
    proves: ClassVar[str] = "there is something to look for"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        expected = "a pod that is not ready, a refusal in PostgreSQL's log, or a login that fails"
        return symptom_checks(self, symptoms(self.state.seen), expected=expected, well=WELL)


@dataclass(frozen=True)
class ConnectionCauses(CheckStep):
    """Each thing on the way from the pod to the database, from the outside to the inside: one that is broken hides those behind it."""

    state: ConnectionState
    name: ClassVar[str] = "causes"
    proves: ClassVar[str] = "this is not what keeps the application from connecting"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        return cause_checks(self, checked(self.state.seen))


@dataclass(frozen=True)
class NameConnectionCause(Step[Named]):
    """The cause, its evidence, and what to do; or that the connections are well, and the trouble is somewhere else."""

    state: ConnectionState

    def do(self, ctx: Context) -> Named:
        seen = self.state.seen
        return record_answer(
            ctx,
            symptoms(seen),
            checked(seen),
            about=f"Connections of {seen.app.deployment}",
            proves="what keeps the application from connecting is known",
            well=WELL,
            unread=self.state.log_read,
        )


@dataclass(frozen=True)
class ConnectionAfterFix(AfterFix):
    """Look again, after the fix: the application is served, or still held by the same cause."""

    database: str = ""
    proves: ClassVar[str] = "what kept the application from connecting is gone"

    def look(self, ctx: Context) -> tuple[list[str], list[str]]:
        seen = _state(ctx, self.database).seen
        return [cause.name for _, cause in checked(seen) if cause], symptoms(seen)


# -- reading -----------------------------------------------------------------------------------


def _state(ctx: Context, database: str) -> ConnectionState:
    tenant, app = _tenant(ctx, database)
    cluster = ctx.cluster_object(ctx.source_ref)
    state, since = _app(ctx, app)
    words, log_read = _refused(ctx, cluster, tenant, since)
    server, unreachable = _server(ctx, cluster, tenant)
    certificates = ((cluster.get("status") or {}).get("certificates") or {}).get("expirations") or {}
    now = datetime.now(UTC)
    ended = [name for name, text in certificates.items() if (at := go_time(text)) is not None and at <= now]
    seen = Seen(
        now=now,
        cluster={"metadata": _marks(cluster["metadata"]), "status": _status(cluster)},
        role=tenant.app_role,
        database=tenant.database,
        app=state,
        pooler=_pooler(ctx, state),
        server=server,
        unreachable=unreachable,
        words=tuple(words),
        expired=tuple(f"Secret {name}: until {certificates[name]}" for name in ended),
    )
    return ConnectionState(seen=seen, log_read=log_read)


def _tenant(ctx: Context, database: str) -> tuple[Tenant, Application]:
    able = [(one, one.application) for one in ctx.site.tenants if one.application is not None]
    for tenant, app in able:
        if app is not None and database in ("", tenant.database):
            return tenant, app
    known = ", ".join(tenant.database for tenant, _ in able) or "none"
    fault = f"database: {database!r} has no application in the profile (those with one: {known})"
    raise ParameterError([fault], where="troubleshoot-connection-changed")


def _app(ctx: Context, app: Application) -> tuple[AppState, datetime]:
    """The application as it is, and since when a refusal counts: what was refused before all its pods became ready is over."""
    deployment = workloads.deployment(ctx.kube, app)
    here = [one for one in workloads.pods(ctx.kube, deployment) if not one["metadata"].get("deletionTimestamp")]
    since = [at for one in here if (at := _ready_since(one)) is not None]
    begun = [parse_instant(one["metadata"]["creationTimestamp"]) for one in here]
    wanted = int(deployment["spec"].get("replicas", 1))
    known = AppState(
        deployment=f"{app.namespace}/{app.deployment}",
        variable=app.address_variable,
        wanted=wanted,
        ready=len(since),
        started=min(begun, default=None),
    )
    lately = datetime.now(UTC) - LATELY
    well = len(since) >= wanted and since
    # Kubernetes' times have whole seconds: in the same one there may have been a last refusal.
    over = max(since) + timedelta(seconds=1) if well else lately
    return known.model_copy(update=_address(ctx, app, deployment)), max(lately, over)


def _ready_since(pod: Mapping[str, Any]) -> datetime | None:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = next((one for one in conditions if one["type"] == "Ready" and one["status"] == "True"), None)
    if ready is None:
        return None
    return parse_instant(ready.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])


def _address(ctx: Context, app: Application, deployment: dict[str, Any]) -> dict[str, Any]:
    """Where the application's address leads, and how many ready pods stand behind that Service."""
    refused: list[str] = []

    def lookup(kind: str, name: str) -> dict[str, str]:
        try:
            if kind == "Secret":
                return ctx.kube.secret(app.namespace, name)
            return dict((ctx.kube.get(k8s.CONFIG_MAP, app.namespace, name) or {}).get("data") or {})
        except KubernetesError as error:
            if error.status not in (403, 404):
                raise
            refused.append(f"{kind} {app.namespace}/{name}")
            return {}

    places = connection_env.every(deployment, lookup)
    value = next((place.value for place in places if place.variable == app.address_variable), None)
    if value is None:
        where = f"; {', '.join(dict.fromkeys(refused))} can't be read" if refused else ""
        return {"unread": f"{app.address_variable or 'address_variable'} has no text that can be read{where}"}
    hosts = discovery.hosts(value)
    namespaces = dict.fromkeys((ctx.source_ref.namespace, app.namespace))
    services = [one for namespace in namespaces for one in ctx.kube.list(k8s.SERVICE, namespace)]
    found = [discovery.leads_to(host, services, app.namespace) for host in hosts]
    if len({(one.kind, one.namespace, one.name) for one in found}) > 1:
        return {"hosts": tuple(hosts), "unread": "several hosts that lead to different places"}
    target = found[0] if found else discovery.Target(kind=discovery.OUTSIDE)
    service = target.via[-1] if target.via else ""
    return {
        "hosts": tuple(hosts),
        "kind": target.kind,
        "name": target.name,
        "role": target.role,
        "service": service,
        "backends": _behind(ctx, services, service),
    }


def _behind(ctx: Context, services: Sequence[Mapping[str, Any]], service: str) -> int:
    """How many ready pods the Service's selector matches."""
    namespace, _, name = service.partition("/")
    for one in services:
        if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, name):
            labels = workloads.selector_text({"matchLabels": (one.get("spec") or {}).get("selector") or {}})
            return sum(_ready_since(pod) is not None for pod in ctx.kube.list(k8s.POD, namespace, labels=labels))
    return 0


def _pooler(ctx: Context, app: AppState) -> PoolerState | None:
    if app.kind != discovery.POOLER:
        return None
    namespace = app.service.partition("/")[0]
    found = ctx.kube.get(k8s.POOLER, namespace, app.name)
    if found is None:
        return None
    status = found.get("status") or {}
    pods = ctx.kube.list(k8s.POD, namespace, labels=f"cnpg.io/poolerName={app.name}")
    return PoolerState(
        name=app.name,
        cluster=str(found["spec"]["cluster"]["name"]),
        paused=bool((found["spec"].get("pgbouncer") or {}).get("paused", False)),
        phase=str(status.get("phase") or "active"),  # before CloudNativePG 1.30 there is no phase
        reason=str(status.get("phaseReason") or ""),
        pods=sum(_ready_since(pod) is not None for pod in pods),
    )


def _server(ctx: Context, cluster: dict[str, Any], tenant: Tenant) -> tuple[RoleState | None, str]:
    """What PostgreSQL says of role and database, and of one login; or why it can't be asked."""
    try:
        with ctx.source() as db:
            row = db.ask_one("troubleshoot_login", role=tenant.app_role, database=tenant.database)
    except RunbookError as error:
        return None, error.what
    values = {name: row[name] for name in RoleState.model_fields if name in row and row[name] is not None}
    nothing = {"may_log_in": row["may_log_in"], "allows_connections": row["allows_connections"]}
    names = tuple(name for name in row["databases"] or () if name != ctx.site.sql.database)
    known = values | nothing | {"databases": names}
    return RoleState(**known, login=_login(ctx, cluster, tenant)), ""


def _login(ctx: Context, cluster: dict[str, Any], tenant: Tenant) -> str | None:
    """What PostgreSQL answers to the application's role with the password of the profile's Secret."""
    if tenant.app_login is None:
        return None
    try:
        secret = ctx.kube.secret(tenant.app_login.namespace, tenant.app_login.name)
        address = ctx.forward(ctx.source_ref.namespace, pod_of(cluster))
        with Database.connect(
            address, user=secret["username"], password=secret["password"], dbname=tenant.database, read_only=True
        ):
            return ""
    except PostgresError as error:
        return error.what
    except (KubernetesError, KeyError):
        return None


def _refused(ctx: Context, cluster: dict[str, Any], tenant: Tenant, since: datetime) -> tuple[list[str], str]:
    """What PostgreSQL has refused this role or database since an instant, and which instances' logs were read."""
    primary, read = pod_of(cluster), list[str]()
    found: list[tuple[datetime, str]] = []
    labels = f"cnpg.io/cluster={ctx.source_ref.name},cnpg.io/podRole=instance"
    for pod in sorted(
        one["metadata"]["name"] for one in ctx.kube.list(k8s.POD, ctx.source_ref.namespace, labels=labels)
    ):
        try:
            text = ctx.kube.log(ctx.source_ref.namespace, pod, "postgres", since=since.isoformat(timespec="seconds"))
        except KubernetesError as error:
            if error.status == 403:
                return (
                    [],
                    "not read: the right is missing, and its refusals would say more; apply deploy/rbac/troubleshoot.yaml",
                )
            continue
        found += refusals(text, tenant.app_role, tenant.database, since, replica=pod != primary)
        read.append(pod)
    words = list(dict.fromkeys(message for _, message in sorted(found, reverse=True)))
    return words[::-1], f"read, of {', '.join(read)}" if read else "nothing to read: no instance has one"


def refusals(
    text: str, role: str, database: str, since: datetime, *, replica: bool = False
) -> list[tuple[datetime, str]]:
    """The refusals of a role or a database in an instance's log since an instant, each with its time.

    That a transaction may not write is one on a ``replica`` only: on a primary somebody has asked for it.
    """
    found = []
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
            record = entry.get("record")
        except (ValueError, AttributeError):
            continue
        if not isinstance(record, dict):
            continue
        message, code = str(record.get("message", "")), str(record.get("sql_state_code", ""))
        concerns = role == record.get("user_name") or database == record.get("database_name") or f'"{role}"' in message
        refused = record.get("error_severity") == "FATAL" and code.startswith(_REFUSALS)
        read_only = replica and code == _READ_ONLY
        at = _logged(str(entry.get("ts", "")))
        if at is not None and at >= since and ((concerns and (refused or read_only)) or message.startswith(_NO_TLS)):
            found.append((at, message))
    return found


def _logged(text: str) -> datetime | None:
    """When CloudNativePG logged a line; None if it does not say."""
    try:
        return parse_instant(text)
    except ValueError:
        return None


def _marks(metadata: Mapping[str, Any]) -> dict[str, Any]:
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if key.startswith("cnpg.io/")
    }
    return {"name": metadata["name"], "namespace": metadata["namespace"], "annotations": annotations}


def _status(cluster: Mapping[str, Any]) -> dict[str, Any]:
    status = cluster.get("status") or {}
    return {key: status[key] for key in ("phase", "currentPrimary", "targetPrimary") if key in status}


__all__ = [
    "ConnectionAfterFix",
    "ConnectionCauses",
    "ConnectionState",
    "ConnectionSymptom",
    "NameConnectionCause",
    "ReadConnectionState",
    "refusals",
]
