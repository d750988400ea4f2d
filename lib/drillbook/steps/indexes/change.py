"""What an index change is going to do on this server: read from the migration and the catalogue, every fault at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import run_folders
from drillbook.engine.noted import INDEX_CHANGES
from drillbook.engine.step import Context, Step
from drillbook.errors import NotReady, ParameterError, PostgresError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.indexes.build import State, look
from drillbook.indexes.migration import Migration, MigrationQuery, ProposedIndex, load_migration
from drillbook.indexes.shape import WantedIndex
from drillbook.indexes.statements import as_sql_name
from drillbook.model import Frozen
from drillbook.postgres.client import SQL, Database, Literal
from drillbook.steps.backup.safety_backup import BackUpBeforeCutover
from drillbook.steps.cutover.swap_check import tenant_of
from drillbook.steps.preflight.readiness import CheckReadiness, Rights, SourceCluster

TOO_LONG = 63  # bytes of a name that PostgreSQL keeps


class PlannedIndex(Frozen):
    """An index to be built, and what there is under its name before."""

    wanted: WantedIndex
    state: State = State.ABSENT


class PlannedDrop(Frozen):
    """An index to be dropped: where it is, and the statement that would make it again, as the catalogue says it."""

    schema_name: str
    name: str
    table: str
    statement: str

    @property
    def place(self) -> str:
        return f"{self.schema_name}.{self.name}"


class IndexChange(Frozen):
    """The indexes to be built and dropped in one database; ``undoes`` is the run that this goes back from, "" for none."""

    database: str
    migration: str
    digest: str
    indexes: tuple[PlannedIndex, ...] = ()
    drops: tuple[PlannedDrop, ...] = ()
    queries: tuple[MigrationQuery, ...] = ()
    undoes: str = ""

    @property
    def to_build(self) -> tuple[WantedIndex, ...]:
        """The indexes that are not there yet."""
        return tuple(one.wanted for one in self.indexes if one.state is not State.VALID)

    @property
    def tables(self) -> list[str]:
        """The tables that it touches, as schema.table."""
        of_indexes = {f"{one.wanted.schema_name}.{one.wanted.table}" for one in self.indexes}
        return sorted(of_indexes | {one.table for one in self.drops})

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        built = [("to be built", f"{one.wanted.place}, now {one.state}") for one in self.indexes]
        return built + [("to be dropped", one.place) for one in self.drops]


@dataclass(frozen=True)
class CheckChangeReadiness(CheckReadiness):
    """The right cluster, and the rights to change its indexes.

    Cluster, identity pin, rights and the role's grants are checked together, so that all faults are reported together
    while nothing has been touched. ParameterError if the database is no tenant of the profile.
    """

    source_rights: ClassVar[Rights] = (
        *CheckReadiness.source_rights,
        ("create", k8s.BACKUP, ""),
        ("create", k8s.POD, "exec"),
        ("get", k8s.PVC, ""),
    )
    granted_by: ClassVar[str] = "deploy/rbac/, deploy/recover/"
    makes_a_copy: ClassVar[bool] = False
    compares_rows: ClassVar[bool] = False

    database: str

    def do(self, ctx: Context) -> SourceCluster:
        tenant_of(ctx, self.database)
        ctx.recorder.note(Facts(test=TestKind(type="indexes changed without a stall")))
        return super().do(ctx)


@dataclass(frozen=True)
class BackUpBeforeChange(BackUpBeforeCutover):
    """Back up the cluster before its indexes are changed, and name the backup in the record.

    An index holds nothing that its table does not, so the way back needs no backup; what else goes wrong does.
    """

    name: ClassVar[str] = "backup before the change"
    proves: ClassVar[str] = "the cluster can be restored as it was before the change"


@dataclass(frozen=True)
class ReadIndexChange(Step[IndexChange]):
    """Read what the migration proposes, and what the catalogue has of it.

    Each index is made on an empty temporary copy of its table, in a session of Drillbook's own role, so that the server says
    what it is and whether it can be made at all. A name that is something else's, a table that is not there or is
    partitioned, an index that is more than an index and can't be dropped: all faults together, while nothing has been touched.
    """

    cluster: SourceCluster
    database: str
    migration: str

    def do(self, ctx: Context) -> IndexChange:
        if not (path := self.migration or ctx.site.index_migration):
            fault = "migration: none is given, and the profile names none (index_migration)"
            raise ParameterError([fault], where="index migration", todo="Give the path of a YAML or SQL file.")
        given = load_migration(_found(path))
        with ctx.source(self.database, read_only=False) as db:
            faults = [f"database: the migration is for {given.database}"] if self._is_anothers(given) else []
            look_where(db, tenant_of(ctx, self.database).app_role)
            indexes = _planned(db, given.indexes, faults)
            drops = planned_drops(db, given.drop, faults)
        faults += [
            f"{drop.place} is built and dropped by the same migration"
            for drop in drops
            if any(one.wanted.place == drop.place for one in indexes)
        ]
        if faults:
            raise NotReady(faults, where=f"index migration {given.name} on {self.database} of {self.cluster.ref}")
        found = IndexChange(
            database=self.database,
            migration=given.name,
            digest=given.digest,
            indexes=tuple(indexes),
            drops=tuple(drops),
            queries=given.queries,
        )
        ctx.recorder.note(Facts(index_change={"migration": given.name, "digest": given.digest, "file": given.file}))
        return found

    def _is_anothers(self, given: Migration) -> bool:
        return given.database not in ("", self.database)


def _found(path: str) -> Path:
    """The migration's file: as the path says, or in the project, from wherever the notebook is run."""
    place = Path(path).expanduser()
    inside = run_folders.project_root() / place
    return inside if not place.is_file() and inside.is_file() else place


