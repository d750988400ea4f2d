"""Indexes are built and dropped on the source: behind a gate, one by one, noted before and after, and the stall measured."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import Changed, ConflictError, RunbookError, VerificationError
from drillbook.evidence.facts import Facts
from drillbook.indexes import build as building
from drillbook.indexes.build import Finished, Limits, State, advisory_key
from drillbook.indexes.canary import Canary, Stall
from drillbook.indexes.shape import WantedIndex
from drillbook.model import Effect, Frozen, show_seconds
from drillbook.postgres.client import SQL, Identifier, Literal, as_text
from drillbook.report.cards import show_bytes
from drillbook.steps.cutover.transfer import superuser_of
from drillbook.steps.indexes.change import IndexChange, PlannedDrop
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.superuser import Superuser

_MORE_SECONDS = 120.0  # a command in a pod may take longer than its statement
BUILT, DROPPED = "built", "dropped"


class ChangedIndexes(Frozen):
    """What was done, index by index, and how long the canary waited at the most."""

    done: tuple[Finished, ...] = ()
    stall: Stall | None = None

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        found = [(one.how, f"{one.name}, {show_seconds(one.seconds)}, {show_bytes(one.bytes)}") for one in self.done]
        return [*found, *([("longest stall of a writer", _stalled(self.stall))] if self.stall else [])]


def _stalled(stall: Stall) -> str:
    if stall.reason:
        return f"not known: {stall.reason}"
    return f"{stall.longest_seconds * 1000:.1f} ms on {stall.table or 'no table'}, in {stall.beats} tries"


@dataclass(frozen=True)
class _ChangeIndexes(Step[ChangedIndexes]):
    """What building and dropping have in common: the sessions, the notes and the canary."""

    gated: ClassVar[bool] = True
    cluster: SourceCluster
    change: IndexChange
    lock_timeout_seconds: int = 60
    statement_timeout_seconds: int = 3600

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    @property
    def limits(self) -> Limits:
        return Limits(lock_seconds=self.lock_timeout_seconds, statement_seconds=self.statement_timeout_seconds)

    def _looking(self, ctx: Context) -> building.Look:
        """A look by Drillbook's own role, in a session of its own."""

        def look(wanted: WantedIndex) -> building.Found:
            with ctx.source(self.change.database, read_only=False) as db:
                return building.look(db, wanted)

        return look

    def _server(self, ctx: Context) -> Superuser:
        most = max(self.limits.statement_seconds + _MORE_SECONDS, ctx.site.limits.step.total_seconds())
        return replace(superuser_of(ctx, self.cluster.ref), timeout_seconds=most)

    def _changed(self, ctx: Context, kind: str, work: list[_Item]) -> ChangedIndexes:
        """Do each item under the canary; what was done before an error is named in it."""
        if not work:
            return ChangedIndexes()
        database, done = self.change.database, []
        with ctx.source(read_only=False) as own:
            own.run("ensure_index_changes")
        server = self._server(ctx)
        tables = [tuple(table.split(".", 1)) for table in self.change.tables]
        key = advisory_key("drillbook canary", ctx.run_id)
        with ExitStack() as stack:
            control = stack.enter_context(ctx.source(database))
            canary = Canary(server, database, tables, control, key)  # type: ignore[arg-type]
            try:
                with canary:
                    for item in work:
                        finished = self._one(ctx, server, kind, item)
                        done.append(finished)
            except RunbookError as error:
                error.rolled_back = not done and error.changed is Changed.NOTHING
                if done:
                    error.changed, error.changes = Changed.DONE, f"{kind}: {', '.join(one.name for one in done)}"
                raise
            finally:
                shown, stall = tuple(one.model_dump(mode="json") for one in done), canary.stall.model_dump(mode="json")
                ctx.recorder.note(
                    Facts(indexes_built=shown, stall_while_built=stall)
                    if kind == BUILT
                    else Facts(indexes_dropped=shown, stall_while_dropped=stall)
                )
        return ChangedIndexes(done=tuple(done), stall=canary.stall)

    def _one(self, ctx: Context, server: Superuser, kind: str, item: _Item) -> Finished:
        ctx.require_lease()
        place = {
            "run_id": ctx.run_id,
            "database": self.change.database,
            "action": kind,
            "schema": item.schema_name,
            "index": item.name,
        }
        more = {"undoes": self.change.undoes, "table": item.table, "statement": item.statement}
        with ctx.source(read_only=False) as own:
            own.run("note_index_change", **place, **more)
        promise = leftover(self.cluster, self.change.database, item.schema_name, item.name)
        ctx.recorder.obligation(promise)
        report = lambda text, fraction: ctx.recorder.progress(text, fraction=fraction)  # noqa: E731 - two words
        if item.wanted is not None:
            done = building.build(server, self.change.database, item.wanted, self.limits, report, self._looking(ctx))
        else:
            done = building.drop(server, self.change.database, item.schema_name, item.name, self.limits, report)
        ctx.recorder.settled(promise, done.how, f"{done.name} is {'valid' if item.wanted else 'gone'}")
        with ctx.source(read_only=False) as own:
            own.run("index_change_done", **place)
        return done


