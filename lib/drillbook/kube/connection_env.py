"""Where an application is given its database's address, and the same text with another cluster's name in it; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

SERVICES = ("rw", "ro", "r")

_NAMED = re.compile(r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|(SECRET|ACCESS|API|PRIVATE)_?KEY)$", re.IGNORECASE)
# As a URL has it, and as a query or a libpq string does.
_INSIDE = re.compile(r"://[^/@\s:]*:[^/@\s]+@|(^|[?&;\s])(password|passwd)=[^&;\s]", re.IGNORECASE)

Lookup = Callable[[str, str], dict[str, str]]
"""From a kind (Secret, ConfigMap) and a name to its entries, decoded; empty if there is no such object."""


@dataclass(frozen=True)
class AddressLocation:
    """Where a variable's value is: in the Deployment itself, or under a key of a Secret or ConfigMap.

    ``container`` is set where it is in the Deployment: two containers may have a variable of one name. ``variable`` is
    what the containers call it.
    """

    kind: str  # Deployment | Secret | ConfigMap
    name: str
    key: str
    value: str = field(repr=False)  # may hold a password: never shown
    container: str = ""
    variable: str = ""

    def __str__(self) -> str:
        if self.kind == "Deployment":
            return f"{self.kind} {self.name}" + (f", {self.container}" if self.container else "")
        return f"{self.kind} {self.name}, key {self.key}"


def find(deployment: dict[str, Any], variable: str, lookup: Lookup) -> AddressLocation | None:
    """Where the first container gets ``variable`` from; None if it has none, or one that is not text."""
    return _find(
        deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]["containers"][0], variable, lookup
    )


def every(deployment: dict[str, Any], lookup: Lookup) -> list[AddressLocation]:
    """Where every variable of every container has its text from, init containers too; each place once a variable."""
    name = deployment["metadata"]["name"]
    found: dict[tuple[str, ...], AddressLocation] = {}
    for word, container in containers(deployment):
        for variable in dict.fromkeys(_variables(container, lookup)):
            place = _find(name, container, variable, lookup)
            if place is not None:
                inside = f"{word} {container['name']}" if place.kind == "Deployment" else ""
                found.setdefault(
                    (place.kind, place.name, place.key, inside, variable),
                    replace(place, container=inside, variable=variable),
                )
    return list(found.values())


def containers(deployment: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The containers and the init containers of a Deployment's pods, each with the word for its sort."""
    spec = deployment["spec"]["template"]["spec"]
    sorts = (("container", "containers"), ("init container", "initContainers"))
    return [(word, container) for word, name in sorts for container in spec.get(name) or ()]


def in_arguments(deployment: dict[str, Any], cluster: str, namespace: str, home: str) -> list[str]:
    """The containers whose command or arguments name a service of the Cluster, in words: no variable is there to be changed."""
    return [
        f"{', '.join(services)} in the arguments of {word} {container['name']}"
        for word, container in containers(deployment)
        if (
            services := services_in(
                " ".join([*(container.get("command") or ()), *(container.get("args") or ())]), cluster, namespace, home
            )
        )
    ]


def _variables(container: dict[str, Any], lookup: Lookup) -> Iterator[str]:
    for entry in container.get("env") or ():
        yield str(entry["name"])
    for source in container.get("envFrom") or ():
        for reference, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if reference in source:
                yield from (f"{source.get('prefix') or ''}{key}" for key in lookup(kind, source[reference]["name"]))


def _find(name: str, container: dict[str, Any], variable: str, lookup: Lookup) -> AddressLocation | None:
    for entry in reversed(container.get("env") or ()):  # of two with one name the last one counts
        if entry["name"] != variable:
            continue
        if "valueFrom" not in entry:
            return AddressLocation("Deployment", name, variable, str(entry.get("value", "")))
        for reference, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if found := entry["valueFrom"].get(reference):
                value = lookup(kind, found["name"]).get(found["key"])
                return None if value is None else AddressLocation(kind, found["name"], found["key"], value)
        return None
    return next((place for place in _from_whole_objects(container, variable, lookup)), None)


def _from_whole_objects(container: dict[str, Any], variable: str, lookup: Lookup) -> Iterator[AddressLocation]:
    """``envFrom``, the last first: a later one wins."""
    for source in reversed(container.get("envFrom") or []):
        for reference, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            prefix = str(source.get("prefix") or "")
            if reference in source and variable.startswith(prefix):
                key = variable.removeprefix(prefix)
                values = lookup(kind, source[reference]["name"])
                if key in values:
                    yield AddressLocation(kind, source[reference]["name"], key, values[key])


def readdressed(address: str, old: str, new: str, namespace: str = "", home: str = "") -> str:
    """The address with the services of Cluster ``new`` in place of those of ``old``; unchanged if it names none of them.

    ``namespace`` is the clusters', ``home`` that of the pod that resolves the address: a Cluster of the same name in
    another namespace is left alone. Without them a name counts wherever it leads.
    """

    def moved(match: re.Match[str]) -> str:
        return f"{new}-{match[1]}" if _leads_to(match, namespace, home) else match[0]

    return _service_of(old).sub(moved, address)


def services_in(address: str, cluster: str, namespace: str = "", home: str = "") -> list[str]:
    """The Cluster's services that the address names; nothing else of it, as it may hold a password."""
    return [match[0] for match in _service_of(cluster).finditer(address) if _leads_to(match, namespace, home)]


def _leads_to(match: re.Match[str], namespace: str, home: str) -> bool:
    if not namespace:
        return True
    domain = re.match(r"\.([a-z0-9-]+)", match.string[match.end() :])
    return (domain[1] if domain else home) == namespace


def names_host(text: str, service: str, namespace: str, home: str) -> bool:
    """Whether the text names the Service ``service`` of ``namespace``, as a pod of the namespace ``home`` resolves it."""
    # A host's first label and no more of it; without a domain it is the pod's own namespace's Service.
    host = re.compile(
        rf"(?<![A-Za-z0-9._-]){re.escape(service)}(?:\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+)?)?)?(?![A-Za-z0-9._-])"
    )
    return any((found[1] or home) == namespace for found in host.finditer(text))


def literal_secrets(deployment: dict[str, Any]) -> list[str]:
    """The variables whose value is or holds a secret in the Deployment itself, by name; never the value."""
    entries = [
        entry for _, container in containers(deployment) for entry in container.get("env") or () if entry.get("value")
    ]
    return [str(entry["name"]) for entry in entries if _NAMED.search(entry["name"]) or _INSIDE.search(entry["value"])]


def _service_of(cluster: str) -> re.Pattern[str]:
    # A host's first label and no more of it: `shop-rw` is neither in `my-shop-rw` nor in `shop-rw-2`.
    return re.compile(rf"(?<![A-Za-z0-9.-]){re.escape(cluster)}-({'|'.join(SERVICES)})(?![A-Za-z0-9-])")
