"""A rehearsal on a real server: each class and each reason by an index that was made to earn it, and what majors answer differently on the oldest and the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.library.fix_integrity import Server, running
from tests.library.fix_majors import NEWEST, found, why_missing

from drillbook.indexes.findings import IndexFinding, Rehearsal
from drillbook.indexes.judging import IndexClass, Outcome, Reason
from drillbook.indexes.migration import Migration, load_migration
from drillbook.indexes.rehearsal import rehearse
from drillbook.postgres.client import Database

FOUND = found()

# 20,000 rows, skewed and unordered by a hash of the row's number: status 2 % OPEN, 1 % WAITING; 400 owners.
SHOP = """
CREATE TABLE orders (id int PRIMARY KEY, owner int NOT NULL, status text NOT NULL, due timestamptz NOT NULL,
                     made timestamptz NOT NULL, kind text NOT NULL, note text);
INSERT INTO orders
SELECT n, h % 400, CASE WHEN h % 100 < 2 THEN 'OPEN' WHEN h % 100 = 2 THEN 'WAITING' ELSE 'DONE' END,
       timestamptz '2026-01-01 00:00+00' + (h % 500000) * interval '1 minute',
       timestamptz '2026-01-01 00:00+00' + n * interval '1 minute', 'k' || h % 3, repeat('x', 60)
  FROM generate_series(1, 20000) n, LATERAL (SELECT abs(hashint4(n)) AS h) x;
CREATE INDEX orders_owner ON orders (owner);
CREATE TABLE small (id int PRIMARY KEY, a int, b int);
INSERT INTO small SELECT n, n % 3, n FROM generate_series(1, 20) n;
VACUUM (ANALYZE);
"""


# What differs between the majors is in the server's own answers: these tests read each kind of them.
on_both_ends = pytest.mark.parametrize("shop", sorted({min(FOUND, default=NEWEST), NEWEST}), indirect=True)


@pytest.fixture(scope="module")
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the newest major, or of the one that a test asks for, with the database ``shop``."""
    major = getattr(request, "param", NEWEST)
    if major not in FOUND:
        pytest.skip(why_missing(major))
    with running(tmp_path_factory.mktemp(f"pg{major}"), programs=FOUND[major]) as server:
        server.sql("postgres", "create database shop")
        with server.superuser("shop") as db:
            for statement in SHOP.split(";\n"):
                if statement.strip():
                    db.run_text(statement)
        yield server


@pytest.fixture
def copy(shop: Server) -> Iterator[Callable[[], tuple[Database, Database]]]:
    """Two sessions on a database of the test's own that is as ``shop``, as a copy of it would be."""
    opened: list[Database] = []

    def make() -> tuple[Database, Database]:
        name = f"copy{next(shop._names)}"
        shop.sql("postgres", f"create database {name} template shop")
        opened.extend([shop.superuser(name), shop.superuser(name)])
        return opened[-2], opened[-1]

    yield make
    for db in opened:
        db.close()


def migration(*indexes: dict, queries: tuple = (), updates: tuple = ()) -> Migration:
    named = [{"name": "q", "sql": sql} if isinstance(sql, str) else sql for sql in queries]
    values = {
        "name": "m",
        "indexes": [{"queries": [item["name"] for item in named]} | index for index in indexes],
        "queries": named,
        "updates": [{"name": "u", "sql": sql} for sql in updates],
    }
    read = Migration.model_validate(values)
    return read.model_copy(update={"as_written": tuple(index.statement for index in read.indexes)})


def only(copy, index: str, query: str | dict, *, updates: tuple = ()) -> IndexFinding:
    (finding,) = rehearse(*copy(), migration({"name": "i", "sql": index}, queries=(query,), updates=updates)).indexes
    return finding


def reasons_of(finding: IndexFinding) -> list[Reason]:
    return [why.reason for why in finding.reasons]


OPEN = "select * from orders where status = 'OPEN' and due < '2026-02-01'"


@on_both_ends
def test_a14_class_helps(copy) -> None:
    found = only(copy, "create index i on orders (due) where status = 'OPEN'", OPEN)
    assert (found.index_class, found.reasons, found.candidates) == (IndexClass.HELPS, (), ())
    (whole, limited) = found.variants
    assert whole.after.pages < whole.before.pages / 5 and whole.used_with_all and limited.limit == 50
    assert found.definition.startswith("CREATE INDEX i ON public.orders USING btree (due) WHERE")
    assert found.size_bytes > 0


