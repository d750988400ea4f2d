"""Questions side by side: each has its answer or its own error, in as many sessions as are allowed, or as there are."""

from __future__ import annotations

import pytest
from tests.library.fix_integrity import Server, overwrite

from drillbook.errors import PostgresError
from drillbook.model import Verdict
from drillbook.postgres.checks import Sessions, amcheck, constraints_hold, digest_tables, sequences_ahead
from drillbook.postgres.checks.parallel import TOGETHER, Query, _batches, ask_each
from drillbook.postgres.client import Database

KEY = bytes(range(32))
MANY = 3 * TOGETHER
DIES = "select pg_terminate_backend(pg_backend_pid())::text"


def more(server: Server, database: str, jobs: int, opened: list[Database] | None = None) -> Sessions:
    def another() -> Database:
        session = server.superuser(database)
        if opened is not None:
            opened.append(session)
        return session

    return Sessions(another, jobs)


@pytest.mark.parametrize("jobs", [0, 1, 2, 8])
def test_c16_each_statement_has_its_own_answer_or_error(server: Server, jobs: int) -> None:
    """An error ends the transaction that it happens in, and none of the statements that share it."""
    database = server.new_database()
    statements = [f"select {n}" if n % 7 else "select 1 / 0" for n in range(MANY)]
    asked, opened = [Query(s, pages=n) for n, s in enumerate(statements)], list[Database]()
    with server.superuser(database) as db:
        found = ask_each(db, asked, more(server, database, jobs, opened) if jobs else None)
        assert not db.closed
    batches = len(_batches(asked))
    for number, answer in enumerate(found):
        if number % 7:
            assert answer == [(number,)]
        else:
            assert isinstance(answer, PostgresError) and answer.sqlstate == "22012"
    assert len(opened) == max(0, min(jobs, batches) - 1), "as many sessions as are allowed, and as there is work for"
    assert all(session.closed for session in opened)


def test_c16_a_session_that_is_lost_leaves_the_rest_to_the_others(server: Server) -> None:
    database = server.new_database()
    asked = [Query(DIES, pages=10_000), *(Query(f"select {n}") for n in range(MANY))]
    with server.superuser(database) as db:
        found = ask_each(db, asked, more(server, database, 2))
    assert isinstance(found[0], PostgresError)
    assert found[1:] == [[(n,)] for n in range(MANY)]


def test_c16_what_no_session_is_left_for_was_not_looked_at(server: Server) -> None:
    database = server.new_database()
    asked = [Query(DIES, pages=10_000), *(Query(f"select {n}") for n in range(3))]
    with server.superuser(database) as db:
        found = ask_each(db, asked)
    assert isinstance(found[0], PostgresError) and found[1:] == [None] * 3


def test_c16_sessions_that_are_refused_are_done_without(server: Server) -> None:
    database = server.new_database()

    def refused() -> Database:
        raise PostgresError("too many", sqlstate="53300", todo="")

    with server.superuser(database) as db:
        found = ask_each(db, [Query(f"select {n}") for n in range(MANY)], Sessions(refused, 8))
    assert found == [[(n,)] for n in range(MANY)]


@pytest.mark.parametrize("jobs", [1, 4])
def test_c16_the_checks_find_the_same_side_by_side(server: Server, jobs: int) -> None:
    """A sequence that lags and a damaged index among many that are well: each is named, and no other."""
    tables = [f"t{n}" for n in range(TOGETHER + 5)]
    database = server.new_database(
        *(f"create table {name} (id serial primary key, k int check (k > 0))" for name in tables),
        *(f"insert into {name} (k) select g from generate_series(1, 50) g" for name in tables),
        "insert into t3 (id, k) values (1000, 1)",
    )
    names = [f"public.{name}" for name in tables]
    with server.superuser(database) as db:
        others = more(server, database, jobs)
        assert amcheck(db, others).verdict is Verdict.VERIFIED
        assert constraints_hold(db, others).verdict is Verdict.VERIFIED
        behind = sequences_ahead(db, others)
        assert (behind.verdict, list(dict(behind.details))) == (Verdict.FAILED, ["public.t3_id_seq"])
        assert digest_tables(db, names, KEY, None, others) == digest_tables(db, names, KEY)
    place = server.file_of(database, "t7_pkey")
    server.stop()
    overwrite(place, 8192 + 24, b"\xff" * 64)
    server.start()
    with server.superuser(database) as db:
        damaged = amcheck(db, more(server, database, jobs))
    assert damaged.verdict is Verdict.FAILED
    assert "t7_pkey" in damaged.observed and "t8" not in damaged.observed
