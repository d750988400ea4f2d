"""The `/scale` subresource: how many replicas an object wants and has, in one shape for all kinds.

A custom kind says in its definition where the numbers lie; the built-in ones have theirs in
the table of kinds.
"""

from __future__ import annotations

from typing import Any

from drillbook_lab.api import errors, patches
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.resources import Resource
from drillbook_lab.kubectl.tables import at


def scale_of(resource: Resource, obj: Object) -> Object:
    """The Scale of an object."""
    paths = resource.scale
    if paths is None:
        raise errors.no_such_resource()
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    replicas = at(obj, paths["specReplicasPath"])
    spec: Object = {} if replicas is None else {"replicas": replicas}
    status: Object = {"replicas": at(obj, paths["statusReplicasPath"]) or 0}
    selector = _selector(resource, obj)
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": spec,
        "status": status,
    }


def _selector(resource: Resource, obj: Object) -> str:
    """Which pods are counted, as a text."""
    path = (resource.scale or {}).get("labelSelectorPath")
    if path:
        return str(at(obj, path) or "")
    if resource.custom:
        return ""
    selector = (obj.get("spec") or {}).get("selector") or {}
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key"), expression.get("operator")
        values = ",".join(sorted(expression.get("values") or ()))
        match operator:
            case "In" | "NotIn":
                terms.append(f"{key} {operator.lower()} ({values})")
            case "Exists":
                terms.append(str(key))
            case "DoesNotExist":
                terms.append(f"!{key}")
    return ",".join(terms)


def put(registry: Registry, resource: Resource, namespace: str, name: str, scale: Any, **how: Any) -> Object:
    """Set an object's number of replicas; 409 if the Scale was read from an older version."""
    live = registry.get(resource.kind, namespace, name)
    scale_of(resource, live)
    if not isinstance(scale, dict) or scale.get("kind") != "Scale" or scale.get("apiVersion") != "autoscaling/v1":
        raise errors.bad_request("the body holds no Scale of autoscaling/v1")
    meta, wanted = scale.get("metadata") or {}, (scale.get("spec") or {}).get("replicas", 0)
    if meta.get("name") not in (None, "", name):
        raise errors.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise errors.bad_request(
            f'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal {type(wanted).__name__} into '
            "Go struct field ScaleSpec.spec.replicas of type int32"
        )
    if wanted < 0:
        why = f"Invalid value: {wanted}: must be greater than or equal to 0"
        raise errors.invalid("Scale", "autoscaling", name, [Fault("spec.replicas", why)])
    changed = live
    for part in ("uid", "resourceVersion"):
        # What the client sends of these is its precondition.
        changed["metadata"].pop(part, None)
        if meta.get(part):
            changed["metadata"][part] = meta[part]
    _set(changed, (resource.scale or {})["specReplicasPath"], wanted)
    return scale_of(resource, registry.update(changed, **how))


def patch(
    registry: Registry, resource: Resource, namespace: str, name: str, form: str, body: Any, **how: Any
) -> Object:
    """Change the Scale of an object by a patch of any form."""
    scale = scale_of(resource, registry.get(resource.kind, namespace, name))
    if form == "json":
        changed = patches.json_patch(scale, body)
    elif not isinstance(body, dict):
        raise errors.bad_request("the patch must be an object")
    else:
        changed = patches.merge(scale, body)
    if not (isinstance(body, dict) and (body.get("metadata") or {}).get("resourceVersion")):
        changed["metadata"].pop("resourceVersion", None)
    return put(registry, resource, namespace, name, changed, **how)


def _set(obj: Object, path: str, value: int) -> None:
    *parents, last = path.strip(".").split(".")
    for part in parents:
        obj = obj.setdefault(part, {})
    obj[last] = value
