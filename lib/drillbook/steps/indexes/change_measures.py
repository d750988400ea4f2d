"""Before and after an index change, on production's own statistics: sizes, use, and the plans of the migration's queries.

A query is planned there, never executed: EXPLAIN without ANALYZE, in a read-only transaction. Times are the rehearsal's to
measure, on a copy. What is bound to a query is read from the database and is in no record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.engine.step import CheckStep, Context, Plan, Step
from drillbook.errors import PostgresError
from drillbook.evidence.facts import Facts
from drillbook.indexes.migration import MigrationQuery
from drillbook.indexes.shape import raw
from drillbook.model import Check, Effect, Frozen, Verdict
from drillbook.postgres.client import SQL, Database, Identifier, Literal
from drillbook.report.cards import show_bytes
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.indexes.change import IndexChange
from drillbook.steps.indexes.change_apply import ChangedIndexes
from drillbook.steps.preflight.readiness import SourceCluster


class QueryPlan(Frozen):
    """What the planner would do for a query: the indexes that it would use, and the cost that it estimates.

    ``problem`` says why there is no plan.
    """

    query: str
    indexes: tuple[str, ...] = ()
    cost: float = 0.0
    sorts: bool = False
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"not planned: {self.problem}"
        return f"{', '.join(self.indexes) or 'no index'}, cost {self.cost:,.0f}{', sorts' if self.sorts else ''}"


class IndexUse(Frozen):
    """One index with its size and how often this instance has used it since its counters began."""

    table: str
    name: str
    bytes: int
    scans: int
    valid: bool


class TableState(Frozen):
    """The tables of a change as they are at one moment."""

    tables: tuple[tuple[str, int], ...] = ()
    indexes: tuple[IndexUse, ...] = ()
    plans: tuple[QueryPlan, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        found = [
            ("table", f"{table}: {show_bytes(size)}, {show_bytes(self.index_bytes(table))} of indexes")
            for table, size in self.tables
        ]
        return found + [("query", f"{plan.query}: {plan}") for plan in self.plans]

    def index_bytes(self, table: str) -> int:
        """The size of all indexes of a table."""
        return sum(one.bytes for one in self.indexes if one.table == table)


def table_state(db: Database, change: IndexChange) -> TableState:
    """Sizes, use and plans as this session sees them."""
    rows = db.ask("index_statistics", tables=change.tables)
    return TableState(
        tables=tuple({str(row["table"]): int(row["table_bytes"]) for row in rows}.items()),
        indexes=tuple(
            IndexUse(
                table=row["table"],
                name=row["index"],
                bytes=int(row["index_bytes"]),
                scans=int(row["scans"]),
                valid=bool(row["valid"]),
            )
            for row in rows
            if row["index"]
        ),
        plans=tuple(_plan_of(db, query, f"drillbook_{number}") for number, query in enumerate(change.queries)),
    )


def _plan_of(db: Database, query: MigrationQuery, name: str) -> QueryPlan:
    """The plan for the query's first key; one that can't be had is no fault of the change."""
    sql, how = query.sql, "explain (format json) "
    try:
        with db.snapshot():
            if query.keys:
                values = db.ask_text(next(iter(query.keys.values())))[0]
                bound = SQL(", ").join(Literal(value) for value in values)
                db.ask(raw(f"prepare {name} as {sql}".replace("%", "%%")))
                sql = SQL("execute {} ({})").format(Identifier(name), bound).as_string(None)
            answer = db.ask(raw((how + sql).replace("%", "%%")))
            if query.keys:
                db.ask(SQL("deallocate {}").format(Identifier(name)))
    except PostgresError as error:
        # Its message may quote what was bound: only the SQLSTATE is kept.
        return QueryPlan(query=query.name, problem=f"SQLSTATE {error.sqlstate}")
    except IndexError:
        return QueryPlan(query=query.name, problem="its key has no row")
    told = answer[0]["QUERY PLAN"]
    root = (json.loads(told) if isinstance(told, str) else told)[0]["Plan"]
    nodes = list(_nodes(root))
    return QueryPlan(
        query=query.name,
        indexes=tuple(sorted({node["Index Name"] for node in nodes if "Index Name" in node})),
        cost=float(root["Total Cost"]),
        sorts=any("Sort" in node["Node Type"] for node in nodes),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@dataclass(frozen=True)
class MeasureBefore(Step[TableState]):
    """Sizes and use of the tables' indexes, and how the migration's queries are planned, before anything is changed."""

    cluster: SourceCluster
    change: IndexChange

    def do(self, ctx: Context) -> TableState:
        with ctx.source(self.change.database) as db:
            found = table_state(db, self.change)
        ctx.recorder.note(Facts(indexes_before=found.model_dump(mode="json")))
        return found


@dataclass(frozen=True)
class CompareWithBefore(CheckStep):
    """Every index of the change is as it should be, and what has become of sizes and plans.

    Read from the catalogue and from production's own statistics. A plan that has not changed is shown, not judged: what an
    index is worth, the rehearsal has measured.
    """

    cluster: SourceCluster
    change: IndexChange
    before: TableState
    built: ChangedIndexes
    dropped: ChangedIndexes
    name: ClassVar[str] = "indexes as wanted"
    proves: ClassVar[str] = (
        "what was to be built is valid, what was to be dropped is gone, and nothing was left INVALID"
    )

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.source(self.change.database) as db:
            after = table_state(db, self.change)
        ctx.recorder.note(Facts(indexes_after=after.model_dump(mode="json")))
        return [compared_check(self, self.change, self.before, after)]


def compared_check(step: CheckStep, change: IndexChange, before: TableState, after: TableState) -> Check:
    """The verdict on what is there after a change, with what has become of sizes and plans."""
    there = {(one.table, one.name): one for one in after.indexes}
    faults = []
    for one in (item.wanted for item in change.indexes):
        found = there.get((f"{one.schema_name}.{one.table}", one.name))
        if found is None or not found.valid:
            faults.append(f"{one.place} is {'missing' if found is None else 'INVALID'}")
    faults += [f"{one.place} is still there" for one in change.drops if (one.table, one.name) in there]
    known = {(one.table, one.name) for one in before.indexes if not one.valid}
    faults += [
        f"{one.table}: {one.name} is INVALID" for key, one in there.items() if not one.valid and key not in known
    ]
    details = [
        (table, f"indexes {show_bytes(before.index_bytes(table))}, now {show_bytes(after.index_bytes(table))}")
        for table, _ in after.tables
    ]
    was = {plan.query: plan for plan in before.plans}
    details += [(plan.query, f"{was.get(plan.query, 'not planned')}; now {plan}") for plan in after.plans]
    return step.result(
        Verdict.FAILED if faults else Verdict.VERIFIED,
        expected=f"{len(change.indexes)} indexes valid, {len(change.drops)} gone",
        observed="; ".join(faults) or f"{len(change.indexes)} valid, {len(change.drops)} gone",
        details=tuple(details[:12]),
    )


@dataclass(frozen=True)
class NoteUndone(Step[None]):
    """Note in Drillbook's own database that the run was undone, so that nobody undoes it again."""

    effect: ClassVar[Effect] = Effect.CHANGES
    cluster: SourceCluster
    change: IndexChange
    built: ChangedIndexes
    dropped: ChangedIndexes

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=f"The notes of the run say that it is undone, in database {ctx.site.sql.database}")

    def do(self, ctx: Context) -> None:
        with ctx.source(read_only=False) as own:
            own.run("index_change_undone", run_id=self.change.undoes, database=self.change.database, by=ctx.run_id)


