"""A load drill's comparison as a table, and its curve as a picture. Pure: plain data in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from drillbook.report import cards

Data = Mapping[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 920, 200, 64, 150, 12, 28


def comparison_html(data: Data) -> str:
    """The table. ``data``: ``decision``, ``criteria``, ``variants`` (two), ``pooler``, ``reached`` and ``untrusted``."""
    return cards.environment().get_template("load.html.j2").render(compared=data, curve=None).strip()


def curve_html(data: Data) -> str:
    """The pictures: p95 latency and throughput over the pool size, measured and by the model, with both knees.

    ``data``: ``pods``, ``rate``, ``holding_ms``, ``knee``, ``modelled_knee``, ``holds``, ``assumption``, ``pooler`` and
    ``points``, each with ``pool``, ``p95_ms``, ``modelled_p95_ms`` (None: not carried), ``throughput``,
    ``modelled_throughput`` and ``timeouts``.
    """
    pictures = [
        _picture(data, "p95_ms", "p95 latency, open arrivals", "ms", knees=True),
        _picture(data, "throughput", "throughput, closed loop", "/s", knees=False),
    ]
    size = {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
    }
    return (
        cards.environment()
        .get_template("load.html.j2")
        .render(compared=None, curve=data, pictures=pictures, size=size, words=curve_words(data))
        .strip()
    )


def bundle(data: Data, html: Callable[[Data], str], words: Callable[[Data], list[str]]) -> dict[str, str]:
    """Either as a notebook shows it."""
    frame = "box-sizing:border-box;max-width:960px;margin:4px 0;overflow-x:auto;color:inherit;"
    return {"text/html": f'<div style="{frame}">{html(data)}</div>', "text/plain": "\n".join(words(data))}


def comparison_words(data: Data) -> list[str]:
    """The table as lines, for anyone who can't see it."""
    lines = [f"{data['decision']}"]
    lines += [f"{item['name']}: {item['measured']} (required: {item['required']})" for item in data["criteria"]]
    lines += [
        f"{item['name']}, pool {item['pool']}: {item['throughput']}/s; acquire {item['acquire']}, query {item['query']}, "
        f"latency {item['latency']} (p50 / p95 / p99); {item['timeouts']} timeouts, {item['waiting']} waited"
        for item in data["variants"]
    ]
    return lines


def curve_words(data: Data) -> list[str]:
    """The picture in words."""
    knee, modelled = (data[name] or "none" for name in ("knee", "modelled_knee"))
    verdict = "the model holds" if data["holds"] else f"the model does not hold: {data['assumption']}"
    return [f"knee at {knee} connections a pod, by the model {modelled}: {verdict}"] + [
        f"pool {item['pool']}: p95 {item['p95_ms']} ms (model {item['modelled_p95_ms'] or 'not carried'}), "
        f"{item['throughput']}/s (model {item['modelled_throughput']})"
        for item in data["points"]
    ]


def _picture(data: Data, name: str, title: str, unit: str, *, knees: bool) -> dict[str, Any]:
    points = data["points"]
    pools: list[int] = [item["pool"] for item in points]
    most = float(max(item[name] for item in points)) * 1.1 or 1.0
    span = max(pools) - min(pools) or 1

    def x(pool: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (pool - min(pools)) / span, 1)

    def y(value: float) -> float:
        share = min(value, most) / most
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    modelled = [
        (x(item["pool"]), y(item[f"modelled_{name}"])) for item in points if item[f"modelled_{name}"] is not None
    ]
    return {
        "title": title,
        "unit": unit,
        "measured": [
            {"x": x(item["pool"]), "y": y(item[name]), "value": item[name], "pool": item["pool"]} for item in points
        ],
        "path": "M" + "L".join(f"{x(item['pool'])} {y(item[name])}" for item in points),
        "modelled": "M" + "L".join(f"{px} {py}" for px, py in modelled) if modelled else "",
        "ticks": [{"y": y(value), "label": f"{value:g}"} for value in _ticks(most)],
        "knees": [
            {"x": x(data[key]), "label": label, "own": key == "knee"}
            for key, label in (("knee", "knee"), ("modelled_knee", "model's knee"))
            if knees and data[key] is not None and min(pools) <= data[key] <= max(pools)
        ],
        "label_x": WIDTH - RIGHT + 10,
        "measured_y": y(points[-1][name]) + 4,
    }


def _ticks(most: float) -> list[float]:
    """Round values from 0 on, three to six of them."""
    rough = 10.0 ** math.floor(math.log10(most))
    step = next(rough * part for part in (0.2, 0.5, 1.0, 2.0) if most / (rough * part) <= 5.5)
    return [step * number for number in range(int(most / step) + 1)]


__all__ = ["bundle", "comparison_html", "comparison_words", "curve_html", "curve_words"]
