"""What a drill costs production: nobody waits long for a lock or a snapshot of ours, and the digests are still right."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from tests.library.fix_integrity import PASSWORD, Server, run

from drillbook.errors import PostgresError
from drillbook.postgres.checks import AtBoundary, Watch, digest_tables, digests_at_boundary, newest_changes, structure
from drillbook.postgres.checks.boundary import ROUNDS
from drillbook.postgres.client import SQL, Database

pytestmark = pytest.mark.long

KEY = bytes(range(32))
ROLE = "drillbook_six"
# So many that a digest of them takes some seconds.
CANCELLED = "canceling statement due to user request"
BIG = (
    "create table big as select g as id, repeat(g::text, 8) as v from generate_series(1, 400000) g",
    "alter table big add primary key (id)",
    "create table quiet as select g from generate_series(1, 100) g",
)
NAMES = ["public.big", "public.quiet"]


@pytest.fixture(scope="module")
def template(server: Server) -> str:
    """A database with a big table, to be copied."""
    return server.new_database(*BIG)


class Migration(threading.Thread):
    """A tenant's statements, each in its own transaction, begun as soon as a digest of ours is under way."""

    def __init__(
        self, server: Server, database: str, statements: Sequence[str], *, times: int = 1, hold: bool = False
    ) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.statements, self.times, self.hold = server, database, statements, times, hold
        self.order: list[str] = []
        self.done = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            with self.server.superuser(self.database) as db:
                # A server that cancels it after this time has shown that nobody gave way.
                run(db, "set lock_timeout = '20s'")
                digesting(db, self.done)
                for statement in self.statements * self.times:
                    run(db, statement)
                    self.order.append("migrated")
                if self.hold:
                    self.done.wait(120)
        except BaseException as error:  # shown by the test that waits for it
            self.failed = error


def digesting(db: Database, over: threading.Event) -> None:
    """Wait until a session of the reader has a digest of the big table under way."""
    while not over.wait(0.02):
        if db.ask_one(
            SQL(
                "select count(*) as n from pg_stat_activity where datname = current_database() and state = 'active' "
                "and pid <> pg_backend_pid() and query like '%%sha256%%big%%'"
            )
        )["n"]:
            return


@contextmanager
def migrating(migration: Migration) -> Iterator[Migration]:
    migration.start()
    try:
        yield migration
    finally:
        migration.done.set()
        migration.join(60)
    assert migration.failed is None, migration.failed
    assert not migration.is_alive()


def digested(server: Server, database: str, names: Sequence[str] = NAMES, **options: int) -> AtBoundary[int]:
    own = server.new_database("create table marker (n int)")
    return digests_at_boundary(server.reader, marker_in(server, own), {database: names}, KEY, **options)


def marker_in(server: Server, own: str) -> Callable[[], int]:
    markers = iter(range(1, 10_000))

    def write() -> int:
        number = next(markers)
        server.sql(own, f"insert into marker values ({number})")
        return number

    return write


def nothing_is_left(server: Server, database: str) -> None:
    """No session of ours is in a transaction, and soon none exists at all."""
    with server.superuser("postgres") as db:
        count = SQL("select count(*) as n from pg_stat_activity where datname = {} and usename <> 'postgres' ")
        held = count.format(literal(database)) + SQL("and xact_start is not null")
        assert db.ask_one(held)["n"] == 0
        for _ in range(200):
            if not db.ask_one(count.format(literal(database)))["n"]:
                return
            time.sleep(0.05)
    raise AssertionError("sessions of ours are left")