def look_where(db: Database, role: str) -> None:
    """Look for unqualified names where the application's role looks for them, if that was set for it."""
    for row in db.ask("index_search_path", role=role):
        db.ask(SQL("select pg_catalog.set_config('search_path', {}, false)").format(Literal(row["path"])))


def _planned(db: Database, proposed: Sequence[ProposedIndex], faults: list[str]) -> list[PlannedIndex]:
    tables = [as_sql_name(one.statement.table) for one in proposed]
    there = {row["given"]: row for row in db.ask("index_tables", names=sorted(set(tables)))}
    found = []
    for one, table in zip(proposed, tables, strict=True):
        row = there.get(table)
        fault = _table_fault(one, table, row)
        if fault or row is None:
            faults.append(f"{one.label}: {fault}")
            continue
        wanted = WantedIndex.of(one.sql, schema=str(row["schema"]))
        state = State.ABSENT
        try:
            state = _compared(db, wanted, faults)
        except PostgresError as error:
            faults.append(f"{one.label} can't be made: {error.what} (SQLSTATE {error.sqlstate})")
        found.append(PlannedIndex(wanted=wanted, state=state))
    return found


def _table_fault(one: ProposedIndex, table: str, row: dict[str, Any] | None) -> str:
    if not one.name:
        return "names no index: give it a name, by which it is found again"
    if len(one.name.encode()) > TOO_LONG:
        return f"its name is longer than {TOO_LONG} bytes: PostgreSQL would cut it"
    if row is None:
        return f"there is no table {table} (one that is not qualified is looked for where the application's role looks)"
    if row["kind"] == "p":
        return f"{table} is partitioned: CONCURRENTLY builds on each partition by itself; name these, then ATTACH"
    return ""


def _compared(db: Database, wanted: WantedIndex, faults: list[str]) -> State:
    """What there is under the name; something else there is a fault. Raises PostgresError if the index can't be made."""
    found = look(db, wanted)
    if found.state is State.DIFFERENT:
        faults.append(f"the name is taken: {found.what}")
    return found.state


def planned_drops(db: Database, names: Sequence[str], faults: list[str]) -> list[PlannedDrop]:
    """The indexes of these names as they are, with a fault for each that can't be dropped without more than speed being lost."""
    there = {row["given"]: row for row in db.ask("index_drops", names=list(names))}
    found = []
    for name in names:
        row = there.get(name)
        if row is None:
            continue  # gone already: what the migration wants
        reasons = [
            (row["of_constraint"] is not None, f"it is of constraint {row['of_constraint']}"),
            (row["is_unique"], "it is unique: it forbids rows"),
            (row["is_identity"], "it is the table's replica identity"),
            (row["is_clustered"], "the table is clustered by it"),
            (row["is_partitioned"], "it is of a partitioned table"),
        ]
        why = "; ".join(words for holds, words in reasons if holds)
        if why:
            faults.append(f"{name} is more than an index that is not needed: {why}")
        found.append(
            PlannedDrop(
                schema_name=row["schema"],
                name=row["name"],
                table=f"{row['table_schema']}.{row['table_name']}",
                statement=row["statement"],
            )
        )
    return found


@dataclass(frozen=True)
class FindIndexChange(Step[IndexChange]):
    """Find what a run changed of this database's indexes, by what it noted in Drillbook's own database, and reverse it.

    What it dropped is to be built again by the definition that the catalogue had of it; what it built is to be dropped,
    where it is still the index that the run has built. All faults at once.
    """

    cluster: SourceCluster
    database: str
    of_run: str

    def do(self, ctx: Context) -> IndexChange:
        rows = INDEX_CHANGES.rows(ctx, self.database, self.of_run)
        mine = [row for row in rows if not row["undone_by"] and (self.of_run or not row["undoes"])]
        if not mine:
            raise NotReady([INDEX_CHANGES.nothing_left(ctx, self.database, self.of_run)], where=f"{self.cluster.ref}")
        run_id = str(mine[0]["run_id"])
        changed = [row for row in mine if row["run_id"] == run_id]
        faults: list[str] = []
        indexes, drops = [], []
        with ctx.source(self.database, read_only=False) as db:
            for row in changed:
                wanted = WantedIndex.of(row["statement"], schema=str(row["schema_name"]))
                try:
                    state = _compared(db, wanted, faults)
                except PostgresError as error:
                    faults.append(f"{wanted.place} can't be compared: {error.what}")
                    continue
                if row["action"] == "dropped":
                    indexes.append(PlannedIndex(wanted=wanted, state=state))
                elif state is not State.ABSENT:
                    drops += planned_drops(db, [as_sql_name((wanted.schema_name, wanted.name))], [])
        if faults:
            raise NotReady(faults, where=f"the way back of run {run_id} on {self.database} of {self.cluster.ref}")
        ctx.recorder.note(Facts(undoes={"run": run_id, "database": self.database}))
        return IndexChange(
            database=self.database,
            migration=f"the index change of run {run_id}",
            digest="",
            indexes=tuple(indexes),
            drops=tuple(drops),
            undoes=run_id,
        )


__all__ = [
    "BackUpBeforeChange",
    "CheckChangeReadiness",
    "FindIndexChange",
    "IndexChange",
    "PlannedDrop",
    "PlannedIndex",
    "ReadIndexChange",
    "look_where",
    "planned_drops",
]
