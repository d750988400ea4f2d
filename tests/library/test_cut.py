"""The cut of two databases on a real server: it is whole or not at all, nobody stays locked out, and nobody finishes it unseen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server

from drillbook.errors import PostgresError
from drillbook.model import ClusterRef
from drillbook.postgres.client import SQL, Identifier, Literal
from drillbook.steps.cutover.transfer import carried_obligation
from drillbook.swap import rename
from drillbook.swap.superuser import Superuser

NUMBERS = count(1)
RUN = "20261127T035339Z-79ce74"


class Two:
    """The database in service, the one that is to take its place, and what the first will be called."""

    def __init__(self, server: Server, superuser: Superuser) -> None:
        number = next(NUMBERS)
        self.server, self.superuser, self.run = server, superuser, f"{RUN}{number}"
        self.old, self.new, self.aside = f"cut{number}", f"cut{number}_recovered", f"cut{number}_before"
        self.superuser.run(
            "postgres", *(SQL("create database {}").format(Identifier(name)) for name in (self.old, self.new))
        )

    def there(self) -> dict[str, bool]:
        rows = self.superuser.ask(
            "postgres", SQL("select datname, datallowconn, oid::bigint from pg_catalog.pg_database")
        )
        self.oids = {row["datname"]: row["oid"] for row in rows}
        return {row["datname"]: row["datallowconn"] for row in rows if row["datname"].startswith(self.old)}

    def deadline(self, seconds: int = 30) -> str:
        soon = SQL("select (pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => {}))::text as at")
        return str(self.superuser.ask("postgres", soon.format(Literal(seconds)))[0]["at"])

    def script(self, deadline: str) -> list[Any]:
        exchange = rename.exchange(self.old, self.aside, self.new, kept={"run": self.run})
        return [*rename.begin(self.run), rename.not_after(deadline), *rename.close([self.old, self.new]), *exchange]

    def give_up(self, deadline: str) -> str:
        self.there()
        text = rename.give_up(
            self.run, [self.oids[name] for name in (self.old, self.new) if name in self.oids], deadline, self.aside
        )
        argv = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-f", "-"]
        done = self.superuser.kube.exec("", "", "", argv, stdin=f"{text};\n".encode(), timeout_seconds=60)
        assert done.exit_code == 0, done.error_text
        return str(done.text.strip())

    def session(self, database: str, **options: Any) -> psycopg.Connection[Any]:
        address = self.server.address
        return psycopg.connect(
            host=address.host, port=address.port, user=SUPERUSER, password=PASSWORD, dbname=database, **options
        )


@pytest.fixture
def two(server: Server, superuser: Superuser) -> Iterator[Two]:
    made = Two(server, superuser)
    yield made
    for name in made.there():
        made.superuser.run("postgres", SQL("drop database {} with (force)").format(Identifier(name)))


def test_g11_s11_whoever_is_connected_is_ended_and_the_cut_is_whole(two: Two) -> None:
    others = [two.session(two.old, application_name=name) for name in ("exporter", "a curious dba", "datadog")]
    others[0].execute("begin")
    two.superuser.run("postgres", *two.script(two.deadline()))
    assert two.there() == {two.old: True, two.aside: True}
    for other in others:
        with pytest.raises(psycopg.OperationalError):
            other.execute("select 1")
        other.close()
    assert two.give_up(two.deadline(0)).startswith("the cut WAS made")


@pytest.mark.parametrize("died_after", [5, 6, 7, 9, 11])
def test_g11_a_psql_that_died_anywhere_leaves_nobody_locked_out(two: Two, died_after: int) -> None:
    deadline = two.deadline(1)
    script = two.script(deadline)
    two.superuser.run("postgres", *script[:died_after])  # what is open in its transaction is rolled back
    assert set(two.there()) == {two.old, two.new}
    assert two.give_up(deadline) == "no cut was made"
    assert two.there() == {two.old: True, two.new: True}
    two.session(two.old).close()


def test_g11_a_cut_whose_caller_has_gone_is_ended_and_can_not_begin_later(two: Two) -> None:
    deadline = two.deadline(2)
    blocker = two.session("postgres")
    blocker.execute(f"grant connect on database {two.new} to public")  # not committed: the cut waits for it
    blocker.execute(f"alter database {two.new} connection limit 7")
    ended: list[str] = []

    def cut() -> None:
        with pytest.raises(PostgresError) as caught:
            two.superuser.run("postgres", *two.script(deadline))
        ended.append(caught.value.what)

    running = threading.Thread(target=cut)
    running.start()
    waiting = SQL(
        "select 1 as n from pg_catalog.pg_stat_activity where application_name = {} and wait_event_type = 'Lock'"
    )
    while not two.superuser.ask("postgres", waiting.format(Literal(rename.session_of(two.run)))):
        pass
    assert two.there()[two.old] is False
    assert two.give_up(deadline) == "no cut was made"
    running.join()
    blocker.rollback()
    blocker.close()
    assert two.there() == {two.old: True, two.new: True} and "terminating connection" in ended[0]
    # One that had not even begun is too late now.
    with pytest.raises(PostgresError):
        two.superuser.run("postgres", *two.script(deadline))
    assert two.there() == {two.old: True, two.new: True}


@pytest.mark.long
def test_g11_behind_another_ones_lock_the_cut_gives_up_by_itself(two: Two) -> None:
    blocker = two.session("postgres")
    blocker.execute(f"alter database {two.old} connection limit 7")
    with pytest.raises(PostgresError) as caught:
        two.superuser.run("postgres", *two.script(two.deadline()))
    blocker.rollback()
    blocker.close()
    assert caught.value.sqlstate == "55P03"
    assert two.there() == {two.old: True, two.new: True}


def test_s09_the_promise_of_a_carried_database_drops_it_with_whoever_is_in_it(two: Two) -> None:
    promise = carried_obligation(ClusterRef(namespace="db", name="pg"), two.new)
    assert promise.undo is not None and promise.undo["verb"] == "sql"
    inside = two.session(two.new)
    for _ in range(2):  # anyone who keeps it may be killed and keep it again
        two.superuser.run("postgres", SQL(promise.undo["sql"]))
        assert two.there() == {two.old: True}
    inside.close()
