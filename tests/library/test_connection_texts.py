"""The words of each limit on every major, the questions about sessions there, and diagnoses of errors that were provoked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, READER, Server, running
from tests.library.fix_majors import MAJORS, found, why_missing
from tests.library.fix_pgbouncer import NO_PROGRAM, PATIENCE_SECONDS, PROGRAM, Client, instances

from drillbook.connections.arrivals import all_on_one, first_trouble
from drillbook.connections.diagnosis import Cause, Seen, diagnose
from drillbook.connections.outcomes import Limit
from drillbook.connections.path import AppPods, Path, Sessions
from drillbook.connections.path import Server as Limits
from drillbook.postgres.client import Database

FOUND = found()
ROLE, DATABASE = "app", "shop"
MOST, RESERVED_FOR_SUPERUSERS = 12, 2
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason=NO_PROGRAM)


# The words changed with 16; the majors between are repetitions.


@pytest.fixture(scope="module", params=MAJORS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of that major with a dozen slots, and without a worker that takes one."""
    if request.param not in FOUND:
        pytest.skip(why_missing(request.param))
    settings = {"max_connections": str(MOST), "superuser_reserved_connections": str(RESERVED_FOR_SUPERUSERS)}
    with running(
        tmp_path_factory.mktemp(f"pg{request.param}"), settings=settings, programs=FOUND[request.param]
    ) as server:
        server.sql("postgres", f"create database {DATABASE}", f"create role {ROLE} login password '{PASSWORD}'")
        yield server


def come(server: Server, role: str = ROLE) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=server.address.host,
        port=server.address.port,
        user=role,
        password=PASSWORD,
        dbname=DATABASE,
        autocommit=True,
    )


def path(server: Server, **limits: Any) -> Path:
    given = {"max_connections": MOST, "superuser_reserved": RESERVED_FOR_SUPERUSERS} | limits
    return Path(
        role=ROLE,
        database=DATABASE,
        pods=AppPods(replicas=1, most_replicas=1, pool=1),
        server=Limits(major=server.major, **given),
    )


def refused(server: Server) -> tuple[int, str]:
    """How many come in, and what the next one is told."""
    held: list[psycopg.Connection[Any]] = []
    try:
        while True:
            held.append(come(server))
    except psycopg.Error as error:
        return len(held), str(error).rpartition("FATAL:")[2].strip()
    finally:
        for connection in held:
            connection.close()
        gone(server)


def gone(server: Server) -> None:
    """Wait until nobody is left, and nothing of who asked."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with server.superuser("postgres") as db:
        while db.ask_text(
            "select 1 from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    time.sleep(0.3)


@pytest.mark.parametrize(
    ("statement", "limits"),
    [
        (f"alter role {ROLE} connection limit 4", {"role_limits": {ROLE: 4}}),
        (f"alter database {DATABASE} connection limit 5", {"database_limits": {DATABASE: 5}}),
        ("select 1", {}),
    ],
    ids=["role", "database", "server"],
)
def test_a_limit_speaks_on_every_major_as_predicted(small: Server, statement: str, limits: dict[str, Any]) -> None:
    predicted = first_trouble(path(small, **limits), all_on_one())
    assert predicted is not None
    try:
        small.sql("postgres", statement)
        gone(small)
        assert refused(small) == (predicted.served, predicted.outcome.text)
    finally:
        small.sql(
            "postgres",
            f"alter role {ROLE} connection limit -1",
            f"alter database {DATABASE} connection limit -1",
        )


def test_where_superusers_fill_their_own_slots_too_it_is_another_text(small: Server) -> None:
    gone(small)
    superusers = [small.superuser("postgres") for _ in range(RESERVED_FOR_SUPERUSERS)]
    try:
        there = path(small, sessions=(Sessions(role="postgres", database="postgres", count=len(superusers)),))
        predicted = first_trouble(there, all_on_one())
        assert predicted is not None
        held = [come(small) for _ in range(predicted.served)]
        more = [small.superuser("postgres") for _ in range(MOST - len(held) - len(superusers))]
        try:
            full = path(small, sessions=(Sessions(role="postgres", database="postgres", count=MOST),))
            last = first_trouble(full, all_on_one())
            assert last is not None and last.outcome.text == "sorry, too many clients already"
            with pytest.raises(psycopg.OperationalError, match=last.outcome.text):
                come(small)
        finally:
            for connection in (*held, *more):
                connection.close()
    finally:
        for database in superusers:
            database.close()
        gone(small)


QUESTIONS = {
    "connection_limits": {"role": ROLE, "database": DATABASE},
    "connections_by_role": {},
    "connections_by_address": {},
    "connections_oldest": {},
    "connections_tables": {},
    "connections_watched": {"role": ROLE},
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_d13_each_question_about_sessions_is_answered_on_every_major(small: Server, question: str) -> None:
    with small.reader(DATABASE) as db:
        assert isinstance(db.ask(question, **QUESTIONS[question]), list)


def test_d13_the_questions_answer_what_is_there(small: Server) -> None:
    small.sql("postgres", f"alter role {ROLE} connection limit 7")
    small.sql(DATABASE, "create table if not exists busy (n int)", "grant select, insert on busy to public")
    try:
        with come(small) as idle, come(small) as open_, small.reader(DATABASE) as db:
            idle.execute("insert into busy values (1)")
            open_.execute("begin")
            open_.execute("select 1")
            assert db.ask_one("connection_limits", role=ROLE, database=DATABASE) == {
                "major": small.major,
                "max_connections": MOST,
                "superuser_reserved": RESERVED_FOR_SUPERUSERS,
                "reserved": 0,
                "role_limit": 7,
                "database_limit": -1,
            }
            (row,) = [row for row in db.ask("connections_by_role") if row["role"] == ROLE]
            assert (row["connection_limit"], row["sessions"], row["in_transaction"], row["idle"]) == (7, 2, 1, 1)
            assert not any(row["role"] == READER and row["sessions"] for row in db.ask("connections_by_role"))
            (row,) = [row for row in db.ask("connections_by_address") if row["role"] == ROLE]
            assert (row["address"], row["sessions"], row["applications"]) == ("127.0.0.1", 2, "unnamed")
            (row,) = [row for row in db.ask("connections_oldest") if row["role"] == ROLE]
            assert row["pid"] == open_.info.backend_pid and row["state"] == "idle in transaction"
        _wait_for_counters(small)
    finally:
        small.sql("postgres", f"alter role {ROLE} connection limit -1")


def test_k15_an_open_transaction_is_seen_with_and_without_the_right_to_see_states(small: Server) -> None:
    small.sql(
        "postgres", f"create role plain login password '{PASSWORD}'", f"grant connect on database {DATABASE} to plain"
    )
    try:
        with (
            come(small) as idle,
            come(small) as open_,
            small.reader(DATABASE) as reader,
            Database.connect(small.address, user="plain", password=PASSWORD, dbname=DATABASE) as plain,
        ):
            idle.execute("select 1")
            open_.execute("begin")
            open_.execute("select 1")
            seen = {row["pid"]: row for row in reader.ask("connections_watched", role=ROLE)}
            hidden = {row["pid"]: row for row in plain.ask("connections_watched", role=ROLE)}
            at_rest, held = idle.info.backend_pid, open_.info.backend_pid
            assert {pid: row["state"] for pid, row in seen.items()} == {at_rest: "idle", held: "idle in transaction"}
            assert {row["state"] for row in hidden.values()} == {None} == {row["address"] for row in hidden.values()}
            for rows in (seen, hidden):
                assert rows[at_rest]["transaction"] is None and rows[held]["transaction"], rows
                assert rows[held]["everybody"] >= 3
    finally:
        gone(small)
        small.sql("postgres", f"revoke connect on database {DATABASE} from plain", "drop role plain")


def _wait_for_counters(server: Server) -> None:
    """A session's counters are there when it has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with server.reader(DATABASE) as db:
            rows = {row["table"]: row["inserted"] for row in db.ask("connections_tables")}
        if rows.get("busy", 0) >= 1:
            return
        assert time.monotonic() < deadline, rows
        time.sleep(0.2)


