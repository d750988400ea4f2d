"""What a site's runs measured, over time: one small picture a figure and runbook, each run a point, its objective a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook.evidence.population import Entry
from drillbook.model import show_seconds
from drillbook.report.cards import show_bytes

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 168, 100, 16, 30, 28
APART = 18  # from one label to the next, so that both can be read on a narrow page


@dataclass(frozen=True)
class Point:
    """One run's figure."""

    at: datetime
    value: float
    run_id: str
    verdict: str
    met: bool | None  # None: there was no objective
    ticket: str = ""  # opened for what deviates in the run
    retest: str = ""  # the run that retested it, in words


@dataclass(frozen=True)
class Series:
    """One figure of one runbook, the oldest run first; ``objective`` is the newest run's, None where there is none."""

    runbook: str
    name: str
    points: tuple[Point, ...]
    objective: float | None
    show: Callable[[float], str]


def series_of(entries: Sequence[Entry]) -> list[Series]:
    """Every figure that at least one run measured, by runbook; pure."""
    found = []
    runs = [(one.opened_at, one) for one in entries if one.run_id and one.opened_at is not None]
    runs.sort(key=lambda pair: pair[0])
    for runbook in dict.fromkeys(one.runbook for _, one in runs):
        mine = [(at, one) for at, one in runs if one.runbook == runbook]
        measured = [(at, one, figure) for at, one in mine for figure in one.measured]
        for name in dict.fromkeys(figure[0] for _, _, figure in measured):
            of_name = [(at, one, figure) for at, one, figure in measured if figure[0] == name]
            points = [_point(at, one, value, met) for at, one, (_, value, _, met) in of_name if value is not None]
            found.append(Series(runbook, name, tuple(points), of_name[-1][2][2], show_seconds))
        sizes = [_point(at, one, one.backup_bytes) for at, one in mine if one.backup_bytes is not None]
        found.append(
            Series(runbook, "size of the base backup", tuple(sizes), None, lambda value: show_bytes(int(value)))
        )
        errors = [_point(at, one, one.forecast_off) for at, one in mine if one.forecast_off is not None]
        found.append(Series(runbook, "forecast of the recovery time, above or below", tuple(errors), None, _share))
    return [one for one in found if one.points]


def pictures(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Each series with its coordinates and a sentence that says the same, for the template ``trend.html.j2``."""
    return [_picture(one) for one in series_of(entries)]


def _point(at: datetime, one: Entry, value: float, met: bool | None = None) -> Point:
    retest = (
        f"{'retested by' if one.retest == 'named' else 'next VERIFIED run'} {one.retested_by}"
        if one.retested_by
        else ""
    )
    return Point(at, float(value), one.run_id, one.verdict, met, one.deviation_ticket, retest)


def _share(value: float) -> str:
    return f"{value:+.0%}".replace("-", "\N{MINUS SIGN}") if round(value, 2) else "0%"


def _picture(one: Series) -> dict[str, Any]:
    values = [point.value for point in one.points] + ([one.objective] if one.objective is not None else [])
    most, least = max(*values, 0.0), min(*values, 0.0)
    span = (most - least) or 1.0
    most, least = (most + 0.1 * span if most > 0 else 0.0), (least - 0.1 * span if least < 0 else 0.0)
    if most == least:
        most = 1.0
    begins, ends = one.points[0].at, one.points[-1].at
    seconds = (ends - begins).total_seconds()

    def x(at: datetime) -> float:
        share = (at - begins).total_seconds() / seconds if seconds else 0.5
        return round(LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * share, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - least) / (most - least), 1)

    marks = [
        {
            "x": x(point.at),
            "y": y(point.value),
            "tone": "bad"
            if point.met is False or point.verdict == "FAILED"
            else "doubt"
            if point.verdict != "VERIFIED"
            else "good",
            "says": ", ".join(
                filter(
                    None,
                    (
                        f"{point.at.astimezone(UTC):%Y-%m-%d}: {one.show(point.value)}",
                        point.verdict or "no verdict",
                        f"run {point.run_id}",
                        point.ticket and f"ticket {point.ticket}",
                        point.retest,
                    ),
                )
            ),
        }
        for point in one.points
    ]
    return {
        "title": f"{one.runbook}: {one.name}",
        "says": _says(one),
        "marks": marks,
        "path": "M" + "L".join(f"{mark['x']} {mark['y']}" for mark in marks),
        "objective": None
        if one.objective is None
        else {"y": y(one.objective), "label": f"objective {one.show(one.objective)}"},
        "ticks": [{"y": y(value), "label": one.show(value)} for value in _ticks(values, y)],
        "ends": [
            f"{begins.astimezone(UTC):%Y-%m-%d}",
            f"{ends.astimezone(UTC):%Y-%m-%d}" if len(one.points) > 1 else "",
        ],
        "size": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM},
    }


def _ticks(values: Sequence[float], y: Callable[[float], float]) -> list[float]:
    """The values that have a line and a label: the most, the least, and zero, unless its label would be upon another."""
    found = sorted({max(*values, 0.0), min(*values, 0.0)})
    return found if any(abs(y(0.0) - y(value)) < APART for value in found) else [*found, 0.0]


def _says(one: Series) -> str:
    values = [point.value for point in one.points]
    words = f"{len(values)} run{'s' if len(values) > 1 else ''}, last {one.show(values[-1])}"
    if len(values) > 1:
        words += f", from {one.show(min(values))} to {one.show(max(values))}"
    if one.objective is not None:
        missed = [point for point in one.points if point.met is False]
        words += f"; objective {one.show(one.objective)}, " + (
            f"missed {len(missed)} times" if len(missed) > 1 else "missed once" if missed else "always met"
        )
        tickets = list(dict.fromkeys(point.ticket for point in missed if point.ticket))
        more = f" and {len(tickets) - 3} more" if len(tickets) > 3 else ""
        words += f" ({', '.join(tickets[:3])}{more})" if tickets else ""
    return words


__all__ = ["Point", "Series", "pictures", "series_of"]
