"""The archive's picture: what is drawn where, in words too, and well-formed whatever the archive is."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from drillbook.report import timeline

DATA: dict[str, Any] = {
    "server": "orders & more",
    "now": "2026-11-27T04:10:00Z",
    "backups": [{"id": f"202611{day}T020000", "at": f"2026-11-{day}T02:00:00Z"} for day in range(20, 28)],
    "periods": [
        {"first": "2026-11-20T02:00:00Z", "last": "2026-11-23T09:14:00.123Z"},
        {"first": "2026-11-24T02:00:00Z", "last": "2026-11-27T04:07:31.101Z"},
    ],
    "gaps": [
        {
            "from": "2026-11-23T09:14:00Z",
            "to": "2026-11-23T13:14:00Z",
            "state": "lost",
            "segments": 48,
            "first": "000000010000000000000030",
            "last": "00000001000000000000005F",
        },
        {
            "from": "2026-11-27T04:00:00Z",
            "to": "2026-11-27T04:00:00Z",
            "state": "delayed",
            "segments": 1,
            "first": "000000010000000000000090",
            "last": "000000010000000000000090",
        },
    ],
    "wal_to": "2026-11-27T04:08:00Z",
    "target": "2026-11-25T15:30:00Z",
}
EMPTY: dict[str, Any] = DATA | {"backups": [], "periods": [], "gaps": [], "wal_to": "", "target": ""}


def texts(svg: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(svg).iter() if item.tag.endswith("}text")]  # noqa: S314


def test_everything_is_drawn_and_told_in_words() -> None:
    svg = timeline.svg(DATA)
    told = texts(svg)
    assert {"48 segments lost", "1 segment delayed", "target 2026-11-25 15:30:00", "Nov 24"} <= set(told)
    assert any("2026-11-24 02:00:00 UTC to 2026-11-27 04:07:31.101 UTC" in text for text in told)
    assert "000000010000000000000030 to 00000001000000000000005F" in svg
    assert timeline.words(DATA).startswith(
        "orders & more: 8 usable base backups; reachable from 2026-11-20 02:00:00 UTC"
    )


def test_it_lies_within_its_page_and_the_wal_is_cut_at_gaps() -> None:
    svg = timeline.svg(DATA)
    assert all(-1 <= float(x) <= timeline.WIDTH for x in re.findall(r'\bx="([-\d.]+)"', svg))
    widths = [float(width) for width in re.findall(r'\bwidth="([-\d.]+)"', svg)]
    assert all(width >= 0 for width in widths)
    assert len(re.findall(r'y="98"', svg)) == 3


def test_a_history_in_two_folders_is_drawn_as_two() -> None:
    lines = [
        {"server": "orders", "from": "2026-11-20T02:00:00Z", "to": "2026-11-23T09:14:00Z"},
        {"server": "orders-v2", "from": "2026-11-24T02:00:00Z", "to": "2026-11-27T04:08:00Z"},
    ]
    svg = timeline.svg(DATA | {"lines": lines, "gaps": DATA["gaps"][1:]})
    assert {"orders", "orders-v2"} <= set(texts(svg))
    assert len(re.findall(r'y="98"', svg)) == 3, "one piece, and one that is cut by a gap"
    assert "orders-v2" not in texts(timeline.svg(DATA | {"lines": lines[:1]}))


@pytest.mark.parametrize("data", [DATA, EMPTY, DATA | {"gaps": []}, EMPTY | {"backups": DATA["backups"][:1]}])
def test_it_is_self_contained_and_well_formed(data: dict[str, Any]) -> None:
    for standalone in (True, False):
        svg = timeline.svg(data, standalone=standalone)
        ElementTree.fromstring(svg)  # noqa: S314 - our own
        assert "prefers-color-scheme: dark" in svg if standalone else "<style" not in svg
        assert not re.search(r"(?:href|src)=|url\((?!#)", svg.replace("http://www.w3.org/2000/svg", ""))
    assert set(timeline.bundle(data)) == {"text/html", "text/plain"}


def test_an_archive_without_anything_says_so() -> None:
    assert "nothing can be recovered" in texts(timeline.svg(EMPTY))