@pytest.mark.parametrize(
    ("index", "query"),
    [
        # The rows are in this order already, and all of them are read.
        ("create index i on orders (id, status)", "select * from orders where id = 77"),
        ("create index i on orders (owner, note)", "select * from orders where owner = 7"),
        ("create index i on small (b)", "select * from small where b = 7"),
    ],
)
def test_a14_class_used_no_gain(copy, index: str, query: str) -> None:
    found = only(copy, index, query)
    assert found.index_class in (IndexClass.USED_NO_GAIN, IndexClass.UNUSABLE)
    assert set(reasons_of(found)) <= {Reason.NO_LESS_WORK, Reason.NOT_PREFERRED}


def test_a14_class_used_no_gain_is_measured(copy) -> None:
    found = only(copy, "create index i on orders (owner, kind)", "select * from orders where owner = 7")
    assert (found.index_class, reasons_of(found)) == (IndexClass.USED_NO_GAIN, [Reason.NO_LESS_WORK])
    assert found.variants[0].outcome is Outcome.NO_GAIN


@pytest.mark.parametrize(
    ("index", "query", "reason"),
    [
        (
            "create index i on orders (due) where status <> 'DONE'",
            "select * from orders where due < '2026-01-03'",
            Reason.PREDICATE_NOT_IMPLIED,
        ),
        (
            "create index i on orders (due) where status in ('OPEN', 'WAITING', 'DONE')",
            "select * from orders where due < '2026-01-03'",
            Reason.PREDICATE_NOT_IMPLIED,
        ),
        (
            "create index i on orders (status, owner)",
            "select * from orders where due < '2026-01-03'",
            Reason.COLUMN_MISSING,
        ),
        ("create index i on orders (lower(kind))", "select * from orders where kind = 'k1'", Reason.COLUMN_MISSING),
        ("create index i on orders (kind, made)", "select * from orders order by made desc", Reason.ORDER_NOT_USABLE),
        (
            "create index i on orders (made, due desc)",
            "select * from orders order by due, made",
            Reason.ORDER_NOT_USABLE,
        ),
        (
            "create index i on orders (due) where status in ('OPEN', 'WAITING')",
            "select * from orders where status = 'OPEN' or status = 'WAITING' and due < '2026-02-01'",
            None,  # the predicate is implied whatever binds first
        ),
        (
            "create index i on orders (status, due) where kind = 'k1'",
            "select * from orders where status = 'OPEN' or status = 'WAITING' and kind = 'k1'",
            Reason.PRECEDENCE,
        ),
        (
            "create index i on orders (kind)",
            "select * from orders where kind <> 'k1' and owner = 7",
            Reason.COLUMN_MISSING,
        ),
        ("create index i on orders (kind)", "select * from orders where kind >= 'k1'", Reason.NOT_PREFERRED),
    ],
)
def test_a14_reason_of_an_unusable_index(copy, index: str, query: str, reason: Reason | None) -> None:
    found = only(copy, index, {"name": "q", "sql": query, "limit": 0})
    if reason is None:
        assert found.index_class is not IndexClass.UNUSABLE
    else:
        assert (found.index_class, reasons_of(found)) == (IndexClass.UNUSABLE, [reason])
        assert found.reasons[0].shown_by


def test_a14_reason_missing_equality_column_where_the_planner_prefers_another_index(copy) -> None:
    query = {
        "name": "q",
        "sql": "select * from orders where owner = $1 and due = $2",
        "keys": {"k": "select owner, due from orders where id = 5"},
    }
    found = only(copy, "create index i on orders (owner, kind)", query | {"limit": 0})
    assert reasons_of(found) == [Reason.COLUMN_MISSING]
    assert found.corrected is not None and "(owner, due, kind)" in found.corrected.sql


