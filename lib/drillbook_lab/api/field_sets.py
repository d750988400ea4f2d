"""Sets of fields (`FieldsV1`): which parts of an object somebody owns, and the walks that find them.

A set is a tree of nested dicts whose keys are path elements as Kubernetes writes them: `f:name`
a field, `k:{…}` an item of a list by its keys, `v:…` a value of a set. Inside this module the key
`.` marks every path that belongs to the set; on the wire a leaf's `.` is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from drillbook_lab.api.errors import Object

Fields = dict[str, Any]
Shape = dict[str, Any]

# One empty dict for all leaves: stored objects are never written to, and there are very many leaves.
_EMPTY: Fields = {}
_HERE = "."

# How the lists of built-in kinds are distinguished; a list that isn't here is one value.
_KEYED: dict[str, tuple[tuple[str, ...], ...]] = {
    "containers": (("name",),),
    "initContainers": (("name",),),
    "ephemeralContainers": (("name",),),
    "env": (("name",),),
    "volumes": (("name",),),
    "volumeMounts": (("mountPath",),),
    "volumeDevices": (("devicePath",),),
    "imagePullSecrets": (("name",),),
    "hostAliases": (("ip",),),
    "topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"),),
    "ownerReferences": (("uid",),),
    "conditions": (("type",),),
    "secrets": (("name",),),
    "addresses": (("type",),),
    "podIPs": (("ip",),),
    # A container's ports and a service's go by different keys; the one that the items carry decides.
    "ports": (("containerPort", "protocol"), ("port", "protocol")),
}
_SETS = frozenset({"finalizers"})
_WHOLE = frozenset(
    {
        "selector",
        "nodeSelector",
        "secretKeyRef",
        "configMapKeyRef",
        "fieldRef",
        "resourceFieldRef",
        "roleRef",
        "scaleTargetRef",
        "involvedObject",
        "labelSelector",
        "podSelector",
        "namespaceSelector",
    }
)
_KEY_DEFAULTS = {"protocol": "TCP"}
# What nobody owns: identity, and what the server keeps itself.
_UNOWNED = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "selfLink",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    }
)


# -- shapes --------------------------------------------------------------------------------------


def _keys(shape: Shape | None, name: str, items: list[Any]) -> tuple[str, ...] | None:
    """By which keys a list's items are distinguished; `()` for a set, None for a list that is one value."""
    if shape is not None:
        form = shape.get("x-kubernetes-list-type")
        if form == "map":
            return tuple(shape.get("x-kubernetes-list-map-keys") or ())
        return () if form == "set" else None
    if name in _SETS:
        return ()
    for keys in _KEYED.get(name, ()):
        if all(isinstance(item, dict) and keys[0] in item for item in items):
            return keys
    return None


def _granular(shape: Shape | None, name: str) -> bool:
    if shape is not None:
        return shape.get("x-kubernetes-map-type") != "atomic"
    return name not in _WHOLE


def _field(shape: Shape | None, name: str) -> Shape | None:
    if shape is None:
        return None
    child = (shape.get("properties") or {}).get(name, shape.get("additionalProperties"))
    return child if isinstance(child, dict) else {}


def _item(shape: Shape | None) -> Shape | None:
    return None if shape is None else (shape.get("items") or {})


def _element(keys: tuple[str, ...], item: Any, shape: Shape | None) -> str:
    """The path element of a list's item."""
    if not keys:
        return "v:" + json.dumps(item, separators=(",", ":"))
    fields = (shape or {}).get("properties") or {}
    named = {key: item.get(key, (fields.get(key) or {}).get("default", _KEY_DEFAULTS.get(key))) for key in keys}
    return "k:" + json.dumps({k: v for k, v in sorted(named.items()) if v is not None}, separators=(",", ":"))


def _children(value: Any, shape: Shape | None, name: str) -> dict[str, tuple[Any, Shape | None, str]] | None:
    """A value's parts by their path elements; None for what is one value."""
    if isinstance(value, dict):
        if not _granular(shape, name):
            return None
        return {f"f:{key}": (part, _field(shape, key), key) for key, part in value.items()}
    if isinstance(value, list):
        keys = _keys(shape, name, value)
        if keys is None or (keys and not all(isinstance(item, dict) for item in value)):
            return None
        inner = _item(shape)
        return {_element(keys, item, inner): (item, inner, name if not keys else "") for item in value}
    return None


def _owned(obj: Object, shape: Shape | None) -> dict[str, tuple[Any, Shape | None, str]]:
    """An object's top fields that somebody may own."""
    found: dict[str, tuple[Any, Shape | None, str]] = {}
    for key, value in obj.items():
        if key == "metadata":
            kept = {part: inner for part, inner in value.items() if part not in _UNOWNED}
            if kept:
                # Metadata has the same shape in every kind, whatever a custom schema says of it.
                found["f:metadata"] = kept, None, key
        elif key not in ("apiVersion", "kind"):
            found[f"f:{key}"] = value, _field(shape, key), key
    return found


# -- walks ---------------------------------------------------------------------------------------


def fields_of(obj: Object, shape: Shape | None) -> Fields:
    """The fields that an applied configuration names."""
    return {key: _named(*part) for key, part in _owned(obj, shape).items()}