def literal(text: str) -> SQL:
    return SQL("'" + text + "'")


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["alter table big add column extra int default 7"], id="alter table"),
        pytest.param(
            ["alter table big alter column id type bigint"], id="rewriting alter table", marks=pytest.mark.soak
        ),
        pytest.param(["truncate big"], id="truncate", marks=pytest.mark.soak),
        pytest.param(["vacuum full big"], id="vacuum full"),
        pytest.param(["reindex table big"], id="reindex", marks=pytest.mark.soak),
        pytest.param(["alter table big drop constraint big_pkey"], id="drop constraint", marks=pytest.mark.soak),
        pytest.param(
            ["create index concurrently big_v on big (left(v, 8))"],
            id="create index concurrently",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ["begin", "lock table big in access exclusive mode", "commit"], id="lock table", marks=pytest.mark.soak
        ),
    ],
)
def test_g08_a_migration_goes_first_and_the_digest_succeeds_later(
    server: Server, template: str, statements: list[str]
) -> None:
    """The tenant's statement gets its lock while our digest is cancelled; the digest is then that of the last marker."""
    database = server.new_database(like=template)
    cancelled = server.log.count(CANCELLED)
    with migrating(Migration(server, database, statements)) as migration:
        found = digested(server, database)
        migration.order.append("digested")
    assert migration.order == ["migrated"] * len(statements) + ["digested"]
    assert server.log.count(CANCELLED) > cancelled, "the migration waited until the digest was done"
    assert not found.unproven
    with server.superuser(database, read_only=True) as db:
        assert found.digests[database] == digest_tables(db, NAMES, KEY)
    nothing_is_left(server, database)


def test_g08_a_table_that_is_always_blocked_is_unproven_alone(server: Server, template: str) -> None:
    """Somebody takes the lock and keeps it: that table is given up after some tries, and the others have their digests."""
    database = server.new_database(like=template)
    statements = ["begin", "lock table big in access exclusive mode"]
    with migrating(Migration(server, database, statements, hold=True)) as migration:
        found = digested(server, database)
        assert migration.order == ["migrated"] * 2
    assert list(found.digests[database]) == ["public.quiet"]
    assert list(found.unproven) == [f"{database} public.big"]
    assert "in each of 4 tries" in found.unproven[f"{database} public.big"]
    nothing_is_left(server, database)


def test_g08_who_was_let_past_is_said(server: Server, template: str) -> None:
    """A read that gives way says to which role, and for which lock; its lock is gone when that is said."""
    database = server.new_database(like=template)
    with (
        migrating(Migration(server, database, ["truncate big"])),
        Watch(server.reader(database)) as watch,
        server.reader(database) as db,
        pytest.raises(PostgresError, match="gave way to role postgres, which waits for AccessExclusiveLock"),
        watch.reading(db),
    ):
        db.ask_text("select count(sha256(v::bytea)) from public.big, generate_series(1, 100)")
    nothing_is_left(server, database)


def test_g08_the_newest_changes_give_way(server: Server, template: str) -> None:
    """The other read of whole tables on the source: it waits a second for a lock, lets go, and comes back later."""
    database = server.new_database(like=template)

    def waiting(db: Database) -> bool:
        asked = f"select count(*) as n from pg_stat_activity where datname = '{database}' and wait_event_type = 'Lock'"
        return bool(db.ask_one(SQL(asked))["n"])

    def hold(locked: threading.Event) -> None:
        with server.superuser(database) as tenant, server.superuser("postgres") as other:
            run(tenant, "begin")
            run(tenant, "lock table big in access exclusive mode")
            locked.set()
            for expected in (True, False):
                while waiting(other) is not expected:
                    time.sleep(0.02)
            run(tenant, "rollback")

    locked = threading.Event()
    holder = threading.Thread(target=hold, args=(locked,), daemon=True)
    holder.start()
    assert locked.wait(60)
    with Watch(server.reader(database)) as watch, server.reader(database) as db:
        seen = newest_changes(db, NAMES, watch)
    holder.join(60)
    assert (seen["public.big"].rows, seen["public.quiet"].rows) == (400_000, 100)


def test_g08_nothing_is_read_when_nobody_looks(server: Server) -> None:
    """A watch whose session is lost lets no read go on."""
    database = server.new_database("create table t (k int)")
    with Watch(server.reader(database)) as watch, server.reader(database) as db:
        pid = watch.db.ask_one(SQL("select pg_backend_pid() as pid"))["pid"]
        with pytest.raises(PostgresError), watch.reading(db):
            server.sql("postgres", f"select pg_terminate_backend({pid})")
            db.ask_text("select pg_sleep(60)")
        with pytest.raises(PostgresError), watch.reading(db):
            pass