@dataclass(frozen=True)
class _Item:
    """One index to be built (``wanted``) or dropped, and the statement by which it is noted."""

    schema_name: str
    name: str
    table: str
    statement: str
    wanted: WantedIndex | None = field(default=None)


@dataclass(frozen=True)
class BuildIndexes(_ChangeIndexes):
    """Build the indexes one by one, CONCURRENTLY: writers go on.

    Each is noted before it is begun. An INVALID leftover is removed, one that somebody still builds is waited for, one that
    became valid is adopted: so the step can be killed anywhere and done again. A canary measures how long a writer waits.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    no_backup_because: str = ""

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        change, ref = self.change, self.cluster.ref
        left = {one.wanted.place for one in change.indexes if one.state is State.INVALID}
        sql = []
        for wanted in change.to_build:
            sql += [f"DROP INDEX CONCURRENTLY {wanted.quoted}"] if wanted.place in left else []
            sql.append(wanted.sql)
        there = [one.wanted.place for one in change.indexes if one.state is State.VALID]
        touches, lost = _unsaved(self.cluster, self.no_backup_because)
        return Plan(
            summary=f"{len(change.to_build)} indexes built concurrently in {change.database} of {ref}",
            sql=tuple(sql),
            touches=(*(_touch("build", self.cluster, change.database, one.place) for one in change.to_build), *touches),
            lost=lost,
            notes=(
                "no table is closed to writers; each build waits for the transactions that are older",
                "as superuser on the source, by pods/exec: the record says so",
                f"a lock is waited for {self.lock_timeout_seconds} s, a build for {self.statement_timeout_seconds} s at the most",
                *(f"{place} is there, valid and exactly so: it is left as it is" for place in there),
            ),
            harmless=not change.to_build,
        )

    def do(self, ctx: Context) -> ChangedIndexes:
        return self._changed(ctx, BUILT, [_of_wanted(one) for one in self.change.to_build])

    def verify(self, ctx: Context, result: ChangedIndexes) -> None:
        look, wrong = self._looking(ctx), []
        for one in self.change.to_build:
            found = look(one)
            if found.state is not State.VALID:
                wrong.append(f"{one.place} is {found.state}{f': {found.what}' if found.what else ''}")
        if wrong:
            raise VerificationError(
                "not every index is as it should be",
                expected=f"{len(self.change.to_build)} indexes valid and exactly as defined",
                observed="; ".join(wrong),
                todo="Somebody changed them since they were built. Resume builds what is missing.",
            )


def _of_wanted(wanted: WantedIndex) -> _Item:
    return _Item(wanted.schema_name, wanted.name, f"{wanted.schema_name}.{wanted.table}", wanted.sql, wanted)


@dataclass(frozen=True)
class DropIndexes(_ChangeIndexes):
    """Drop the indexes that the change makes redundant, one by one, CONCURRENTLY.

    Only the very definition that was read is dropped. It is noted first, and by it the way back builds the index again.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        change, ref = self.change, self.cluster.ref
        return Plan(
            summary=f"{len(change.drops)} indexes dropped concurrently in {change.database} of {ref}",
            sql=tuple(as_text(_dropping(one)) for one in change.drops),
            touches=tuple(_touch("drop", self.cluster, change.database, one.place) for one in change.drops),
            lost=tuple(f"{one.place}; the way back builds it again: {one.statement}" for one in change.drops),
            harmless=not change.drops,
        )

    def do(self, ctx: Context) -> ChangedIndexes:
        self._require_same(ctx)
        items = [_Item(one.schema_name, one.name, one.table, one.statement) for one in self.change.drops]
        return self._changed(ctx, DROPPED, items)

    def _require_same(self, ctx: Context) -> None:
        """Raise ConflictError if one of them is not the index that was read, and that the gate has shown."""
        if not self.change.drops:
            return
        with ctx.source(self.change.database) as db:
            there = {
                row["given"]: row for row in db.ask("index_drops", names=[_quoted(one) for one in self.change.drops])
            }
        others = [
            f"{one.place} is now {row['statement']}"
            for one in self.change.drops
            if (row := there.get(_quoted(one))) is not None and row["statement"] != one.statement
        ]
        if others:
            raise ConflictError(
                f"not the indexes that were confirmed: {'; '.join(others)}",
                todo="Nothing was dropped. Find out who changed them, then open a new run.",
            )

    def verify(self, ctx: Context, result: ChangedIndexes) -> None:
        with ctx.source(self.change.database) as db:
            left = db.ask("index_drops", names=[_quoted(one) for one in self.change.drops])
        if left:
            raise VerificationError(
                "not every index is gone",
                expected="none of them",
                observed=", ".join(f"{row['schema']}.{row['name']}" for row in left),
                todo="Somebody has built it again. Resume drops what is left.",
            )


