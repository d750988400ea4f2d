"""The index that a statement asks for, made on an empty copy of its table, so that the server itself says what it is.

Two definitions are compared as the same server writes both of them (``pg_get_indexdef``). The copy is a temporary table
with the table's name and columns; nothing is written to the table itself, and it is locked no more than by a SELECT.
"""

from __future__ import annotations

from collections.abc import Sequence

import postgast

from drillbook.indexes.statements import NotSql, as_concurrent, one
from drillbook.model import Frozen
from drillbook.postgres.client import SQL, Composed, Identifier


class WantedIndex(Frozen):
    """One index that is to be there: its name, its table, and the statements that make it.

    ``sql`` is CREATE INDEX CONCURRENTLY on the table, ``shape`` the same index on the empty copy. ``columns`` are those of a
    B-tree without expressions, INCLUDE's too; None for any other index.
    """

    schema_name: str
    table: str
    name: str
    sql: str
    shape: str
    columns: tuple[str, ...] | None = None

    @property
    def quoted_table(self) -> str:
        """Schema and name of the table, as SQL needs them."""
        return SQL("{}").format(Identifier(self.schema_name, self.table)).as_string(None)

    @property
    def place(self) -> str:
        """Schema and name of the index, for people."""
        return f"{self.schema_name}.{self.name}"

    @property
    def quoted(self) -> str:
        """Schema and name of the index, as SQL needs them."""
        return SQL("{}").format(Identifier(self.schema_name, self.name)).as_string(None)

    @classmethod
    def of(cls, sql: str, *, schema: str) -> WantedIndex:
        """The index of one CREATE INDEX; ``schema`` is the table's, where the statement names none.

        Raises NotSql if it is no CREATE INDEX, or one that names no index.
        """
        found = one(sql)
        if found.kind != "create index" or not found.name:
            raise NotSql([(1, "expected a CREATE INDEX that names its index")])
        *named, table = found.table
        return cls(
            schema_name=named[0] if named else schema,
            table=table,
            name=found.name,
            sql=as_concurrent(sql),
            shape=on_empty_copy(sql),
            columns=_columns(sql),
        )

    def making_shape(self) -> Sequence[Composed | SQL]:
        """The statements that make the empty copy and the index on it, in one session."""
        copied = Identifier("pg_temp", self.table), Identifier(self.schema_name, self.table)
        # A copy of a copy of earlier is in the way when several indexes of a table are looked at.
        drop = SQL("drop table if exists {}").format(copied[0])
        return [drop, SQL("create temporary table {} (like {})").format(*copied), raw(self.shape)]


def on_empty_copy(sql: str) -> str:
    """A CREATE INDEX on the temporary table of the same name. Raises NotSql if ``sql`` is anything else."""
    if one(sql).kind != "create index":
        raise NotSql([(1, "expected a CREATE INDEX")])
    tree = postgast.parse(sql)
    index = tree.stmts[0].stmt.index_stmt
    index.relation.schemaname = "pg_temp"
    index.concurrent = index.if_not_exists = False
    index.table_space = ""  # a tablespace is where an index lies, not what it is
    return str(postgast.deparse(tree))


def _columns(sql: str) -> tuple[str, ...] | None:
    index = postgast.parse(sql).stmts[0].stmt.index_stmt
    elements = [item.index_elem for item in (*index.index_params, *index.index_including_params)]
    if index.access_method not in ("", "btree") or any(not element.name for element in elements):
        return None
    return tuple(element.name for element in elements)


def raw(sql: str) -> SQL:
    """A statement as somebody else has written it, to be sent as it is."""
    return SQL(sql)


__all__ = ["WantedIndex", "on_empty_copy", "raw"]
