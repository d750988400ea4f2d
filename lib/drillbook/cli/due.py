"""What is due: a table for people, text for Prometheus, and an exit status for whatever raises an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drillbook.cli import metrics
from drillbook.cli.notify import tell_of_due
from drillbook.errors import ParameterError
from drillbook.evidence.due import Due, State, due, runs_of
from drillbook.evidence.trust import Trust
from drillbook.evidence_store import pending_runs
from drillbook.model import show_instant
from drillbook.profile import load_site

_STYLES = {
    State.DONE: "green",
    State.DONE_LATE: "yellow",
    State.WAITING: "dim",
    State.LATE: "yellow",
    State.UNPROVEN: "yellow",
    State.MISSING: "bold red",
    State.FAILED: "bold red",
}
_FAILING, _OPEN = {State.FAILED, State.MISSING}, {State.UNPROVEN, State.LATE}


def show_due(
    console: Console,
    outputs: Path,
    site: str,
    *,
    trust: Trust | None,
    at: datetime | None,
    everything: bool,
    prometheus: bool,
    notify: bool = False,
) -> int:
    """Print how each schedule of the profile stands; the exit status: 0 nothing is open, 1 failed or missing, 2 late or unproven.

    Sealed runs that are not archived yet, where the profile names a bucket, are open too.

    Only each schedule's newest two periods count and are shown, the current one and the one before, unless
    ``everything`` is asked for. ParameterError.
    """
    profile = load_site(site)
    if not profile.schedules:
        raise ParameterError(
            [f"the profile {profile.name} has no schedules"],
            where="drillbook due",
            todo="Write under schedules which runbook must be VERIFIED how often.",
        )
    runs = runs_of(outputs, profile.name, trust)
    found = due(profile.schedules, runs, at or datetime.now(UTC))
    shown = found if everything else _newest_two(found)
    pending = pending_runs(outputs, profile)
    if prometheus:
        text = metrics.due_text(profile, shown, runs, None if pending is None else len(pending))
        console.out(text, highlight=False, end="")
    else:
        console.print(_table(shown))
        for state in pending or ():
            console.print(Text(f"archive pending: {state.run_id} {state.runbook}: {state.why}", style="bold red"))
    if notify:
        now_open = {item.runbook: str(item.state) for item in shown if item.state in _FAILING | _OPEN}
        tell_of_due(console, site, now_open)
    states = {item.state for item in shown}
    return 1 if states & _FAILING else 2 if states & _OPEN or pending else 0


def _newest_two(found: Sequence[Due]) -> list[Due]:
    by_runbook: dict[str, list[Due]] = {}
    for item in found:
        by_runbook.setdefault(item.runbook, []).append(item)
    kept = [item for items in by_runbook.values() for item in items[-2:]]
    return [item for item in found if item in kept]


def _table(found: Sequence[Due]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("runbook", "period from", "due by", "state", "runs", "run"):
        table.add_column(heading, overflow="fold")
    for item in found:
        table.add_row(
            f"{item.runbook} (each {item.every})",
            f"{item.begins:%Y-%m-%d %H:%M}",
            f"{item.by:%Y-%m-%d %H:%M}",
            Text(item.state, style=_STYLES[item.state]),
            str(item.runs),
            f"{item.run_id} {show_instant(item.at) if item.at else ''}{f': {item.why}' if item.why else ''}",
        )
    return table


__all__ = ["show_due"]