def test_g08_a_truncate_after_the_marker_is_not_an_empty_table(server: Server) -> None:
    """An old snapshot sees a truncated table as empty: that was not its content at the marker."""
    database = server.new_database("create table t as select 1 as k", "create table u as select 1 as k")
    own = server.new_database("create table marker (n int)")
    write, opened = marker_in(server, own), []

    def open_db(name: str) -> Database:
        # The watch, the counts, the digests, the holder, the structure, and then the comparison.
        opened.append(name)
        if len(opened) == 6:
            server.sql(database, "truncate t")
        return server.reader(name)

    found = digests_at_boundary(open_db, write, {database: ["public.t", "public.u"]}, KEY)
    assert (found.marker, found.attempts) == (2, 2), "the empty table is that of a second marker"
    assert {name: digest.rows for name, digest in found.digests[database].items()} == {"public.t": 0, "public.u": 1}
    assert not found.unproven


def test_s15_the_structure_is_that_at_the_marker(server: Server) -> None:
    """What is made just after the marker is not in the structure."""
    database = server.new_database("create table t as select 1 as k")
    own = server.new_database("create table marker (n int)")
    opened = []
    with server.superuser(database, read_only=True) as db:
        expected = structure(db)

    def open_db(name: str) -> Database:
        opened.append(name)
        if len(opened) == 5:  # the session that reads the structure
            server.sql(database, "create table later (k int)", "create role someone", "grant select on t to someone")
        return server.reader(name)

    found = digests_at_boundary(open_db, marker_in(server, own), {database: ["public.t"]}, KEY)
    server.sql(database, "drop owned by someone", "drop role someone")
    assert found.structures[database] == expected
    assert found.attempts == 1


@pytest.mark.parametrize("limit", [3, 4, 7, 10])
def test_g08_six_tenants_stay_under_the_connection_limit(server: Server, limit: int) -> None:
    """With a session of the drill's own that is open all the time, as MarkBefore has it."""
    server.sql(
        "postgres",
        f"create role {ROLE}_{limit} login password '{PASSWORD}' connection limit {limit} in role pg_read_all_data",
    )
    databases = [
        server.new_database("create table t as select g from generate_series(1, 10) g", "create table busy (k int)")
        for _ in range(6)
    ]
    own = server.new_database("create table marker (n int)")

    def open_db(name: str) -> Database:
        return Database.connect(server.address, user=f"{ROLE}_{limit}", password=PASSWORD, dbname=name)

    with open_db(own):
        found = digests_at_boundary(
            open_db, marker_in(server, own), {database: ["public.t"] for database in databases}, KEY
        )
    assert not found.unproven
    assert {database: of["public.t"].rows for database, of in found.digests.items()} == dict.fromkeys(databases, 10)
    assert set(found.structures) == set(databases)


def test_g08_without_a_held_snapshot_a_row_that_came_and_went_is_noticed(server: Server) -> None:
    """Where no session is left, a table is compared over a longer time; a row version in neither reading is no equality."""
    role = f"{ROLE}_few"
    server.sql(
        "postgres", f"create role {role} login password '{PASSWORD}' connection limit 2 in role pg_read_all_data"
    )
    database = server.new_database("create table queue (k int)", "create table quiet as select 1 as k")
    own = server.new_database("create table marker (n int)")
    write = marker_in(server, own)

    def marker() -> int:
        # A session reports its writes when it ends.
        server.sql(database, "insert into queue values (1)")
        server.sql(database, "delete from queue")
        settled(server, database)
        return write()

    def open_db(name: str) -> Database:
        return Database.connect(server.address, user=role, password=PASSWORD, dbname=name)

    found = digests_at_boundary(open_db, marker, {database: ["public.queue", "public.quiet"]}, KEY)
    assert list(found.digests[database]) == ["public.quiet"]
    assert "CONNECTION LIMIT" in found.unproven[f"{database} public.queue"]
    assert found.attempts == ROUNDS


def settled(server: Server, database: str) -> None:
    """Wait until as many rows are reported deleted as inserted, and no session that wrote is left."""
    with server.superuser(database) as db:
        while db.ask_one(
            SQL(
                "select pg_stat_get_tuples_inserted('queue'::regclass) <> pg_stat_get_tuples_deleted('queue'::regclass) as late"
            )
        )["late"]:
            time.sleep(0.05)