@on_both_ends
@pytest.mark.parametrize(
    "index",
    [
        "create index i on orders (due) where due > now() - interval '90 days'",
        "create index i on orders (due) where due > current_date",
        "create index i on orders ((due::date))",
        "create index i on orders (to_char(due, 'YYYY'))",
        "create index i on orders (due) where due + interval '1 day' > timestamptz '2026-01-01 00:00+00'",
    ],
)
def test_a14_class_cannot_create_function_not_immutable(copy, index: str) -> None:
    found = only(copy, index, OPEN)
    assert (found.index_class, reasons_of(found), found.sqlstate) == (
        IndexClass.CANNOT_CREATE,
        [Reason.NOT_IMMUTABLE],
        "42P17",
    )


@pytest.mark.parametrize(
    ("index", "sqlstate"),
    [
        ("create index i on orders (nowhere)", "42703"),
        ("create index i on nothing (id)", "42P01"),
        ("create unique index i on orders (owner)", "23505"),
        ("create index orders_owner on orders (due)", "42P07"),
        ("create index if not exists orders_owner on orders (due)", "42P07"),
        ("create index i on orders using gin (note)", "42704"),
    ],
)
def test_a14_class_cannot_create_refused(copy, index: str, sqlstate: str) -> None:
    name = "orders_owner" if "orders_owner" in index else "i"
    (found,) = rehearse(*copy(), migration({"name": name, "sql": index}, queries=(OPEN,))).indexes
    assert (found.index_class, reasons_of(found), found.sqlstate) == (
        IndexClass.CANNOT_CREATE,
        [Reason.REFUSED],
        sqlstate,
    )


@on_both_ends
@pytest.mark.parametrize(
    ("index", "query", "update"),
    [
        ("create index i on orders (status, due)", OPEN, "update orders set status = 'DONE' where status = 'OPEN'"),
        # No key of it changes: the predicate alone ends the HOT updates.
        (
            "create index i on orders (due) where status = 'OPEN'",
            OPEN,
            "update orders set status = 'WAITING' where status = 'DONE'",
        ),
    ],
)
def test_a14_class_helps_but_costs_hot_with_the_ratio(copy, index: str, query: str, update: str) -> None:
    found = only(copy, index, query, updates=(update,))
    (cost,) = found.updates
    assert found.index_class is IndexClass.HELPS_BUT_COSTS_HOT
    assert (cost.hot_before, cost.hot_after) == (1.0, 0.0)
    assert cost.records_after > cost.records_before and cost.bytes_after > cost.bytes_before
    assert "status" in found.newly_indexed


def test_a14_an_update_of_no_indexed_column_costs_no_hot(copy) -> None:
    update = "update orders o set note = 'changed' where o.status = 'OPEN'"
    found = only(copy, "create index i on orders (due) where status = 'OPEN'", OPEN, updates=(update,))
    assert found.index_class is IndexClass.HELPS
    assert (found.updates[0].hot_before, found.updates[0].hot_after) == (1.0, 1.0)
    assert found.insert is not None and found.insert.records_added < 1  # most rows are not in the predicate


def test_a14_an_invalid_index_of_a_partitioned_table_says_so(copy) -> None:
    db, other = copy()
    db.run_text("create table part (a int, b int) partition by range (a)")
    db.run_text("create table part_1 partition of part for values from (1) to (100000)")
    db.run_text("insert into part select n, n from generate_series(1, 20000) n")
    index = {"name": "i", "sql": "create index i on only part (b)"}
    (found,) = rehearse(db, other, migration(index, queries=("select * from part where b = 7",))).indexes
    assert (found.index_class, reasons_of(found)) == (IndexClass.UNUSABLE, [Reason.INVALID])


def test_a14_one_name_in_two_schemas_is_measured_twice(copy) -> None:
    db, other = copy()
    db.run_text("create schema two")
    db.run_text("create table two.orders as select * from orders")
    db.run_text("analyze two.orders")
    first = {"name": "i", "sql": "create index i on orders (due)", "queries": ["q"]}
    second = {"name": "i", "sql": "create index i on two.orders (note)", "queries": ["z"]}
    wanted = migration(
        first, second, queries=(OPEN, {"name": "z", "sql": "select * from two.orders where due < '2026-01-02'"})
    )
    found = rehearse(db, other, wanted).indexes
    assert [item.index_class for item in found] == [IndexClass.HELPS, IndexClass.UNUSABLE]


