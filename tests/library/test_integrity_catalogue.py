"""Constraints, materialised views, extensions and collations: each broken in a real database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.library.fix_integrity import Server, run

from drillbook.model import Check, Verdict
from drillbook.postgres.checks import (
    catalogue_checks,
    collations_fit,
    constraints_hold,
    extensions_fit,
    matviews_filled,
)
from drillbook.postgres.checks.catalogue import indexes_valid
from drillbook.postgres.client import Database

TABLES = (
    "create function good(int) returns bool immutable language sql as 'select $1 < 100'",
    'create table parent (a int, "b%" text, primary key (a, "b%"))',
    "create table child (x int, y text, constraint of_parent foreign key (x, y) references parent, constraint is_good check (good(x)))",
    "create table tree (id int primary key, above int references tree not null)",
    "create table part (a int, b text, foreign key (a, b) references parent) partition by list (a)",
    "create table part_1 partition of part for values in (1)",
    "create table split (id int primary key) partition by range (id)",
    "create table split_1 partition of split for values from (0) to (10)",
    "create table split_2 partition of split for values from (10) to (20) partition by range (id)",
    "create table split_2_1 partition of split_2 for values from (10) to (15)",
    "create table of_split (a int, b int constraint to_split references split, constraint both_split foreign key (a) references split)"
    " partition by range (a)",
    "create table of_split_1 partition of of_split for values from (0) to (100)",
    "insert into parent values (1, 'one'), (2, 'two')",
    "insert into split values (1), (12)",
    "insert into of_split values (1, 12), (12, 1), (12, null)",
    "insert into child values (1, 'one'), (null, 'nobody'), (7, null)",
    "insert into tree values (1, 1), (2, 1)",
    "insert into part values (1, 'one')",
    "create materialized view one as select 1 as one",
    "create collation sorted (provider = builtin, locale = 'C.UTF-8')",
    "create table text_ (t text collate sorted)",
)


EXCLUSIONS = (
    "create table room (name text, during tstzrange, paid bool,"
    " constraint unshared exclude using gist (during with &&, int4range(length(name), length(name), '[]') with &&) where (paid))",
    "insert into room values ('blue', '[2026-01-01,2026-01-02)', true), ('blue', '[2026-01-02,2026-01-03)', true),"
    " ('blue', '[2026-01-01,2026-01-09)', false), ('green', '[2026-01-01,2026-01-02)', true), (null, null, true)",
    'create table lone (id int, at daterange, constraint "not twice" exclude (id with =))',
    "insert into lone values (1), (2), (null), (null)",
    "create table shift (who text, hours int4range, exclude using gist (hours with &&) where (who <> 'nobody'))",
    "insert into shift values ('a', '[1,3)'), ('a', 'empty'), ('b', '[3,9)'), ('nobody', '[2,4)'), ('b', null)",
)
TEMPORAL = (
    "create extension btree_gist",
    "create table rate (id int, valid daterange, constraint rates primary key (id, valid without overlaps))",
    "create table booking (id int, rate int, stay daterange,"
    " constraint priced foreign key (rate, period stay) references rate (id, period valid))",
    "insert into rate values (1, '[2026-01-01,2026-02-01)'), (1, '[2026-02-01,2026-03-01)'), (2, '[2026-01-01,2026-02-01)')",
    "insert into booking values (1, 1, '[2026-01-20,2026-02-10)'), (2, null, '[2020-01-01,2020-02-01)'), (3, 2, null)",
)


@pytest.fixture(scope="module")
def healthy(server: Server) -> str:
    return server.new_database(*TABLES)


def observe(server: Server, database: str, check: Callable[[Database], Check]) -> Check:
    with server.superuser(database, read_only=True, timeout=2) as db:
        return check(db)


def test_a_healthy_database_is_verified(server: Server, healthy: str) -> None:
    with server.superuser(healthy, read_only=True) as db:
        checks = catalogue_checks(db)
    assert [check.name for check in checks] == [
        "constraints",
        "materialised views",
        "extensions",
        "collations",
        "indexes",
    ]
    assert [check.verdict for check in checks] == [Verdict.VERIFIED] * 5, checks


def test_an_empty_database_has_nothing_to_show(server: Server) -> None:
    database = server.new_database()
    assert observe(server, database, constraints_hold).verdict is Verdict.NOT_APPLICABLE
    assert observe(server, database, matviews_filled).verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            ("alter table parent disable trigger all", "delete from parent where a = 1"),
            "foreign key public.child.of_parent",
        ),
        (
            ("alter table tree disable trigger all", "delete from tree where id = 1"),
            "foreign key public.tree.tree_above_fkey",
        ),
        (
            ("alter table parent disable trigger all", "delete from parent where a = 1"),
            "foreign key public.part_1.part_a_b_fkey",
        ),
        (
            ("alter table split disable trigger all", "delete from split where id = 12"),
            "foreign key public.of_split_1.to_split",
        ),
        (
            ("create or replace function good(int) returns bool immutable language sql as 'select $1 < 5'",),
            "check public.child.is_good",
        ),
        (
            (
                "insert into child values (null, null)",
                "update pg_attribute set attnotnull = true where attrelid = 'child'::regclass and attname = 'x'",
            ),
            "not null public.child",
        ),
    ],
)
def test_a_broken_constraint_is_named(server: Server, healthy: str, damage: tuple[str, ...], named: str) -> None:
    database = server.new_database(*damage, like=healthy)
    check = observe(server, database, constraints_hold)
    assert check.verdict is Verdict.FAILED
    assert dict(check.details)[named] == "at least one row breaks it"


def unseen(statement: str) -> tuple[str, ...]:
    """The statement behind the back of triggers and of exclusion constraints, whose indexes are not looked at."""
    hide = "update pg_index set indisready = {} where indexrelid in (select conindid from pg_constraint where conexclop is not null)"
    return ("set session_replication_role = replica", hide.format(False), statement, hide.format(True))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("insert into room values ('grey', '[2026-01-02,2026-01-03)', true)", "exclusion public.room.unshared"),
        ("insert into lone values (2)", 'exclusion public.lone."not twice"'),
        ("insert into shift values ('c', '[8,20)')", "exclusion public.shift.shift_hours_excl"),
        ("insert into shift values ('c', '[,2)')", "exclusion public.shift.shift_hours_excl"),
    ],
)
def test_a_broken_exclusion_constraint_is_named(server: Server, damage: str, named: str) -> None:
    database = server.new_database(*EXCLUSIONS)
    assert observe(server, database, constraints_hold).verdict is Verdict.VERIFIED
    server.sql(database, *unseen(damage))
    assert dict(observe(server, database, constraints_hold).details) == {named: "at least one row breaks it"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("delete from rate where id = 1 and valid @> date '2026-02-05'", "foreign key public.booking.priced"),
        ("insert into booking values (4, 2, '[2026-01-20,2026-02-02)')", "foreign key public.booking.priced"),
        ("insert into booking values (5, 9, '[2026-01-20,2026-02-02)')", "foreign key public.booking.priced"),
        ("insert into rate values (2, '[2026-01-31,2026-02-02)')", "exclusion public.rate.rates"),
    ],
    ids=["a gap", "longer than what it refers to", "nobody there", "an overlap"],
)
def test_a_broken_temporal_constraint_is_named(server: Server, damage: str, named: str) -> None:
    if server.major < 18:
        pytest.skip("temporal keys are PostgreSQL 18's")
    database = server.new_database(*TEMPORAL)
    assert observe(server, database, constraints_hold).verdict is Verdict.VERIFIED
    server.sql(database, *unseen(damage))
    assert dict(observe(server, database, constraints_hold).details) == {named: "at least one row breaks it"}


def test_the_planner_does_not_answer_from_the_constraint(server: Server, healthy: str) -> None:
    """A database that excludes by constraints would find no row that breaks one, without looking."""
    database = server.new_database(like=healthy)
    server.sql("postgres", f"alter database {database} set constraint_exclusion = on")
    server.sql(database, "create or replace function good(int) returns bool immutable language sql as 'select $1 < 5'")
    check = observe(server, database, constraints_hold)
    assert dict(check.details) == {"check public.child.is_good": "at least one row breaks it"}


def test_an_unvalidated_constraint_promises_nothing(server: Server, healthy: str) -> None:
    database = server.new_database("alter table child add constraint late check (x < 5) not valid", like=healthy)
    assert observe(server, database, constraints_hold).verdict is Verdict.VERIFIED


def test_a_constraint_that_cannot_be_read_is_unproven(server: Server, healthy: str) -> None:
    database = server.new_database(like=healthy)
    with server.superuser(database) as holder:
        run(holder, "begin")
        run(holder, "lock table tree in access exclusive mode")
        check = observe(server, database, constraints_hold)
        run(holder, "rollback")
    assert check.verdict is Verdict.UNPROVEN
    assert "57014" in check.reason


def test_an_unfilled_view_is_named(server: Server, healthy: str) -> None:
    database = server.new_database("refresh materialized view one with no data", like=healthy)
    check = observe(server, database, matviews_filled)
    assert check.verdict is Verdict.FAILED
    assert "public.one" in check.observed


def test_an_extension_without_files_is_named(server: Server, healthy: str) -> None:
    database = server.new_database("update pg_extension set extversion = '0.1' where extname = 'plpgsql'", like=healthy)
    check = observe(server, database, extensions_fit)
    assert check.verdict is Verdict.FAILED
    assert dict(check.details)["plpgsql"] == "0.1 is installed; this server has 1.0"


def test_another_collation_version_is_named(server: Server, healthy: str) -> None:
    database = server.new_database(
        "update pg_collation set collversion = '1.0' where collname = 'sorted'", like=healthy
    )
    check = observe(server, database, collations_fit)
    assert check.verdict is Verdict.FAILED
    assert check.observed == "1 collation of another version: public.sorted"


def test_a_version_that_this_server_cannot_say_is_unproven(server: Server, healthy: str) -> None:
    database = server.new_database(like=healthy)
    server.sql("postgres", f"update pg_database set datcollversion = '2.36' where datname = '{database}'")
    assert observe(server, database, collations_fit).verdict is Verdict.UNPROVEN


def test_a_lost_connection_is_unproven(server: Server, healthy: str) -> None:
    with server.superuser(healthy, read_only=True) as db:
        db.close()
        assert {check.verdict for check in catalogue_checks(db)} == {Verdict.UNPROVEN}


def test_an_index_that_was_left_half_built_is_named(server: Server, healthy: str) -> None:
    assert observe(server, healthy, indexes_valid).verdict is Verdict.VERIFIED
    database = server.new_database("create table t (a int)", "insert into t values (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        server.sql(database, "create unique index concurrently twice on t (a)")
    check = observe(server, database, indexes_valid)
    assert (check.verdict, check.required) == (Verdict.FAILED, False)
    assert dict(check.details) == {"public.twice": "not valid"}
