"""The migration's file as it is written, run on the copy: in one transaction, then statement by statement, each index timed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drillbook.errors import PostgresError
from drillbook.indexes import locking, statements
from drillbook.indexes.findings import FileRun, LockSeen, StatementRun
from drillbook.indexes.migration import Migration, ProposedIndex
from drillbook.indexes.statements import Statement
from drillbook.postgres.client import SQL, Database, Identifier

NOT_REACHED = "-"


@dataclass(frozen=True)
class Built:
    """A proposed index and what came of it: ``row`` of index_state if it was created, else SQLSTATE and message."""

    proposed: ProposedIndex
    row: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    lock: LockSeen | None = None
    sqlstate: str = ""
    message: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """Schema and name, as the catalogue has them."""
        return str(self.row["schema"]), str(self.row["name"])

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.proposed.name or (self.name[1] if self.row else self.proposed.label)


def run_file(
    db: Database, other: Database, migration: Migration, progress: Callable[[str], None]
) -> tuple[FileRun, list[Built]]:
    """Both ways to run the file; what the second has built stays. A DROP INDEX is tried and rolled back.

    ``other`` is a second session, which finds out who would wait. Transaction control of the file's own is not run.
    """
    progress("the file as written, in one transaction")
    at_once = _in_one_transaction(db, migration.as_written)
    runs: list[StatementRun] = []
    built: list[Built] = []
    for statement in migration.as_written:
        proposed = next(
            (index for index in migration.indexes if index.sql == statement.sql and index.line in (0, statement.line)),
            None,
        )
        progress(f"line {statement.line}: {what(statement)}")
        if proposed is not None:
            made = _build(db, other, proposed, statement)
            built.append(made)
            runs.append(
                StatementRun(
                    line=statement.line,
                    what=what(statement),
                    sqlstate=made.sqlstate,
                    message=made.message,
                    seconds=made.seconds,
                )
            )
        else:
            runs.append(_run(db, statement))
    return FileRun(in_one_transaction=tuple(at_once), one_by_one=tuple(runs)), built


def what(statement: Statement) -> str:
    """A statement in a few words."""
    if statement.kind == "create index":
        return f"CREATE INDEX {statement.name}".strip()
    if statement.kind == "drop index":
        return "DROP INDEX " + ", ".join(statements.as_sql_name(name) for name in statement.drops)
    return " ".join(statement.sql.split())[:40]


def _in_one_transaction(db: Database, written: Sequence[Statement]) -> list[StatementRun]:
    runs: list[StatementRun] = []
    with db.rolled_back():
        for statement in written:
            if runs and runs[-1].sqlstate:
                runs.append(StatementRun(line=statement.line, what=what(statement), sqlstate=NOT_REACHED))
                continue
            runs.append(_timed(statement, functools.partial(db.run_text, statement.sql)))
    return runs


def _timed(statement: Statement, run: Callable[[], object]) -> StatementRun:
    began = time.monotonic()
    state = message = ""
    if statement.kind == "transaction":
        return StatementRun(line=statement.line, what=what(statement), message="not run: transaction control")
    try:
        run()
    except PostgresError as error:
        state, message = error.sqlstate, _message(error)
    return StatementRun(
        line=statement.line,
        what=what(statement),
        sqlstate=state,
        message=message,
        seconds=round(time.monotonic() - began, 3),
    )


def _message(error: PostgresError) -> str:
    return error.what.partition(": ")[2]


def _run(db: Database, statement: Statement) -> StatementRun:
    def run() -> None:
        if statement.kind != "drop index":
            db.run_text(statement.sql)
            return
        # What it would drop is still wanted, for the plans without the new indexes.
        with db.rolled_back():
            db.run_text(statements.without_concurrently(statement.sql))

    return _timed(statement, run)


def _build(db: Database, other: Database, proposed: ProposedIndex, statement: Statement) -> Built:
    before = {row["oid"] for row in _state(db)}
    began = time.monotonic()
    lock: LockSeen | None = None
    try:
        if statement.concurrently:
            lock = locking.seen_while_it_waits(db, other, statement.sql, *_table(db, statement))
            seconds = time.monotonic() - began
        else:
            with db.committed():
                db.run_text(statement.sql)
                seconds = time.monotonic() - began
                lock = locking.seen(db, other, *_table(db, statement))
    except PostgresError as error:
        made = [row for row in _state(db) if row["oid"] not in before]
        for row in made:  # a failed CONCURRENTLY leaves an INVALID index
            db.run_text(SQL("DROP INDEX {}").format(Identifier(row["schema"], row["name"])))
        return Built(
            proposed, sqlstate=error.sqlstate, message=_message(error), seconds=round(time.monotonic() - began, 3)
        )
    made = [row for row in _state(db) if row["oid"] not in before]
    if not made:  # IF NOT EXISTS, and the name was there
        return Built(proposed, sqlstate="42P07", message=f"{proposed.label} was there before: nothing was created")
    return Built(proposed, row=made[0], seconds=round(seconds, 3), lock=lock)


def _table(db: Database, statement: Statement) -> tuple[int, tuple[str, str]]:
    """The oid, schema and name of a statement's table; 0 and no name if it isn't there."""
    rows = db.ask(
        SQL(
            "SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%(name)s)"
        ),
        name=statements.as_sql_name(statement.table),
    )
    return (int(rows[0]["oid"]), (str(rows[0]["schema"]), str(rows[0]["name"]))) if rows else (0, ("", ""))


def _state(db: Database) -> list[dict[str, Any]]:
    return db.ask("index_state")
