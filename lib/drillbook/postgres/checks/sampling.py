"""What a drill may read of the source's rows, and which part of a large table stands for the whole.

The budget. So many bytes and so much time for all tables of a run together. Small tables are read whole; what they
leave is shared evenly by the larger ones, each at its turn, by what is left then. Time counts as bytes, by the rate
so far.

The sample. Ranges of a key, each of as many rows, spread over the whole key. Where they begin is taken from the
planner's histogram, or for integers without one from the least and the greatest; which of them, from the run's secret
key, so that every drill reads other ranges and the same drill the same ones. Where they end is looked up in the
index. The copy is read by the same bounds. They are values of rows: they stay in memory and in SQL, and are never
written down.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from drillbook.model import Frozen
from drillbook.postgres.checks.common import counted
from drillbook.postgres.client import Database
from drillbook.postgres.client import Literal as Quoted

RANGES = 16
SMALL_BYTES = 64 << 20
"""A table of this size or less is always read whole, unless a budget says otherwise."""
PAGE_BYTES = 8192
ASSUMED_RATE = 40 << 20
"""Bytes a second that are digested, before any large table has shown how many it are."""
# Below this correlation of key and place each row of a range may be on its own page.
IN_ORDER = 0.9
# A first column with fewer values than this, or than a tenth of the rows, can't be divided evenly.
MANY_VALUES = 10_000

Rule = Literal["unproven", "whole"]


class TableSample(Frozen):
    """The ranges of a table that are read: ``where`` is SQL on a table ``t``, with the bounds in it."""

    column: str
    ranges: int
    of_rows: int  # that the table is thought to have
    of_bytes: int
    where: str

    def describe(self, rows: int) -> str:
        """``16 ranges of id, 1,200 of about 400,000 rows (0.3 %)``."""
        total = max(self.of_rows, rows)
        share = f" ({100 * rows / total:.2g} %)" if total else ""
        return f"{counted(self.ranges, 'range')} of {self.column}, {rows:,} of about {counted(total, 'row')}{share}"


@dataclass
class Budget:
    """How much may be read, in bytes and in seconds (None: without a limit); safe to use from several threads.

    ``without_key`` says what becomes of a table beyond its share that can't be sampled: it is left ``unproven``, or
    read ``whole`` all the same.
    """

    bytes: float | None = None
    seconds: float | None = None
    without_key: Rule = "unproven"
    small: float = SMALL_BYTES
    spent_bytes: int = 0
    spent_seconds: float = 0.0
    _left: dict[tuple[str, str], int] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, table: tuple[str, str], size: int) -> None:
        """A table (database and name) that is to be read, and how large it is thought to be."""
        with self._turn:
            self._left[table] = size

    def share(self, table: tuple[str, str], size: int) -> float | None:
        """How many bytes of a table of this size may be read, it being its turn; None: all of it."""
        with self._turn:
            left = self._bytes_left()
            others = [other for name, other in self._left.items() if name != table]
            level = None if left is None else max(self.small, _level([*others, size], left))
        return None if level is None or size <= level else level

    @contextmanager
    def part(
        self, db: Database, table: tuple[str, str], quoted: str, key: builtins.bytes
    ) -> Iterator[TableSample | str | None]:
        """The part of a table that may be read (None: all of it), or why none may, in the open snapshot.

        The bytes and the time of what is read in here are counted, if it ends well. Raises ``PostgresError``.
        """
        keys = db.ask("integrity_table_keys", table=quoted)
        size = int(keys[0]["bytes"] or 0)
        share = self.share(table, size)
        part = _part_of(db, quoted, share, key, keys) if share is not None else None
        if isinstance(part, str):
            if self.without_key == "unproven":
                self.read(table, 0, 0.0)
                yield _beyond(size, share or 0, part)
                return
            part, share = None, None
        begun = time.monotonic()
        yield part
        self.read(table, size if share is None else round(share), time.monotonic() - begun)

    def read(self, table: tuple[str, str], size: int, seconds: float) -> None:
        """So much of it was read, in so many seconds."""
        with self._turn:
            self._left.pop(table, None)
            self.spent_bytes += size
            self.spent_seconds += seconds

    def _bytes_left(self) -> float | None:
        left = [] if self.bytes is None else [self.bytes - self.spent_bytes]
        if self.seconds is not None:
            shown = self.spent_bytes >= self.small and self.spent_seconds > 0
            rate = self.spent_bytes / self.spent_seconds if shown else ASSUMED_RATE
            left.append((self.seconds - self.spent_seconds) * rate)
        return max(0.0, min(left)) if left else None


def _beyond(size: int, share: float, why: str) -> str:
    """Why a table beyond its share has no digest, and what to do."""
    return (
        f"it has {size / 1e6:,.0f} MB, its share of the budget is {share / 1e6:,.0f} MB, and no part of it can be read by itself: "
        f"{why}. Give it a key, raise digests.bytes and digests.time, or read it whole (digests.without_key) in the profile"
    )


def _level(sizes: Iterable[int], left: float) -> float:
    """Up to which size tables can be read whole if they share ``left``; larger ones to this size each."""
    rising = sorted(sizes)
    for number, size in enumerate(rising):
        share = left / (len(rising) - number)
        if size > share:
            return share
        left -= size
    return float("inf")


def _part_of(db: Database, quoted: str, share: float, key: bytes, found: list[dict[str, Any]]) -> TableSample | str:
    """The part of a table that has about ``share`` bytes, in the open snapshot; or why no part of it can be read by itself.

    ``found`` are the rows of ``integrity_table_keys``. Raises ``PostgresError``.
    """
    total_bytes, total_rows = int(found[0]["bytes"]), int(found[0]["rows"])
    if not total_rows:
        return "its number of rows is not known: ANALYZE it"
    why = "it has no unique index whose first column could be divided into ranges"
    for row in found:
        if row["column_name"] is None:
            continue
        starts = _starts(db, quoted, row, key)
        if isinstance(starts, str):
            why = starts
            continue
        fraction = share / total_bytes
        rows = fraction * total_rows
        if abs(row["correlation"] or 0.0) < IN_ORDER:
            rows = min(rows, share / PAGE_BYTES)
        each = max(1, int(rows / len(starts)))
        ranges = [(start, _end(db, quoted, row, start, each)) for start in starts]
        where = " or ".join(_between(row, *bounds) for bounds in ranges)
        return TableSample(
            column=row["column_name"], ranges=len(ranges), of_rows=total_rows, of_bytes=total_bytes, where=where
        )
    return why


def _starts(db: Database, quoted: str, row: dict[str, Any], key: bytes) -> list[str] | str:
    """Where the ranges begin, or why this column can't be divided."""
    column = row["column_name"]
    distinct = float(row["distinct_values"] or 0)
    if not row["alone"] and not (distinct >= MANY_VALUES or distinct <= -0.1):
        return f"{column}, the first column of its key, has too few values for ranges"
    chance = int.from_bytes(hmac.new(key, quoted.encode(), hashlib.sha256).digest()[:8]) / 2**64
    bounds = list(row["bounds"] or ())[:-1]  # the last one is the greatest value: nothing begins there
    if not bounds and row["is_integer"]:
        ((least, greatest),) = db.ask_text(f"select min(t.{column}), max(t.{column}) from {quoted} t")  # noqa: S608 - the server quoted the names
        if least is None:
            return "it was empty when it was looked at"
        step = (greatest - least + 1) / RANGES
        bounds = [str(int(least + step * (number + chance))) for number in range(RANGES)]
        return list(dict.fromkeys(bounds))
    if not bounds:
        return f"no histogram of {column}, its key: ANALYZE it"
    count = min(RANGES, len(bounds))
    return list(dict.fromkeys(bounds[int((number + chance) * len(bounds) / count)] for number in range(count)))


def _end(db: Database, quoted: str, row: dict[str, Any], start: str, rows: int) -> str | None:
    """The key that is so many rows after ``start``; None: the table ends before."""
    column = row["column_name"]
    statement = (
        f"select t.{column}::pg_catalog.text from {quoted} t where {_from(row, start)} "  # noqa: S608 - the server quoted the names
        f"order by t.{column} offset {rows} limit 1"
    )
    found = db.ask_text(statement)
    return str(found[0][0]) if found else None


def _between(row: dict[str, Any], start: str, end: str | None) -> str:
    if end is None:
        return f"({_from(row, start)})"
    return f"({_from(row, start)} and t.{row['column_name']} < {_value(row, end)})"


def _from(row: dict[str, Any], start: str) -> str:
    return f"t.{row['column_name']} >= {_value(row, start)}"


def _value(row: dict[str, Any], text: str) -> str:
    return f"{Quoted(text).as_string(None)}::{row['type']}"
