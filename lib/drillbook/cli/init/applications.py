"""Which Deployments use the cluster's databases, by the addresses in their environment; values are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from drillbook.kube import connection_env

Object = dict[str, Any]

# Between a service's name and the database of a URL stand its domain and port.
_IN_URL = r"[^/\s?]*/([^/?\s;&]+)"
_IN_TEXT = re.compile(r"(?:^|[\s;&?])dbname='?([^'\s&;]+)")


@dataclass(frozen=True)
class Endpoint:
    """One Service in front of the cluster; ``pooler`` is its Pooler's name, "" for CloudNativePG's own Services."""

    service: str
    pooler: str = ""


@dataclass(frozen=True)
class ApplicationFound:
    """A Deployment that is given the address of ``service``; ``variables`` are those of its first container that hold it."""

    namespace: str
    deployment: str
    variables: tuple[str, ...]
    service: str
    database: str  # "" where nothing says which
    pooler: str = ""
    port: int = 0
    health_path: str = ""


def endpoints(cluster: Object, poolers: Sequence[Object]) -> list[Endpoint]:
    """The Services of a Cluster, those that write first: CloudNativePG's, the Cluster's additional ones, its Poolers'."""
    name = cluster["metadata"]["name"]
    managed = ((cluster["spec"].get("managed") or {}).get("services") or {}).get("additional") or []
    names = [f"{name}-{suffix}" for suffix in connection_env.SERVICES]
    names[1:1] = [str(item["serviceTemplate"]["metadata"]["name"]) for item in managed]
    mine = [item["metadata"]["name"] for item in poolers if item["spec"].get("cluster", {}).get("name") == name]
    return [*(Endpoint(pooler, pooler) for pooler in mine), *map(Endpoint, names)]


def find(
    deployment: Object,
    places: Sequence[Endpoint],
    namespace: str,
    databases: Mapping[str, str],
    lookup: connection_env.Lookup,
) -> ApplicationFound | None:
    """The Deployment as an application of the cluster in ``namespace``; None if its first container names none of ``places``.

    ``databases`` maps each database to its owner. A name without a domain is one of the Deployment's own namespace.
    """
    home = deployment["metadata"]["namespace"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    values = dict(_values(deployment, container, lookup))
    for place in places:
        named = [
            name for name, value in values.items() if connection_env.names_host(value, place.service, namespace, home)
        ]
        if named:
            port, path = _health(container)
            return ApplicationFound(
                home,
                deployment["metadata"]["name"],
                tuple(named),
                place.service,
                _database(values, values[named[0]], place.service, databases),
                place.pooler,
                port,
                path,
            )
    return None


def _values(deployment: Object, container: Object, lookup: connection_env.Lookup) -> Iterator[tuple[str, str]]:
    names = [str(entry["name"]) for entry in container.get("env") or ()]
    for source in container.get("envFrom") or ():
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if field in source:
                prefix = str(source.get("prefix") or "")
                names += [prefix + key for key in lookup(kind, source[field]["name"])]
    for name in dict.fromkeys(names):
        place = connection_env.find(deployment, name, lookup)
        if place is not None:
            yield name, place.value


def _database(values: Mapping[str, str], address: str, service: str, databases: Mapping[str, str]) -> str:
    """By the address, else by a variable that is a database's name, else by one that is its owner's, else the only one."""
    for pattern in (re.compile(re.escape(service) + _IN_URL), _IN_TEXT):
        found = pattern.search(address)
        if found and unquote(found[1]) in databases:
            return unquote(found[1])
    said = set(values.values())
    named = [name for name in databases if name in said] or [name for name, owner in databases.items() if owner in said]
    named = named or list(databases)
    return named[0] if len(named) == 1 else ""


def _health(container: Object) -> tuple[int, str]:
    """Port and path of the readiness probe's request; without one the first port and ""."""
    ports = {item.get("name", ""): int(item["containerPort"]) for item in container.get("ports") or ()}
    asked = (container.get("readinessProbe") or {}).get("httpGet") or {}
    port = asked.get("port", next(iter(ports.values()), 0))
    return ports.get(port, 0) if isinstance(port, str) and not port.isdecimal() else int(port), str(
        asked.get("path", "")
    )
