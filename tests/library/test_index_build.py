"""An index is built and dropped CONCURRENTLY on a real server, and comes right whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, READER, SUPERUSER, Server

from drillbook.errors import Changed, ConflictError, PostgresError
from drillbook.indexes.build import Found, Limits, Look, State, advisory_key, build, drop, look
from drillbook.indexes.shape import WantedIndex
from drillbook.postgres.client import SQL, Database
from drillbook.swap.superuser import Superuser

QUICK = Limits(lock_seconds=1.0, statement_seconds=60.0, attempts=3, look_seconds=0.1)
TABLES = (
    "create schema app",
    'create table app.incidents (id int primary key, status text, "Opened At" timestamptz, assigned text)',
    "insert into app.incidents select n, case n % 50 when 0 then 'NEW' else 'CLOSED' end, now() - n * interval '1 min', "
    "'agent ' || n % 7 from generate_series(1, 20000) n",
    "create function app.slow(int) returns int immutable language plpgsql as 'begin perform pg_sleep(0.003); return $1; end'",
)


@pytest.fixture
def database(server: Server) -> str:
    return server.new_database(*TABLES)


def quiet(text: str, fraction: float | None) -> None:
    assert text


def looking(server: Server, database: str) -> Look:
    """Looks by the least-privileged role, as Drillbook's own role does on the source."""

    def look_once(index: WantedIndex) -> Found:
        with Database.connect(server.address, user=READER, password=PASSWORD, dbname=database, read_only=False) as db:
            return look(db, index)

    return look_once


def wanted(sql: str) -> WantedIndex:
    return WantedIndex.of(sql, schema="app")


DEFINITIONS = {
    "plain": "create index by_status on app.incidents (status)",
    "unqualified": "create index by_status on incidents (status)",
    "partial": "create index by_status on app.incidents (status) where status <> 'CLOSED' and assigned is not null",
    "qualified predicate": "create index by_status on app.incidents (status) where incidents.status in ('NEW', 'OPEN')",
    "descending": 'create index by_status on app.incidents ("Opened At" desc nulls last, status)',
    "expression": "create index by_status on app.incidents (lower(status), (id % 10)) include (assigned)",
    "gin": "create index by_status on app.incidents using gin (to_tsvector('simple', status)) with (fastupdate = off)",
    "unique": 'create unique index by_status on app.incidents (id, "Opened At")',
    "nulls not distinct": "create unique index by_status on app.incidents (id, status) nulls not distinct",
    "if not exists": "create index concurrently if not exists by_status on only app.incidents (status text_pattern_ops)",
    "odd name": 'create index "By Status; drop" on app.incidents (status collate "C")',
    "slow": "create index by_status on app.incidents (app.slow(id)) where id % 50 = 0",
    "percent": "create index by_status on app.incidents (status) where status like '%W' or id % 2 = 0",
}


@pytest.mark.parametrize("sql", DEFINITIONS.values(), ids=DEFINITIONS)
def test_an_index_is_built_and_known_again_by_what_the_server_says_of_it(
    superuser: Superuser, server: Server, database: str, sql: str
) -> None:
    if "nulls not distinct" in sql and server.major < 15:
        pytest.skip("PostgreSQL 15 is the first to know NULLS NOT DISTINCT")
    index = wanted(sql)
    assert looking(server, database)(index).state is State.ABSENT
    first = build(superuser, database, index, QUICK, quiet, looking(server, database))
    assert (first.how, first.attempts) == ("built", 1)
    assert looking(server, database)(index).state is State.VALID
    assert build(superuser, database, index, QUICK, quiet, looking(server, database)).how == "adopted"
    assert drop(superuser, database, "app", index.name, QUICK, quiet).how == "dropped"
    assert drop(superuser, database, "app", index.name, QUICK, quiet).how == "gone before"
    assert looking(server, database)(index).state is State.ABSENT


OTHERS = {
    "another column": "create index by_status on app.incidents (assigned)",
    "another order": "create index by_status on app.incidents (status desc)",
    "another predicate": "create index by_status on app.incidents (status) where id > 0",
    "another class of operators": "create index by_status on app.incidents (status text_pattern_ops)",
    "one more column": "create index by_status on app.incidents (status, id)",
    "included": "create index by_status on app.incidents (status) include (id)",
    "unique": "create unique index by_status on app.incidents (status, id)",
    "another method": "create index by_status on app.incidents using hash (status)",
    "of another table": "create table app.other (status text); create index by_status on app.other (status)",
    "a table": "create table app.by_status (a int)",
    "a view": "create view app.by_status as select 1 as a",
}


