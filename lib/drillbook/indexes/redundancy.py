"""Indexes that say the same twice, and foreign keys without an index: by the catalogue's own definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from drillbook.indexes.findings import MissingKeyIndex, Redundant
from drillbook.indexes.statements import as_sql_name

Row = Mapping[str, Any]
COUNTED_FOR = timedelta(days=30)
"""Counters that are younger have not seen a month's end: they prove nothing about an index that they call unused."""


def redundant(existing: Sequence[Row], proposed: Sequence[Row]) -> tuple[Redundant, ...]:
    """Each index that another one makes redundant, of the existing and the proposed ones together.

    The same keys with the same operator classes, collations, order and predicate are a duplicate; so are a B-tree's keys
    that are the first ones of another's. One that enforces a constraint or uniqueness is needed and never named.
    """
    known = {row["oid"]: row for row in [*existing, *proposed]}
    rows = sorted(
        known.values(), key=lambda row: int(row["oid"])
    )  # of two equal ones, the younger is the redundant one
    found: list[Redundant] = []
    for row in rows:
        by = next((other for other in rows if other is not row and _covers(other, row)), None)
        if by is not None:
            found.append(
                Redundant(
                    table=as_sql_name((row["table_schema"], row["table_name"])),
                    index=as_sql_name((row["schema"], row["name"])),
                    by=as_sql_name((by["schema"], by["name"])),
                    duplicate=_same(row, by),
                    bytes=int(row["bytes"]),
                )
            )
    return tuple(found)


def used(item: Redundant, counted: Mapping[str, Sequence[Row]], unread: Sequence[str]) -> tuple[str, list[str]]:
    """What production's instances have counted of an index, and why that does not prove that nothing needs it.

    ``counted`` is each instance's answer to index_usage, ``unread`` why others gave none. An empty second part means
    that every instance has counted for 30 days at least.
    """
    rows = {
        pod: row
        for pod, answer in counted.items()
        for row in answer
        if as_sql_name((row["schema"], row["name"])) == item.index
    }
    words = f"{'the same as' if item.duplicate else 'the first columns of'} {item.by}"
    if not rows:
        return words, [*unread, "it is proposed: nothing has used it yet"]
    young = [pod for pod, row in rows.items() if row["now"] - row["since"] < COUNTED_FOR]
    scans = sum(int(row["scans"]) for row in rows.values())
    doubts = [*unread, *(f"{pod} has counted for less than {COUNTED_FOR.days} days" for pod in young)]
    return f"{words}; {scans:,} scans on {', '.join(rows)}", doubts


def keys_without_index(rows: Sequence[Row]) -> tuple[MissingKeyIndex, ...]:
    """Foreign keys as index_foreign_keys names them."""
    return tuple(MissingKeyIndex(table=row["table"], name=row["name"], columns=tuple(row["columns"])) for row in rows)


def _covers(other: Row, row: Row) -> bool:
    if row["is_unique"] or row["is_constraint"] or not other["is_valid"]:
        return False
    if any(row[part] != other[part] for part in ("table_oid", "method", "predicate")):
        return False
    if not set(row["included"]) <= {*other["included"], *(key.rsplit(" ", 3)[0] for key in other["keys"])}:
        return False
    if _same(row, other):
        return bool(other["is_unique"] or other["oid"] < row["oid"])
    return bool(row["method"] == "btree" and other["keys"][: len(row["keys"])] == row["keys"])


def _same(row: Row, other: Row) -> bool:
    return bool(row["keys"] == other["keys"] and set(row["included"]) == set(other["included"]))
