"""Rows: digests are equal for equal rows only, and say why where there isn't one."""

from __future__ import annotations

import os

import pytest
from tests.library.fix_integrity import PAGE_BYTES, READER, Server, overwrite, run, running

from drillbook.model import Verdict
from drillbook.postgres.checks import TableDigest, digest_tables, rows_equal

KEY = bytes(range(32))
EVERY_TYPE = (
    'create schema "Odd %s ""or"" even"',
    """create table "Odd %s ""or"" even"."tab.le %" (
        id int generated always as identity primary key, "co%l" text, amount numeric(12, 2), ratio float8, happened timestamptz,
        took interval, raw bytea, tags text[], doc json, extra jsonb, price money, doubled numeric generated always as (amount * 2) stored,
        tripled numeric generated always as (amount * 3) virtual)""",
    """insert into "Odd %s ""or"" even"."tab.le %" ("co%l", amount, ratio, happened, took, raw, tags, doc, extra, price)
        select 'row ' || g, g / 3.0, g / 7.0::float8, timestamptz '2026-01-01 00:00Z' + g * interval '1 hour', g * interval '90 min',
               sha256(g::text::bytea), array['a', null, g::text], '{"k":  1}', '{"k": [1, 2]}', g::text::money
          from generate_series(1, 500) g""",
)
ODD = '"Odd %s ""or"" even"."tab.le %"'
PARTITIONED = (
    "create table part (k int, v text) partition by list (k)",
    "create table part_1 partition of part for values in (1)",
    "create table part_2 partition of part for values in (2)",
)


def digests(server: Server, database: str, *tables: str, key: bytes = KEY) -> dict[str, TableDigest]:
    with server.superuser(database, read_only=True) as db:
        return digest_tables(db, tables, key)


def digest(server: Server, database: str, table: str, key: bytes = KEY) -> TableDigest:
    return digests(server, database, table, key=key)[table]


def test_a_restored_database_has_the_same_digests(server: Server) -> None:
    """Every kind of value, generated columns, partitions, quoted names, an empty table; read with the least privileges."""
    source = server.new_database(
        *EVERY_TYPE, *PARTITIONED, "insert into part values (1, 'x'), (2, 'y')", "create table none ()"
    )
    copy = server.new_database(like=source)
    tables = [ODD, "public.part", "public.none"]
    with server.reader(source) as db:
        expected = digest_tables(db, tables, KEY)
    assert [expected[name].rows for name in tables] == [500, 2, 0]
    check = rows_equal(expected, digests(server, copy, *tables))
    assert check.verdict is Verdict.VERIFIED
    assert check.observed == "3 of 3 tables equal"
    assert len(check.details) == 3


def test_neither_order_nor_settings_matter(server: Server) -> None:
    """The same rows written the other way round, read by a role whose settings change the text of every value."""
    rows = "select g, now_, now_::text::bytea, 1.0 / 3.0::float8 from generate_series({}) g, (values (timestamptz '2026-03-04 05:06Z')) v(now_)"
    table = "create table t (id int, at timestamptz, raw bytea, ratio float8)"
    first = server.new_database(table, f"insert into t {rows.format('1, 200')}")
    second = server.new_database(table, f"insert into t {rows.format('200, 1, -1')}")
    server.sql(
        "postgres",
        *(
            f"alter role {READER} in database {second} set {setting}"
            for setting in (
                "datestyle = 'German'",
                "timezone = 'Asia/Tokyo'",
                "bytea_output = 'escape'",
                "extra_float_digits = '-5'",
            )
        ),
    )
    with server.reader(first) as one, server.reader(second) as other:
        at_first, at_second = digest_tables(one, ["public.t"], KEY), digest_tables(other, ["public.t"], KEY)
        ((shown,),) = other.ask_text("select current_setting('timezone')")
    assert shown == "Asia/Tokyo", "the setting of the session itself stands again"
    assert at_first == at_second
    assert at_first["public.t"].known


@pytest.mark.parametrize(
    "damage",
    [
        "update t set v = 'B' where k = 2",
        "delete from t where k = 3",
        "insert into t values (3, 'c')",
        # As many rows, and every row in an even number: what an exclusive or would not see.
        "update t set k = 2, v = 'b' where k = 1",
        # The same values, two of them swapped.
        "update t set v = case v when 'b' then 'c' else 'b' end where k in (2, 3)",
        "update t set v = '' where v is null",
        "update t set v = 'a,b' where k = 1",
    ],
)
def test_a_difference_is_found_and_named(server: Server, damage: str) -> None:
    """One changed, lost, doubled, swapped row; NULL made empty."""
    rows = "insert into t values (1, 'a'), (1, 'a'), (2, 'b'), (3, 'c'), (4, null)"
    source = server.new_database("create table t (k int, v text)", rows, "create table other as select 1 as one")
    copy = server.new_database(damage, like=source)
    tables = ["public.t", "public.other"]
    check = rows_equal(digests(server, source, *tables), digests(server, copy, *tables))
    assert check.verdict is Verdict.FAILED
    assert check.observed == "1 of 2 tables equal; different: public.t"
    assert dict(check.details)["public.t"].startswith("source: 5 rows, digest ")


