"""Sessions: read-only by default, bounded, and errors that hold no row."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server, running

from drillbook.errors import Changed, PostgresError
from drillbook.postgres.client import SQL, Address, Database, Identifier, question


@pytest.fixture(scope="module")
def tenant(server: Server) -> str:
    """A database with one table."""
    return server.new_database(
        "create table incident (id int primary key, title text not null, severity int check (severity between 1 and 5))",
        "insert into incident select n, 'title ' || n, n % 5 + 1 from generate_series(1, 100) n",
    )


@pytest.fixture
def db(server: Server, tenant: str) -> Iterator[Database]:
    """A session that may write."""
    with server.superuser(tenant) as session:
        yield session


def test_a_session_is_read_only_unless_asked_for(server: Server, tenant: str) -> None:
    """The server itself refuses, no matter who the role is."""
    with server.superuser(tenant, read_only=True) as reading:
        with pytest.raises(PostgresError) as refused:
            reading.run(SQL("delete from incident"))
        assert refused.value.sqlstate == "25006"
        assert reading.ask_text("select count(*) from incident") == [(100,)]


def test_a_sites_question_can_not_write(db: Database) -> None:
    """Not even in a session that may: READ ONLY, rolled back, and one statement only."""
    for text, state in (
        ("insert into incident values (0, 'x', 1)", "25006"),
        ("select 1; commit; delete from incident", "42601"),
        ("select set_config('transaction_read_only', 'off', true)", "25001"),
        ("select nextval(pg_get_serial_sequence('marker', 'id'))", "42P01"),
    ):
        with pytest.raises(PostgresError) as refused:
            db.ask_text(text)
        assert refused.value.sqlstate == state, text
    assert db.ask_text("commit") == []
    assert db.ask_text("select count(*) from incident") == [(100,)]


def test_percent_signs_and_parameters(db: Database) -> None:
    """A site writes its question as it would in psql; with parameters the sign is doubled."""
    assert db.ask_text("select count(*) from incident where title like '%7%'") == [(19,)]
    assert db.ask_text("select count(*) from incident where title like %s || '%%'", ("title 1",)) == [(12,)]
    assert db.ask_text("select %(a)s::int + 1", {"a": 1}) == [(2,)]


def test_nobody_waits_long_for_a_lock(server: Server, tenant: str) -> None:
    """A statement may take long; behind somebody's lock it gives up soon, and unproven is all that it says."""
    with (
        server.superuser(tenant) as holder,
        Database.connect(
            server.address, user=SUPERUSER, password=PASSWORD, dbname=tenant, lock_timeout_seconds=0.2
        ) as waiting,
        holder.snapshot(),
        pytest.raises(PostgresError, match="lock timeout") as late,
    ):
        holder.ask_text("lock table incident in access exclusive mode")
        waiting.ask_text("select count(*) from incident")
    assert late.value.sqlstate == "55P03"
    assert not late.value.contradicts


def test_a_question_has_a_time_limit(server: Server, tenant: str, db: Database) -> None:
    """The connection's own, or the question's; the session lives on."""
    with pytest.raises(PostgresError, match="statement timeout") as late:
        db.ask_text("select pg_sleep(60)", timeout_seconds=0.2)
    assert late.value.sqlstate == "57014"
    assert not late.value.contradicts
    assert db.ask_text("show statement_timeout") == [("1min",)]
    with Database.connect(
        server.address,
        user=SUPERUSER,
        password=PASSWORD,
        dbname=tenant,
        statement_timeout_seconds=1,
    ) as hasty:
        with pytest.raises(PostgresError, match="statement timeout"):
            hasty.ask_text("select pg_sleep(60)")
        assert hasty.ask_text("select 1") == [(1,)]


def test_a_snapshot_sees_one_instant(server: Server, tenant: str, db: Database) -> None:
    """What others commit in the meantime is not seen; no transaction id is used."""
    server.sql(tenant, "create table counter (n int)")
    with db.snapshot():
        assert db.ask_text("select count(*) from counter") == [(0,)]
        server.sql(tenant, "insert into counter values (1)")
        assert db.ask_text("select count(*), pg_current_xact_id_if_assigned() from counter") == [(0, None)]
        with pytest.raises(PostgresError) as refused:
            db.run(SQL("delete from counter"))
        assert refused.value.sqlstate == "25006"
    assert db.ask_text("select count(*) from counter") == [(1,)]
    with db.snapshot(), pytest.raises(RuntimeError), db.snapshot():
        pass


