"""A run on a terminal: its journal's events as lines while they land, and how it ended."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drillbook.cli.headless import RunOutcome
from drillbook.model import show_seconds
from drillbook.report.cards import show_instant

if TYPE_CHECKING:
    from drillbook.cli.init import Check

VERDICT_STYLES = {"VERIFIED": "bold green", "FAILED": "bold red", "UNPROVEN": "bold yellow"}
_STATUS_STYLES = {"done": "green", "failed": "red", "refused": "red", "planned": "cyan"}


class ProgressPrinter:
    """Prints a run's events on ``console``: a line a step, and beneath it the checks that are not VERIFIED."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._titles: dict[int, str] = {}

    def tell(self, event: Mapping[str, Any]) -> None:
        """Shows one event of the journal; events that say nothing to a watcher are passed over."""
        teller = getattr(self, f"_tell_{event['type']}", None)
        if teller is not None:
            teller(event)

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts))

    def _tell_opened(self, event: Mapping[str, Any]) -> None:
        cluster = event.get("cluster") or {}
        where = f"{cluster.get('namespace', '')}/{cluster.get('name', '')}".strip("/")
        site = event["site"]
        self._say(
            (event["run_id"], "bold"), f"  {event['runbook']}, {event['mode']}, ", f"{where} ({site['environment']})"
        )

    def _tell_step_started(self, event: Mapping[str, Any]) -> None:
        self._titles[event["n"]] = event["title"]

    def _tell_step_finished(self, event: Mapping[str, Any]) -> None:
        status = event["status"]
        title = self._titles.get(event["n"], "open the run")
        took = "" if status == "planned" else f"  {show_seconds(event['seconds'])}"
        self._say((f"{status:<8}", _STATUS_STYLES.get(status, "")), f"{event['n']:>3}  {title}", (took, "dim"))
        error = event.get("error")
        if error:
            for line in str(error["what"]).splitlines():
                self._say(" " * 13, (line, "red"))
            self._say(" " * 13, f"→ {error['todo']}")

    def _tell_settling(self, _: Mapping[str, Any]) -> None:
        self._say(
            (f"{'settling':<13}", "yellow"),
            "what the run changed is being put back, and its record is being sealed: wait, "
            "or press Ctrl-C once more and `drillbook cleanup` does it later",
        )

    def _tell_resumed(self, event: Mapping[str, Any]) -> None:
        self._say(("resumed", "bold"), f"  attempt {event['attempt']} by {event['actor']['username']}")

    def _tell_retargeted(self, event: Mapping[str, Any]) -> None:
        told = ", ".join(f"{name} {value}" for name, value in event["parameters"].items() if value != "")
        self._say((f"{'target':<13}", "yellow"), f"attempt {event['attempt']}: {told or 'the end of the archive'}")

    def _tell_waiting(self, event: Mapping[str, Any]) -> None:
        self._say((f"{'waiting':<13}", "yellow"), f"{event['section']}: {event['reason']}")
        for line in gate_lines(event):
            self._console.print(Text.assemble(" " * 13, line))
        for made in event["made"]:
            until = show_instant(event["deadline"])
            self._say(" " * 13, (f"made so far, kept until {until}: {made}", "dim"))
        self._say(" " * 13, "phrase: ", (event["phrase"], "bold"))

    def _tell_confirmed(self, event: Mapping[str, Any]) -> None:
        names = ", ".join(str(approval["actor"]["username"]) for approval in event["approvals"])
        who = f"by {names}" if names else "nothing here has to be confirmed"
        self._say((f"{'confirmed':<13}", "green"), f"{event['section']}: {who}")

    def _tell_abandoned(self, event: Mapping[str, Any]) -> None:
        self._say((f"{'abandoned':<13}", "yellow"), f"by {event['actor']['username']}")

    def _tell_check(self, event: Mapping[str, Any]) -> None:
        verdict = event["verdict"]
        if verdict in {"FAILED", "UNPROVEN"}:
            seen = event.get("observed") or event.get("reason") or "not observed"
            expected = f"; expected {event['expected']}" if event.get("expected") else ""
            self._say((f"{verdict:<12} ", VERDICT_STYLES[verdict]), f"{event['name']}: {seen}{expected}")

    def _tell_settled(self, event: Mapping[str, Any]) -> None:
        self._say((f"{'settled':<13}", "dim"), (f"{event['id']}: {event['how']}", "dim"))