@pytest.mark.parametrize("how", ["", "concurrently"])
def test_a14_an_index_of_a_materialised_view_is_measured(copy, how: str) -> None:
    db, other = copy()
    db.run_text("create materialized view m as select id, due, note from orders")
    db.run_text("analyze m")
    index = {"name": "i", "sql": f"create index {how} i on m (due)"}
    (found,) = rehearse(db, other, migration(index, queries=("select * from m where due < '2026-01-02'",))).indexes
    assert (found.index_class, found.lock) == (IndexClass.HELPS, None)
    assert "SQLSTATE" in found.costs_unproven  # it takes no inserts


def test_a14_an_update_that_fails_leaves_the_cost_unproven(copy) -> None:
    found = only(copy, "create index i on orders (due)", OPEN, updates=("update orders set id = 1",))
    assert "SQLSTATE 23505" in found.costs_unproven and not found.updates


@on_both_ends
@pytest.mark.parametrize(
    ("index", "mode", "writers"),
    [
        ("create index i on orders (due)", "ShareLock", True),
        ("create index concurrently i on orders (due)", "ShareUpdateExclusiveLock", False),
    ],
)
def test_a14_the_lock_of_a_build_and_who_would_wait(copy, index: str, mode: str, writers: bool) -> None:
    found = only(copy, index, OPEN)
    assert found.lock is not None
    assert (found.lock.mode, found.lock.stops_writers) == (mode, writers)
    assert not any(who.startswith("SELECT") for who in found.lock.waits)
    assert any(who.startswith("VACUUM") for who in found.lock.waits)


@on_both_ends
def test_a14_the_file_is_run_as_written_in_one_transaction_and_one_by_one(copy, tmp_path: Path) -> None:
    path = tmp_path / "V1__x.sql"
    path.write_text(
        "SET lock_timeout = '1s';\nCREATE INDEX a ON orders (due);\nCREATE INDEX b ON orders (due) WHERE due > now();\n"
        "CREATE INDEX c ON orders (made);\nCREATE INDEX CONCURRENTLY d ON orders (kind);\nDROP INDEX CONCURRENTLY orders_owner;\n",
        encoding="utf-8",
    )
    db, other = copy()
    file = rehearse(db, other, load_migration(path)).file
    assert [(run.line, run.sqlstate) for run in file.in_one_transaction] == [
        (1, ""), (2, ""), (3, "42P17"), (4, "-"), (5, "-"), (6, "-"),
    ]  # fmt: skip
    assert [run.sqlstate for run in file.one_by_one] == ["", "", "42P17", "", "", ""]
    assert db.ask_text("select count(*) from pg_class where relname = 'orders_owner'") == [(1,)]


def test_a14_concurrently_in_one_transaction_is_refused_with_its_sqlstate(copy, tmp_path: Path) -> None:
    path = tmp_path / "v.sql"
    path.write_text("CREATE INDEX CONCURRENTLY a ON orders (due);\n", encoding="utf-8")
    file = rehearse(*copy(), load_migration(path)).file
    assert [run.sqlstate for run in file.in_one_transaction] == ["25001"]


def test_a14_corrected_definitions_are_measured_alone_and_all_together(copy) -> None:
    rehearsal = rehearse(
        *copy(),
        migration(
            {"name": "a", "sql": "create index a on orders (due) where due > now()"},
            {"name": "b", "sql": "create index b on orders (kind, due) where status = 'OPEN'"},
            queries=(OPEN,),
        ),
    )
    corrected = {finding.label: finding.corrected for finding in rehearsal.indexes}
    assert corrected["a"] is not None and corrected["a"].rule == "drop the predicate that is not immutable"
    assert set(rehearsal.together_used) | set(rehearsal.together_unused) == {"a", "b"}
    assert all(len(finding.candidates) <= 5 for finding in rehearsal.indexes)


def test_a14_where_nothing_helps_it_says_so(copy) -> None:
    found = only(copy, "create index i on small (a)", "select * from small where a = 1 order by b")
    assert found.corrected is None
    assert found.index_class in (IndexClass.UNUSABLE, IndexClass.USED_NO_GAIN)


def test_a14_a_plan_that_changes_with_analyze_is_unstable(copy) -> None:
    db, other = copy()
    # The statistics as restored know nothing of the rows that came since.
    db.run_text("insert into orders select n, 7, 'NEW', now(), now(), 'k1', '' from generate_series(100001, 160000) n")
    query = {"name": "q", "sql": "select * from orders where status = 'NEW'", "limit": 0}
    (found,) = rehearse(
        db, other, migration({"name": "i", "sql": "create index i on orders (status)"}, queries=(query,))
    ).indexes
    assert found.unstable and "on the statistics as restored" in found.unstable[0]


