"""Are my rows back: what two databases do not share of a table, counted by primary key."""

from __future__ import annotations

import pytest
from tests.library.fix_integrity import Server

from drillbook.postgres.checks import difference, rows_of

ODD = '"Odd %s"."tab.le %"'


def asked(server: Server, copy: str, production: str, table: str) -> str:
    with server.superuser(copy, read_only=True) as one, server.reader(production) as other:
        return str(difference(table, rows_of(one, table), rows_of(other, table)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("select 1", "0 only in the copy, 0 only in production, 0 changed"),
        (f"delete from {ODD} where a = 1", "10 only in the copy, 0 only in production, 0 changed"),
        (f"insert into {ODD} values (9, 'new', null)", "0 only in the copy, 1 only in production, 0 changed"),
        (f"update {ODD} set \"v %s\" = 'other' where b = 'k3'", "0 only in the copy, 0 only in production, 3 changed"),
        (
            f'update {ODD} set "v %s" = \'x\' where "v %s" is null',
            "0 only in the copy, 0 only in production, 30 changed",
        ),
        (f"truncate {ODD}", "30 only in the copy, 0 only in production, 0 changed"),
        (f"drop table {ODD}", "the whole table is only in the copy: 30 rows"),
        (f"alter table {ODD} add more int", "30 rows in the copy, 30 in production (its columns differ: counted only)"),
    ],
)
def test_users_what_the_copy_and_production_do_not_share(server: Server, change: str, said: str) -> None:
    statements = (
        'create schema "Odd %s"',
        f'create table {ODD} (a int, b text, "v %s" text, primary key (b, a))',
        f"insert into {ODD} select g % 3, 'k' || g / 3, null from generate_series(0, 29) g",
    )
    copy = server.new_database(*statements)
    production = server.new_database(*statements, change)
    assert asked(server, copy, production, ODD) == said


def test_users_without_a_key_rows_are_counted(server: Server) -> None:
    statements = ("create table keyless (v int)", "insert into keyless values (1), (1)")
    copy = server.new_database(*statements)
    production = server.new_database(*statements, "delete from keyless")
    said = asked(server, copy, production, "public.keyless")
    assert said == "2 rows in the copy, 0 in production (it has no primary key: counted only)"