@dataclass(frozen=True)
class AnnounceIndexChange(Announcement):
    """Say what was built and dropped, how long a writer waited at the most, and how to go back; and inform people."""

    cluster: SourceCluster
    change: IndexChange
    built: ChangedIndexes
    dropped: ChangedIndexes

    def observe(self, ctx: Context) -> Sequence[Check]:
        change, ref = self.change, self.cluster.ref
        backup = ctx.recorder.facts.backup_before_the_change
        state = "is NOT PROVEN to be" if ctx.recorder.unmet() else "is"
        stalls = [done.stall for done in (self.built, self.dropped) if done.stall is not None and not done.stall.reason]
        longest = max((stall.longest_seconds for stall in stalls), default=None)
        done = "undone" if change.undoes else "in place"
        counts = f"indexes built: {len(self.built.done)}, dropped: {len(self.dropped.done)}"
        lines = [
            f"{ref}, database {change.database}: {change.migration} {state} {done} ({counts}).",
            f"A writer waited {longest * 1000:.1f} ms at the most."
            if longest is not None
            else "How long a writer waited was not measured.",
            *([f"Backup {backup.backup_id} was taken before."] if backup else []),
            f"The way back: drillbook undo {ctx.run_id}.",
            f"Run {ctx.run_id}.",
        ]
        what = change.migration[0].upper() + change.migration[1:]
        return self.publish(ctx, lines, claim=f"{what} is {done} in {change.database} of {ref.name}")


__all__ = [
    "AnnounceIndexChange",
    "CompareWithBefore",
    "IndexUse",
    "MeasureBefore",
    "NoteUndone",
    "QueryPlan",
    "TableState",
    "compared_check",
    "table_state",
]
