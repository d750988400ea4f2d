"""An index migration's claims next to what was measured, and one picture a table. Pure: plain data in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drillbook.report import cards

WIDTH, LABEL, ROW = 920, 300, 34
_WORDS = {
    "cannot_create": "can't be created",
    "unusable": "unusable",
    "used_no_gain": "used, no gain",
    "helps": "helps",
    "helps_but_costs_hot": "helps, costs HOT updates",
    "unproven": "UNPROVEN",
}


def html(data: Mapping[str, Any]) -> str:
    """The table and the pictures.

    ``data``: ``migration``, its ``digest``, ``server_version`` and ``rows``, each with ``index``, ``table``, ``claim``, ``class``, ``why``,
    ``variant``, ``measured``, ``pages_before``, ``pages_after``, ``only_limited``, ``used_with_all``, ``unstable``,
    ``hot`` (update, share before, share after), ``wal_bytes``, ``size_bytes``, ``build_seconds``, ``lock``,
    ``costs_unproven``, ``corrected``, ``corrected_query`` and ``rule``.
    """
    rows = [{**row, "word": _WORDS[row["class"]]} for row in data["rows"]]
    return (
        cards.environment()
        .get_template("claims.html.j2")
        .render(
            migration=data["migration"],
            server_version=data["server_version"],
            rows=rows,
            pictures=[_picture(table, rows) for table in dict.fromkeys(row["table"] for row in rows)],
            width=WIDTH,
        )
        .strip()
    )


def bundle(data: Mapping[str, Any]) -> dict[str, str]:
    """Table and pictures as a notebook shows them."""
    frame = "box-sizing:border-box;max-width:960px;margin:4px 0;overflow-x:auto;color:inherit;"
    return {"text/html": f'<div style="{frame}">{html(data)}</div>', "text/plain": "\n".join(words(data))}


def words(data: Mapping[str, Any]) -> list[str]:
    """The table as lines, for anyone who can't see it."""
    lines = []
    for row in data["rows"]:
        lines.append(f"{row['index']}: claimed {row['claim'] or 'nothing'}; {row['class']}")
        lines += [f"  {row[part]}" for part in ("why", "measured") if row[part]]
        lines += [f"  corrected ({row['rule']}): {row['corrected']}"] if row["corrected"] else []
    return lines


def _picture(table: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One table's indexes as pairs of bars: pages without the index, and with it."""
    own = [row for row in rows if row["table"] == table]
    most = max((row["pages_before"] for row in own), default=0) or 1
    room = WIDTH - LABEL - 90
    bars = [
        {
            "y": number * ROW,
            "index": row["index"],
            "before": row["pages_before"],
            "after": row["pages_after"],
            "before_width": max(1.0, round(room * row["pages_before"] / most, 1)),
            "after_width": max(1.0, round(room * min(row["pages_after"], most) / most, 1)),
            "helps": row["class"].startswith("helps"),
            "word": row["word"],
        }
        for number, row in enumerate(own)
        if row["pages_before"]
    ]
    for number, bar in enumerate(bars):
        bar["y"] = number * ROW
    return {"table": table, "bars": bars, "height": len(bars) * ROW + 6, "label": LABEL}
