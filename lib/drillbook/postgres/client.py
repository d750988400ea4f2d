"""PostgreSQL: the only user of psycopg. Questions are files, ``sql/<question>.sql``, one commented file each.

In those files parameters are written ``%(name)s`` and a percent sign is written ``%%``, whether or not the file has
parameters. What is raised is PostgresError with SQLSTATE and primary message; DETAIL, CONTEXT and the values that some
messages quote are left out, because they may be a row's.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo, TransactionStatus
from psycopg.rows import dict_row, tuple_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from drillbook.errors import Changed, PostgresError

__all__ = [
    "SQL",
    "Address",
    "Composed",
    "Database",
    "Identifier",
    "Literal",
    "as_text",
    "by_parameters_only",
    "hosts_of",
    "question",
]

CONNECT_SECONDS = 15
# What libpq reads next to its parameters: asked of the library at hand, and what it sends without its own parameter.
LIBPQ_VARIABLES = tuple(
    sorted(
        {item.envvar.decode() for item in Conninfo.get_defaults() if item.envvar}
        | {"PGDATESTYLE", "PGGEQO", "PGLOCALEDIR", "PGREALM", "PGSERVICEFILE", "PGSYSCONFDIR", "PGTZ"}
    )
)
# A file that isn't there, in place of the ones that libpq looks for in the home of anyone who runs this.
_NO_FILE = "/nonexistent/drillbook"
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_PARAMETER = re.compile(r"%(?:%|\((\w+)\)s)")

# Before a session exists libpq passes on the server's words without their SQLSTATE; these are distinguished by them.
_BEFORE_SESSION = tuple(
    (re.compile(words), state)
    for words, state in (
        ("password authentication failed", "28P01"),
        ("no pg_hba.conf entry|pg_hba.conf rejects|is not permitted to log in", "28000"),
        ("too many connections|remaining connection slots|too many clients", "53300"),
        ("permission denied for database", "42501"),
        ("is not currently accepting connections", "55000"),
        ("the database system is", "57P03"),
        ('^role ".*" does not exist', "28000"),
        ('^database ".*" does not exist', "3D000"),
    )
)
# No password, or a method that libpq can't do without one.
_NO_PASSWORD = ("fe_sendauth: no password supplied", "password authentication required")

_TODO = {
    "08": "Check that the server runs and can be reached; then ask again.",
    "28": "Check user name and password (the Secret), and pg_hba.conf.",
    "3D": "Check the database's name in the profile.",
    "42": "Grant what is missing (deploy/sql/), or correct the question.",
    "53": "Free what is short (connections, disk, memory); then ask again.",
    "55": "Try again when the lock is free.",
    "57": "Try again, with a longer time limit if the question needs it.",
    "58": "Look at the server's log: it met an error of its operating system.",
    "XX": "Look at the server's log: it says that its data is damaged.",
}


@dataclass(frozen=True)
class Address:
    """Where a server is reached. ``why`` may tell more of a failed connection, as a port-forward's ``why`` does."""

    host: str
    port: int
    why: Callable[[], str] | None = field(default=None, compare=False, repr=False)


def by_parameters_only(argv: Sequence[str]) -> list[str]:
    """A command of PostgreSQL's for a pod, kept from libpq's environment there, but for where the server is.

    Host and port are what CloudNativePG sets in its instances; whatever else a Cluster's ``envFrom`` brings could lead
    elsewhere, or change the session.
    """
    unset = [part for name in LIBPQ_VARIABLES if name not in ("PGHOST", "PGPORT") for part in ("-u", name)]
    return ["env", *unset, *argv]


