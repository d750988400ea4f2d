"""What is asked before indexes are changed, and after: on a real server, each seen to fail and to be silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server, run
from tests.library.fix_psql import Psql

from drillbook.engine import undo as restoring
from drillbook.errors import PostgresError
from drillbook.indexes.build import Limits, State, build, look
from drillbook.indexes.migration import MigrationQuery
from drillbook.indexes.shape import WantedIndex
from drillbook.model import ClusterRef, Verdict
from drillbook.postgres.client import Database
from drillbook.steps.indexes.change import IndexChange, PlannedDrop, PlannedIndex, look_where, planned_drops
from drillbook.steps.indexes.change_apply import leftover
from drillbook.steps.indexes.change_checks import (
    NoOtherInvalid,
    index_bytes,
    invalid_check,
    is_flyways,
    old_transactions,
)
from drillbook.steps.indexes.change_measures import CompareWithBefore, TableState, compared_check, table_state
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap.superuser import Superuser

TABLES = (
    "create schema app",
    "create table app.t (id int primary key, status text, note text)",
    "insert into app.t select n, case n % 50 when 0 then 'NEW' else 'CLOSED' end, 'note ' || n from generate_series(1, 20000) n",
    "create index by_note on app.t (note)",
    "analyze app.t",
)
INDEX = "create index by_status on app.t (status, id)"
CLUSTER = SourceCluster(
    ref=ClusterRef(namespace="db", name="pg"), uid="u", system_id="1", timeline=1, primary="pg-1", server_name="pg",
    location="s3://b", server_version=180000, image="", storage_class="",
)  # fmt: skip


@pytest.fixture
def database(server: Server) -> str:
    return server.new_database(*TABLES)


@pytest.fixture
def nobody(server: Server, database: str) -> Iterator[Database]:
    """A session of a role without any right to see others, as deploy/sql makes Drillbook's own: it reads one schema."""
    role = f"drill_{database}"
    server.sql("postgres", f"create role {role} login password '{PASSWORD}'")
    server.sql(database, f"grant usage on schema app to {role}", f"grant select on all tables in schema app to {role}")
    with Database.connect(server.address, user=role, password=PASSWORD, dbname=database, read_only=False) as db:
        yield db


def wanted(sql: str = INDEX) -> WantedIndex:
    return WantedIndex.of(sql, schema="app")


def change(
    *, drops: tuple[PlannedDrop, ...] = (), queries: tuple[MigrationQuery, ...] = (), sql: str = INDEX
) -> IndexChange:
    return IndexChange(
        database="d",
        migration="m",
        digest="",
        indexes=(PlannedIndex(wanted=wanted(sql)),),
        drops=drops,
        queries=queries,
    )


@contextmanager
def open_transaction(server: Server, database: str, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host=server.address.host, port=server.address.port, user=SUPERUSER, password=PASSWORD, dbname=database,
        application_name="nightly report",
    ) as other:  # fmt: skip
        for statement in statements:
            other.execute(statement)
        yield other
        other.rollback()


@pytest.mark.parametrize("role", ["nobody", "monitor"])
def test_i14_an_open_transaction_is_named_whether_or_not_its_age_may_be_seen(
    server: Server, database: str, nobody: Database, role: str
) -> None:
    waits: list[float] = []
    with server.reader(database) as monitor:
        db = nobody if role == "nobody" else monitor
        assert old_transactions(db, waits.append, 0.0)[0] == []
        with open_transaction(server, database, "select 1"):
            (found,), how = old_transactions(db, waits.append, 0.0)
    assert "nightly report" in found
    assert bool(waits) == (role == "nobody"), how


def test_i14_transactions_of_other_databases_and_those_that_end_are_in_nobodys_way(
    server: Server, database: str, nobody: Database
) -> None:
    with open_transaction(server, "postgres", "select 1"):
        assert old_transactions(nobody, lambda _: None, 0.0)[0] == []
    with open_transaction(server, database, "select 1") as other:

        def another(_: float) -> None:
            """It ends between the two looks, and the next one begins."""
            other.rollback()
            other.execute("select 1")

        found, _ = old_transactions(nobody, another, 0.0)
    assert found == []


