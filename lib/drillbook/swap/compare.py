"""The transferred database compared with the one it came from: structure, comments, labels, large objects, sequences, every row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from drillbook.model import Check
from drillbook.postgres.checks import Structure, TableDigest, rows_equal, structure_equal
from drillbook.postgres.checks.rows import digest_of, digest_statement
from drillbook.postgres.checks.structure import OF_A_DATABASE
from drillbook.postgres.client import SQL, Literal, as_text
from drillbook.swap.superuser import Superuser

LARGE_OBJECTS = "large objects"
# Left behind by a dump on purpose, and named before the gate.
_NOT_CARRIED = frozenset({"subscription"})
# Zeros at a page's end are cut off: a hole in a large object is stored as nothing, and restored as zeros.
_PAGE = (
    "t.loid::pg_catalog.text || ':' || t.pageno::pg_catalog.text || ':' || "
    "pg_catalog.encode(pg_catalog.rtrim(t.data, '\\x00'::pg_catalog.bytea), 'hex')"
)
_MANY = 200  # SELECTs in one call


# `column IN ('a', 'b')` on a varchar is kept as one cast of an array, and as a cast of each element once a dump of it
# was read: the same expression, written differently.
_ARRAY = re.compile(r"\(ARRAY\[((?:'(?:[^']|'')*'::character varying(?:, )?)+)\]\)::text\[\]")
_ELEMENT = re.compile(r"'(?:[^']|'')*'::character varying")


def as_parsed_again(definition: str) -> str:
    """A definition as the server would write it after a dump and a restore."""
    return _ARRAY.sub(lambda found: "ARRAY[" + _ELEMENT.sub(r"(\g<0>)::text", found[1]) + "]", definition)


@dataclass(frozen=True)
class Side:
    """One of the two databases and the way to it."""

    who: Superuser
    database: str

    def structure(self) -> Structure:
        """Everything but rows: also what the cluster keeps of the database, and the positions of its sequences."""
        rows = [row for name in (*OF_A_DATABASE, "cutover_extras") for row in self.who.ask(self.database, name)]
        rows += self._own() + self._positions()
        return Structure.of(
            row | {"definition": as_parsed_again(str(row["definition"]))}
            for row in rows
            if row["kind"] not in _NOT_CARRIED
        )

    def _own(self) -> list[dict[str, Any]]:
        (found,) = self.who.ask(self.database, "cutover_database")
        return [{"kind": "database's own", "name": name, "definition": value} for name, value in found.items()]

    def _positions(self) -> list[dict[str, Any]]:
        names = [row["name"] for row in self.who.ask(self.database, "cutover_sequences")]
        selects = [
            as_text(SQL("select 'position of sequence' as kind, {} as name, ").format(Literal(name)))  # noqa: S608 - the server quoted it
            + f"last_value || ' ' || is_called as definition from {name}"
            for name in names
        ]
        return self._in_parts(selects)

    def tables(self) -> list[str]:
        """Every table with rows of its own, as the server quotes it."""
        return [row["name"] for row in self.who.ask(self.database, "cutover_tables")]

    def digests(self, tables: Iterable[str], key: bytes) -> dict[str, TableDigest]:
        """Digests of ``tables`` and of the large objects; rows never leave the server."""
        secret = as_text(Literal(key))
        selects = {name: digest_statement(f"{name} t", secret) for name in tables}
        selects[LARGE_OBJECTS] = digest_statement(
            "(select * from pg_catalog.pg_largeobject "
            "where pg_catalog.length(pg_catalog.rtrim(data, '\\x00'::pg_catalog.bytea)) > 0) t",
            secret,
            _PAGE,
        )
        named = [
            as_text(SQL("select {} as name, counted.* from (").format(Literal(name)))  # noqa: S608 - the server quoted it
            + f"{select}) counted"
            for name, select in selects.items()
        ]
        return {
            row["name"]: digest_of(row["name"], row["rows"], (row[f"s{number}"] for number in range(1, 5)), key)
            for row in self._in_parts(named)
        }

    def _in_parts(self, selects: list[str]) -> list[dict[str, Any]]:
        parts = (selects[at : at + _MANY] for at in range(0, len(selects), _MANY))
        return [row for part in parts for row in self.who.ask_all(self.database, part)]


def compare(expected: Side, observed: Side, key: bytes) -> list[Check]:
    """Structure and rows of both; FAILED names what differs. Nobody may write to either in the meantime."""
    source, copy = "the copy", "the transferred database"
    structure = structure_equal(
        expected.structure(), observed.structure(), name="transferred structure", source=source, copy=copy
    )
    tables = expected.tables()
    there = set(observed.tables())
    rows = rows_equal(
        expected.digests(tables, key),
        observed.digests([name for name in tables if name in there], key)
        | {name: TableDigest(exists=False, reason="there is no such table") for name in tables if name not in there},
    )
    return [
        structure,
        rows.model_copy(update={"name": "transferred rows", "proves": "every row was transferred, and no other"}),
    ]
