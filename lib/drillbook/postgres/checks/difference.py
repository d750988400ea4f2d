"""Which rows of a table two databases do not share: only in the one, only in the other, or changed; by primary key.

Nothing but digests leaves the server, and only counts are kept.
"""

from __future__ import annotations

from drillbook.model import Frozen
from drillbook.postgres.checks.common import counted, pinned
from drillbook.postgres.checks.rows import DigestTable, find_table
from drillbook.postgres.checks.yielding import Watch, patiently
from drillbook.postgres.client import Database

MOST_ROWS = 200_000
"""A larger table is compared by its number of rows only: each row is a digest in this process's memory."""


class Rows(Frozen):
    """A table's rows in one database: how many, and each one's digest by its key's; ``reason``: why they aren't known."""

    exists: bool = True
    count: int = 0
    columns: tuple[str, ...] = ()
    by_key: dict[str, str] | None = None
    reason: str = ""


class Difference(Frozen):
    """What the copy and production do not share of a table; None where rows could not be distinguished."""

    table: str
    only_in_copy: int | None = None
    only_in_production: int | None = None
    changed: int | None = None
    said: str = ""

    @property
    def known(self) -> bool:
        return self.only_in_copy is not None

    def __str__(self) -> str:
        if not self.known:
            return self.said
        parts = [
            f"{self.only_in_copy:,} only in the copy",
            f"{self.only_in_production:,} only in production",
            f"{self.changed:,} changed",
        ]
        return ", ".join(parts)


def rows_of(db: Database, table: str, watch: Watch | None = None) -> Rows:
    """The table's rows; on the source ``watch`` makes the read give way. Raises PostgresError."""

    def look() -> Rows:
        with watch.reading(db) if watch is not None else pinned(db):
            found = find_table(db, table)
            if not isinstance(found, DigestTable):
                return Rows(exists=found.exists, reason=found.reason)
            known = db.ask_one("table_identity", table=found.quoted)
            ((count,),) = db.ask_text(f"select pg_catalog.count(*) from {found.quoted}")  # noqa: S608 - the server quoted the name
            columns = tuple(known["columns"])
            if not known["key"] or count > MOST_ROWS:
                why = "it has no primary key" if not known["key"] else f"it has more than {MOST_ROWS:,} rows"
                return Rows(count=count, columns=columns, reason=why)
            row = ", ".join(columns)
            pairs = db.ask_text(
                f"select pg_catalog.md5(row({', '.join(known['key'])})::text), pg_catalog.md5(row({row})::text) "  # noqa: S608 - quoted by the server
                f"from {found.quoted}"
            )
            return Rows(count=count, columns=columns, by_key=dict(pairs))

    return patiently(look)


def difference(table: str, copy: Rows, production: Rows) -> Difference:
    """What the two do not share."""
    if not copy.exists or not production.exists:
        where = "only in the copy" if copy.exists else "only in production" if production.exists else "in neither"
        return Difference(
            table=table, said=f"the whole table is {where}: {counted(copy.count or production.count, 'row')}"
        )
    if copy.by_key is None or production.by_key is None or copy.columns != production.columns:
        why = copy.reason or production.reason or "its columns differ"
        return Difference(
            table=table,
            said=f"{copy.count:,} rows in the copy, {production.count:,} in production ({why}: counted only)",
        )
    theirs = production.by_key
    return Difference(
        table=table,
        only_in_copy=len(copy.by_key.keys() - theirs.keys()),
        only_in_production=len(theirs.keys() - copy.by_key.keys()),
        changed=sum(theirs[key] != row for key, row in copy.by_key.items() if key in theirs),
    )


__all__ = ["MOST_ROWS", "Difference", "Rows", "difference", "rows_of"]