class _Unheard:
    """libpq's variables taken out of this process's environment while somebody connects, and put back afterwards.

    Some of them (a service above all) can't be overruled by any parameter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._taken: dict[str, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            for name in [name for name in os.environ if name.startswith("PG")]:
                self._taken[name] = os.environ.pop(name)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                os.environ.update(self._taken)
                self._taken.clear()


_unheard = _Unheard()


@functools.cache
def question(name: str) -> str:
    """The text of ``sql/<name>.sql``. LookupError if there is no such question."""
    place = resources.files("drillbook") / "sql" / f"{name}.sql"
    if not _NAME.match(name) or not place.is_file():
        raise LookupError(f"there is no question {name!r} in drillbook/sql")
    return place.read_text(encoding="utf-8")


def as_text(statement: str | SQL | Composed | Literal, /, **params: Any) -> str:
    """``sql/<statement>.sql`` or a composed statement as text, its parameters written as literals.

    For a server that is only reached through its own psql. KeyError for a parameter that isn't given.
    """
    text = (SQL(question(statement)) if isinstance(statement, str) else statement).as_string(None)
    if isinstance(statement, str):
        text = _PARAMETER.sub(lambda found: Literal(params[found[1]]).as_string(None) if found[1] else "%", text)
    return text.strip().removesuffix(";")


def hosts_of(conninfo: str) -> list[str]:
    """The hosts that a connection string names, ``hostaddr`` included; one that can't be parsed is returned as a fixed text."""
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return ["a connection string that can't be parsed"]  # its text may hold a password
    named = ",".join(str(parts[key]) for key in ("host", "hostaddr") if parts.get(key))
    return [host for host in named.split(",") if host]