# -- diagnoses of what was provoked -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The lab's own PostgreSQL."""
    settings = {"max_connections": str(MOST), "superuser_reserved_connections": str(RESERVED_FOR_SUPERUSERS)}
    with running(tmp_path_factory.mktemp("newest"), settings=settings) as server:
        server.sql("postgres", f"create database {DATABASE}", f"create role {ROLE} login password '{PASSWORD}'")
        yield server


def seen_by(db: Database, *, through_pooler: bool, waiting: int | None = None) -> Seen:
    """The state as the runbook's own questions tell it."""
    limits = db.ask_one("connection_limits", role=ROLE, database=DATABASE)
    roles = db.ask("connections_by_role")
    return Seen(
        through_pooler=through_pooler,
        pooler_expected=True,
        role_sessions=sum(row["sessions"] for row in roles if row["role"] == ROLE),
        role_limit=limits["role_limit"],
        sessions=sum(row["sessions"] for row in roles),
        slots=limits["max_connections"] - limits["superuser_reserved"] - limits["reserved"],
        waiting=waiting,
    )


@needs_pgbouncer
@pytest.mark.parametrize(
    ("cause", "limit", "role_limit", "settings", "direct"),
    [
        (Cause.ROLE, Limit.ROLE, 3, {}, False),
        (Cause.CLIENTS, Limit.CLIENTS, -1, {"max_client_conn": 3}, False),
        (Cause.POOL, Limit.POOL, -1, {"default_pool_size": 3}, False),
        (Cause.CLUSTER, Limit.SLOTS, -1, {}, False),
        (Cause.NO_POOLER, Limit.ROLE, 3, {}, True),
    ],
    ids=lambda value: str(value) if isinstance(value, Cause) else "",
)
def test_five_errors_that_were_provoked_have_five_causes(
    newest: Server,
    tmp_path: FilePath,
    cause: Cause,
    limit: Limit,
    role_limit: int,
    settings: dict[str, int],
    direct: bool,
) -> None:
    """A role's limit, the pooler's clients, the pool, the cluster's max_connections, no pooler on the path."""
    newest.sql("postgres", f"alter role {ROLE} connection limit {role_limit}")
    gone(newest)
    sizes = {"pool_mode": "transaction", "default_pool_size": 20, "query_wait_timeout": 1, "server_login_retry": 1}
    clients: list[Client] = []
    with instances(tmp_path, newest, 1, [ROLE], **(sizes | settings)) as pgbouncers:
        port = newest.address.port if direct else pgbouncers[0].port
        address = {"host": "127.0.0.1", "port": port, "user": ROLE, "dbname": DATABASE, "password": PASSWORD}
        try:
            for _ in range(MOST + 1):
                client = Client(address).start()
                assert client.ended.wait(PATIENCE_SECONDS)
                clients.append(client)
                if client.error:
                    break
            assert client.error, "nothing was full"
            with newest.superuser("postgres") as db:
                seen = seen_by(db, through_pooler=not direct)
            diagnosis = diagnose(client.error, client.sqlstate, seen)
            assert diagnosis.cause is cause, (diagnosis, client.error, limit)
        finally:
            for client in clients:
                client.leave()
    newest.sql("postgres", f"alter role {ROLE} connection limit -1")
