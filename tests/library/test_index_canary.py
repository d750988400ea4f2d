"""The canary waits exactly when a writer would, writes nothing, and shows what CONCURRENTLY is worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server

from drillbook.indexes.build import Limits, build, look
from drillbook.indexes.canary import APPLICATION, Canary
from drillbook.indexes.shape import WantedIndex
from drillbook.postgres.client import SQL
from drillbook.swap.superuser import Superuser

KEY = 4711
INCIDENTS = ("app", "incidents")
# Each row costs a while: what is measured is who waits, not how fast this machine is.
TABLES = (
    "create schema app",
    "create table app.incidents (id int primary key, status text)",
    "insert into app.incidents select n, 'NEW' from generate_series(1, 3000) n",
    "create function app.slow(int) returns int immutable language plpgsql as 'begin perform pg_sleep(0.001); return $1; end'",
)
SQL_TEXT = "create index by_slow on app.incidents (app.slow(id))"


@pytest.fixture
def database(server: Server) -> str:
    return server.new_database(*TABLES)


def session(server: Server, database: str, **more: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=server.address.host,
        port=server.address.port,
        user=SUPERUSER,
        password=PASSWORD,
        dbname=database,
        **more,
    )


class Writer(threading.Thread):
    """Inserts 200 rows a second, each a transaction; the longest that one took."""

    def __init__(self, server: Server, database: str, first: int) -> None:
        super().__init__()
        self._ended, self.longest, self.rows = threading.Event(), 0.0, 0
        self._connection, self._first = session(server, database, autocommit=True), first

    def run(self) -> None:
        """Write until it is ended."""
        with self._connection as db:
            while not self._ended.wait(0.005):
                begun = time.monotonic()
                db.execute("insert into app.incidents values (%s, 'NEW')", (self._first + self.rows,))
                self.longest, self.rows = max(self.longest, time.monotonic() - begun), self.rows + 1

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Within the block it writes."""
        self.start()
        try:
            yield self
        finally:
            self._ended.set()
            self.join()


@pytest.mark.long
def test_i14_a_concurrent_build_stalls_a_writer_for_less_than_a_tenth_of_one_transaction(
    superuser: Superuser, server: Server, database: str
) -> None:
    stalls = {}
    with server.superuser(database) as control:
        with (
            Canary(superuser, database, [INCIDENTS], control, KEY) as canary,
            Writer(server, database, 100_000).writing() as writer,
        ):
            superuser.run(database, SQL("begin"), SQL(SQL_TEXT.replace("by_slow", "by_slow_at_once")), SQL("commit"))
        stalls["one transaction"] = (canary.stall, writer)
        with (
            Canary(superuser, database, [INCIDENTS], control, KEY) as canary,
            Writer(server, database, 200_000).writing() as writer,
        ):
            built = build(
                superuser,
                database,
                WantedIndex.of(SQL_TEXT, schema="app"),
                Limits(),
                lambda *_: None,
                lambda index: look(control, index),
            )
        stalls["concurrently"] = (canary.stall, writer)
    assert built.how == "built"
    for stall, writer in stalls.values():
        assert not stall.reason
        assert writer.rows
    (plain, waited), (quick, hardly) = stalls["one transaction"], stalls["concurrently"]
    assert quick.longest_seconds < plain.longest_seconds / 10, stalls
    assert hardly.longest < waited.longest / 10, (hardly.longest, waited.longest)
    assert plain.table == "app.incidents"


@pytest.mark.parametrize("mode", ["share", "share row exclusive", "exclusive", "access exclusive"])
def test_the_canary_waits_behind_every_lock_that_a_writer_waits_behind(
    superuser: Superuser, server: Server, database: str, mode: str
) -> None:
    with (
        server.superuser(database) as control,
        session(server, database) as other,
        Canary(superuser, database, [INCIDENTS], control, KEY) as canary,
    ):
        other.execute(f"lock table app.incidents in {mode} mode")
        until(lambda: waiting(control))
        other.rollback()
    assert canary.stall.table == "app.incidents"
    assert canary.stall.longest_seconds > 0


@pytest.mark.parametrize("mode", ["access share", "row share", "row exclusive", "share update exclusive"])
def test_the_canary_does_not_wait_where_no_writer_would(
    superuser: Superuser, server: Server, database: str, mode: str
) -> None:
    with (
        server.superuser(database) as control,
        session(server, database) as other,
        Canary(superuser, database, [INCIDENTS], control, KEY),
    ):
        other.execute(f"lock table app.incidents in {mode} mode")
        seen: set[Any] = set()
        # It begins one transaction after another, none of which waits, while the lock is held.
        until(lambda: seen.add(begun(control)) or len(seen - {None}) > 3)
        assert not waiting(control)


def test_the_canary_writes_nothing_and_ends_with_who_started_it(
    superuser: Superuser, server: Server, database: str
) -> None:
    newest = SQL("select pg_snapshot_xmax(pg_current_snapshot())::text as xid")
    with server.superuser(database) as watch:
        before = watch.ask_one(newest)
        control = server.superuser(database)
        canary = Canary(superuser, database, [INCIDENTS], control, KEY).__enter__()
        seen: set[Any] = set()
        until(lambda: seen.add(begun(watch)) or len(seen - {None}) > 3)
        assert watch.ask_one(newest) == before
        control.close()  # as when its process dies
        until(lambda: begun(watch) is None)
        canary.__exit__(None, None, None)
    assert canary.stall.reason


def until(seen: Any) -> None:
    """Wait until it is so, at most a minute."""
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(db: Any) -> bool:
    return bool(
        db.ask(
            SQL(
                "select from pg_locks l join pg_stat_activity a using (pid) where not l.granted and l.locktype = 'relation' "
                f"and a.application_name = '{APPLICATION}'"  # type: ignore[arg-type]
            )
        )
    )


def begun(db: Any) -> Any:
    """When the canary's transaction began; None if there isn't one."""
    rows = db.ask(SQL(f"select xact_start from pg_stat_activity where application_name = '{APPLICATION}'"))  # type: ignore[arg-type]
    return rows[0]["xact_start"] if rows else None


def test_the_canary_passes_over_what_has_no_writer(superuser: Superuser, server: Server, database: str) -> None:
    server.sql(database, "create materialized view app.by_day as select status, count(*) from app.incidents group by 1")
    tables = [("app", "by_day"), ("app", "gone"), INCIDENTS]
    with server.superuser(database) as control:
        with Canary(superuser, database, tables, control, KEY) as canary:
            seen: set[Any] = set()
            until(lambda: seen.add(begun(control)) or len(seen - {None}) > 3)
        index = WantedIndex.of("create index by_number on app.by_day (count)", schema="app")
        done = build(
            superuser, database, index, Limits(look_seconds=0.1), lambda *_: None, lambda one: look(control, one)
        )
    assert canary.stall.reason == "" and canary.stall.beats > 0
    assert done.how == "built"
