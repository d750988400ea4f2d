"""Why an application can't connect any more, by what Kubernetes, CloudNativePG and PostgreSQL say: one cause, with its fix; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from drillbook.connections.discovery import CLUSTER, OUTSIDE, POOLER
from drillbook.model import Frozen, Instant, show_instant
from drillbook.steps.troubleshoot.answer import Cause, ObjectPatch

HEALTHY = "Cluster in healthy state"


class AppState(Frozen):
    """The Deployment: pods that are wanted and ready, and where its address leads (``kind`` as in `discovery`).

    ``unread``: why the address can't be followed. ``started``: when the oldest of its pods began; ``hosts`` are those of
    the address.
    """

    deployment: str
    variable: str
    wanted: int
    ready: int
    started: Instant | None = None
    hosts: tuple[str, ...] = ()
    kind: str = OUTSIDE
    name: str = ""
    role: str = ""
    service: str = ""
    backends: int = 0  # ready pods behind the Service
    unread: str = ""


class PoolerState(Frozen):
    """The Pooler on the path."""

    name: str
    cluster: str = ""
    paused: bool = False
    phase: str = "active"
    reason: str = ""
    pods: int = 1  # ready


class RoleState(Frozen):
    """The application's role and database in PostgreSQL; None where there is none of that name.

    A limit of -1 is none. ``login`` is what PostgreSQL answered to the role with the password that the profile knows:
    "" for a login that succeeded, None if none was tried.
    """

    may_log_in: bool | None
    expired: bool | None = None
    role_limit: int | None = -1
    role_sessions: int = 0
    allows_connections: bool | None = True
    database_limit: int | None = -1
    database_sessions: int = 0
    may_connect: bool | None = True
    slots: int = 100
    sessions: int = 0
    databases: tuple[str, ...] = ()
    login: str | None = None


class Seen(Frozen):
    """What was read at one instant. ``words``: what PostgreSQL has refused this role or database lately, the newest last.

    ``unreachable``: why PostgreSQL itself could not be asked.
    """

    now: datetime
    cluster: dict[str, Any]
    role: str
    database: str
    app: AppState
    pooler: PoolerState | None = None
    server: RoleState | None = None
    unreachable: str = ""
    words: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()  # certificates

    @property
    def name(self) -> str:
        return str(self.cluster["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.cluster["metadata"].get("namespace", ""))

    @property
    def phase(self) -> str:
        return str((self.cluster.get("status") or {}).get("phase", ""))

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.cluster["metadata"].get("annotations") or {})

    def annotate(self, key: str, value: str | None) -> ObjectPatch:
        """An annotation of the Cluster, set or (None) removed."""
        merge = {"metadata": {"annotations": {key: value}}}
        return ObjectPatch(kind="Cluster", namespace=self.namespace, name=self.name, merge=merge)

    def psql(self, statement: str) -> str:
        """A statement as a command to run as the superuser."""
        return f'kubectl cnpg psql {self.name} -n {self.namespace} -- -c "{statement}"'


def symptoms(seen: Seen) -> list[str]:
    """What is wrong with the application's connections, in words; empty: nothing is, and the trouble is somewhere else."""
    app, found = seen.app, []
    if app.ready < app.wanted or not app.wanted:
        found.append(f"{app.ready} of {app.wanted} pods of Deployment {app.deployment} are ready")
    if seen.words:
        found.append(f"PostgreSQL refused: {seen.words[-1]}")
    if seen.server is not None and seen.server.login:
        found.append(f"role {seen.role} can't log in to {seen.database}: {seen.server.login}")
    if seen.unreachable:
        found.append(f"PostgreSQL can't be asked: {seen.unreachable}")
    # Sessions that are open live on: what refuses the next one has not failed yet.
    return found or [f"nothing has failed yet, but will: {cause.name}" for _, cause in checked(seen) if cause]


def checked(seen: Seen) -> list[tuple[str, Cause | None]]:
    """Each thing that can be the cause, in the order in which one hides the next; None: it is in order."""
    return [(name, look(seen)) for name, look in _LOOKS.items()]