class Database:
    """One connection to one database, each statement its own transaction outside ``snapshot``.

    Safe to use from several threads: one statement, or one snapshot, at a time. Every method raises PostgresError.
    """

    def __init__(self, connection: psycopg.Connection[Any], address: Address, password: str) -> None:
        self._connection = connection
        self._address = address
        self._password = password
        # Held for a statement or a transaction: psycopg's own lock would let another thread's in between.
        self._turn = threading.RLock()

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        user: str,
        password: str,
        dbname: str,
        read_only: bool = True,
        statement_timeout_seconds: float = 60,
        lock_timeout_seconds: float = 60,
        application_name: str = "drillbook",
    ) -> Database:
        """Connect with TLS if the server has it, by what is given here and nothing that libpq finds for itself. ``read_only`` sessions refuse to write (25006).

        A statement that waits for a lock of someone else's gives up after ``lock_timeout_seconds`` (55P03).

        PostgresError with SQLSTATE 08… if the server can't be reached, 28… if it refuses user or password.
        """
        options = (
            f"-c statement_timeout={round(statement_timeout_seconds * 1000)} "
            f"-c lock_timeout={round(lock_timeout_seconds * 1000)} "
            f"-c default_transaction_read_only={'on' if read_only else 'off'} "
            # A session that was left behind must not hold back vacuum indefinitely.
            f"-c idle_in_transaction_session_timeout={round(max(statement_timeout_seconds * 2, 900) * 1000)}"
        )
        try:
            with _unheard:
                connection = psycopg.connect(
                    host=address.host,
                    port=address.port,
                    user=user,
                    password=password,
                    passfile=_NO_FILE,
                    dbname=dbname,
                    sslmode="prefer",
                    sslrootcert=_NO_FILE,
                    sslcert=_NO_FILE,
                    sslkey=_NO_FILE,
                    sslcrl=_NO_FILE,
                    gssencmode="disable",
                    connect_timeout=CONNECT_SECONDS,
                    application_name=application_name,
                    client_encoding="UTF8",
                    options=options,
                    autocommit=True,
                    row_factory=dict_row,
                )
        except psycopg.Error as error:
            raise _not_connected(error, address, user, dbname, password) from None
        return cls(connection, address, password)

    # -- asking ------------------------------------------------------------------------------

    def ask(self, question: str | SQL | Composed, /, **params: Any) -> list[dict[str, Any]]:
        """The rows that answer ``sql/<question>.sql`` (or a composed statement)."""
        with self._turn, self._errors(_told(question)), self._connection.cursor() as cursor:
            cursor.execute(_statement(question), params)
            return cursor.fetchall() if cursor.description is not None else []

    def ask_one(self, question: str | SQL | Composed, /, **params: Any) -> dict[str, Any]:
        """The one row of an answer; PostgresError 21000 if it has none or several."""
        return _only(self.ask(question, **params), _told(question))

    def ask_text(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = (), *, timeout_seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of a site's own question: one statement in a READ ONLY transaction that is rolled back.

        Without ``params`` a percent sign stands for itself. ``timeout_seconds`` overrides the connection's limit.
        Inside ``snapshot`` it is asked in that transaction.
        """
        with (
            self._turn,
            self._errors("the question"),
            self._read_only(),
            self._connection.cursor(row_factory=tuple_row) as cursor,
        ):
            if timeout_seconds is not None:
                cursor.execute(
                    "SELECT pg_catalog.set_config('statement_timeout', %s, true)",
                    (f"{round(timeout_seconds * 1000)}ms",),
                )
            # Prepared, so that the server takes one statement only: "COMMIT; DROP TABLE x" is a syntax error.
            cursor.execute(sql, params or None, prepare=True)
            return cursor.fetchall() if cursor.description is not None else []

    @contextmanager
    def snapshot(self, *, repeatable: bool = True) -> Iterator[Self]:
        """One REPEATABLE READ READ ONLY transaction: all questions inside see the same instant, unless not ``repeatable``."""
        with (
            self._turn,
            self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if repeatable else "BEGIN READ ONLY"),
        ):
            yield self

    @contextmanager
    def savepoint(self) -> Iterator[Self]:
        """Inside ``snapshot``: an error in here leaves the snapshot usable."""
        with self._errors("a savepoint"):
            self._connection.execute("SAVEPOINT drillbook")
        try:
            yield self
        except BaseException:
            if self._connection.info.transaction_status is TransactionStatus.INERROR:
                with self._errors("a savepoint"):
                    self._connection.execute("ROLLBACK TO SAVEPOINT drillbook")
            raise
        with self._errors("a savepoint"):
            self._connection.execute("RELEASE SAVEPOINT drillbook")

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            with self._transaction("BEGIN READ ONLY"):
                yield
        else:
            yield

    @contextmanager
    def _transaction(self, begin: LiteralString, *, end: LiteralString = "ROLLBACK") -> Iterator[None]:
        # UNKNOWN is a connection that is gone: BEGIN will say so as a PostgresError.
        if self._connection.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            raise RuntimeError("this connection is in a transaction already")
        with self._errors("BEGIN"):
            self._connection.execute(begin)
        try:
            yield
        except BaseException:
            self._end("ROLLBACK")
            raise
        self._end(end)

    def _end(self, how: LiteralString) -> None:
        # A connection that is gone has ended its transaction by itself.
        if how == "COMMIT" or not self._connection.closed:
            with self._errors(how, writes=how == "COMMIT"):
                self._connection.execute(how)

    # -- writing -----------------------------------------------------------------------------

    def run(self, statement: str | SQL | Composed, /, **params: Any) -> int:
        """Run ``sql/<statement>.sql`` (or a composed statement) and commit; the number of rows it touched.

        A file may hold several statements if it has no parameters; they are one transaction then. If the connection is
        lost, the error's ``changed`` is unknown.
        """
        with self._turn, self._errors(_told(statement), writes=True), self._connection.cursor() as cursor:
            cursor.execute(_statement(statement), params)
            return max(0, cursor.rowcount)

    def run_one(self, statement: str | SQL | Composed, /, **params: Any) -> dict[str, Any]:
        """Run a statement that writes and answers with one row, and commit; that row."""
        with self._turn, self._errors(_told(statement), writes=True), self._connection.cursor() as cursor:
            cursor.execute(_statement(statement), params)
            rows = cursor.fetchall()
        return _only(rows, _told(statement))

    def run_text(self, sql: str | SQL | Composed) -> list[tuple[Any, ...]]:
        """Run SQL as it is written, of a migration's file for example, and commit unless within ``rolled_back``; its rows.

        A percent sign stands for itself, in a name as well, and nothing is bound.
        """
        text = sql if isinstance(sql, str) else sql.as_string(None)
        with (
            self._turn,
            self._errors("the statement", writes=True),
            self._connection.cursor(row_factory=tuple_row) as cursor,
        ):
            cursor.execute(text.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def set_password(self, role: str, password: str) -> None:
        """Set a role's password, which leaves this process as a SCRAM verifier only: the statement may be in a server's log."""
        verifier = self._connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        self.run(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(verifier.decode())))

    def ask_written(self, sql: str | SQL | Composed) -> list[tuple[str | None, ...]]:
        """The rows of SQL as it is written, each value as the server writes it: for what is bound again, of any type."""
        text = sql if isinstance(sql, str) else sql.as_string(None)
        with self._turn, self._errors("the statement"), self._connection.cursor() as cursor:
            cursor.execute(text.encode())
            result = cursor.pgresult
            if result is None:
                return []
            values = [
                [result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)
            ]
        return [tuple(None if text is None else text.decode() for text in row) for row in values]

    @contextmanager
    def rolled_back(self) -> Iterator[Self]:
        """One transaction that may write, and of which nothing remains."""
        with self._turn, self._transaction("BEGIN READ WRITE"):
            yield self

    @contextmanager
    def attempt(self) -> Iterator[Self]:
        """What is done in here is undone at its end, in a transaction of its own or within an open one, which stays usable."""
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            with self.rolled_back():
                yield self
            return
        with self._errors("a savepoint"):
            self._connection.execute("SAVEPOINT drillbook_attempt")
        try:
            yield self
        finally:
            with self._errors("a savepoint"):
                self._connection.execute("ROLLBACK TO SAVEPOINT drillbook_attempt")
                self._connection.execute("RELEASE SAVEPOINT drillbook_attempt")

    @contextmanager
    def committed(self) -> Iterator[Self]:
        """One transaction that may write, committed at the end; an error in it rolls it back."""
        with self._turn, self._transaction("BEGIN READ WRITE", end="COMMIT"):
            yield self

    # -- the connection ----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, from either side."""
        return self._connection.closed

    def cancel(self) -> None:
        """Ask the server to end the running statement (57014); to be called from another thread."""
        with self._errors("cancel"):
            self._connection.cancel_safe(timeout=CONNECT_SECONDS)

    def close(self) -> None:
        """End the connection; safe to call twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self, what: str, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            lost = self._connection.closed or self._connection.broken
            raise _failed(error, what, self._address, self._password, lost=lost, writes=writes) from None


def _statement(name_or_text: str | SQL | Composed) -> SQL | Composed:
    if not isinstance(name_or_text, str):
        return name_or_text
    return SQL(question(name_or_text))


def _told(name_or_text: str | SQL | Composed) -> str:
    return name_or_text if isinstance(name_or_text, str) else "the statement"


def _only(rows: list[dict[str, Any]], what: str) -> dict[str, Any]:
    if len(rows) != 1:
        raise PostgresError(
            f"{what}: expected one row, got {len(rows)}", sqlstate="21000", todo="Correct the question."
        )
    return rows[0]


def _withheld(state: str, message: str) -> str:
    """The primary message without what may be a row's value: data exceptions quote it, functions raise anything."""
    if state.startswith("22"):
        return re.sub(r'"[^"]*"|\'[^\']*\'', "(a value, withheld)", message)
    if state == "P0001":
        return "a function raised an exception (its text is withheld: it may hold a row)"
    return message


def _failed(
    error: psycopg.Error, what: str, address: Address, password: str, *, lost: bool, writes: bool
) -> PostgresError:
    state = error.sqlstate or ""
    message = error.diag.message_primary or ""
    if not message:
        # Not the server's words but the driver's; those of a programming error may quote parameters.
        message = "the connection was lost" if lost else f"psycopg {type(error).__name__}"
    if lost and not state:
        state = "08006"
    told = address.why() if lost and address.why is not None else ""
    gone = lost or state.startswith(("08", "57P"))
    return PostgresError(
        f"{what}: {_clean(_withheld(state, message), password)}" + (f" ({told})" if told else ""),
        sqlstate=state,
        todo=_TODO.get(state[:2], "Correct the question or what it is asked of."),
        changed=Changed.UNKNOWN if writes and gone else Changed.NOTHING,
    )


def _not_connected(error: psycopg.Error, address: Address, user: str, dbname: str, password: str) -> PostgresError:
    lines = [line for line in str(error).splitlines() if not line.startswith(("\t", "DETAIL:", "HINT:"))]
    said = [line.rpartition("failed: ")[2].strip() for line in lines]
    # With sslmode=prefer the second attempt is without TLS; where both were answered, the server said it twice.
    message = "; ".join(dict.fromkeys(filter(None, said))) or type(error).__name__
    words = message.rpartition("FATAL:")[2].strip()
    state = error.sqlstate or ""
    if not state and "FATAL:" in message:
        state = next((code for pattern, code in _BEFORE_SESSION if pattern.search(words)), "")
    if not state and any(text in message for text in _NO_PASSWORD):
        state = "28P01"
    told = address.why() if address.why is not None else ""
    return PostgresError(
        f"connect to database {dbname} as {user}: {_clean(words or message, password)}"
        + (f" ({told})" if told else ""),
        sqlstate=state or "08001",
        todo=_TODO.get((state or "08001")[:2], _TODO["08"]),
    )


def _clean(text: str, password: str) -> str:
    return text.replace(password, "***") if len(password) > 3 else text
