"""The archive on one time line: base backups, WAL, gaps, what can be reached, the target. Pure: plain data in, SVG out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drillbook.model import show_seconds
from drillbook.report import cards

WIDTH, LEFT, RIGHT = 960, 124, 28
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800)
)
_MOST_TICKS = 8
_MOST_LABELS = 8


def svg(data: Mapping[str, Any], *, standalone: bool = True) -> str:
    """The picture of what a survey found.

    ``data``: ``server``, ``now``, ``backups`` (``id``, ``at``), ``periods`` (``first``, ``last``), ``gaps``
    (``from``, ``to``, ``state``, ``segments``, ``first``, ``last``), ``wal_to`` and ``target`` ("" for none);
    instants as RFC 3339 text. Where the history is in several folders, ``lines`` has each one's WAL (``server``,
    ``from``, ``to``). ``standalone`` brings its own colours for a light and a dark page; otherwise it takes the
    page's.
    """
    scale, lines = _Scale(_instants(data)), _lines(data)
    backups = [
        {"x": scale.x(item["at"]), "id": item["id"], "at": cards.show_instant(item["at"])} for item in data["backups"]
    ]
    periods = [_band(scale, item["first"], item["last"]) for item in data["periods"]]
    gaps = [{**_band(scale, item["from"], item["to"], least=6), **item, "said": _said(item)} for item in data["gaps"]]
    values = {
        "standalone": standalone,
        "server": data["server"],
        "width": WIDTH,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "backups": backups,
        "backup_labels": _apart([(item["x"], item["at"][:16].removesuffix(" UTC")) for item in backups]),
        "wal": [piece for line in lines for piece in _pieces(scale, line, gaps)],
        "line_labels": _apart([(scale.x(line["from"]), line["server"]) for line in lines]) if lines[1:] else [],
        "line_ends": [scale.x(line["from"]) for line in lines[1:]],
        "gaps": gaps,
        "gap_labels": _apart([(item["x"] + item["width"] / 2, item["said"]) for item in gaps]),
        "periods": periods,
        "period_words": _period_words(data["periods"]),
        "target": {"x": scale.x(data["target"]), "at": cards.show_instant(data["target"])} if data["target"] else None,
        "now": scale.x(data["now"]),
        "now_told": not data["target"] or abs(scale.x(data["now"]) - scale.x(data["target"])) > 110,
        "ticks": scale.ticks(),
        "told": words(data),
    }
    return cards.environment().get_template("window.svg.j2").render(**values).strip()


def bundle(data: Mapping[str, Any]) -> dict[str, str]:
    """The picture as a notebook shows it."""
    frame = "box-sizing:border-box;max-width:960px;margin:4px 0;overflow-x:auto;color:inherit;"
    return {"text/html": f'<div style="{frame}">{svg(data, standalone=False)}</div>', "text/plain": words(data)}


def words(data: Mapping[str, Any]) -> str:
    """The picture in words, for anyone who can't see it."""
    count = len(data["backups"])
    lines = [f"{data['server']}: {count} usable base backup{'' if count == 1 else 's'}"]
    lines += [
        f"reachable from {cards.show_instant(p['first'])} to {cards.show_instant(p['last'])}" for p in data["periods"]
    ]
    lines += [f"{_said(gap)}: {gap['first']} to {gap['last']}" for gap in data["gaps"]]
    if data["target"]:
        lines.append(f"target {cards.show_instant(data['target'])}")
    return "; ".join(lines)


