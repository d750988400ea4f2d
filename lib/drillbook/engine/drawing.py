"""A step's card, and what of a step the journal keeps in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from drillbook.engine.gate import plan_json
from drillbook.engine.step import Checks, Pending, Plan, Step
from drillbook.errors import RunbookError
from drillbook.model import Check, Frozen, show_instant, show_seconds
from drillbook.report import cards


@runtime_checkable
class HasCard(Protocol):
    """A result that draws a part of its step's card itself, such as a picture; empty for nothing."""

    def card(self) -> dict[str, str]: ...


@runtime_checkable
class HasRows(Protocol):
    """A result that says in rows what its step's card shows of it."""

    def rows(self) -> list[tuple[str, str]]: ...


def draw_step(
    n: int,
    step: Step[Any],
    status: str,
    result: Any,
    plan: Plan | None,
    error: RunbookError | None,
    reason: str,
    seconds: float,
    checks: Sequence[Check],
) -> dict[str, str]:
    """The step and how it ended, as a mime bundle, with its result's own part (:class:`HasCard`)."""
    card = cards.step_card(
        n=n,
        title=step.title,
        why=step.why,
        effect=str(step.effect),
        status=status,
        seconds=seconds,
        rows=_rows(result),
        checks=[check.model_dump(mode="json") for check in checks],
        plan=plan_json(plan) if plan and status == "planned" else None,
        error=error_json(error) if error else None,
        reason=reason,
    )
    own = result.card() if isinstance(result, HasCard) else {}
    return {kind: f"{text}\n{own[kind]}" if own else text for kind, text in card.items()}


def error_json(error: RunbookError) -> dict[str, Any]:
    """An error as the journal keeps it."""
    return {
        "type": type(error).__name__,
        "what": error.what,
        "changed": str(error.changed),
        "todo": error.todo,
        "verdict": None if error.verdict is None else str(error.verdict),
        "exit_code": error.exit_code,
    }


def short(value: Any) -> Any:
    """A step's input as the journal names it: results of earlier steps are in the journal already."""
    return str(value) if isinstance(value, Pending) else type(value).__name__ if isinstance(value, Frozen) else value


def _rows(result: Any) -> list[tuple[str, str]]:
    """What a card shows of a result, at most a dozen: what it tells of itself (``rows``), else its plain fields."""
    if not isinstance(result, Frozen) or isinstance(result, Checks):
        return []
    if isinstance(result, HasRows):
        return list(result.rows())[:12]
    rows: list[tuple[str, str]] = []
    for name in type(result).model_fields:
        value = getattr(result, name)
        if isinstance(value, Frozen | dict | tuple | list):
            continue
        if isinstance(value, datetime):
            value = show_instant(value)
        elif isinstance(value, timedelta):
            value = show_seconds(value.total_seconds())
        elif isinstance(value, float):
            value = f"{value:.1f}"
        if value not in ("", None):
            rows.append((name.replace("_", " "), str(value)))
    return rows[:12]