def _named(value: Any, shape: Shape | None, name: str, *, containers: bool = False) -> Fields:
    children = _children(value, shape, name)
    if not children:
        return {_HERE: _EMPTY}
    found: Fields = {key: _named(*part, containers=containers) for key, part in children.items()}
    for key, part in found.items():
        if not key.startswith("f:"):
            part[_HERE] = _EMPTY
    if containers:
        found[_HERE] = _EMPTY
    return found


def compare(old: Object | None, new: Object, shape: Shape | None) -> tuple[Fields, Fields]:
    """The fields that are new or changed, and those that are gone."""
    touched: Fields = {}
    removed: Fields = {}
    before, after = _owned(old or {}, shape), _owned(new, shape)
    for key, part in after.items():
        if key in before:
            _walk(before[key], part, key, touched, removed)
        elif part[2] == "metadata":
            touched[key] = {k: _named(*p, containers=True) for k, p in (_children(*part) or {}).items()}
        else:
            touched[key] = _named(*part, containers=True)
    for key, part in before.items():
        if key not in after:
            removed[key] = _named(*part, containers=True)
    return touched, removed


_Part = tuple[Any, Shape | None, str]


def _walk(old: _Part, new: _Part, key: str, touched: Fields, removed: Fields) -> None:
    if old[0] == new[0]:
        return
    before, after = _children(*old), _children(*new)
    if before is None or after is None or isinstance(old[0], dict) != isinstance(new[0], dict):
        touched[key] = {_HERE: _EMPTY}
        return
    up: Fields = {}
    down: Fields = {}
    for name, part in after.items():
        if name in before:
            _walk(before[name], part, name, up, down)
        else:
            up[name] = _named(*part, containers=True)
            if not name.startswith("f:"):
                up[name][_HERE] = _EMPTY
    for name, part in before.items():
        if name not in after:
            down[name] = {**_named(*part, containers=True), _HERE: _EMPTY}
    if up:
        touched[key] = up
    if down:
        removed[key] = down


def combined(live: Any, config: Any, shape: Shape | None, name: str = "") -> Any:
    """The live value with an applied one laid over it."""
    mine = _children(config, shape, name)
    theirs = _children(live, shape, name)
    if mine is None or theirs is None or isinstance(live, dict) != isinstance(config, dict):
        return config
    if isinstance(config, dict):
        result = dict(live)
        for key, value in config.items():
            result[key] = combined(live[key], value, _field(shape, key), key) if key in live else value
        return result
    over = {key: part[0] for key, part in mine.items()}
    kept = [combined(part[0], over.pop(key), part[1]) if key in over else part[0] for key, part in theirs.items()]
    return [*kept, *over.values()]


def without(value: Any, gone: Fields, kept: Fields, shape: Shape | None, name: str = "") -> tuple[Any, bool]:
    """A value without the fields in `gone`, and whether anything of it is left.

    `kept` is what somebody still owns: it and what holds it stay.
    """
    children = _children(value, shape, name)
    if children is None or not children:
        return value, not (_HERE in gone and not kept)
    if _HERE in gone and not kept:
        return value, False
    left: dict[str, Any] = {}
    for key, part in children.items():
        if key in gone:
            inner, stays = without(part[0], gone[key], kept.get(key, _EMPTY), part[1], part[2])
            if not stays:
                continue
            left[key] = inner
        else:
            left[key] = part[0]
    if isinstance(value, dict):
        result: Any = {key[2:]: inner for key, inner in left.items()}
    else:
        result = list(left.values())
    return result, bool(left) or bool(kept)


# -- sets ----------------------------------------------------------------------------------------


def union(one: Fields, other: Fields) -> Fields:
    """What is in either."""
    if not one or not other:
        return one or other
    result = dict(one)
    for key, part in other.items():
        result[key] = _EMPTY if key == _HERE else union(result.get(key, _EMPTY), part)
    return result


def minus(one: Fields, other: Fields) -> Fields:
    """What is in the first and not in the second."""
    if not other:
        return one
    result: Fields = {}
    for key, part in one.items():
        if key == _HERE:
            if _HERE not in other:
                result[key] = _EMPTY
        elif key in other:
            rest = minus(part, other[key])
            if rest:
                result[key] = rest
        else:
            result[key] = part
    return result


def both(one: Fields, other: Fields) -> Fields:
    """What is in both."""
    result: Fields = {}
    for key in one.keys() & other.keys():
        if key == _HERE:
            result[key] = _EMPTY
        else:
            common = both(one[key], other[key])
            if common:
                result[key] = common
    return result


def paths(fields: Fields, prefix: str = "") -> Iterator[str]:
    """Every path in a set, as a message names it: `.spec.containers[name="x"].image`."""
    if _HERE in fields:
        yield prefix
    for key in sorted(fields):
        if key == _HERE:
            continue
        form, _, text = key.partition(":")
        if form == "f":
            yield from paths(fields[key], f"{prefix}.{text}")
        elif form == "k":
            named = ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(text).items())
            yield from paths(fields[key], f"{prefix}[{named}]")
        else:
            yield from paths(fields[key], f"{prefix}[={text}]")


def encode(fields: Fields) -> Fields:
    """A set as it goes over the wire."""
    if len(fields) == 1 and _HERE in fields:
        return _EMPTY
    return {key: _EMPTY if key == _HERE else encode(part) for key, part in sorted(fields.items())}


def decode(wire: Fields) -> Fields:
    """A set from the wire."""
    if not wire:
        return {_HERE: _EMPTY}
    return {key: _EMPTY if key == _HERE else decode(part) for key, part in wire.items() if isinstance(part, dict)}
