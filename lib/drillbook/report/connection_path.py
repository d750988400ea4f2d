"""The path of the connections as a picture, with each limit, today's use and what binds; and its tables. Pure: data in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drillbook.report import cards

WIDTH, GAP, MARGIN = 960, 26, 2
BOX, LANE = 118, 176


def bundle(data: Mapping[str, Any]) -> dict[str, str]:
    """The picture and the tables, as a notebook shows them.

    ``data``: ``lanes`` (``title``, ``taken`` whether the application's connections go there, ``stages``), ``limits`` and
    ``moments`` (rows of texts, the last two columns of ``moments`` being whether it breaks, and how). A stage has
    ``name``, ``lines``, ``used`` and ``limit`` (None: no limit), ``binds``.
    """
    html = cards.environment().get_template("connections.html.j2").render(**data, picture=_drawn(data["lanes"]))
    return {"text/html": html.strip(), "text/plain": words(data)}


def options(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """The options compared, a row for each at each number of users: option, users, wanted, served, result, again at."""
    heads = ["users", "option", "pods", "wanted", "served", "at the worst moment", "fits", "decide again at"]
    html = cards.environment().get_template("connection_options.html.j2").render(heads=heads, rows=rows)
    return {"text/html": html.strip(), "text/plain": "\n".join(" · ".join(row) for row in rows)}


def words(data: Mapping[str, Any]) -> str:
    """The picture in words, for anyone who can't see it."""
    found = []
    for lane in data["lanes"]:
        stages = [f"{stage['name']} {_of(stage)}{' BINDS' if stage['binds'] else ''}" for stage in lane["stages"]]
        found.append(f"{lane['title']}: {' → '.join(stages)}")
    return "\n".join(found + [" · ".join(row) for row in data["moments"]])


def _of(stage: Mapping[str, Any]) -> str:
    used = "" if stage["used"] is None else f"{stage['used']:,} of "
    return f"{used}{'no limit' if stage['limit'] is None else format(stage['limit'], ',')}"


def _drawn(lanes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where everything is in pixels; a lane's stages share its width."""
    drawn = []
    for number, lane in enumerate(lanes):
        stages = lane["stages"]
        width = (WIDTH - 2 * MARGIN - GAP * (len(stages) - 1)) / max(1, len(stages))
        boxes = [
            {
                **stage,
                "x": round(MARGIN + place * (width + GAP), 1),
                "share": _share(stage),
                "words": _of(stage),
            }
            for place, stage in enumerate(stages)
        ]
        drawn.append({**lane, "y": number * LANE, "width": round(width, 1), "boxes": boxes})
    return {"width": WIDTH, "height": LANE * len(lanes), "gap": GAP, "box": BOX, "lanes": drawn}


def _share(stage: Mapping[str, Any]) -> float:
    used, limit = stage["used"], stage["limit"]
    return round(min(1.0, int(used) / int(limit)), 4) if used and limit else 0.0


__all__ = ["bundle", "options", "words"]