def test_the_key_makes_the_digest(server: Server) -> None:
    """Another run's key gives another digest, even of an empty table; a key that could be guessed is refused."""
    database = server.new_database("create table t ()")
    assert digest(server, database, "public.t") != digest(server, database, "public.t", key=os.urandom(32))
    with pytest.raises(ValueError, match="at least 16"):
        digest(server, database, "public.t", key=b"short")


def test_a_table_that_is_missing_on_the_copy_is_failed(server: Server) -> None:
    """What the source has and the copy lacks contradicts the claim; what the source lacks was never claimed."""
    source = server.new_database("create table t (k int)", "create table u (k int)")
    copy = server.new_database("drop table t", like=source)
    check = rows_equal(digests(server, source, "public.t", "public.u"), digests(server, copy, "public.t", "public.u"))
    assert check.verdict is Verdict.FAILED
    assert "public.t" in check.observed
    assert "there is no such table" in dict(check.details)["public.t"]
    unclaimed = rows_equal(digests(server, copy, "public.t"), digests(server, source, "public.t"))
    assert unclaimed.verdict is Verdict.UNPROVEN
    assert unclaimed.reason == "public.t: on the source: there is no such table"


def test_what_cannot_be_read_is_unproven_and_hides_nothing(server: Server) -> None:
    """No privilege, row security, views, foreign rows, bad names: each says why, and the next table is still read."""
    source = server.new_database(
        "create table seen (k int)",
        "create table secured (k int)",
        "alter table secured enable row level security",
        "create view v as select 1 as one",
        "create extension postgres_fdw",
        "create server elsewhere foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1')",
        "create table part (k int) partition by list (k)",
        "create foreign table part_1 partition of part for values in (1) server elsewhere",
    )
    tables = ["public.secured", "public.v", "public.part", 'pub"lic.x', "unqualified", "public.seen"]
    with server.reader(source) as db:
        found = digest_tables(db, tables, KEY)
    assert "row-level security" in found["public.secured"].reason
    assert "42501" in found["public.secured"].reason
    assert "view" in found["public.v"].reason
    assert "another server" in found["public.part"].reason
    assert found['pub"lic.x'].reason
    assert not found["unqualified"].known
    assert found["public.seen"].known
    check = rows_equal(found, digests(server, source, "public.seen"))
    assert check.verdict is Verdict.UNPROVEN
    assert check.observed == "1 of 6 tables equal"


def test_a_time_limit_leaves_the_table_unproven(server: Server) -> None:
    """A table that someone holds locked is not waited for longer than the session's limit."""
    database = server.new_database("create table t (k int)", "create table u (k int)")
    with server.superuser(database) as holder, server.superuser(database, read_only=True, timeout=3) as db:
        run(holder, "begin")
        run(holder, "lock table t in access exclusive mode")
        found = digest_tables(db, ["public.t", "public.u"], KEY)
        run(holder, "rollback")
    assert "57014" in found["public.t"].reason
    assert not found["public.t"].damaged
    assert found["public.u"].known


def test_nothing_asked_is_nothing_proven() -> None:
    """An empty list is no proof, and neither is a table that the copy was never asked for."""
    assert rows_equal({}, {}).verdict is Verdict.UNPROVEN
    known = TableDigest(rows=1, digest="ab")
    assert rows_equal({"public.t": known}, {}).verdict is Verdict.UNPROVEN


def test_a_damaged_table_is_failed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The server's own word for damage, SQLSTATE XX, contradicts the claim."""
    with running(tmp_path_factory.mktemp("damaged")) as own:
        source = own.new_database(
            "create table t as select g from generate_series(1, 2000) g", "create table u as select 1 as one"
        )
        expected = digests(own, source, "public.t", "public.u")
        path = own.file_of(source, "t")
        own.stop()
        overwrite(path, PAGE_BYTES + 4000, os.urandom(64))
        own.start()
        check = rows_equal(expected, digests(own, source, "public.t", "public.u"))
    assert check.verdict is Verdict.FAILED
    assert check.observed == "1 of 2 tables equal; different: public.t"
    assert "XX001" in dict(check.details)["public.t"]
