"""Where an address leads, and how large everything on the way is, from Kubernetes objects. Pure: objects in, values out.

An address may hold a password: nothing of it but the names of Services is ever returned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drillbook.connections.path import CLIENT_LOGIN_SECONDS as LOGIN_SECONDS
from drillbook.connections.path import (
    DEFAULT_POOL_SIZE,
    LOGIN_RETRY_SECONDS,
    MAX_CLIENT_CONN,
    QUERY_WAIT_SECONDS,
    RESERVE_POOL_SECONDS,
    AppPods,
    PgBouncer,
)
from drillbook.profile.schema import ConnectionSettings, PlannedPooler

Object = Mapping[str, Any]

POOLER, CLUSTER, OTHER, OUTSIDE = "Pooler", "Cluster", "other pods", "outside"
_MOST_HOPS = 5
_DEFAULT_SURGE = "25%"  # of a Deployment's rolling update, as Kubernetes has it
_AUTHORITY = re.compile(r"://([^/?#\s]*)")
_KEYWORD = re.compile(r"(?:^|[\s;?&])(?:host|hostaddr|server)=([^\s;&]+)", re.IGNORECASE)
_IMAGE = re.compile(r"pgbouncer[^:@\s]*:v?(\d+)\.(\d+)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Target:
    """Where an address ends: at a ``Pooler`` or a ``Cluster`` (``role`` rw, ro or r), at other pods, or outside.

    ``via`` are the Services on the way, as namespace/name.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    role: str = ""
    via: tuple[str, ...] = ()

    def __str__(self) -> str:
        way = " → ".join(f"Service {name}" for name in self.via)
        if self.kind in (POOLER, CLUSTER):
            return f"{way} → {self.kind} {self.namespace}/{self.name}"
        return f"{way} → pods that are neither a Pooler's nor a Cluster's" if self.via else "no Service that is known"


def hosts(address: str) -> list[str]:
    """The hosts of a URL (JDBC's too), a libpq string or a bare host; several are tried in turn by the driver."""
    if found := _AUTHORITY.search(address):
        text = found[1].rpartition("@")[2]
    elif named := _KEYWORD.findall(address):
        text = ",".join(named)
    else:
        text = address.strip()
    return [host for part in text.split(",") if (host := _without_port(part.strip()))]


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]


def leads_to(host: str, services: Sequence[Object], home: str) -> Target:
    """Where a host leads, as a pod of namespace ``home`` resolves it: by a Service's name or its address."""
    via: list[str] = []
    service = _service(host, services, home)
    while service is not None and len(via) < _MOST_HOPS:
        meta, spec = service["metadata"], service.get("spec") or {}
        via.append(f"{meta['namespace']}/{meta['name']}")
        if spec.get("type") != "ExternalName":
            return _behind(meta["namespace"], spec.get("selector") or {}, tuple(via))
        service = _service(str(spec.get("externalName", "")), services, meta["namespace"])
    return Target(kind=OUTSIDE, via=tuple(via))


def _service(host: str, services: Sequence[Object], home: str) -> Object | None:
    labels = host.rstrip(".").split(".")
    inside = len(labels) < 3 or labels[2] == "svc"
    place = (labels[1] if len(labels) > 1 else home, labels[0]) if inside else None
    for service in services:
        meta, spec = service["metadata"], service.get("spec") or {}
        addresses = {spec.get("clusterIP"), *(spec.get("clusterIPs") or ())}
        if place == (meta["namespace"], meta["name"]) or (host in addresses and host != "None"):
            return service
    return None


def _behind(namespace: str, selector: Mapping[str, str], via: tuple[str, ...]) -> Target:
    if name := selector.get("cnpg.io/poolerName"):
        return Target(kind=POOLER, namespace=namespace, name=name, via=via)
    if name := selector.get("cnpg.io/cluster"):
        instance = selector.get("cnpg.io/instanceRole") or selector.get("role") or ""
        role = {"primary": "rw", "replica": "ro"}.get(instance, "r")
        return Target(kind=CLUSTER, namespace=namespace, name=name, role=role, via=via)
    return Target(kind=OTHER, namespace=namespace, via=via)


def surge(strategy: Object | None) -> tuple[int, int]:
    """How many pods more than wanted a Deployment's rolling update runs at once: a number, or a share in percent."""
    strategy = strategy or {}
    if strategy.get("type") == "Recreate":
        return 0, 0
    text = str((strategy.get("rollingUpdate") or {}).get("maxSurge", _DEFAULT_SURGE))
    return (0, int(text[:-1])) if text.endswith("%") else (int(text), 0)


def _surge_of(strategy: Object | None, instances: int) -> int:
    more, percent = surge(strategy)
    return more + math.ceil(instances * percent / 100)