@pytest.mark.parametrize("hashed", [0, 77, 2**31 - 1, -(2**31), -1])
def test_i14_flyways_lock_is_known_whatever_its_history_table_is_called(
    server: Server, database: str, nobody: Database, hashed: int
) -> None:
    key = 77431708279161 + hashed
    with open_transaction(server, database, f"select pg_advisory_xact_lock({key})"):
        (row,) = nobody.ask("index_advisory_locks")
    assert row["whole"] and is_flyways(int(row["key"])) and "nightly" in row["application"]
    assert nobody.ask("index_advisory_locks") == []


@pytest.mark.parametrize(
    "lock", ["pg_advisory_xact_lock(4711)", "pg_advisory_xact_lock(18028, 1)", "pg_advisory_xact_lock(-1)"]
)
def test_i14_an_applications_own_lock_is_not_flyways(
    server: Server, database: str, nobody: Database, lock: str
) -> None:
    with open_transaction(server, database, f"select {lock}"):
        (row,) = nobody.ask("index_advisory_locks")
    assert not (row["whole"] and is_flyways(int(row["key"])))


@pytest.mark.parametrize("where", ["own", "another of the table", "of another table", "none"])
def test_i14_an_invalid_index_is_in_the_way_where_it_is_not_the_changes_own(
    server: Server, database: str, nobody: Database, where: str
) -> None:
    spoil = "update pg_index set indisvalid = false where indexrelid = '{}'::regclass"
    statements = {
        "own": (INDEX, spoil.format("app.by_status")),
        "another of the table": (spoil.format("app.by_note"),),
        "of another table": ("create table app.u (a int)", "create index on app.u (a)", spoil.format("app.u_a_idx")),
        "none": (),
    }
    server.sql(database, *statements[where])
    this = change()
    found = invalid_check(NoOtherInvalid(CLUSTER, this), this, nobody.ask("index_invalid_on", tables=this.tables))
    assert found.verdict is (Verdict.FAILED if where == "another of the table" else Verdict.VERIFIED)
    assert bool(found.details) == (where in ("own", "of another table"))
    if found.verdict is Verdict.FAILED:
        assert "app.by_note on app.t" in found.observed


SIZES = {
    "columns": INDEX,
    "partial": "create index by_status on app.t (status) where id > 19000",
    "included": "create index by_status on app.t (status) include (note)",
    "expression": "create index by_status on app.t (lower(note))",
    "gin": "create index by_status on app.t using gin (to_tsvector('simple', note))",
}


@pytest.mark.parametrize("sql", SIZES.values(), ids=SIZES)
def test_i14_the_room_that_is_asked_for_is_not_less_than_the_index_takes(
    server: Server, superuser: Superuser, database: str, nobody: Database, sql: str
) -> None:
    estimate = index_bytes(nobody, [wanted(sql)])["app.by_status"]
    built = build(
        superuser, database, wanted(sql), Limits(look_seconds=0.1), lambda *_: None, lambda index: look(nobody, index)
    )
    assert estimate >= built.bytes > 0


