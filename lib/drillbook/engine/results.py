"""A step's result as JSON, and built again from it: what a resumed run takes from the journal."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from drillbook.engine.step import Step
from drillbook.model import Frozen


def dump(step: Step[Any], result: Any) -> Any:
    """The result as the journal keeps it; None for a value that JSON can't say."""
    if isinstance(result, Frozen):
        return result.model_dump(mode="json")
    try:
        return _adapter(step).dump_python(result, mode="json")
    except (TypeError, NameError, ValueError, PydanticSchemaGenerationError):
        return None


def rebuild(step: Step[Any], kept: Any) -> Any:
    """The result from the journal, by the return annotation of the step's ``do``; ValueError if it can't be had."""
    try:
        return _adapter(step).validate_python(kept, strict=False)
    except (TypeError, NameError, ValidationError, PydanticSchemaGenerationError) as error:
        raise ValueError(f"{type(step).__name__}'s result can't be built from the journal: {error}") from error


def not_restorable(step: Step[Any], result: Any, kept: Any) -> str:
    """Why the journal's ``kept`` is not this result for another process; "" if it comes back equal."""
    if reason := _memory_only(result):
        return reason
    try:
        same = rebuild(step, kept) == result
    except ValueError:
        same = False
    return "" if same else "part of it was in this process's memory only"


def _adapter(step: Step[Any]) -> TypeAdapter[Any]:
    annotation = get_type_hints(type(step).do).get("return", Any)
    return TypeAdapter(type(None) if annotation is None else annotation)


def _memory_only(value: Any) -> str:
    if isinstance(value, Frozen):
        if value.memory_only:
            return value.memory_only
        value = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((reason for item in value if (reason := _memory_only(item))), "")
    return ""
