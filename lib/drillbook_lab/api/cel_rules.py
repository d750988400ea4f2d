"""The CEL rules in a schema (`x-kubernetes-validations`), transition rules included.

A rule that speaks of `oldSelf` is a transition rule: it holds between the stored value and
the new one, so it is asked only where both exist.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cel

from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import Schema, bad_value


@lru_cache(maxsize=512)
def _compiled(rule: str) -> tuple[cel.Program, bool]:
    program = cel.compile(rule)
    return program, "oldSelf" in program.variables()


def compile_all(schema: Schema) -> int:
    """Compile every rule of a schema, so that a bad one fails when the CRD is registered; how many."""
    count = 0
    for rule in schema.get("x-kubernetes-validations") or ():
        _compiled(rule["rule"])
        count += 1
    children = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return count + sum(compile_all(child) for child in children if isinstance(child, dict))


def faults(schema: Schema, obj: Object, old: Object | None) -> list[Fault]:
    """Every rule that an object breaks."""
    found: list[Fault] = []
    _walk(schema, obj, old, "", found)
    return found


def _walk(schema: Schema, value: Any, old: Any, path: str, found: list[Fault]) -> None:
    for rule in schema.get("x-kubernetes-validations") or ():
        program, transition = _compiled(rule["rule"])
        if transition and old is None:
            continue
        variables = {"self": value, "oldSelf": old} if transition else {"self": value}
        try:
            holds = program.execute(variables)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            found.append(bad_value(path, value, f"rule evaluation error: {error}"))
            continue
        if holds is not True:
            found.append(_broken(rule, path + rule.get("fieldPath", ""), value))
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        properties = schema.get("properties") or {}
        additional = schema.get("additionalProperties")
        for key, item in value.items():
            child = properties.get(key, additional)
            if isinstance(child, dict):
                _walk(child, item, before.get(key), f"{path}.{key}" if path else key, found)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        counterpart = _correlate(schema, old)
        for index, item in enumerate(value):
            _walk(schema["items"], item, counterpart(item), f"{path}[{index}]", found)


def _broken(rule: Schema, path: str, value: Any) -> Fault:
    """What a broken rule says, under the reason that it asks for."""
    message = rule.get("message") or f"failed rule: {rule['rule']}"
    match rule.get("reason"):
        case "FieldValueForbidden":
            return Fault(path, f"Forbidden: {message}", "FieldValueForbidden")
        case "FieldValueRequired":
            return Fault(path, f"Required value: {message}", "FieldValueRequired")
        case "FieldValueDuplicate":
            fault = bad_value(path, value, message)
            return Fault(path, fault.message.replace("Invalid value", "Duplicate value", 1), "FieldValueDuplicate")
    return bad_value(path, value, message)


def _correlate(schema: Schema, old: Any) -> Any:
    """How to find a list item's earlier self: only in lists that are maps, by their keys."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    if schema.get("x-kubernetes-list-type") != "map" or not isinstance(old, list):
        return lambda item: None
    known = {tuple(item.get(key) for key in keys): item for item in old if isinstance(item, dict)}
    return lambda item: known.get(tuple(item.get(key) for key in keys)) if isinstance(item, dict) else None