def test_an_error_in_a_savepoint_leaves_the_snapshot(db: Database) -> None:
    """One unreadable table does not hide the others."""
    with db.snapshot():
        with pytest.raises(PostgresError, match="does not exist"), db.savepoint():
            db.ask_text("select * from nowhere")
        with db.savepoint():
            assert db.ask_text("select count(*) from incident") == [(100,)]
        assert db.ask_text("select count(*) from incident") == [(100,)]


def test_no_row_is_in_an_error(db: Database, tenant: str) -> None:
    """DETAIL holds the failing row, some messages quote a value, a function may raise one: none of it is reported."""
    secret = "0123 456789"
    texts = []
    with pytest.raises(PostgresError) as broken:
        db.run(SQL("insert into incident values (1, {}, 1)").format(SQL("'" + secret + "'")))
    texts.append(broken.value)
    with pytest.raises(PostgresError) as checked:
        db.run(SQL("insert into incident values (1000, {}, 9)").format(SQL("'" + secret + "'")))
    texts.append(checked.value)
    for question_text in (
        f"select ('{secret}' || severity)::int from incident",
        f"select to_date('{secret}' || severity, 'Mon') from incident",
    ):
        with pytest.raises(PostgresError) as quoted:
            db.ask_text(question_text)
        texts.append(quoted.value)
    with pytest.raises(PostgresError) as raised:
        db.run(SQL("do $$ begin raise exception 'row %%', (select title from incident where id = 42); end $$"))
    texts.append(raised.value)
    assert [error.sqlstate for error in texts] == ["23505", "23514", "22P02", "22007", "P0001"]
    for error in texts:
        assert secret not in error.what
        assert "title 42" not in error.what
        assert "DETAIL" not in error.what
    assert 'violates unique constraint "incident_pkey"' in texts[0].what
    # Nor does a traceback lead to the driver's own words.
    assert all(error.__cause__ is None and error.__suppress_context__ for error in texts)


@pytest.mark.parametrize(
    ("user", "password", "dbname", "state", "words"),
    [
        (SUPERUSER, "wrong", "postgres", "28P01", 'password authentication failed for user "postgres"'),
        ("nobody", PASSWORD, "postgres", "28P01", 'password authentication failed for user "nobody"'),
        (SUPERUSER, PASSWORD, "nowhere", "3D000", 'database "nowhere" does not exist'),
        ("gone", PASSWORD, "postgres", "28000", 'role "gone" is not permitted to log in'),
        ("full", PASSWORD, "postgres", "53300", 'too many connections for role "full"'),
        ("reader", PASSWORD, "closed", "42501", 'permission denied for database "closed"'),
    ],
)
def test_why_a_connection_was_refused(
    server: Server, user: str, password: str, dbname: str, state: str, words: str
) -> None:
    """The SQLSTATE tells a wrong password from a server that is away; the password is not in the message."""
    with server.superuser("postgres") as admin:
        known = {row[0] for row in admin.ask_text("select rolname from pg_roles union select datname from pg_database")}
    for name, statement in (
        ("gone", f"create role gone nologin password '{PASSWORD}'"),
        ("full", f"create role full login connection limit 0 password '{PASSWORD}'"),
        ("closed", "create database closed"),
    ):
        if name not in known:
            server.sql("postgres", statement.replace("role full", 'role "full"'))
    server.sql("postgres", "revoke connect on database closed from public")
    with pytest.raises(PostgresError) as refused:
        Database.connect(server.address, user=user, password=password, dbname=dbname)
    assert refused.value.sqlstate == state
    assert refused.value.what == f"connect to database {dbname} as {user}: {words}"
    assert password not in refused.value.what


