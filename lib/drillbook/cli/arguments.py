"""What ``-p NAME VALUE`` means on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drillbook.errors import ParameterError


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """What ``-p`` was given, by name; ParameterError with every fault."""
    faults = [f"{item!r} is not NAME VALUE" for item in given if "=" not in item or item.startswith("=")]
    pairs = [item.partition("=")[::2] for item in given]
    names = [name for name, _ in pairs]
    faults += [f"parameter {name} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if "mode" in names:
        faults.append("mode is given with --mode")
    if faults:
        raise ParameterError(faults, where="parameters")
    return {name: _typed(value) for name, value in pairs}


def _typed(text: str) -> str | int | bool:
    # As papermill reads -p, but for decimals: no parameter of a runbook is one, and a version such as 16.10 is text.
    if text in {"true", "True", "false", "False"}:
        return text.lower() == "true"
    return int(text) if text.isdecimal() and text == str(int(text)) else text


def pairs_joined(arguments: Sequence[str]) -> list[str]:
    """``-p NAME VALUE``, as papermill writes it, becomes ``-p NAME=VALUE``; both may be written."""
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument == "lab":
            break
        if argument in {"-p", "--parameter"}:
            name = next(rest, "")
            joined.append(
                name if "=" in name else f"{name}={value}" if (value := next(rest, None)) is not None else name
            )
    return [*joined, *rest]
