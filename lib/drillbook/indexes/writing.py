"""What an index costs in writes: WAL a row, and the share of heap-only (HOT) updates, by the server's own counts.

An update can be HOT only if no indexed column changes and the new version fits on the row's page. The second depends on how full
a page happens to be; so room is made first, on the copy, by deleting neighbours of the rows that are to be updated. What
is left is the first, which is what an index changes. Everything else is in transactions that are rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drillbook.indexes import rewriting
from drillbook.indexes.bench import Bench
from drillbook.indexes.findings import InsertCost, UpdateCost
from drillbook.indexes.migration import TypicalUpdate
from drillbook.model import Frozen
from drillbook.postgres.client import SQL, Identifier, Literal

SAMPLE = 500
"""Rows that are updated or inserted to measure a cost, one a page."""
HOT_LOSS = 0.1
"""A fall of the HOT share by a tenth or more is a cost that a class names."""
_ATTEMPTS = 4
_PAGES_READ = 50_000  # at most: of a larger table an evenly chosen part


class Written(Frozen):
    """What some writes did: rows, the HOT share of updates, WAL records and bytes a row."""

    rows: int
    hot: float
    records: float
    bytes: float


class Sample(Frozen):
    """Rows of one table without partitions (of a partitioned one its largest part): its oid and name, and their ctids."""

    oid: int
    table: tuple[str, str]
    tids: tuple[str, ...]


def sample(bench: Bench, table_oid: int, where: str = "", *, room: bool) -> Sample:
    """Rows to be written, one a page from evenly spaced pages; ``room`` deletes neighbours of them, on the copy, for good.

    ``where`` is the condition of a typical update, as SQL; "" for any row.
    """
    part = bench.db.ask_one(SQL(_LARGEST_PART).format(Literal(table_oid)))
    name, oid = (str(part["schema"]), str(part["name"])), int(part["oid"])
    share = min(100.0, 100.0 * _PAGES_READ / max(1, int(part["pages"])))
    quoted = Identifier(*name).as_string(None)
    rows = bench.db.run_text(
        f"SELECT min(ctid)::text FROM {quoted} TABLESAMPLE SYSTEM ({share}) REPEATABLE (1) "  # noqa: S608 - the migration's own SQL
        f"WHERE {where or 'true'} GROUP BY (ctid::text::point)[0] ORDER BY (ctid::text::point)[0]"
    )
    tids = [str(row[0]) for row in rows]
    chosen = Sample(oid=oid, table=name, tids=tuple(tids[:: max(1, len(tids) // SAMPLE)][:SAMPLE]))
    if tids and room:
        with bench.db.committed():
            bench.db.run(SQL("SET LOCAL session_replication_role = replica"))  # no foreign key stands in the way
            bench.db.run_text(SQL(_MAKE_ROOM).format(Identifier(*name), Literal(list(chosen.tids))))
    return chosen


def updated(bench: Bench, update: TypicalUpdate, rows: Sample, without: Sequence[tuple[str, str]]) -> Written:
    """The update of those rows while the indexes ``without`` are not there. PostgresError if the update itself fails."""
    sql = rewriting.update_of(update.sql, rows.oid, rows.tids)

    def once() -> tuple[dict[str, Any], int, int]:
        before = bench.db.ask_one(SQL(_COUNTS).format(Literal(rows.oid)))
        plan = bench.db.run_text(f"EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) {sql}")[0][0][0]["Plan"]
        after = bench.db.ask_one(SQL(_COUNTS).format(Literal(rows.oid)))
        return plan, int(after["updated"] - before["updated"]), int(after["hot"] - before["hot"])

    return _measured(bench, rows, without, once)


def inserted(bench: Bench, rows: Sample, without: Sequence[tuple[str, str]]) -> Written:
    """The same rows deleted and inserted again while the indexes ``without`` are not there."""
    columns = bench.db.ask(SQL(_COLUMNS).format(Literal(rows.oid)))
    names = SQL(", ").join([Identifier(row["name"]) for row in columns])
    statement = SQL(
        "EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) WITH taken AS (DELETE FROM {0} WHERE ctid = ANY ({1}::tid[]) RETURNING *) "
        "INSERT INTO {0} ({2}) OVERRIDING SYSTEM VALUE SELECT {2} FROM taken"
    ).format(Identifier(*rows.table), Literal(list(rows.tids)), names)

    def once() -> tuple[dict[str, Any], int, int]:
        bench.db.run(SQL("SET LOCAL session_replication_role = replica"))
        return bench.db.run_text(statement)[0][0][0]["Plan"], len(rows.tids), 0

    return _measured(bench, rows, without, once)


def _measured(
    bench: Bench, rows: Sample, without: Sequence[tuple[str, str]], once: Callable[[], tuple[dict[str, Any], int, int]]
) -> Written:
    """The least that ``once`` writes: a page's first change after a checkpoint, or a page that splits, says nothing about an index."""
    attempts = []
    for _ in range(_ATTEMPTS):
        # What an attempt left dead is taken away, so that each finds the same room.
        bench.db.run_text(SQL("VACUUM (INDEX_CLEANUP OFF) {}").format(Identifier(*rows.table)))
        with bench.without(without):
            attempts.append(once())
    plan, count, hot = min(attempts, key=lambda attempt: attempt[0].get("WAL Bytes", 0))
    each = max(1, count)
    return Written(
        rows=count,
        hot=round(hot / each, 3),
        records=round(plan.get("WAL Records", 0) / each, 2),
        bytes=round(plan.get("WAL Bytes", 0) / each),
    )


