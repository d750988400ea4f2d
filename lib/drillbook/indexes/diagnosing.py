"""Why an index is in no plan: each reason is what an experiment on the copy shows, by plans alone; nothing is executed."""

from __future__ import annotations

from collections.abc import Sequence

from drillbook.errors import PostgresError
from drillbook.indexes import rewriting
from drillbook.indexes.bench import Bench, Variant
from drillbook.indexes.building import Built
from drillbook.indexes.findings import CandidateSeen, WhyNot
from drillbook.indexes.judging import IndexClass, Reason
from drillbook.indexes.migration import MigrationQuery
from drillbook.postgres.client import SQL

# The rule that helps says what is lacking; the others change what only a plan can tell.
_BY_RULE = {
    "parenthesise": Reason.PRECEDENCE,
    "missing equality": Reason.COLUMN_MISSING,
    "then sort": Reason.ORDER_NOT_USABLE,
}
_INVALID_OBJECT = "42P17"
_REFUSALS = {
    "42703": "a column or function argument does not exist",
    "42P01": "the table does not exist",
    "3F000": "the schema does not exist",
    "42P07": "the name is taken",
    "23505": "rows are not unique",
    "54000": "a row is too long for the index",
    "42704": "a type or operator class does not exist",
    "25001": "CONCURRENTLY can't run in a transaction",
}


def why_not_created(built: Built, bench: Bench) -> tuple[WhyNot, ...]:
    """Why the server refused the statement, by its SQLSTATE and the catalogue."""
    if built.sqlstate == _INVALID_OBJECT:
        # CREATE INDEX says so of nothing else: a function, or what stands behind an operator or a cast.
        volatile = [name for name in rewriting.functions_in(built.proposed.sql) if not _immutable(bench, name)]
        culprit = (
            f"{', '.join(volatile)} is not IMMUTABLE" if volatile else "an operator or cast in it is not IMMUTABLE"
        )
        return (WhyNot(reason=Reason.NOT_IMMUTABLE, shown_by=f"SQLSTATE {built.sqlstate}: {culprit}"),)
    said = _REFUSALS.get(built.sqlstate, built.message)
    return (WhyNot(reason=Reason.REFUSED, shown_by=f"SQLSTATE {built.sqlstate}: {said}"),)


def why_unused(
    bench: Bench,
    built: Built,
    variants: Sequence[Variant],
    others: Sequence[tuple[str, str]],
    candidates: Sequence[CandidateSeen],
) -> tuple[WhyNot, ...]:
    """Why no variant's plan has the index, in the order in which the planner asks: may it be used, does it fit, is it cheap."""
    if not built.row["is_valid"]:
        shown = "it was created INVALID: a partitioned table's ON ONLY has no index on the partitions yet"
        return (WhyNot(reason=Reason.INVALID, shown_by=shown),)
    found: dict[Reason, WhyNot] = {}
    for query in dict.fromkeys(variant.query.name for variant in variants):
        plain = [item for item in variants if item.query.name == query and not item.generic and not item.limit]
        for variant in plain[:1]:
            why = _of_query(bench, built, variant, others, candidates)
            found.setdefault(why.reason, why)
    return tuple(found.values())


def _of_query(
    bench: Bench,
    built: Built,
    variant: Variant,
    others: Sequence[tuple[str, str]],
    candidates: Sequence[CandidateSeen],
) -> WhyNot:
    sql = variant.query.sql
    if _fits(bench, built, variant, sql, others):
        return _cheaper(bench, built, variant, others, candidates)
    predicate = str(built.row["predicate"])
    if rewriting.precedence_is_mixed(sql):
        grouped = rewriting.grouped(sql)
        if _fits(bench, built, variant, grouped, others):
            shown = "AND binds tighter than OR: with the OR in parentheses the planner can use it"
            return WhyNot(reason=Reason.PRECEDENCE, shown_by=shown)
    if predicate:
        implied = rewriting.condition_added(sql, predicate)
        if _fits(bench, built, variant, implied, others):
            shown = f"with the condition {predicate} in the query the planner can use it"
            return WhyNot(reason=Reason.PREDICATE_NOT_IMPLIED, shown_by=shown)
    ordered = rewriting.sort_columns(sql)
    if ordered and set(ordered) & set(built.row["columns"]) and not rewriting.restricted(sql, built.row["columns"]):
        shown = f"its keys do not give the order by {', '.join(ordered)}, in either direction"
        return WhyNot(reason=Reason.ORDER_NOT_USABLE, shown_by=shown)
    first = str(built.row["keys"][0]).rsplit(" ", 3)[0]
    shown = f"with everything else forbidden it is in no plan: no condition or order of the query fits {first}"
    return WhyNot(reason=Reason.COLUMN_MISSING, shown_by=shown)


def _cheaper(
    bench: Bench,
    built: Built,
    variant: Variant,
    others: Sequence[tuple[str, str]],
    candidates: Sequence[CandidateSeen],
) -> WhyNot:
    """It fits, and isn't chosen: a candidate that is shows what it lacks."""
    lacks = lacking(candidates, [variant.query])
    if lacks:
        return lacks[0]
    with bench.without(others):
        chosen = bench.shown(variant)
    return WhyNot(reason=Reason.NOT_PREFERRED, shown_by=f"it could be used; the planner takes {chosen.shape}")


def lacking(candidates: Sequence[CandidateSeen], queries: Sequence[MigrationQuery]) -> tuple[WhyNot, ...]:
    """What an index lacks, by the first candidate of each query that helps."""
    found: list[WhyNot] = []
    for query in queries:
        for item in candidates:
            reason = next((why for words, why in _BY_RULE.items() if words in item.rule), None)
            if item.query and item.rule != rewriting.SPLIT:
                reason = Reason.PRECEDENCE  # whatever else the rule changed: it helps the query as it was meant
            if item.index_class is IndexClass.HELPS and item.for_query == query.name and reason is not None:
                where = f"with the query {item.query}: {item.sql}" if item.query else item.sql
                found.append(WhyNot(reason=reason, shown_by=f"{item.rule}: used, and helps: {where}"))
                break
    return tuple(found)


def _fits(bench: Bench, built: Built, variant: Variant, sql: str, others: Sequence[tuple[str, str]]) -> bool:
    """Whether the planner has any plan with the index once everything else of its table is out of the way."""
    asked = variant.asking(sql)
    try:
        with bench.without(others):
            for row in bench.db.ask(SQL(_RIVALS), table=built.row["table_oid"], index=built.row["oid"]):
                bench.db.run_text(row["drop"])
            for name in ("enable_seqscan", "enable_tidscan"):
                bench.db.run(SQL(f"SET LOCAL {name} = off"))
            return bool(set(bench.shown(asked).indexes) & set(built.row["names"]))
    except PostgresError:
        return False  # a query rewritten beyond what the server takes shows nothing


def _immutable(bench: Bench, name: str) -> bool:
    rows = bench.db.ask(
        SQL("SELECT bool_and(provolatile = 'i') AS immutable FROM pg_catalog.pg_proc WHERE proname = %(name)s"),
        name=name,
    )
    return bool(rows[0]["immutable"]) or rows[0]["immutable"] is None


# The other indexes of a table, as what takes each away: a constraint's goes with its constraint.
_RIVALS = """\
SELECT CASE WHEN k.conname IS NULL THEN format('DROP INDEX %%I.%%I CASCADE', n.nspname, c.relname)
            ELSE format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I CASCADE', tn.nspname, t.relname, k.conname) END AS drop
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %(table)s::oid AND i.indexrelid <> %(index)s::oid"""
