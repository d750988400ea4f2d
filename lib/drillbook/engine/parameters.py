"""What the runbooks' own parameters may be, by name: a fault is reported before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from drillbook.engine.step import Pending, Step
from drillbook.errors import ParameterError
from drillbook.model import TARGET_PARAMETERS, parse_instant

REASONS = ("deployment", "schema change", "emergency", "compliance")


def _target(parse: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Reads a target where one is given; "" is none."""
    return lambda value: None if value == "" else parse(value)


def _reason(value: Any) -> None:
    if value not in REASONS:
        raise ValueError(f"{value!r} is none of {', '.join(REASONS)}")


def _one_line(value: Any) -> None:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError("not one line of at most 200 characters")


def _instant(value: Any) -> None:
    if value != "":
        parse_instant(value)


def _table(value: Any) -> None:
    if value != "" and not re.fullmatch(r"[^.\s]+\.[^.\s]+", str(value)):
        raise ValueError(f"{str(value)[:80]!r} is not a table as schema.table")


def _seconds(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 86_400:
        raise ValueError(f"{str(value)[:80]!r} is not a whole number of seconds from 1 to 86400")


def _whole(first: int, last: int) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise ValueError(f"{str(value)[:80]!r} is not a whole number from {first} to {last}")

    return check


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    **{name: _target(parse) for name, parse in TARGET_PARAMETERS.items()},
    "reason": _reason,
    "requested_by": _one_line,
    "ticket": _one_line,
    "database": _one_line,
    "no_backup_because": _one_line,
    "no_salvage_because": _one_line,
    "node_is_down_because": _one_line,
    "of_run": _one_line,
    "migration": _one_line,
    "manifest": _one_line,
    "error": _one_line,
    "lock_timeout_seconds": _seconds,
    "statement_timeout_seconds": _seconds,
    "watch_seconds": _whole(0, 3600),
    "baseline_pool": _whole(1, 500),
    "candidate_pool": _whole(1, 500),
    "pods": _whole(1, 100),
    "pooler_size": _whole(1, 10_000),
    "rate": _whole(1, 100_000),
    "hold_ms": _whole(0, 60_000),
    "timeout_seconds": _whole(1, 300),
    "block_seconds": _whole(1, 3600),
    "pairs": _whole(6, 1000),
    "seed": _whole(0, 2**31),
    "search_table": _table,
    "search_from": _instant,
    "search_to": _instant,
}


def faults_of(parameters: Mapping[str, Any]) -> list[str]:
    """Every fault of the parameters, each with its parameter's name."""
    faults = []
    for name, value in parameters.items():
        try:
            _CHECKS.get(name, lambda _: None)(value)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    targets = [name for name in TARGET_PARAMETERS if parameters.get(name, "") != ""]
    if len(targets) > 1:
        faults.append(f"{', '.join(targets)}: give at most one of them")
    return faults + _search_faults(parameters)


def _search_faults(parameters: Mapping[str, Any]) -> list[str]:
    try:
        begin, end = (parse_instant(parameters.get(name) or "") for name in ("search_from", "search_to"))
    except ValueError:
        return []  # one of them is not given, or reported above
    return [] if begin < end else ["search_from, search_to: nothing is between them"]


def require_as_opened(run_id: str, given: Mapping[str, Any], step: Step[Any]) -> None:
    """Raise ParameterError if a step is given another value of a parameter than the run was opened with (``given``).

    In a notebook a variable may be changed after the run was opened; what was checked and confirmed is what it was
    then.
    """
    faults = [
        f"{name} is {value!r} in {step.title!r}, and run {run_id} was opened with {given[name]!r}"
        for name, value in step.inputs.items()
        if name in given and not isinstance(value, Pending) and value != given[name]
    ]
    if faults:
        todo = "Set it as it was, or open a new run with the other value: run the cell that opens it."
        raise ParameterError(faults, where="parameters", todo=todo)
