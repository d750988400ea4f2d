"""Digests on a replica are those of the primary, wait for the moment, and come from the primary where the replica fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.library.fix_integrity import Server, run, running

from drillbook.errors import PostgresError
from drillbook.postgres.checks import AtBoundary, Replica, digest_tables, digests_at_boundary
from drillbook.postgres.client import SQL, Database

KEY = bytes(range(32))
NAMES = ["public.quiet", "public.big"]
TABLES = (
    "create table quiet as select g from generate_series(1, 100) g",
    "create table big as select g as id, repeat(g::text, 8) as v from generate_series(1, 400000) g",
)


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"wal_level": "replica", "max_standby_streaming_delay": "60s", "log_statement": "all"}
    with running(tmp_path_factory.mktemp("primary"), settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def standby(primary: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with primary.standby(tmp_path_factory.mktemp("standby")) as started:
        yield started


class Source:
    """A database on the primary, with a marker table in another one; ``at_marker`` happens just before each marker."""

    def __init__(self, primary: Server, standby: Server, *more: str) -> None:
        self.primary, self.standby = primary, standby
        self.database = primary.new_database(*TABLES, *more)
        self.own = primary.new_database("create table marker (n int)")
        self.caught_up()

    def caught_up(self) -> None:
        """Wait until the replica has all that is there now."""
        with self.primary.superuser("postgres") as db, self.standby.superuser("postgres", read_only=True) as other:
            run(db, "create table if not exists flush (n int)")
            lsn = db.ask_one(SQL("select pg_current_wal_flush_lsn()::text as lsn"))["lsn"]
            for _ in range(3000):
                if other.ask_text("select pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))[0][0]:
                    return
                time.sleep(0.02)
        raise AssertionError("the replica replays nothing")

    def mark(self) -> str:
        self.primary.sql(self.own, "insert into marker values (1)")
        return "marker"

    def digested(
        self,
        at_marker: Callable[[], None] = lambda: None,
        open_replica: Callable[[str], Database] | None = None,
        patience: float = 60,
    ) -> AtBoundary[str]:
        def write_marker() -> str:
            at_marker()
            return self.mark()

        other = Replica("orders-2", open_replica or self.standby.reader, self.mark, patience)
        return digests_at_boundary(self.primary.reader, write_marker, {self.database: NAMES}, KEY, replica=other)

    def expected(self) -> dict[str, object]:
        with self.primary.superuser(self.database, read_only=True) as db:
            return dict(digest_tables(db, NAMES, KEY))


def digests_asked(server: Server) -> int:
    """How many digests this server was asked for; by its log, which has them all."""
    return server.log.count("sha256(")


@pytest.mark.long
def test_g08_tables_at_rest_cost_the_primary_nothing(primary: Server, standby: Server) -> None:
    """The replica has the same rows, and the primary digests none of them."""
    source = Source(primary, standby)
    before = digests_asked(primary)
    found = source.digested()
    assert digests_asked(primary) == before
    assert (found.replica, found.instead, found.unproven) == ("orders-2", {}, {})
    assert found.digests[source.database] == source.expected()


def test_g08_a_table_that_is_written_to_is_read_on_the_primary(primary: Server, standby: Server) -> None:
    """Written to with each marker: what the replica read before it doesn't hold, and the primary is read at the moment."""
    source = Source(primary, standby)
    found = source.digested(lambda: primary.sql(source.database, "insert into quiet values (0)"))
    assert found.in_snapshot == {source.database: ("public.quiet",)}
    assert found.digests[source.database] == source.expected()
    assert (found.replica, found.unproven) == ("orders-2", {})


