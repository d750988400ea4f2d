"""What the runbooks' own parameters may be, by name: a fault is told before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drillbook.model import parse_instant

REASONS = ("deployment", "schema change", "emergency", "compliance")


def _instant(value: Any) -> None:
    if value:
        parse_instant(value)


def _reason(value: Any) -> None:
    if value not in REASONS:
        raise ValueError(f"{value!r} is none of {', '.join(REASONS)}")


def _one_line(value: Any) -> None:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError("not one line of at most 200 characters")


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "target_time": _instant,
    "reason": _reason,
    "reference": _one_line,
}


def faults_of(parameters: Mapping[str, Any]) -> list[str]:
    """Every fault of the parameters, each with its parameter's name."""
    faults = []
    for name, value in parameters.items():
        try:
            _CHECKS.get(name, lambda _: None)(value)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return faults