def test_g08_a_busy_neighbour_costs_no_scan_and_no_proof(server: Server) -> None:
    """Another database that never rests: its table is read at the moment, and no other table is read again."""
    database = server.new_database("create table quiet as select 1 as k")
    neighbour = server.new_database("create table busy (k int)")
    own = server.new_database("create table marker (n int)")
    write = marker_in(server, own)

    def marker() -> int:
        server.sql(neighbour, "insert into busy values (1)")
        return write()

    tables = {database: ["public.quiet"], neighbour: ["public.busy"]}
    found = digests_at_boundary(server.reader, marker, tables, KEY)
    assert not found.unproven
    assert found.digests[neighbour]["public.busy"].rows == found.attempts == 2
    assert database not in found.in_snapshot
    assert found.in_snapshot[neighbour] == ("public.busy",)


class Horizon(threading.Thread):
    """Which tables of ours are under way while one and the same ``xmin`` is held back by us."""

    def __init__(self, server: Server, database: str, *, write: Sequence[str] = ()) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.write = server, database, write
        self.over = threading.Event()
        self.seen: dict[int, set[str]] = {}

    def run(self) -> None:
        sessions = SQL(
            "select backend_xmin::text::bigint as xmin, query from pg_stat_activity where usename <> 'postgres' "
            "and backend_xmin is not null and datname = {}"
        ).format(literal(self.database))
        with self.server.superuser("postgres") as db, self.server.superuser(self.database) as tenant:
            while not self.over.wait(0.005):
                run(db, "select pg_current_xact_id()")  # so that the next snapshot is another one
                for statement in self.write:
                    run(tenant, statement)
                found = db.ask(sessions)
                under_way = set(re.findall(r"public\.(t\d+)\W", " ".join(row["query"] for row in found)))
                if found:
                    self.seen.setdefault(min(row["xmin"] for row in found), set()).update(under_way)


@contextmanager
def horizon(server: Server, database: str, *, write: Sequence[str] = ()) -> Iterator[Horizon]:
    watching = Horizon(server, database, write=write)
    watching.start()
    try:
        yield watching
    finally:
        watching.over.set()
        watching.join(60)


@pytest.mark.parametrize("written", [0, 1, 2], ids=["all at rest", "one is written to", "two are written to"])
def test_g08_no_snapshot_outlives_its_own_table(server: Server, written: int) -> None:
    """The oldest ``xmin`` that we hold is never older than the table that is read; of those written to, they are read together."""
    tables = [f"t{number}" for number in range(10)]
    database = server.new_database(
        *(
            f"create table {name} as select g as k, repeat('x', 200) as v from generate_series(1, 15000) g"
            for name in tables
        )
    )
    busy = tables[:written]
    with horizon(server, database, write=[f"update {name} set v = 'y' where k = 1" for name in busy]) as watching:
        time.sleep(0.5)
        found = digested(server, database, [f"public.{name}" for name in tables])
    assert not found.unproven
    assert set().union(*watching.seen.values()) == set(tables), "each table was seen while it was read"
    quiet = set(tables) - set(busy)
    together = [
        under_way
        for under_way in watching.seen.values()
        if len(under_way & quiet) > 1 or (under_way & quiet and under_way & set(busy))
    ]
    assert together == [], "an xmin was held while more than one table was read"
    assert set(found.in_snapshot.get(database, ())) == {f"public.{name}" for name in busy}
    nothing_is_left(server, database)


def test_g08_a_role_without_pg_monitor_sees_who_commits(server: Server) -> None:
    """Production's role is no member of pg_monitor: whom its snapshot passes over it is reported, and whether they have committed."""
    role = f"{ROLE}_bare"
    server.sql("postgres", f"create role {role} login password '{PASSWORD}'")
    database = server.new_database("create table t (k int)")
    with (
        server.superuser(database) as writer,
        Database.connect(server.address, user=role, password=PASSWORD, dbname=database) as db,
    ):
        run(writer, "begin")
        run(writer, "insert into t values (1)")
        server.sql(database, "insert into t values (2)")
        db.ask(SQL("begin"))
        passed_over = db.ask_one("integrity_export")["sees"].split(":")[2]
        assert passed_over
        run(writer, "commit")
        assert db.ask_one("integrity_still_committing", xids=[passed_over])["committed"] == 1
