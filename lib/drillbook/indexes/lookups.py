"""A query for an index that none was given for: a look-up by its own key, with a key that is neither rare nor frequent."""

from __future__ import annotations

from drillbook.indexes.building import Built
from drillbook.indexes.migration import MigrationQuery
from drillbook.postgres.client import SQL, Identifier

_CONTAINS = ("gin", "gist")
GENERATED = "look-up by its own key, generated"


def lookup(built: Built) -> MigrationQuery | None:
    """The look-up: equality on every key of a B-tree or hash index, containment for the first of a GIN or GiST one.

    The expressions are the catalogue's own. None for a method that nothing is known about.
    """
    row = built.row
    table = Identifier(row["table_schema"], row["table_name"])
    keys = [SQL(str(key).rsplit(" ", 3)[0]) for key in row["keys"]]
    predicate = [SQL("({})").format(SQL(str(row["predicate"])))] if row["predicate"] else []
    if row["method"] in ("btree", "hash"):
        conditions = [SQL("{} = {}").format(key, SQL(f"${number}")) for number, key in enumerate(keys, 1)]
        columns = [Identifier(f"k{number}") for number in range(len(keys))]
        known = SQL(" AND ").join([*predicate, *(SQL("{} IS NOT NULL").format(key) for key in keys)])
        named = SQL(", ").join([SQL("{} AS {}").format(key, name) for key, name in zip(keys, columns, strict=True)])
        values = SQL(_TYPICAL).format(columns=SQL(", ").join(columns), named=named, table=table, known=known)
    elif row["method"] in _CONTAINS:
        conditions = [SQL("{} @> $1").format(keys[0])]
        known = SQL(" AND ").join([*predicate, SQL("{} IS NOT NULL").format(keys[0])])
        values = SQL("SELECT {} FROM {} WHERE {} ORDER BY ctid DESC LIMIT 1").format(keys[0], table, known)
    else:
        return None
    query = SQL("SELECT * FROM {} WHERE {}").format(table, SQL(" AND ").join([*predicate, *conditions]))
    return MigrationQuery(
        name=f"{built.label}: {GENERATED}", sql=query.as_string(None), keys={"typical": values.as_string(None)}
    )


_TYPICAL = """\
SELECT {columns} FROM (
    SELECT {columns}, row_number() OVER (ORDER BY count(*), {columns}) AS place, count(*) OVER () AS keys
      FROM (SELECT {named} FROM {table} WHERE {known}) each GROUP BY {columns}) counted
 WHERE place = (keys + 1) / 2"""