@pytest.mark.parametrize("there", OTHERS.values(), ids=OTHERS)
def test_a_name_that_is_something_elses_is_left_alone(
    superuser: Superuser, server: Server, database: str, there: str
) -> None:
    server.sql(database, *there.split("; "))
    index = wanted(DEFINITIONS["plain"])
    before = looking(server, database)(index)
    assert before.state is State.DIFFERENT
    with pytest.raises(ConflictError, match=r"the name is taken: app\.by_status is"):
        build(superuser, database, index, QUICK, quiet, looking(server, database))
    assert looking(server, database)(index) == before


@contextmanager
def held(server: Server, database: str, *statements: str) -> Iterator[Callable[[], None]]:
    """Another session's transaction, open until the yielded function is called."""
    with psycopg.connect(
        host=server.address.host,
        port=server.address.port,
        user=SUPERUSER,
        password=PASSWORD,
        dbname=database,
        application_name="nightly report",
    ) as other:
        for statement in statements:
            other.execute(statement)
        released = threading.Event()

        def release() -> None:
            if not released.is_set():
                released.set()
                other.rollback()

        yield release
        release()


@dataclass(frozen=True)
class Wait:
    """Where a build or drop is interrupted: who is in its way, in which phase, and what there was before."""

    statements: tuple[str, ...] = ()
    phase: str = ""
    what: str = "build"
    sql: str = "partial"
    held_since: str = ""  # the phase in which the other transaction begins; "": before all
    before: tuple[str, ...] = ()


OLDER_WRITER = "update app.incidents set assigned = assigned where id = 1"
OLDER_READER = "select count(*) from app.incidents where status = 'NEW'"
SPOIL = "update pg_index set indisvalid = false where indexrelid = 'app.by_status'::regclass"
WAITS = {
    "for its lock": Wait(("lock table app.incidents in share update exclusive mode",)),
    "for an older writer": Wait((OLDER_WRITER,), "writers before build"),
    "while it scans": Wait((), "building index", sql="slow"),
    "for a writer since": Wait((OLDER_WRITER,), "writers before validation", sql="slow", held_since="building index"),
    "for an old snapshot": Wait(
        ("set transaction isolation level repeatable read", "select count(*) from pg_class"), "old snapshots"
    ),
    "to remove a leftover": Wait((OLDER_READER,), before=(DEFINITIONS["partial"], SPOIL)),
    "to drop": Wait((OLDER_READER,), what="drop", before=(DEFINITIONS["partial"],)),
}
KILLED = {"the process": (False, False), "the process and its psql": (True, False), "the backend as well": (True, True)}


# The scan and one wait, with nothing left alive, are quick; the other places so are long; the other ways are soaked.
EVERYWHERE = ("while it scans", "for an older writer")
MATRIX = [
    pytest.param(
        wait,
        how,
        id=f"{place}-{name}",
        marks=[] if how[1] and place in EVERYWHERE else pytest.mark.long if how[1] else pytest.mark.soak,
    )
    for place, wait in WAITS.items()
    for name, how in KILLED.items()
]


@pytest.mark.parametrize(("wait", "killed"), MATRIX)
def test_i14_killed_at_every_statement_and_done_again_it_ends_right(
    superuser: Superuser, server: Server, database: str, wait: Wait, killed: tuple[bool, bool]
) -> None:
    index = wanted(DEFINITIONS[wait.sql])
    server.sql(database, *wait.before)
    with ExitStack() as stack:
        release = _killed(superuser, server, database, index, wait, killed, stack)
        threading.Timer(1.0, release).start()
        patient = Limits(lock_seconds=1.0, attempts=10, look_seconds=0.1)
        if wait.what == "drop":
            drop(superuser, database, "app", index.name, patient, quiet)
        else:
            done = build(superuser, database, index, patient, quiet, looking(server, database))
            assert done.how == ("built" if killed[1] or wait.before else "adopted"), done
    assert looking(server, database)(index).state is (State.VALID if wait.what == "build" else State.ABSENT)
    assert superuser.ask(database, "integrity_invalid_indexes") == []