def test_a_server_that_is_away_is_no_contradiction() -> None:
    """Nobody listens: SQLSTATE class 08, with what the address knows of it."""
    with pytest.raises(PostgresError) as away:
        Database.connect(
            Address("127.0.0.1", 9, why=lambda: "the pod is gone"), user="x", password="secret", dbname="d"
        )
    assert away.value.sqlstate == "08001"
    assert away.value.what == "connect to database d as x: Connection refused (the pod is gone)"


def test_a_lost_connection_leaves_a_write_unknown(server: Server, tenant: str) -> None:
    """After a crash of the server nobody knows whether the write was committed; a read changed nothing."""
    with server.superuser(tenant) as killer:
        for write in (True, False):
            with server.superuser(tenant) as victim:
                ((pid,),) = victim.ask_text("select pg_backend_pid()")
                killer.ask_text("select pg_terminate_backend(%s, 10000)", (pid,))
                with pytest.raises(PostgresError) as lost:
                    if write:
                        victim.run(SQL("select 1"))
                    else:
                        victim.ask_text("select 1")
                assert lost.value.sqlstate[:2] in {"08", "57"}
                assert lost.value.changed is (Changed.UNKNOWN if write else Changed.NOTHING)
                assert victim.closed
                with pytest.raises(PostgresError) as again:
                    victim.ask_text("select 1")
                assert again.value.sqlstate[:2] == "08"


def test_damage_contradicts_and_nothing_else_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLSTATE XX is the server's word that its data is wrong."""
    with running(tmp_path_factory.mktemp("damaged")) as server:
        name = server.new_database(
            "create table t (n int)", "insert into t select generate_series(1, 1000)", "checkpoint"
        )
        path = server.file_of(name, "t")
        server.stop()
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 64)
        server.start()
        with server.superuser(name) as db, pytest.raises(PostgresError, match="invalid page in block 0") as damaged:
            db.ask_text("select count(*) from t")
        assert damaged.value.contradicts


def test_a_statement_can_be_cancelled_from_another_thread(db: Database) -> None:
    """Ctrl-C and time limits of ours end the statement in the server."""
    timer = threading.Timer(0.3, db.cancel)
    timer.start()
    with pytest.raises(PostgresError) as cancelled:
        db.ask_text("select pg_sleep(60)")
    timer.join()
    assert cancelled.value.sqlstate == "57014"


def test_beside_a_running_event_loop(server: Server, tenant: str) -> None:
    """A notebook's kernel has its own loop."""

    async def cell() -> list[tuple[int]]:
        with server.superuser(tenant) as db:
            here = db.ask_text("select 1")
            there = await asyncio.gather(*(asyncio.to_thread(db.ask_text, f"select {n}") for n in range(8)))
        return [*here, *(rows[0] for rows in there)]

    assert asyncio.run(cell()) == [(1,), *((n,) for n in range(8))]


def test_composed_statements_and_questions(db: Database) -> None:
    """Identifiers are quoted by the driver; a question that does not exist is a programming error."""
    assert db.ask_one(SQL("select count(*) as n from {}").format(Identifier("incident"))) == {"n": 100}
    assert db.run(SQL("update incident set severity = 1 where id <= %(last)s"), last=3) == 3
    with pytest.raises(LookupError, match="no question 'nowhere'"):
        db.ask("nowhere")
    with pytest.raises(LookupError):
        question("../errors")
    with pytest.raises(PostgresError, match="expected one row, got 100"):
        db.ask_one(SQL("select id from incident"))


def test_an_address_is_compared_by_host_and_port() -> None:
    """What may explain a failure is no part of it."""
    assert Address("127.0.0.1", 1, why=lambda: "x") == Address("127.0.0.1", 1)


def test_a_session_is_named_and_ends(server: Server, tenant: str) -> None:
    """The server shows who asks; leaving the context ends the session."""
    with server.superuser("postgres") as watcher:
        with server.superuser(tenant) as db:
            assert db.ask_text("show application_name") == [("drillbook",)]
            ((pid,),) = db.ask_text("select pg_backend_pid()")
        db.close()
        deadline = time.monotonic() + 60
        while watcher.ask_text("select 1 from pg_stat_activity where pid = %s", (pid,)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