def update_cost(update: TypicalUpdate, before: Written, after: Written) -> UpdateCost:
    """Two measurements of one update as what the index costs it."""
    return UpdateCost(
        update=update.name,
        rows=after.rows,
        hot_before=before.hot,
        hot_after=after.hot,
        records_before=before.records,
        records_after=after.records,
        bytes_before=before.bytes,
        bytes_after=after.bytes,
    )


def loses_hot(costs: Sequence[UpdateCost]) -> bool:
    """Whether one of the updates is HOT markedly less often with the index."""
    return any(cost.hot_before - cost.hot_after >= HOT_LOSS for cost in costs)


def insert_cost(before: Written, after: Written) -> InsertCost:
    """Two measurements of the same inserts as what the index adds to each."""
    return InsertCost(
        rows=after.rows,
        records_added=max(0.0, round(after.records - before.records, 2)),
        bytes_added=max(0.0, round(after.bytes - before.bytes)),
    )


_LARGEST_PART = """\
WITH RECURSIVE part AS (
    SELECT {}::oid AS oid
    UNION ALL SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid)
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_catalog.pg_relation_size(c.oid) / 8192 AS pages
  FROM part JOIN pg_catalog.pg_class c ON c.oid = part.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') ORDER BY pages DESC, c.oid LIMIT 1"""
_COLUMNS = """\
SELECT attname AS name FROM pg_catalog.pg_attribute
 WHERE attrelid = {}::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"""
_MAKE_ROOM = """\
WITH chosen AS (SELECT tid::tid AS tid FROM unnest({1}::text[]) tid),
neighbour AS (
    SELECT t.ctid AS tid, row_number() OVER (PARTITION BY (t.ctid::text::point)[0] ORDER BY pg_column_size(t.*) DESC, t.ctid) AS place
      FROM {0} t
     WHERE (t.ctid::text::point)[0] IN (SELECT (tid::text::point)[0] FROM chosen)
       AND t.ctid NOT IN (SELECT tid FROM chosen))
DELETE FROM {0} t USING neighbour n WHERE t.ctid = n.tid AND n.place <= 3"""
_COUNTS = """\
SELECT pg_catalog.pg_stat_get_xact_tuples_updated({0}::oid) AS updated,
       pg_catalog.pg_stat_get_xact_tuples_hot_updated({0}::oid) AS hot"""
