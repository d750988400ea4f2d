"""What a rehearsal's verdicts stand on: the same planner, the catalogue's own redundancies and foreign keys, production's counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.library.fix_integrity import Server

from drillbook.indexes import planner, redundancy
from drillbook.indexes.findings import Redundant
from drillbook.indexes.redundancy import keys_without_index, redundant


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("work_mem", "'7MB'"),
        ("random_page_cost", "1.1"),
        ("enable_hashjoin", "off"),
        ("effective_cache_size", "'1GB'"),
        ("default_statistics_target", "500"),
        ("hash_mem_multiplier", "3.5"),
        ("plan_cache_mode", "force_generic_plan"),
    ],
)
def test_a14_another_setting_of_the_planner_is_named(server: Server, setting: str, value: str) -> None:
    name = server.new_database()
    with server.reader(name) as production, server.superuser(name, read_only=True) as copy:
        assert planner.differences(production, copy)[0] == []
    server.sql("postgres", f"alter role reader in database {name} set {setting} = {value}")
    with server.reader(name) as production, server.superuser(name, read_only=True) as copy:
        (found,), compared = planner.differences(production, copy)
    assert found.startswith(f"{setting}: ") and "on the copy" in found
    assert compared > 30


ITEM = Redundant(table="s.t", index="s.i", by="s.j", duplicate=False, bytes=8192)
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def counted(scans: int, days: float, name: str = "i") -> list[dict[str, Any]]:
    return [{"schema": "s", "name": name, "scans": scans, "since": NOW - timedelta(days=days), "now": NOW}]


@pytest.mark.parametrize(
    ("instances", "unread", "doubt"),
    [
        ({"a-1": counted(0, 31)}, [], ""),
        ({"a-1": counted(0, 31), "a-2": counted(7, 31)}, [], ""),
        ({"a-1": counted(0, 31), "a-2": counted(0, 29.9)}, [], "a-2 has counted for less than 30 days"),
        ({"a-1": counted(0, 31)}, ["a-2 could not be asked: refused"], "a-2 could not be asked"),
        ({"a-1": counted(0, 31, name="other")}, [], "it is proposed: nothing has used it yet"),
    ],
)
def test_a14_usage_counts_only_from_every_instance_for_30_days(
    instances: dict[str, list[dict[str, Any]]], unread: list[str], doubt: str
) -> None:
    words, doubts = redundancy.used(ITEM, instances, unread)
    assert "the first columns of s.j" in words
    assert "; ".join(doubts).startswith(doubt) and bool(doubts) is bool(doubt)


def test_a14_a_servers_own_counters_are_young(server: Server) -> None:
    name = server.new_database("create table t (a int)", "create index i on t (a)", "select pg_stat_reset()")
    with server.reader(name) as db:
        words, doubts = redundancy.used(
            ITEM.model_copy(update={"index": "public.i"}), {"a-1": db.ask("index_usage")}, []
        )
    assert "0 scans on a-1" in words
    assert doubts == ["a-1 has counted for less than 30 days"]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("create index i on t (a)", "create index j on t (a, b)", "i"),
        ("create index i on t (a)", "create index j on t (a)", "j"),
        ("create index i on t (a) where b = 1", "create index j on t (a, b) where b = 1", "i"),
        ("create index i on t (a)", "create unique index j on t (a)", "i"),
        ("create index i on t (lower(c))", "create index j on t (lower(c), a)", "i"),
        ("create index i on t (a) include (b)", "create index j on t (a, b)", "i"),
        ("create index i on t (a)", "create index j on t (b, a)", ""),
        ("create index i on t (a) where b = 1", "create index j on t (a, b)", ""),
        ("create index i on t (a)", "create index j on t (a desc, b)", ""),
        ("create index i on t (c)", "create index j on t (c text_pattern_ops, a)", ""),
        ("create index i on t using hash (a)", "create index j on t (a, b)", ""),
        ("create unique index i on t (a)", "create index j on t (a, b)", ""),
        ("create index i on t (a) include (c)", "create index j on t (a, b)", ""),
        ('create index i on t (c collate "C")', "create index j on t (c, a)", ""),
    ],
)
def test_a14_an_index_that_another_covers_is_named(server: Server, first: str, second: str, named: str) -> None:
    name = server.new_database("create table t (a int, b int, c text)", first, second)
    with server.reader(name) as db:
        found = redundant(db.ask("index_state"), [])
    assert [item.index for item in found] == ([f"public.{named}"] if named else [])


@pytest.mark.parametrize(
    ("index", "missing"),
    [
        ("create index i on child (b)", True),
        ("create index i on child (p, q)", False),
        ("create index i on child (q, p, b)", False),
        ("create index i on child (p, b, q)", True),
        ("create index i on child (p, q) where b = 1", True),
        ("create unique index i on child (p, q, b)", False),
    ],
)
def test_a14_a_foreign_key_without_an_index_is_named(server: Server, index: str, missing: bool) -> None:
    name = server.new_database(
        "create table parent (p int, q int, primary key (p, q))",
        "create table child (b int, q int, p int, constraint fk foreign key (p, q) references parent)",
        index,
    )
    with server.reader(name) as db:
        found = keys_without_index(db.ask("index_foreign_keys"))
    assert [(key.table, key.name, key.columns) for key in found] == (
        [("public.child", "fk", ("p", "q"))] if missing else []
    )