def test_a14_a_query_that_fails_leaves_its_claim_unproven_and_is_named(copy) -> None:
    found = only(copy, "create index i on orders (due)", "select nothing from orders where due < now()")
    assert found.index_class is None
    assert "SQLSTATE 42703" in found.unproven


def test_a14_no_bound_value_is_in_what_is_recorded(copy) -> None:
    query = {
        "name": "q",
        "sql": "select * from orders where note = $1 and owner = $2",
        "keys": {"k": "select 'planted secret', 7"},
    }
    found = only(copy, "create index i on orders (note)", query)
    assert "planted secret" not in found.model_dump_json()


def test_a14_verdicts_are_the_same_from_run_to_run(copy) -> None:
    wanted = migration(
        {"name": "a", "sql": "create index a on orders (due) where status = 'OPEN'"},
        {"name": "b", "sql": "create index b on orders (owner, kind)"},
        {"name": "c", "sql": "create index c on orders (kind)"},
        queries=(OPEN,),
    )

    def verdicts(found: Rehearsal) -> list[object]:
        return [
            (item.index_class, reasons_of(item), [seen.outcome for seen in item.variants]) for item in found.indexes
        ]

    assert verdicts(rehearse(*copy(), wanted)) == verdicts(rehearse(*copy(), wanted))


def test_a14_names_and_values_with_a_percent_sign_and_quotes_are_taken_as_they_are(copy) -> None:
    db, other = copy()
    db.run_text("""alter table orders rename note to "100 % note's" """)
    db.run_text("""update orders set "100 % note's" = '5 % "off"' where id = 7""")
    query = {
        "name": "q",
        "sql": """select * from orders where "100 % note's" = $1 and kind like 'k%'""",
        "keys": {"k": """select "100 % note's" from orders where id = 7"""},
    }
    index = {"name": "50 % idx", "sql": """create index "50 % idx" on orders ("100 % note's")"""}
    update = """update orders set "100 % note's" = 'a%' where kind like '%1'"""
    (found,) = rehearse(db, other, migration(index, queries=(query,), updates=(update,))).indexes
    assert (found.index_class, found.costs_unproven) == (IndexClass.HELPS_BUT_COSTS_HOT, "")


def test_a14_queries_meet_the_settings_and_row_security_of_the_applications_role(copy) -> None:
    db, other = copy()
    name = db.ask_text("select current_database()")[0][0]
    role = f"app_{name}"
    for sql in (
        f"create role {role}",
        f"grant select on orders to {role}",
        f"alter role {role} in database {name} set enable_bitmapscan = off",
        f"alter role {role} in database {name} set enable_indexscan = off",
        "alter table orders enable row level security",
        "create policy p on orders using (owner <> 7)",
    ):
        db.run_text(sql)
    wanted = migration({"name": "i", "sql": "create index i on orders (due)"}, queries=(OPEN,))
    (as_app,) = rehearse(db, other, wanted, role=role).indexes
    assert as_app.index_class is IndexClass.UNUSABLE
    (as_superuser,) = rehearse(*copy(), wanted).indexes
    assert as_superuser.index_class is IndexClass.HELPS


def test_a14_unqualified_names_are_looked_for_where_the_applications_role_looks(copy) -> None:
    db, other = copy()
    name = db.ask_text("select current_database()")[0][0]
    for sql in (
        "create schema app",
        "alter table orders set schema app",
        f"create role path_{name}",
        f"grant usage on schema app to path_{name}",
        f"grant select on app.orders to path_{name}",
        f"alter role path_{name} set search_path = app, public",
    ):
        db.run_text(sql)
    wanted = migration({"name": "i", "sql": "create index i on orders (due)"}, queries=(OPEN,))
    (found,) = rehearse(db, other, wanted, role=f"path_{name}").indexes
    assert (found.index_class, found.sqlstate) == (IndexClass.HELPS, "")


