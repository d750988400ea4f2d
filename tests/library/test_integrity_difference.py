"""Are my rows back: what two databases do not share of a table, counted by primary key."""

from __future__ import annotations

import pytest
from tests.library.fix_integrity import Server

from drillbook.postgres.checks import Difference, difference, rows_of
from drillbook.steps.checks.rows_back import NAMED_TABLES, summary

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


def test_d04_the_card_names_the_tables_that_differ_or_could_not_be_compared() -> None:
    def table(name: str, *counts: int) -> Difference:
        return Difference(
            table=name, **dict(zip(("only_in_copy", "only_in_production", "changed"), counts, strict=True))
        )

    many = [table(f"s.t{n}", 0, n, 0) for n in range(1, NAMED_TABLES)]
    unknown = Difference(table="s.u", said="it has no primary key")
    said = summary([table("s.same", 0, 0, 0), *many, unknown, table("s.back", 301, 0, 0)])
    assert said.startswith(f"301 come back, 15 go, 0 change, in {NAMED_TABLES + 1} of {NAMED_TABLES + 2} tables")
    assert said.index("s.back: 301 only in the copy") < said.index("s.t1"), "what comes back is named first"
    assert "s.same" not in said and said.endswith("; and 1 more")
    assert "s.u: it has no primary key" in summary([unknown])