def gate_lines(waiting: Mapping[str, Any], *, whole: bool = False) -> list[Text]:
    """What a gate is about, from the event that waits: target, damage, loss and outage, then each step; ``whole``: its plan too."""
    rows = waiting.get("top") or list((waiting.get("subject") or {}).items())
    width = max((len(name) for name, _ in rows), default=0)
    lines = [
        Text(f"{name:<{width}}  {value}", style="bold red" if name.startswith("NOT ") else "") for name, value in rows
    ]
    lines += [Text(f"lost: {line}", style="red") for line in waiting["lost"]] or [
        Text("lost: nothing that can't be restored")
    ]
    lines += [Text(f"out of service: {line}", style="red") for line in waiting.get("outage") or ()]
    for part in waiting["steps"]:
        plan = part.get("plan") or {}
        lines.append(
            Text(f"{part['title']} ({part['effect']})" + (f": {plan['summary']}" if plan.get("summary") else ""))
        )
        if whole:
            lines += [Text(f"  {line}") for key in ("touches", "sql") for line in plan.get(key) or ()]
            lines += [Text(f"  - {line}", style="dim") for line in plan.get("notes") or ()]
            names = [
                f"{item.get('kind', 'object')} {item.get('metadata', {}).get('name', '')}"
                for item in plan.get("objects") or ()
            ]
            lines += [Text(f"  sends {name}") for name in names]
    return lines


def program(name: str) -> str:
    """How a program of this installation is called from here: by its name where the PATH finds it, else by its path."""
    own, found = Path(sys.executable).parent / name, shutil.which(name)
    if found and Path(found).resolve() == own.resolve():
        return name
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def say_where_it_is(console: Console, text: str) -> None:
    """Where ``text`` names a command of drillbook and the PATH does not find it: what to type instead."""
    if "drillbook " in text and (here := program("drillbook")) != "drillbook":
        console.print(Text(f"drillbook is {here} here", style="dim"))


def show_outcome(console: Console, outcome: RunOutcome) -> None:
    """The verdict, the figures compared with their objectives, and where the report is."""
    verdict = str(outcome.verdict) if outcome.verdict is not None else ""
    console.print()
    headline = outcome.headline.removeprefix(verdict).lstrip(" :—–-") if verdict else outcome.headline
    console.print(Text.assemble((verdict, VERDICT_STYLES.get(verdict, "bold")), "  " if verdict else "", headline))
    say_where_it_is(console, headline)
    record = outcome.folder / "record.json"
    if record.is_file():
        measured = json.loads(record.read_text(encoding="utf-8")).get("objectives", {}).get("measured", [])
        if measured and verdict:
            console.print(figures(measured))
    for label, name in (("report", "report.html"), ("notebook", "executed.html"), ("record", "record.json")):
        path = outcome.folder / name
        if path.is_file():
            console.print(Text.assemble((f"{label:<10}", "bold"), str(path)))
    if outcome.unsigned:
        console.print(Text(outcome.unsigned, style="yellow"))
    if outcome.pending:
        console.print(Text(outcome.pending, style="bold red"))


def figures(measured: list[dict[str, Any]]) -> Table:
    """What was achieved compared with its objective."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "achieved", "objective", ""):
        table.add_column(heading)
    for item in measured:
        pair = [item[f"{name}_seconds"] for name in ("achieved", "objective")]
        nothing = "not measured" if pair[0] is None else "no objective"
        met = {True: "met", False: "missed", None: nothing}[item["met"]]
        table.add_row(item["name"], *("–" if value is None else show_seconds(value) for value in pair), met)
    return table


def ask(question: str, usual: str, check: Check) -> str:
    """A question on the terminal, asked again until ``check`` takes the answer; Enter takes ``usual``."""

    def checked(answer: str) -> str:
        try:
            check(answer)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None  # which has it asked again
        return answer

    return str(typer.prompt(question, default=usual, err=True, value_proc=checked))