def app_pods(
    deployment: Object, autoscalers: Iterable[Object], settings: ConnectionSettings, values: Mapping[str, str]
) -> tuple[AppPods, list[str]]:
    """What a Deployment's pods may ask for, and what of it is not known, in words. ``values`` are its variables'."""
    unknown: list[str] = []

    def number(variable: str, what: str, otherwise: float) -> float:
        text = values.get(variable, "") if variable else ""
        if text.strip().isdecimal() and int(text) > 0:
            return float(text)
        if variable:
            unknown.append(f"{variable} has no number: {what} is taken to be {otherwise:g}")
        return otherwise

    spec, name = deployment["spec"], deployment["metadata"]["name"]
    replicas = int(spec.get("replicas", 1))
    scalers = [
        item
        for item in autoscalers
        if item["spec"]["scaleTargetRef"].get("name") == name
        and item["spec"]["scaleTargetRef"].get("kind") == "Deployment"
    ]
    most = max([replicas, *(int(item["spec"].get("maxReplicas", 0)) for item in scalers)])
    wait = settings.acquire_timeout.total_seconds()
    if not settings.pool_variable:
        unknown.append(f"the profile names no pool_variable: a pool is taken to have {settings.pool} connections")
    more, percent = surge(spec.get("strategy"))
    return (
        AppPods(
            replicas=replicas,
            most_replicas=most,
            surge=more,
            surge_percent=percent,
            pool=int(number(settings.pool_variable, "a pool", settings.pool)),
            workers=settings.workers,
            startup_pool=settings.startup_pool,
            acquire_seconds=number(settings.timeout_variable, "its time limit in ms", wait * 1000) / 1000,
        ),
        unknown,
    )


def pgbouncer(pooler: Object, images: Iterable[str] = (), clients: int = 0) -> PgBouncer:
    """A Pooler's sizes, with PgBouncer's defaults where it sets none; ``images`` are its pods', for the version."""
    spec = pooler["spec"]
    inside = spec.get("pgbouncer") or {}
    given: Mapping[str, str] = inside.get("parameters") or {}
    instances = int(spec.get("instances", 1))

    def whole(name: str, otherwise: int) -> int:
        text = str(given.get(name, "")).strip()
        return int(text) if text.lstrip("-").isdecimal() else otherwise

    def seconds(name: str, otherwise: float) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h)?", str(given.get(name, "")).strip())
        return float(found[1]) * _UNITS[found[2] or "s"] if found else otherwise

    return PgBouncer(
        name=pooler["metadata"]["name"],
        instances=instances,
        surge=_surge_of(spec.get("deploymentStrategy"), instances),
        mode=str(inside.get("poolMode", "session")),
        default_pool_size=whole("default_pool_size", DEFAULT_POOL_SIZE),
        min_pool_size=whole("min_pool_size", 0),
        reserve_pool_size=whole("reserve_pool_size", 0),
        reserve_pool_timeout=seconds("reserve_pool_timeout", RESERVE_POOL_SECONDS),
        max_db_connections=whole("max_db_connections", 0),
        max_user_connections=whole("max_user_connections", 0),
        max_client_conn=whole("max_client_conn", MAX_CLIENT_CONN),
        query_wait_timeout=seconds("query_wait_timeout", QUERY_WAIT_SECONDS),
        client_login_timeout=seconds("client_login_timeout", LOGIN_SECONDS),
        server_login_retry=seconds("server_login_retry", LOGIN_RETRY_SECONDS),
        clients=clients,
        version=version([*images, str(inside.get("image") or "")]),
    )


def version(images: Iterable[str]) -> tuple[int, int] | None:
    """PgBouncer's version by its image's tag; None where none says it. The oldest, where they differ."""
    found = [(int(match[1]), int(match[2])) for image in images if (match := _IMAGE.search(image))]
    return min(found, default=None)


def planned(pooler: PlannedPooler) -> PgBouncer:
    """The Pooler of the profile's plan."""
    return PgBouncer(
        name="as planned",
        instances=pooler.instances,
        surge=_surge_of(None, pooler.instances),
        mode=pooler.pool_mode,
        default_pool_size=pooler.default_pool_size,
        max_db_connections=pooler.max_db_connections,
        max_client_conn=pooler.max_client_conn,
    )


def replicas_for(users: int, settings: ConnectionSettings, replicas: int) -> int | None:
    """How many replicas so many users need: what the profile says of them, else in proportion; None: nobody knows."""
    for step in settings.growth:
        if step.users == users and step.replicas:
            return step.replicas
    return math.ceil(replicas * users / settings.users) if settings.users else None


__all__ = [
    "CLUSTER",
    "OTHER",
    "OUTSIDE",
    "POOLER",
    "Target",
    "app_pods",
    "hosts",
    "leads_to",
    "pgbouncer",
    "planned",
    "replicas_for",
    "surge",
    "version",
]