UNSEEN = """\
CREATE INDEX "Zug-Idx" ON "Wagen"."Züge" ("Nr", lower("Ziel"));
CREATE INDEX ON "Wagen".fahrt (abfahrt);
CREATE INDEX fahrt_tags ON "Wagen".fahrt USING gin (tags);
CREATE INDEX halt_doc ON "Wagen".halt USING gin (doc jsonb_path_ops);
CREATE INDEX halt_bad ON "Wagen".halt (age(seit));
CREATE INDEX halt_brin ON "Wagen".halt USING brin (seit);
CREATE INDEX ticket_twice ON "Wagen".ticket (halt_id);
CREATE INDEX ticket_same ON "Wagen".ticket (halt_id);
"""
UNSEEN_SCHEMA = """
CREATE SCHEMA "Wagen";
CREATE TABLE "Wagen"."Züge" ("Nr" int PRIMARY KEY, "Ziel" text, "order" int);
CREATE TABLE "Wagen".fahrt (id int, zug int REFERENCES "Wagen"."Züge", abfahrt timestamptz NOT NULL, tags text[], PRIMARY KEY (id, abfahrt)) PARTITION BY RANGE (abfahrt);
CREATE TABLE "Wagen".fahrt_25 PARTITION OF "Wagen".fahrt FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2026-01-01 00:00+00');
CREATE TABLE "Wagen".fahrt_26 PARTITION OF "Wagen".fahrt FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2027-01-01 00:00+00');
CREATE TABLE "Wagen".halt (id int PRIMARY KEY, doc jsonb, seit timestamptz, zug int REFERENCES "Wagen"."Züge");
CREATE TABLE "Wagen".ticket (id int PRIMARY KEY, halt_id int REFERENCES "Wagen".halt, preis numeric);
CREATE TABLE "Wagen".leer (a int, b int, zug int, PRIMARY KEY (a, b));
INSERT INTO "Wagen"."Züge" SELECT n, 'Ort ' || n % 50, n FROM generate_series(1, 3000) n;
INSERT INTO "Wagen".fahrt SELECT n, n % 3000 + 1, timestamptz '2025-01-02 00:00+00' + n * interval '1 hour', ARRAY['t' || n % 97, 'u' || n] FROM generate_series(1, 15000) n;
INSERT INTO "Wagen".halt SELECT n, jsonb_build_object('n', n, 'k', n % 7), timestamptz '2025-01-02 00:00+00' + n * interval '1 minute', n % 3000 + 1 FROM generate_series(1, 15000) n;
INSERT INTO "Wagen".ticket SELECT n, n % 15000 + 1, n FROM generate_series(1, 30000) n;
ANALYZE;
"""


@on_both_ends
def test_a14_a_schema_never_seen_with_a_sql_file_as_only_input(shop: Server, tmp_path: Path) -> None:
    name = f"unseen{next(shop._names)}"
    shop.sql("postgres", f"create database {name}")
    path = tmp_path / "V7__unseen.sql"
    path.write_text(UNSEEN, encoding="utf-8")
    with shop.superuser(name) as db, shop.superuser(name) as other:
        for statement in UNSEEN_SCHEMA.split(";\n"):
            if statement.strip():
                db.run_text(statement)
        rehearsal = rehearse(db, other, load_migration(path))
    found = {item.label: item for item in rehearsal.indexes}
    assert {label: item.index_class and item.index_class.value for label, item in found.items()} == {
        "Zug-Idx": "used_no_gain" if found["Zug-Idx"].variants[0].outcome is Outcome.NO_GAIN else "unusable",
        "fahrt_abfahrt_idx": "helps",
        "fahrt_tags": "helps",
        "halt_doc": "helps",
        "halt_bad": "cannot_create",
        "halt_brin": None,
        "ticket_twice": "helps",
        "ticket_same": "helps",
    }
    assert "no query is given" in found["halt_brin"].unproven
    assert reasons_of(found["halt_bad"]) == [Reason.NOT_IMMUTABLE]
    assert [(key.table, key.columns) for key in rehearsal.keys_without_index] == [
        ('"Wagen".fahrt', ("zug",)),
        ('"Wagen".halt', ("zug",)),
    ]
    assert [(item.index, item.by, item.duplicate) for item in rehearsal.redundant] == [
        ('"Wagen".ticket_same', '"Wagen".ticket_twice', True)
    ]