# -- before PostgreSQL -------------------------------------------------------------------------


def _scaled(seen: Seen) -> Cause | None:
    if seen.app.wanted:
        return None
    place, _, name = seen.app.deployment.partition("/")
    return Cause(
        name="the application runs no pod",
        seen=f"Deployment {seen.app.deployment} wants 0 replicas",
        fix=f"kubectl scale deployment {name} -n {place} --replicas=N, unless a run drained it: see drillbook list",
    )


def _no_primary(seen: Seen) -> Cause | None:
    status = seen.cluster.get("status") or {}
    if seen.annotations.get("cnpg.io/hibernation") == "on":
        fix = f"kubectl annotate cluster {seen.name} -n {seen.namespace} --overwrite cnpg.io/hibernation=off"
        patch = seen.annotate("cnpg.io/hibernation", "off")
        return Cause(name="the cluster is hibernated", seen="annotation cnpg.io/hibernation=on", fix=fix, patch=patch)
    primary = str(status.get("currentPrimary") or "")
    fenced = _fenced(seen.annotations.get("cnpg.io/fencedInstances", ""))
    if fenced & {"*", primary}:
        # A replica that somebody has fenced by name stays fenced.
        others = [] if "*" in fenced else sorted(fenced - {primary})
        which = "*" if "*" in fenced else primary
        fix = f'kubectl cnpg fencing off {seen.name} "{which}" -n {seen.namespace}, unless a run fenced it: see drillbook list'
        words = f"annotation cnpg.io/fencedInstances={sorted(fenced)}"
        patch = seen.annotate("cnpg.io/fencedInstances", json.dumps(others) if others else None)
        return Cause(name="the primary is fenced", seen=words, fix=fix, patch=patch)
    if not primary or status.get("targetPrimary", primary) != primary:
        seen_now = f"phase {seen.phase or 'none'}, currentPrimary {primary or 'none'}, targetPrimary {status.get('targetPrimary') or 'none'}"
        fix = f"wait until the change of primary has ended: kubectl cnpg status {seen.name} -n {seen.namespace}"
        return Cause(name="the cluster has no primary", seen=seen_now, fix=fix)
    return None


def _address(seen: Seen) -> Cause | None:
    app = seen.app
    if app.unread:
        return None
    place, _, name = app.deployment.partition("/")
    fix = f"kubectl set env deployment/{name} -n {place} {app.variable}=… with {seen.name}-rw.{seen.namespace} as host (in Git first, if it is declared there)"
    if app.kind == CLUSTER and app.name != seen.name:
        words = f"{app.variable} leads by Service {app.service} to Cluster {app.name}; the profile's is {seen.name}"
        return Cause(name="the address leads to another cluster", seen=words, fix=fix)
    if app.kind == CLUSTER and app.role != "rw":
        words = f"{app.variable} leads to Service {app.service}, which is not the primary's"
        return Cause(name="the address leads to replicas", seen=words, fix=fix)
    if app.kind == OUTSIDE and not app.service and all(_inside(host) for host in app.hosts) and app.hosts:
        words = f"{app.variable} names {', '.join(app.hosts)}, and there is no such Service"
        return Cause(name="the address names no Service", seen=words, fix=fix)
    return None


def _service(seen: Seen) -> Cause | None:
    app = seen.app
    if not app.service or app.backends or app.kind == OUTSIDE:
        return None
    place, _, name = app.service.partition("/")
    return Cause(
        name="the Service has nobody behind it",
        seen=f"Service {app.service} selects no pod that is ready; Cluster phase {seen.phase or 'none'}",
        fix=f"kubectl get endpointslices -n {place} -l kubernetes.io/service-name={name}: compare its selector with the labels of the pods",
    )


