"""A site's tests in a period as one page for somebody who reads nothing else: verdicts, objectives, what was owed, the population."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from drillbook.evidence.due import State
from drillbook.evidence.population import Entry, Population
from drillbook.model import Verdict, show_seconds
from drillbook.report import cards, trend

_GOOD = {State.DONE}
_BAD = {State.FAILED, State.MISSING}


def html(
    found: Population,
    *,
    not_tested: Sequence[str],
    controls: Sequence[str],
    trust: str,
    links: Mapping[str, str] | None = None,
) -> str:
    """The page; pure. ``trust`` says whose signatures count; ``links`` leads from a run to its report, on the site's own index."""
    runs = [one for one in found.entries if one.run_id]
    states = Counter(item.state for item in found.due)
    return (
        cards.environment()
        .get_template("summary.html.j2")
        .render(
            found=found,
            begins=_minute(found.begins),
            ends=_minute(found.ends),
            headline=_headline(found, states),
            sign=_sign(found, states),
            verdicts=[
                (str(verdict), sum(one.verdict == verdict for one in runs))
                for verdict in Verdict
                if verdict != Verdict.NOT_APPLICABLE
            ],
            owed=[_owed(item) for item in found.due],
            objectives=_objectives(runs),
            deviations=[_deviation(one) for one in runs if one.deviates or one.noted],
            without_ticket=sum(bool(one.deviates) and not one.deviation_ticket for one in runs),
            rows=[_row(one) for one in found.entries],
            altered=[f"{one.run_id or one.runbook}: {one.altered}" for one in found.entries if one.altered],
            trend=trend.pictures(found.entries),
            links=links or {},
            index=links is not None,
            unsigned=sum(one.state == "sealed" and not one.signed for one in runs),
            not_tested=not_tested,
            controls=controls,
            trust=trust,
        )
    )


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _headline(found: Population, states: Mapping[State, int]) -> str:
    closed = [item for item in found.due if item.state is not State.WAITING]
    if not closed:
        return "Nothing was due in this period"
    done = states[State.DONE] + states[State.DONE_LATE]
    late = f", {states[State.DONE_LATE]} of them late" if states[State.DONE_LATE] else ""
    rest = [
        f"{states[state]} {state}"
        for state in (State.FAILED, State.MISSING, State.UNPROVEN, State.LATE)
        if states[state]
    ]
    return f"{done} of {len(closed)} tests that were due are done{late}" + (f"; {', '.join(rest)}" if rest else "")


def _sign(found: Population, states: Mapping[State, int]) -> str:
    if any(states[state] for state in _BAD) or any(one.altered for one in found.entries):
        return str(Verdict.FAILED)
    return (
        str(Verdict.VERIFIED)
        if {item.state for item in found.due} <= {*_GOOD, State.WAITING}
        else str(Verdict.UNPROVEN)
    )


def _owed(item: Any) -> dict[str, str]:
    tone = (
        "good"
        if item.state in _GOOD
        else "bad"
        if item.state in _BAD
        else ""
        if item.state is State.WAITING
        else "doubt"
    )
    return {
        "runbook": item.runbook,
        "period": f"{item.every} from {item.begins:%Y-%m-%d}"
        + (f" {item.begins:%H:%M}" if item.every == "hour" else ""),
        "by": _minute(item.by),
        "state": str(item.state),
        "run": item.run_id,
        "runs": str(item.runs),
        "tone": tone,
    }


def _objectives(runs: Sequence[Entry]) -> list[dict[str, str]]:
    """Each measured figure over the period: how often its objective was met, the best, the worst."""
    rows = []
    for name in dict.fromkeys(item[0] for one in runs for item in one.measured):
        found = [item for one in runs for item in one.measured if item[0] == name and item[1] is not None]
        if not found:
            continue
        times = sorted(float(item[1] or 0) for item in found)
        met = [item[3] for item in found if item[3] is not None]
        wanted = {item[2] for item in found if item[2] is not None}
        rows.append(
            {
                "name": name,
                "objective": " / ".join(show_seconds(value) for value in sorted(wanted)) or "none",
                "met": f"{sum(bool(one) for one in met)} of {len(met)}" if met else "no objective",
                "best": show_seconds(times[0]),
                "worst": show_seconds(times[-1]),
                "tone": "bad" if met and not all(met) else "",
            }
        )
    return rows


def _deviation(one: Entry) -> dict[str, Any]:
    """What was not as it should have been, with the ticket that was opened for it and the run that retested it."""
    return {
        "run": one.run_id,
        "runbook": one.runbook,
        "what": one.deviates,
        "note": one.deviation_note,
        "ticket": one.deviation_ticket,
        "by": one.deviation_by,
        "at": _minute(one.noted[-1].at) if one.noted else "",
        "retest": one.retested_by,
        "named": one.retest == "named",
        "tone": "" if one.deviation_ticket and one.retest == "named" else "doubt",
    }


def _row(one: Entry) -> dict[str, str]:
    (achieved, wanted), (lost, lost_wanted) = one.figure("recovery time"), one.figure("recovery point")
    return {
        "run": one.run_id or "none",
        "runbook": one.runbook,
        "planned": one.planned if one.run_id else "planned",
        "state": one.state,
        "verdict": one.verdict,
        "at": _minute(one.opened_at) if one.opened_at else one.period,
        "asked_by": one.asked_by,
        "ticket": one.ticket,
        "approved_by": one.approved_by,
        "time": f"{show_seconds(achieved)} of {show_seconds(wanted)}"
        if achieved is not None and wanted is not None
        else "",
        "point": f"{show_seconds(lost)} of {show_seconds(lost_wanted)}"
        if lost is not None and lost_wanted is not None
        else "",
        "cause": one.altered or (one.cause if one.verdict != Verdict.VERIFIED else ""),
        "digest": one.record_sha256[:12],
        "signed": "signed" if one.signed else "",
        "tone": "bad"
        if one.altered or one.verdict == Verdict.FAILED or one.state in ("missing", "missing folder")
        else "doubt"
        if one.verdict == Verdict.UNPROVEN or one.state == "never sealed"
        else "",
    }


__all__ = ["html"]
