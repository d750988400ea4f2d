"""The answers as a page of documentation: one row a fact, one column for the lab and one for real clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drillbook.conformance.probe import PROBES, State

NOT_YET = "not yet asked"

_MARKS = {State.AGREES: "agrees", State.DIFFERS: "**differs**", State.CANT_ASK: "can't be asked"}


def page(surveys: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Markdown: every probe with what each named cluster answered; None stands for one that was not asked yet.

    A survey is what `Survey.as_json` gives. A probe that a survey does not hold was not asked.
    """
    lines = []
    for where, survey in surveys.items():
        if survey is None:
            lines.append(f"- **{where}**: {NOT_YET}.")
            continue
        versions = ", ".join(f"{what} {version}" for what, version in survey["versions"].items())
        states = [row["state"] for row in survey["answers"]]
        counts = ", ".join(f"{states.count(str(state))} {_MARKS[state].strip('*')}" for state in State)
        asked = f" Asked on {str(survey['asked_at'])[:10]}." if survey.get("asked_at") else ""
        lines.append(f"- **{where}**: {counts}. {versions}.{asked}")
    answers = {
        where: {row["name"]: row for row in survey["answers"]} if survey is not None else {}
        for where, survey in surveys.items()
    }
    for section in dict.fromkeys(one.section for one in PROBES.values()):
        lines += ["", f"## {section}", ""]
        lines.append("| Probe | Fact | " + " | ".join(surveys) + " |")
        lines.append("|---|---|" + "---|" * len(surveys))
        for one in PROBES.values():
            if one.section != section:
                continue
            cells = [_cell(found.get(one.name)) for found in answers.values()]
            lines.append(f"| `{one.name}` | {_safe(one.fact)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOT_YET
    state = State(row["state"])
    return _MARKS[state] if state is State.AGREES else f"{_MARKS[state]}: {_safe(row['seen'])}"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
