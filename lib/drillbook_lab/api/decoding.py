"""Reading a client's object as its kind: fields that the kind doesn't have, and values of a wrong type.

Kubernetes decodes built-in kinds into Go structs. What doesn't fit is 400, in the decoder's
words; what it doesn't know is dropped, and told or refused as the client asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from drillbook_lab.api import errors, models
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.models import Schema
from drillbook_lab.api.resources import Resource

_METADATA = "V1ObjectMeta"


def decode(resource: Resource, new: Object, old: Object | None) -> tuple[list[str], list[Fault]]:
    """Drop, in place, the fields that the kind doesn't have; their paths, and what is required and missing.

    What is stored already is left alone: only what differs from it has come from the client.
    """
    schema = models.schema_of(resource)
    unknown: list[str] = []
    missing: list[Fault] = []
    for key in list(new):
        if key in ("apiVersion", "kind") or (old is not None and new[key] == old.get(key)):
            continue
        if key == "metadata":
            walker = _Walker(resource, unknown, missing, required=False)
            walker.value(models.definition(_METADATA), _METADATA, new[key], key, key)
        elif schema is None:
            continue
        elif key not in schema["properties"]:
            unknown.append(key)
            del new[key]
        else:
            walker = _Walker(resource, unknown, missing, required=key != "status")
            walker.value(schema["properties"][key], resource.kind, new[key], key, key)
    if schema is not None:
        missing.extend(
            Fault(key, "Required value", "FieldValueRequired") for key in schema.get("required", ()) if key not in new
        )
    return unknown, missing


class _Walker:
    def __init__(self, resource: Resource, unknown: list[str], missing: list[Fault], *, required: bool) -> None:
        self._resource = resource
        self._unknown = unknown
        self._missing = missing
        self._required = required

    def value(self, schema: Schema, owner: str, value: Any, path: str, go_path: str) -> None:
        """One value at one path; `go_path` is the path without indices, as the decoder tells it."""
        if value is None:
            return
        schema, model = models.resolved(schema)
        owner = model or owner
        wanted = schema.get("type")
        if schema.get("x-kubernetes-int-or-string"):
            if isinstance(value, (dict, list, bool)):
                self._mistyped(value, owner, go_path, "intstr.IntOrString")
            return
        if wanted is None:
            return
        if not _fits(value, wanted):
            self._mistyped(value, owner, go_path, _go_type(schema, model))
        if isinstance(value, list):
            for index, item in enumerate(value):
                self.value(schema["items"], owner, item, f"{path}[{index}]", go_path)
        elif isinstance(value, dict):
            self._object(schema, owner, value, path, go_path)

    def _object(self, schema: Schema, owner: str, value: dict[str, Any], path: str, go_path: str) -> None:
        properties, additional = schema.get("properties"), schema.get("additionalProperties")
        if properties is None:
            for key, item in value.items():
                if additional:
                    self.value(additional, owner, item, f"{path}.{key}", go_path)
            return
        for key in list(value):
            if key in properties:
                self.value(properties[key], owner, value[key], f"{path}.{key}", f"{go_path}.{key}")
            else:
                self._unknown.append(f"{path}.{key}")
                del value[key]
        if self._required:
            self._missing.extend(
                Fault(f"{path}.{key}", "Required value", "FieldValueRequired")
                for key in schema.get("required", ())
                if value.get(key) is None
            )

    def _mistyped(self, value: Any, owner: str, go_path: str, wanted: str) -> None:
        kind = self._resource.kind
        raise errors.bad_request(
            f'{kind} in version "{self._resource.version}" cannot be handled as a {kind}: json: cannot unmarshal '
            f"{_json_name(value)} into Go struct field {models.go_name(owner)}.{go_path} of type {wanted}"
        )


def _fits(value: Any, wanted: str) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
    return isinstance(value, dict)


def _json_name(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _go_type(schema: Schema, model: str) -> str:
    match schema.get("type"):
        case "array":
            inner, inner_model = models.resolved(schema["items"])
            return "[]" + _go_type(inner, inner_model)
        case "object" if not model:
            return "map[string]" + _go_type(schema.get("additionalProperties") or {}, "")
        case "object":
            return f"v1.{models.go_name(model)}"
    return {"string": "string", "boolean": "bool", "integer": "int32", "number": "float64"}.get(
        str(schema.get("type")), "interface {}"
    )


# -- duplicates ----------------------------------------------------------------------------------


class _Doubled(dict[str, Any]):
    """An object in which a key stood twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.keys_twice = sorted({key for key in keys if keys.count(key) > 1})


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    return result if len(result) == len(pairs) else _Doubled(pairs)


def loads(raw: bytes) -> tuple[Any, list[str]]:
    """JSON, and the paths of the fields that stood twice in it (the last one counts)."""
    document = json.loads(raw, object_pairs_hook=_pairs)
    return document, list(_doubled(document, ""))


def _doubled(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value, _Doubled):
            yield from (f"{path}.{key}".lstrip(".") for key in value.keys_twice)
        for key, item in value.items():
            yield from _doubled(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _doubled(item, f"{path}[{index}]")