def _quoted(one: PlannedDrop) -> str:
    return SQL("{}").format(Identifier(one.schema_name, one.name)).as_string(None)


def _dropping(one: PlannedDrop) -> Any:
    return SQL("DROP INDEX CONCURRENTLY {}").format(Identifier(one.schema_name, one.name))


def _unsaved(cluster: SourceCluster, reason: str) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    """What the plan adds where the runbook was given a reason to back nothing up first: it is confirmed with the change."""
    if not reason:
        return (), ()
    touch = Action("change without a fresh backup of", "Cluster", cluster.ref.namespace, cluster.ref.name)
    return (touch,), (f"no backup was taken before the change, because: {reason}",)


def _touch(verb: str, cluster: SourceCluster, database: str, place: str) -> Action:
    return Action(verb, "Index", cluster.ref.namespace, f"{cluster.ref.name}.{database}.{place}")


def leftover(cluster: SourceCluster, database: str, schema: str, name: str) -> Obligation:
    """The promise that no INVALID index of this name stays, whatever becomes of the run; a valid one is not touched."""
    if_invalid = SQL(
        "set lock_timeout = '30s';\n"
        "select pg_catalog.format('drop index concurrently if exists %I.%I', n.nspname, c.relname)\n"
        "  from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid\n"
        "  join pg_catalog.pg_namespace n on n.oid = c.relnamespace\n"
        " where not (i.indisvalid and i.indislive) and n.nspname = {} and c.relname = {} \\gexec"
    ).format(Literal(schema), Literal(name))
    undo = {
        "verb": "sql",
        "kind": "Cluster",
        "namespace": cluster.ref.namespace,
        "name": cluster.ref.name,
        "database": database,
        "sql": as_text(if_invalid),
    }
    what = "removed if it is left INVALID; a valid index stays, and `drillbook undo` takes it back"
    return Obligation("Index", cluster.ref.namespace, f"{cluster.ref.name}.{database}.{schema}.{name}", what, undo=undo)


__all__ = ["BuildIndexes", "ChangedIndexes", "DropIndexes", "leftover"]
