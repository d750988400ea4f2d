"""LimitRange: what a container gets when it asks for nothing, and between which bounds it may ask."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from drillbook_lab.api import errors
from drillbook_lab.api.errors import Object
from drillbook_lab.api.resources import Resource
from drillbook_lab.api.store import Store
from drillbook_lab.quantities import quantity


def default(store: Store, resource: Resource, new: Object) -> None:
    """Give every container of a new pod the requests and limits that it leaves open."""
    if resource.kind != "Pod":
        return
    for item in _items(store, new, "Container"):
        spec = new.get("spec") or {}
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            resources = container.get("resources")
            if not isinstance(resources, dict):
                resources = container["resources"] = {}
            told = set(resources.get("requests") or ())
            for name, amount in (resources.get("limits") or {}).items():
                resources.setdefault("requests", {}).setdefault(name, amount)
            for name, amount in (item.get("default") or {}).items():
                resources.setdefault("limits", {}).setdefault(name, amount)
            fallback = {**(item.get("default") or {}), **(item.get("defaultRequest") or {})}
            for name, amount in fallback.items():
                if name not in told:
                    resources.setdefault("requests", {}).setdefault(name, amount)


def check(store: Store, resource: Resource, new: Object) -> None:
    """403, with everything that is out of bounds."""
    wrong: list[str] = []
    if resource.kind == "Pod":
        containers = (new.get("spec") or {}).get("containers") or []
        for item in _items(store, new, "Container"):
            for container in containers:
                wrong += _faults(item, container.get("resources") or {}, "Container")
        for item in _items(store, new, "Pod"):
            wrong += _faults(item, _together(containers), "Pod")
    elif resource.kind == "PersistentVolumeClaim":
        for item in _items(store, new, "PersistentVolumeClaim"):
            requests = ((new.get("spec") or {}).get("resources") or {}).get("requests") or {}
            wrong += _faults(item, {"requests": requests, "limits": requests}, "PersistentVolumeClaim", "request")
    if wrong:
        why = wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]"
        raise errors.forbidden(resource.plural, resource.group, new["metadata"].get("name", ""), why)


def _items(store: Store, obj: Object, type_: str) -> Iterator[Object]:
    for found in store.of_kind("LimitRange", obj["metadata"].get("namespace") or "-"):
        for item in (found.get("spec") or {}).get("limits") or ():
            if item.get("type") == type_:
                yield item


def _faults(item: Object, resources: Object, what: str, above: str = "limit") -> Iterator[str]:
    for name, least in sorted((item.get("min") or {}).items()):
        asked = (resources.get("requests") or {}).get(name)
        if asked is None:
            yield f"minimum {name} usage per {what} is {least}.  No request is specified"
        elif _number(asked) < _number(least):
            yield f"minimum {name} usage per {what} is {least}, but request is {asked}"
    for name, most in sorted((item.get("max") or {}).items()):
        asked = (resources.get("limits") or {}).get(name)
        if asked is None:
            yield f"maximum {name} usage per {what} is {most}.  No limit is specified"
        elif _number(asked) > _number(most):
            yield f"maximum {name} usage per {what} is {most}, but {above} is {asked}"


def _together(containers: list[Object]) -> Object:
    """The sums of what all containers ask for; a sum to which one of them adds nothing is none."""
    total: dict[str, dict[str, Decimal]] = {"requests": {}, "limits": {}}
    for what, sums in total.items():
        told: list[dict[str, Any]] = [(container.get("resources") or {}).get(what) or {} for container in containers]
        for name in {name for one in told for name in one}:
            if all(name in one for one in told):
                sums[name] = sum((_number(one[name]) for one in told), Decimal(0))
    return {what: {name: str(amount) for name, amount in sums.items()} for what, sums in total.items()}


def _number(told: object) -> Decimal:
    return quantity(str(told)) or Decimal(0)
