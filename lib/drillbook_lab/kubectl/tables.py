"""Tables: what `kubectl get` asks for, so that the server decides which columns a kind has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from drillbook_lab.api.errors import Object
from drillbook_lab.api.resources import Column, Resource
from drillbook_lab.kubectl import cells
from drillbook_lab.kubectl.cells import Printed

_DEFAULT = (Column("Age", ".metadata.creationTimestamp", "date"),)


def wanted(accept: str) -> bool:
    """Does an `Accept` header prefer a Table?"""
    first = accept.split(",", 1)[0]
    return "as=Table" in first and "g=meta.k8s.io" in first


def table(resource: Resource, objects: Sequence[Object], version: int, include: str) -> Object:
    """Objects as rows. `include`: Metadata, Object or None, as the client asks."""
    columns = columns_of(resource)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(version)},
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            *(
                {"name": c.name, "type": c.type, "format": "", "description": "", "priority": int(c.wide)}
                for c in columns
            ),
        ],
        "rows": [_row(obj, columns, include) for obj in objects],
    }


def columns_of(resource: Resource) -> tuple[Printed, ...]:
    """A kind's columns: built-in ones have theirs in a table, custom ones in their definition."""
    if not resource.custom and resource.kind in cells.COLUMNS:
        return cells.COLUMNS[resource.kind]
    return tuple(_declared(column) for column in resource.columns or _DEFAULT)


def _declared(column: Column) -> Printed:
    return Printed(column.name, lambda obj: _cell(obj, column), column.type, column.priority > 0)


def _row(obj: Object, columns: Sequence[Printed], include: str) -> Object:
    row: Object = {"cells": [obj["metadata"]["name"], *(column.cell(obj) for column in columns)]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj["metadata"],
        }
    return row


def _cell(obj: Object, column: Column) -> Any:
    value = at(obj, column.json_path)
    if column.type == "date":
        try:
            return cells.age(str(value)) if value else "<unknown>"
        except ValueError:
            return "<invalid>"
    if value is None:
        return "" if column.type == "string" else None
    return value if column.type in ("integer", "number", "boolean") else str(value)


_STEP = re.compile(
    r"\.(?P<name>[\w-]+)|\[(?P<index>\d+)\]"
    r"|\[\?\(@\.(?P<key>\w+)\s*==\s*[\"'](?P<value>[^\"']*)[\"']\)\]"
)


def at(obj: Any, path: str) -> Any:
    """The value at a JSON path: fields, `[0]`, and the item that a list has for `[?(@.type=="Ready")]`."""
    for step in _STEP.finditer(path):
        if step["name"]:
            obj = obj.get(step["name"]) if isinstance(obj, dict) else None
        elif step["index"]:
            index = int(step["index"])
            obj = obj[index] if isinstance(obj, list) and len(obj) > index else None
        else:
            items = obj if isinstance(obj, list) else []
            obj = next((i for i in items if isinstance(i, dict) and str(i.get(step["key"])) == step["value"]), None)
    return obj