@pytest.mark.long
def test_g08_the_replica_is_read_again_only_when_it_has_passed_the_moment(primary: Server, standby: Server) -> None:
    """Replay rests from before the write until the comparison waits for it: an old state is taken for no proof."""
    source = Source(primary, standby)

    def go_on() -> None:
        with standby.superuser("postgres") as db:
            db.ask(SQL("select pg_wal_replay_resume()"))

    later = threading.Timer(3, go_on)

    def write() -> None:
        if later.ident is None:  # the first marker
            with standby.superuser("postgres") as db:
                db.ask(SQL("select pg_wal_replay_pause()"))
            later.start()
            primary.sql(source.database, "update big set v = 'new' where id = 1")

    try:
        found = source.digested(write)
    finally:
        later.join(60)
        go_on()
    assert found.attempts == 2
    assert found.digests[source.database] == source.expected()
    assert found.in_snapshot == {source.database: ("public.big",)}


@pytest.mark.long
def test_g08_a_replica_that_lags_too_long_is_not_waited_for(primary: Server, standby: Server) -> None:
    source = Source(primary, standby)
    with standby.superuser("postgres") as db:
        try:
            found = source.digested(lambda: db.ask(SQL("select pg_wal_replay_pause()")) and None, patience=1)
        finally:
            db.ask(SQL("select pg_wal_replay_resume()"))
    assert "had replayed" in found.instead["any table"]
    assert not found.unproven
    assert found.digests[source.database] == source.expected()


@contextmanager
def meanwhile(source: Source, *statements: str, on_standby: str = "") -> Iterator[None]:
    """The statements on the primary, and one on the replica, as soon as the replica is digesting the big table."""

    def work() -> None:
        with (
            source.standby.superuser(source.database, read_only=True) as other,
            source.primary.superuser(source.database) as db,
        ):
            while not other.ask_one(
                SQL(
                    "select count(*) as n from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() "
                    "and query like '%%sha256%%big%%'"
                )
            )["n"] and not over.wait(0.02):
                pass
            for statement in statements:
                run(db, statement)
            if on_standby:
                other.ask(SQL(on_standby))

    over = threading.Event()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


@pytest.mark.long
def test_g08_a_read_that_replay_cancels_is_made_on_the_primary(primary: Server, standby: Server) -> None:
    """A conflict with recovery: rows that the read sees are vacuumed away. The table is named, with the server's words."""
    source = Source(primary, standby)
    standby.sql("postgres", "alter system set max_standby_streaming_delay = '10ms'", "select pg_reload_conf()")
    try:
        # The rows are gone on the primary before; the replica replays it as soon as it reads the table.
        standby.sql("postgres", "select pg_wal_replay_pause()")
        primary.sql(source.database, "update big set v = v where id <= 1000", "vacuum big")
        with meanwhile(source, on_standby="select pg_wal_replay_resume()"):
            found = source.digested()
    finally:
        standby.sql("postgres", "select pg_wal_replay_resume()")
        standby.sql("postgres", "alter system reset max_standby_streaming_delay", "select pg_reload_conf()")
    assert "conflict with recovery" in found.instead[f"{source.database} public.big"]
    assert not found.unproven
    assert found.digests[source.database] == source.expected()


@pytest.mark.long
def test_g08_replay_that_waits_for_our_lock_goes_first(primary: Server, standby: Server) -> None:
    """The replica would let replay wait for a minute: the read gives way at once, and succeeds later."""
    source = Source(primary, standby)
    cancelled = standby.log.count("canceling statement due to user request")
    with meanwhile(source, "alter table big add column extra int default 7"):
        found = source.digested()
    assert standby.log.count("canceling statement due to user request") > cancelled
    assert not found.unproven
    assert found.digests[source.database] == source.expected()


@pytest.mark.long
@pytest.mark.parametrize("state", ["refuses", "is the primary"])
def test_g08_a_replica_that_is_none_is_not_read(primary: Server, standby: Server, state: str) -> None:
    source = Source(primary, standby)

    def refused(database: str) -> Database:
        raise PostgresError("connect: refused", sqlstate="08001", todo="")

    found = source.digested(open_replica=refused if state == "refuses" else primary.reader)
    assert ("refused" if state == "refuses" else "no replica any more") in found.instead["any table"]
    assert not found.unproven
    assert found.digests[source.database] == source.expected()