class _Scale:
    """Instants to pixels."""

    def __init__(self, instants: Sequence[datetime]) -> None:
        self.first, last = min(instants), max(instants)
        self.span = max(last - self.first, timedelta(seconds=1))
        margin = self.span / 40
        self.first, self.span = self.first - margin, self.span + 2 * margin

    def x(self, at: str | datetime) -> float:
        instant = _at(at) if isinstance(at, str) else at
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ((instant - self.first) / self.span), 1)

    def ticks(self) -> list[dict[str, Any]]:
        step = next((step for step in _STEPS if self.span / step <= _MOST_TICKS), None)
        step = step or timedelta(days=max(1, round(self.span / timedelta(days=1) / _MOST_TICKS)))
        epoch = datetime(2000, 1, 3, tzinfo=UTC)
        at = epoch + step * -(-(self.first - epoch) // step)
        found: list[dict[str, Any]] = []
        day = None
        while at <= self.first + self.span:
            clock = f"{at:%H:%M:%S}" if step < timedelta(minutes=1) else f"{at:%H:%M}"
            label = f"{at:%b %d}" if step >= timedelta(days=1) else clock
            found.append({"x": self.x(at), "label": label, "day": f"{at:%Y-%m-%d}" if at.date() != day else ""})
            day = at.date()
            at += step
        return found if step < timedelta(days=1) else [tick | {"day": ""} for tick in found]


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _instants(data: Mapping[str, Any]) -> list[datetime]:
    texts = [item["at"] for item in data["backups"]]
    texts += [item[key] for item in data["periods"] for key in ("first", "last")]
    texts += [item[key] for item in data["gaps"] for key in ("from", "to")]
    texts += [line[key] for line in _lines(data) for key in ("from", "to")]
    return [_at(text) for text in (*texts, data["wal_to"], data["target"], data["now"]) if text]


def _band(scale: _Scale, first: str, last: str, least: float = 2) -> dict[str, Any]:
    begin, end = scale.x(first), max(scale.x(last), scale.x(first))
    width = max(round(end - begin, 1), least)
    return {"x": round(min(begin, begin + (end - begin - width) / 2), 1), "width": width}


def _lines(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each folder's WAL, from its first base backup to its newest segment."""
    if "lines" in data:
        return list(data["lines"])
    if not data["backups"] or not data["wal_to"]:
        return []
    return [{"server": data["server"], "from": data["backups"][0]["at"], "to": data["wal_to"]}]


def _pieces(scale: _Scale, line: Mapping[str, Any], gaps: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One folder's WAL without the gaps."""
    found: list[dict[str, float]] = []
    begin, end = scale.x(line["from"]), scale.x(line["to"])
    for gap in sorted(gaps, key=lambda item: item["x"]):
        if begin < gap["x"] <= end:
            found.append({"x": begin, "width": round(min(gap["x"], end) - begin, 1)})
        if gap["x"] <= end:
            begin = max(begin, gap["x"] + gap["width"])
    return [*found, {"x": round(begin, 1), "width": round(max(end - begin, 2 if not found else 0), 1)}]


def _said(gap: Mapping[str, Any]) -> str:
    count = gap["segments"]
    return f"{count:,} segment{'' if count == 1 else 's'} {gap['state']}"


def _period_words(periods: Sequence[Mapping[str, Any]]) -> str:
    if not periods:
        return "nothing can be recovered"
    whole = " · ".join(f"{cards.show_instant(p['first'])} to {cards.show_instant(p['last'])}" for p in periods[-2:])
    length = sum((_at(p["last"]) - _at(p["first"])).total_seconds() for p in periods)
    return f"{whole} ({show_seconds(length)}{' in all' if len(periods) > 1 else ''})"


def _apart(labels: Iterable[tuple[float, str]]) -> list[dict[str, Any]]:
    """Labels that don't run into each other: the last is kept, then those before it that have room."""
    found: list[dict[str, Any]] = []
    room = float(WIDTH)
    for x, text in reversed(list(labels)):
        half = len(text) * 3.2
        middle = min(max(x, LEFT + half - 40), WIDTH - half - 4)
        if middle + half < room and len(found) < _MOST_LABELS:
            found.append({"x": round(middle, 1), "text": text})
            room = middle - half - 8
    return found[::-1]


__all__ = ["bundle", "svg", "words"]
