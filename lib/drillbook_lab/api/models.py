"""Schemas of the built-in kinds, read off the classes of the official Kubernetes client.

The client is generated from Kubernetes' own description of its API, so its classes know every
field, type and description. They are loaded when somebody first asks: importing them takes time
that the start of the server shouldn't.
"""

from __future__ import annotations

import re
import typing
from functools import cache
from typing import Any

from drillbook_lab.api.resources import Resource

Schema = dict[str, Any]

# Fields that hold quantities: numbers are taken as well as texts.
_QUANTITIES = frozenset(
    {
        "limits",
        "requests",
        "capacity",
        "allocatable",
        "hard",
        "used",
        "overhead",
        "default",
        "defaultRequest",
        "max",
        "min",
        "maxLimitRequestRatio",
        "allocatedResources",
    }
)
_QUANTITY = frozenset({"sizeLimit", "divisor", "averageValue"})
_QUANTITY_OF = frozenset({("V2MetricTarget", "value"), ("V2MetricValueStatus", "value")})
# Texts that name a time to the microsecond have no type of their own here.
_SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}
_INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
_NAME = re.compile(r"^(?P<group>[A-Z][a-z]+)?V(?P<version>\d+((?:alpha|beta)\d+)?)(?P<kind>[A-Z].*)$")


@cache
def model_of(kind: str, group: str, version: str) -> str:
    """The client's class for a kind; empty if it has none."""
    import kubernetes.client as client

    short = f"{version[:1].upper()}{version[1:]}{kind}"
    prefix = (group or "core").split(".", 1)[0].capitalize()
    return next((name for name in (short, prefix + short) if hasattr(client, name)), "")


def schema_of(resource: Resource) -> Schema | None:
    """The schema of a built-in kind; None where the client doesn't know it."""
    name = "" if resource.custom else model_of(resource.kind, resource.group, resource.version)
    return definition(name) if name else None


@cache
def definition(name: str) -> Schema:
    """The schema of one class; other classes are references to their names."""
    import kubernetes.client as client

    model: Any = getattr(client, name)
    properties: Schema = {}
    required: list[str] = []
    for attribute, field in model.model_fields.items():
        wire = field.serialization_alias or field.alias or attribute
        # A field whose name is a word of Python or of pydantic is under another name.
        declared = model.openapi_types.get(attribute) or model.openapi_types.get(attribute.removeprefix("var_"))
        properties[wire] = _described(_schema(name, wire, declared or "object", field.annotation), field.description)
        if field.is_required():
            required.append(wire)
    result: Schema = {"type": "object", "properties": properties}
    text = (model.__doc__ or "").split("Attributes:", 1)[0].strip()
    if text:
        result["description"] = " ".join(text.split())
    if required:
        result["required"] = required
    return result


def _described(schema: Schema, description: str | None) -> Schema:
    if not description:
        return schema
    if "$ref" in schema:
        return {"description": description, "allOf": [schema], "default": {}}
    return {"description": description, **schema}


def _schema(model: str, wire: str, declared: str, annotation: Any) -> Schema:
    if declared.startswith("List["):
        return {"type": "array", "items": _schema(model, "", declared[5:-1], None)}
    if declared.startswith("Dict["):
        inner = declared[5:-1].partition(",")[2].strip()
        if wire in _QUANTITIES and inner == "str":
            return {"type": "object", "additionalProperties": _INT_OR_STRING}
        return {"type": "object", "additionalProperties": _schema(model, "", inner, None)}
    if wire in _QUANTITY or (model, wire) in _QUANTITY_OF or (declared == "object" and _int_or_string(annotation)):
        return _INT_OR_STRING
    return _SCALARS.get(declared) or {"$ref": declared}


def _int_or_string(annotation: Any) -> bool:
    parts = {typing.get_args(part)[0] if typing.get_args(part) else part for part in typing.get_args(annotation)}
    return {int, str} <= parts


def resolved(schema: Schema) -> tuple[Schema, str]:
    """A schema without its reference, and the class it stands for if it does."""
    reference = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf") or () if "$ref" in part), "")
    return (definition(reference), reference) if reference else (schema, "")


def spoken(name: str) -> str:
    """A class's name as a component of the published description."""
    found = _NAME.match(name)
    if not found:
        return f"io.k8s.api.{name}"
    if found["kind"] in ("ObjectMeta", "LabelSelector", "ManagedFieldsEntry", "OwnerReference", "Condition"):
        return f"io.k8s.apimachinery.pkg.apis.meta.v1.{found['kind']}"
    return f"io.k8s.api.{(found['group'] or 'kinds').lower()}.v{found['version']}.{found['kind']}"


def go_name(name: str) -> str:
    """A class's name as Kubernetes' own messages have it: `DeploymentSpec`."""
    found = _NAME.match(name)
    return found["kind"] if found else name
