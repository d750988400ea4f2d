"""A structural schema at work: prune or report unknown fields, fill in defaults, find faults.

jsonschema can do none of the three as Kubernetes does (null in a nullable field, pruning,
defaults), so this walks the schema itself. The root's `metadata` is exempt: it has rules of
its own, in the registry.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import Any

from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.patches import copy

Schema = dict[str, Any]

_ROOT = ("apiVersion", "kind", "metadata")


def prune(schema: Schema, obj: Object) -> list[str]:
    """Take out, in place, the fields that the schema doesn't have; return their paths."""
    unknown: list[str] = []
    for key in [key for key in obj if key not in _ROOT]:
        child = (schema.get("properties") or {}).get(key)
        if child is None:
            unknown.append(key)
            del obj[key]
        else:
            _prune(child, obj[key], key, unknown)
    return sorted(unknown)


def _prune(schema: Schema, value: Any, path: str, unknown: list[str]) -> None:
    if isinstance(value, list):
        items = schema.get("items")
        if items is not None:
            for index, item in enumerate(value):
                _prune(items, item, f"{path}[{index}]", unknown)
        return
    if not isinstance(value, dict) or schema.get("type") not in (None, "object"):
        return
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    keep = schema.get("x-kubernetes-preserve-unknown-fields") or additional is True
    for key in list(value):
        if key in properties:
            _prune(properties[key], value[key], f"{path}.{key}", unknown)
        elif isinstance(additional, dict):
            _prune(additional, value[key], f"{path}.{key}", unknown)
        elif not keep and not schema.get("x-kubernetes-int-or-string"):
            unknown.append(f"{path}.{key}")
            del value[key]


def default(schema: Schema, value: Any) -> None:
    """Fill in the schema's defaults, in place; a null in a field that isn't nullable counts as absent."""
    if isinstance(value, list):
        for item in value:
            default(schema.get("items") or {}, item)
        return
    if not isinstance(value, dict):
        return
    for key, child in (schema.get("properties") or {}).items():
        if value.get(key) is None and key in value and not child.get("nullable") and "default" in child:
            del value[key]
        if key not in value and "default" in child:
            value[key] = copy(child["default"])
        if key in value:
            default(child, value[key])
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        known = schema.get("properties") or {}
        for key, item in value.items():
            if key not in known:
                default(additional, item)


def faults(schema: Schema, obj: Object) -> list[Fault]:
    """Everything that is wrong with an object by its schema, at once."""
    properties = schema.get("properties") or {}
    found = [_required(key) for key in schema.get("required") or () if key not in obj]
    for key, value in obj.items():
        if key not in _ROOT and key in properties:
            _check(properties[key], value, key, found)
    return found


def _required(path: str) -> Fault:
    return Fault(path, "Required value", "FieldValueRequired")


def _named(value: Any) -> str:
    """The type of a JSON value, by OpenAPI's name."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _shown(value: Any) -> str:
    """A value as Kubernetes quotes it in a message; objects and lists by type only."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)) or value is None:
        return f'"{_named(value)}"'
    return f'"{value}"' if isinstance(value, str) else str(value)


def bad_value(path: str, value: Any, why: str) -> Fault:
    """`path: Invalid value: …: why`, the commonest of all."""
    return Fault(path, f"Invalid value: {_shown(value)}: {why}")


def denied_value(path: str, value: Any, why: str) -> Fault:
    """The same from a webhook, which quotes objects and lists as JSON."""
    if isinstance(value, (dict, list, tuple)) or value is None:
        shown = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    else:
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _shown(value)
    return Fault(path, f"Invalid value: {shown}: {why}")


def _check(schema: Schema, value: Any, path: str, found: list[Fault]) -> None:
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            found.append(_mistyped(path, value, "integer,string"))
            return
    elif "type" in schema and not _is_a(value, schema["type"]):
        found.append(_mistyped(path, value, schema["type"]))
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{choice}"' for choice in schema["enum"])
        found.append(
            Fault(path, f"Unsupported value: {_shown(value)}: supported values: {supported}", "FieldValueNotSupported")
        )
    if isinstance(value, str):
        _check_text(schema, value, path, found)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(schema, value, path, found)
    elif isinstance(value, list):
        _check_list(schema, value, path, found)
    elif isinstance(value, dict):
        _check_object(schema, value, path, found)


def _is_a(value: Any, wanted: str) -> bool:
    actual = _named(value)
    if wanted == "number":
        return actual in ("integer", "number")
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return actual == wanted


def _mistyped(path: str, value: Any, wanted: str) -> Fault:
    actual = _named(value)
    return Fault(
        path,
        f'Invalid value: "{actual}": {path} in body must be of type {wanted}: "{actual}"',
        "FieldValueTypeInvalid",
    )


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _check_text(schema: Schema, value: str, path: str, found: list[Fault]) -> None:
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        found.append(bad_value(path, value, f"{path} in body should match '{schema['pattern']}'"))
    if len(value) < schema.get("minLength", 0):
        found.append(bad_value(path, value, f"{path} in body should be at least {schema['minLength']} chars long"))
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        found.append(Fault(path, f"Too long: may not be more than {schema['maxLength']} bytes", "FieldValueTooLong"))
    if not _well_formed(schema.get("format", ""), value):
        found.append(bad_value(path, value, f'{path} in body must be of type {schema["format"]}: "{value}"'))


# RFC 3339, as metav1.Time reads it: a zone is a must.
_DATE_TIME = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$")


def _well_formed(form: str, value: str) -> bool:
    if form == "date-time":
        return bool(_DATE_TIME.match(value))
    if form == "byte":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return False
    return True


_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def _check_number(schema: Schema, value: float, path: str, found: list[Fault]) -> None:
    if "minimum" in schema and value < schema["minimum"]:
        found.append(bad_value(path, value, f"{path} in body should be greater than or equal to {schema['minimum']}"))
    if "maximum" in schema and value > schema["maximum"]:
        found.append(bad_value(path, value, f"{path} in body should be less than or equal to {schema['maximum']}"))
    low, high = _RANGES.get(schema.get("format", ""), (value, value))
    if not low <= value <= high:
        found.append(bad_value(path, value, f"{path} in body must be of type {schema['format']}: {_shown(value)}"))


def _check_list(schema: Schema, value: list[Any], path: str, found: list[Fault]) -> None:
    if len(value) < schema.get("minItems", 0):
        found.append(bad_value(path, value, f"{path} in body should have at least {schema['minItems']} items"))
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        found.append(
            Fault(path, f"Too many: {len(value)}: must have at most {schema['maxItems']} items", "FieldValueTooMany")
        )
    keys = schema.get("x-kubernetes-list-map-keys") if schema.get("x-kubernetes-list-type") == "map" else None
    seen: list[Any] = []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if keys and isinstance(item, dict):
            key = tuple(item.get(name) for name in keys)
            if key in seen:
                shown = ",".join(f'"{name}":"{part}"' for name, part in zip(keys, key, strict=True))
                found.append(Fault(here, f"Duplicate value: {{{shown}}}", "FieldValueDuplicate"))
            seen.append(key)
        _check(schema.get("items") or {}, item, here, found)


def _check_object(schema: Schema, value: dict[str, Any], path: str, found: list[Fault]) -> None:
    properties = schema.get("properties") or {}
    found.extend(_required(f"{path}.{key}") for key in schema.get("required") or () if key not in value)
    additional = schema.get("additionalProperties")
    for key, item in value.items():
        if key in properties:
            _check(properties[key], item, f"{path}.{key}", found)
        elif isinstance(additional, dict):
            _check(additional, item, f"{path}.{key}", found)
