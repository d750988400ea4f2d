"""How many rows tables hold: all that can be compared over years, when digests were keyed by another run."""

from __future__ import annotations

from collections.abc import Sequence

from drillbook.postgres.checks.rows import DigestTable, find_table
from drillbook.postgres.client import Database


def row_counts(db: Database, tables: Sequence[str]) -> dict[str, int | None]:
    """The rows of each table; None where it isn't there, or its rows aren't in the database. Raises PostgresError."""
    found: dict[str, int | None] = {}
    for name in tables:
        table = find_table(db, name)
        found[name] = None
        if isinstance(table, DigestTable):
            ((count,),) = db.ask_text(f"select pg_catalog.count(*) from {table.quoted}")  # noqa: S608 - the server quoted the name
            found[name] = int(count)
    return found


__all__ = ["row_counts"]