def _pooler(seen: Seen) -> Cause | None:
    pooler = seen.pooler
    if seen.app.kind != POOLER:
        return None
    if pooler is None:
        words = f"the address leads to Pooler {seen.app.name}, which does not exist"
        return Cause(
            name="the Pooler is gone", seen=words, fix="apply the Pooler's manifest again, under the same name"
        )
    place = f"{pooler.name} -n {seen.namespace}"
    if pooler.paused:
        fix = f"""kubectl patch pooler {place} --type merge -p '{{"spec":{{"pgbouncer":{{"paused":false}}}}}}'"""
        merge = {"spec": {"pgbouncer": {"paused": False}}}
        patch = ObjectPatch(kind="Pooler", namespace=seen.namespace, name=pooler.name, merge=merge)
        words = f"Pooler {pooler.name}: spec.pgbouncer.paused is true"
        return Cause(name="the Pooler is paused", seen=words, fix=fix, patch=patch)
    if pooler.cluster != seen.name:
        words = f"Pooler {pooler.name} is over Cluster {pooler.cluster}; the profile's is {seen.name}"
        fix = (
            f"delete Pooler {pooler.name} and apply it again with cluster.name {seen.name}: that field can't be changed"
        )
        return Cause(name="the Pooler is over another cluster", seen=words, fix=fix)
    if pooler.phase != "active" or not pooler.pods:
        words = f"Pooler {pooler.name}: phase {pooler.phase}, {pooler.pods} pods ready{f': {pooler.reason}' if pooler.reason else ''}"
        return Cause(name="the Pooler serves nobody", seen=words, fix=f"kubectl describe pooler {place}")
    return None


# -- in PostgreSQL -----------------------------------------------------------------------------


def _database(seen: Seen) -> Cause | None:
    server = seen.server
    if server is None or server.allows_connections:
        return None
    if server.allows_connections is None:
        words = f"there is no database {seen.database}; there are {', '.join(server.databases)}"
        fix = seen.psql(f"alter database … rename to {seen.database}")
        return Cause(
            name="the database is not there",
            seen=words,
            fix=f"{fix}, if one of them is it under another name; if it was dropped, recover-point-in-time",
        )
    fix = seen.psql(f"alter database {seen.database} allow_connections true")
    words = f"database {seen.database} has ALLOW_CONNECTIONS false"
    return Cause(
        name="the database allows no connections", seen=words, fix=f"{fix}, unless a run blocked it: see drillbook list"
    )


def _role(seen: Seen) -> Cause | None:
    server = seen.server
    if server is None:
        return None
    if server.may_log_in is None:
        fix = "declare it in the Cluster's spec.managed.roles, with its Secret"
        return Cause(name="the role is not there", seen=f"there is no role {seen.role}", fix=fix)
    managed = f"(where spec.managed.roles of Cluster {seen.name} names it, there)"
    if not server.may_log_in:
        fix = f"{seen.psql(f'alter role {seen.role} login')} {managed}"
        return Cause(name="the role may not log in", seen=f"role {seen.role} has NOLOGIN", fix=fix)
    if server.expired:
        fix = f"{seen.psql(f'alter role {seen.role} valid until ' + chr(39) + 'infinity' + chr(39))} {managed}"
        return Cause(name="the role's password has expired", seen=f"VALID UNTIL of role {seen.role} is past", fix=fix)
    if server.may_connect is False:
        fix = seen.psql(f"grant connect on database {seen.database} to {seen.role}")
        words = f"role {seen.role} has no CONNECT on {seen.database}"
        return Cause(name="the role may not connect to the database", seen=words, fix=fix)
    return None


def _limit(seen: Seen) -> Cause | None:
    server = seen.server
    if server is None:
        return _says("remaining connection slots|too many clients|too many connections", _FULL, _ROOM)(seen)
    for what, limit, used, sentence in (
        ("role's connection limit", server.role_limit, server.role_sessions, f"role {seen.role}"),
        ("database's connection limit", server.database_limit, server.database_sessions, f"database {seen.database}"),
        ("server's max_connections", server.slots, server.sessions, "the server"),
    ):
        if limit is not None and limit >= 0 and used >= limit:
            words = f"{sentence} has {used} sessions, and {limit} are allowed"
            return Cause(name=f"the {what} is reached", seen=words, fix=_ROOM)
    return _says("too many connections for (role|database)|too many clients", _FULL, _ROOM)(seen)