def _killed(
    superuser: Superuser,
    server: Server,
    database: str,
    index: WantedIndex,
    wait: Wait,
    killed: tuple[bool, bool],
    stack: ExitStack,
) -> Callable[[], None]:
    """Begin in a process of its own, kill it where it is to be killed; what lets go of what it waited for."""
    release: Callable[[], None] = lambda: None  # noqa: E731 - nobody is in its way
    if wait.statements and not wait.held_since:
        release = stack.enter_context(held(server, database, *wait.statements))
    at = server.address
    argv = [sys.executable, "-m", "tests.library.index_builder", wait.what, at.host, str(at.port), str(server.programs)]
    child = subprocess.Popen(
        [*argv, database, DEFINITIONS[wait.sql]], cwd=Path(__file__).parents[2], start_new_session=True
    )
    group = os.getpgid(child.pid)
    if wait.held_since:
        _reached(superuser, database, index, child, wait.held_since, waiting=False)
        release = stack.enter_context(held(server, database, *wait.statements))
    row = _reached(superuser, database, index, child, wait.phase, waiting=bool(wait.statements))
    if killed[0]:
        os.killpg(group, signal.SIGKILL)
    else:
        child.kill()
    child.wait()
    if killed[1]:
        superuser.ask(database, SQL("select pg_terminate_backend({}, 5000)").format(row["pid"]))
    return release


def _reached(
    superuser: Superuser,
    database: str,
    index: WantedIndex,
    child: subprocess.Popen[bytes],
    phase: str,
    *,
    waiting: bool,
) -> dict[str, Any]:
    """Who works on the index, as soon as that is in this phase, and waits if it is to."""
    deadline = time.monotonic() + 60
    while True:
        for row in superuser.ask(database, "index_builders", **_key(index)):
            if phase in row["phase"] and ("nightly report" in row["held_by"] or not waiting):
                return row
        assert child.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _key(index: WantedIndex) -> dict[str, Any]:
    key = advisory_key(index.schema_name, index.name) & (2**64 - 1)
    return {"high": key >> 32, "low": key & (2**32 - 1), "schema": index.schema_name, "name": index.name}


def test_a_backend_that_is_ended_midway_costs_an_attempt_and_no_invalid_index(
    superuser: Superuser, server: Server, database: str
) -> None:
    index = wanted(DEFINITIONS["plain"])
    ended: list[int] = []

    def end_it(text: str, fraction: float | None) -> None:
        if not ended and "waiting for" in text:
            (row,) = superuser.ask(database, "index_builders", **_key(index))
            ended.append(row["pid"])
            superuser.ask(database, SQL("select pg_terminate_backend({}, 5000)").format(row["pid"]))
            release()

    with held(server, database, *WAITS["for an older writer"].statements) as release:
        done = build(superuser, database, index, replace(QUICK, lock_seconds=60), end_it, looking(server, database))
    assert ended
    assert done.how == "built"
    assert any("57P01" in wait or "terminating" in wait for wait in done.waits), done.waits
    assert any("INVALID leftover" in wait for wait in done.waits), done.waits
    assert superuser.ask(database, "integrity_invalid_indexes") == []


@pytest.mark.parametrize("how", ["for an older writer", "for an old snapshot", "for its lock"])
def test_who_holds_the_lock_is_named_when_it_is_tried_in_vain(
    superuser: Superuser, server: Server, database: str, how: str
) -> None:
    index = wanted(DEFINITIONS["plain"])
    with held(server, database, *WAITS[how].statements) as release:
        with pytest.raises(PostgresError, match=r"failed 2 times.*in the way: pid \d+ .*nightly report") as caught:
            build(
                superuser,
                database,
                index,
                replace(QUICK, attempts=2, lock_seconds=0.8),
                quiet,
                looking(server, database),
            )
        release()
    assert "resume" in caught.value.todo
    # What could not be removed for the same reason is named; the next attempt removes it.
    assert ("left INVALID" in caught.value.todo) == (how == "for an older writer")
    assert caught.value.changed is (Changed.DONE if how == "for an older writer" else Changed.NOTHING)
    build(superuser, database, index, QUICK, quiet, looking(server, database))
    assert superuser.ask(database, "integrity_invalid_indexes") == []


REFUSED = {
    "a duplicate": ("create unique index by_status on app.incidents (status)", QUICK, "23505"),
    "a row that the expression refuses": (
        "create index by_status on app.incidents ((10 / (id - 500)))",
        QUICK,
        "22012",
    ),
    "too long": (
        "create index by_status on app.incidents (app.slow(id))",
        replace(QUICK, statement_seconds=0.7),
        "57014",
    ),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_the_server_refuses_leaves_no_invalid_index(
    superuser: Superuser, server: Server, database: str, refused: tuple[str, Limits, str]
) -> None:
    sql, limits, state = refused
    with pytest.raises(PostgresError) as caught:
        build(superuser, database, wanted(sql), limits, quiet, looking(server, database))
    assert caught.value.sqlstate == state
    assert caught.value.changed is Changed.NOTHING
    assert superuser.ask(database, "integrity_invalid_indexes") == []
    assert looking(server, database)(wanted(sql)).state is State.ABSENT