DROPS = {
    "of a constraint": ("app.t_pkey", "it is of constraint t_pkey"),
    "unique": ("app.only_once", "it is unique"),
    "replica identity": ("app.identity", "replica identity"),
    "clustered by": ("app.by_note", "clustered by it"),
    "of a partition": ("app.p1_a_idx", "partitioned"),
    "of a partitioned table": ("app.by_a", "partitioned"),
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_i14_an_index_that_is_more_than_an_index_is_not_dropped(
    server: Server, database: str, nobody: Database, drop: tuple[str, str]
) -> None:
    name, why = drop
    server.sql(
        database,
        "create unique index only_once on app.t (id, note)",
        "create table app.i (a int not null)",
        "create unique index identity on app.i (a)",
        "alter table app.i replica identity using index identity",
        "cluster app.t using by_note",
        "create table app.p (a int) partition by range (a)",
        "create table app.p1 partition of app.p for values from (0) to (9)",
        "create index by_a on app.p (a)",
    )
    faults: list[str] = []
    planned_drops(nobody, [name], faults)
    assert len(faults) == 1 and why in faults[0]


def test_i14_an_ordinary_index_is_dropped_and_its_statement_kept(
    server: Server, database: str, nobody: Database
) -> None:
    faults: list[str] = []
    (found,) = planned_drops(nobody, ["app.by_note", "app.was_never_there"], faults)
    assert faults == []
    assert (found.place, found.table) == ("app.by_note", "app.t")
    assert found.statement == "CREATE INDEX by_note ON app.t USING btree (note)"


def test_i14_drillbooks_own_role_compares_what_is_there_and_is_told_what_can_not_be_made(
    server: Server, database: str, nobody: Database
) -> None:
    assert look(nobody, wanted("create index by_note on app.t (note)")).state is State.VALID
    assert look(nobody, wanted("create index by_odd on app.t (note) where note like '%5'")).state is State.ABSENT
    assert look(nobody, wanted("create index by_note on app.t (status)")).state is State.DIFFERENT
    with pytest.raises(PostgresError) as caught:
        look(nobody, wanted("create index by_time on app.t (id) where now() > '2026-01-01'"))
    assert caught.value.sqlstate == "42P17"


def test_i14_plans_before_and_after_are_productions_own_and_nothing_is_executed(
    server: Server, superuser: Superuser, database: str, nobody: Database
) -> None:
    queries = (
        MigrationQuery(
            name="bound",
            sql="select * from app.t where status = $1 and note like '%5'",
            keys={"k": "select 'NEW'::text"},
        ),
        MigrationQuery(name="not bound", sql="select * from app.t where status = 'NEW'"),
        MigrationQuery(name="no such table", sql="select * from app.none"),
        MigrationQuery(name="executed it would fail", sql="select 1 / (id - id) from app.t where status = 'NEW'"),
    )
    (drop,) = planned_drops(nobody, ["app.by_note"], [])
    this = change(queries=queries, drops=(drop,))
    before = table_state(nobody, this)
    step = CompareWithBefore(CLUSTER, this, before, None, None)  # type: ignore[arg-type]
    assert compared_check(step, this, before, before).verdict is Verdict.FAILED
    build(superuser, database, wanted(), Limits(look_seconds=0.1), lambda *_: None, lambda index: look(nobody, index))
    half = compared_check(step, this, before, table_state(nobody, this))
    assert half.verdict is Verdict.FAILED and "app.by_note is still there" in half.observed
    server.sql(database, "drop index app.by_note", "analyze app.t")
    after = table_state(nobody, this)
    assert [plan.indexes for plan in before.plans] == [(), (), (), ()]
    assert [plan.indexes for plan in after.plans] == [("by_status",), ("by_status",), (), ("by_status",)]
    assert after.plans[2].problem == "SQLSTATE 42P01"
    assert compared_check(step, this, before, after).verdict is Verdict.VERIFIED
    run_sql = "update pg_index set indisvalid = false where indexrelid = 'app.by_status'::regclass"
    server.sql(database, run_sql)
    spoiled: TableState = table_state(nobody, this)
    assert "app.by_status is INVALID" in compared_check(step, this, before, spoiled).observed


@dataclass(frozen=True)
class Pod(Psql):
    """The pod of a Cluster that is there."""

    def get(self, kind: object, namespace: str, name: str) -> dict[str, Any]:
        return {"status": {"currentPrimary": "pg-1"}}


@pytest.mark.parametrize("left", ["INVALID", "valid", "absent"])
def test_i14_the_promise_removes_the_index_only_where_it_is_invalid(server: Server, database: str, left: str) -> None:
    name = 'By "Status"; %I'
    with server.superuser(database) as db:
        if left != "absent":
            run(db, f'create index "{name.replace(chr(34), chr(34) * 2)}" on app.t (status)')
        if left == "INVALID":
            run(
                db,
                "update pg_index set indisvalid = false from pg_class c where c.oid = indexrelid and relname like 'By %'",
            )
        promise = leftover(CLUSTER, database, "app", name)
        for _ in range(2):
            assert restoring.put_back(Pod(server), promise.undo or {})[0] == "put back"  # type: ignore[arg-type]
        there = db.ask_text("select relname from pg_class where relname like 'By %'")
    assert bool(there) == (left == "valid")


def test_i14_an_unqualified_name_is_looked_for_where_the_applications_role_looks(
    server: Server, database: str, nobody: Database
) -> None:
    role = f"app_{database}"
    look_where(nobody, role)
    assert nobody.ask("index_tables", names=["t"]) == []
    server.sql(database, f"create role {role}", f"alter role {role} set search_path = nowhere, public")
    look_where(nobody, role)
    assert nobody.ask("index_tables", names=["t"]) == []
    server.sql(database, f'alter role {role} in database {database} set search_path = "$user", app')
    look_where(nobody, role)
    assert [row["schema"] for row in nobody.ask("index_tables", names=["t"])] == ["app"]
    (drop,) = planned_drops(nobody, ["by_note"], [])
    assert drop.place == "app.by_note"