_FULL = "a connection limit is reached"
_ROOM = "check-connections names the limit that binds, and change-connections changes it; look for sessions that are idle in transaction first"


def _password(seen: Seen) -> Cause | None:
    said = next((text for text in seen.words[-1:] if "password authentication failed" in text), "")
    login = seen.server.login if seen.server is not None else None
    place, _, name = seen.app.deployment.partition("/")
    if login:
        if "password authentication failed" not in login:
            return None
        fix = f"put the password of the Secret back: {seen.psql(f'alter role {seen.role} password …')}, or the role's new one into the application's Secret, then kubectl rollout restart deployment {name} -n {place}"
        return Cause(name="the password is not the role's", seen=f"{login}, with the password of the Secret", fix=fix)
    if not said:
        return None
    since = f"; its oldest pod runs since {show_instant(seen.app.started)}" if seen.app.started else ""
    known = "the Secret's password is right" if login == "" else "whether the Secret's password is right was not tried"
    fix = f"kubectl rollout restart deployment {name} -n {place}: a variable of a pod is read once, at its start"
    at = {"kubectl.kubernetes.io/restartedAt": f"{seen.now:%Y-%m-%dT%H:%M:%SZ}"}  # as kubectl rollout restart does it
    merge = {"spec": {"template": {"metadata": {"annotations": at}}}}
    patch = ObjectPatch(kind="Deployment", namespace=place, name=name, merge=merge) if login == "" else None
    words = f"{said}; {known}{since}"
    return Cause(name="the application holds another password", seen=words, fix=fix, patch=patch)


def _says(pattern: str, name: str, fix: str) -> Callable[[Seen], Cause | None]:
    """A cause that PostgreSQL names itself: by the newest refusal in its log, or to the login that was tried."""

    def look(seen: Seen) -> Cause | None:
        login = (seen.server.login if seen.server else "") or ""
        texts = (login, *seen.words[-1:])  # what was refused before that is over: it is no longer in the way
        said = next((text for text in reversed(texts) if re.search(pattern, text, re.IGNORECASE)), "")
        return Cause(name=name, seen=said[:300], fix=fix) if said else None

    return look


def _certificates(seen: Seen) -> Cause | None:
    if seen.expired:
        fix = f"delete the Secret that is named, if CloudNativePG made it (it makes a new one); else renew it; kubectl cnpg status {seen.name} -n {seen.namespace}"
        return Cause(name="a certificate has expired", seen="; ".join(seen.expired), fix=fix)
    return _says(
        r"certificate (expired|verify failed|unknown)|unknown ca|SSL error",
        "the application does not trust the certificate",
        f"give the application the ca.crt of Secret {seen.name}-ca, which changes with the cluster",
    )(seen)


_LOOKS: Mapping[str, Callable[[Seen], Cause | None]] = {
    "application": _scaled,
    "primary": _no_primary,
    "address": _address,
    "pooler": _pooler,
    "service": _service,
    "database": _database,
    "role": _role,
    "limits": _limit,
    "pg_hba": _says(
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "pg_hba.conf refuses the application",
        "correct spec.postgresql.pg_hba of the Cluster: the first rule that matches host, role and database counts",
    ),
    "password": _password,
    "certificates": _certificates,
    "instance": _says(
        "in a read-only transaction",
        "the application is on an instance that is no primary",
        "let the driver ask for the primary (targetServerType=primary) and limit how long an address is cached; restart the application's pods",
    ),
}


def _fenced(text: str) -> set[str]:
    try:
        return {str(one) for one in json.loads(text or "[]")}
    except (ValueError, TypeError):
        return set()


def _inside(host: str) -> bool:
    """Whether only the Kubernetes cluster's DNS would know a host: one or two labels, or ``.svc`` in it."""
    labels = host.rstrip(".").split(".")
    return (len(labels) < 3 or labels[2] == "svc") and not re.fullmatch(r"[\d.]+", host) and host != "localhost"


__all__ = ["AppState", "PoolerState", "RoleState", "Seen", "checked", "symptoms"]
