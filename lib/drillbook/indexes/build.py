"""One index is built, or dropped, CONCURRENTLY, and whatever an earlier attempt has left is dealt with first.

What to do is read from the catalogue each time: nothing there, an INVALID leftover, one that somebody builds at this moment,
the index itself, or another one under its name. So a second attempt after a kill needs to know nothing of the first. Two
attempts at one index exclude each other by an advisory lock of the session that builds: a backend whose client has died
goes on, and is waited for.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from drillbook.errors import (
    Changed,
    ConflictError,
    KubernetesError,
    PostgresError,
    RunbookError,
    StillRunning,
    VerificationError,
)
from drillbook.indexes.shape import WantedIndex, raw
from drillbook.model import Frozen, show_seconds
from drillbook.postgres.client import SQL, Composed, Database, Identifier, Literal, as_text

APPLICATION = "drillbook_index"
"""The application name of a session that builds or drops."""
_TAKEN = "55006"  # another session works on this index
_EXISTS = "42P07"  # another session has ended its work between the look and the attempt
_NOT_INVALID = "55000"  # what was to be removed as a leftover is valid
_LOCK, _CANCELLED, _DEADLOCK = "55P03", "57014", "40P01"
_LOOK_SECONDS = 5.0
Statement = str | SQL | Composed


class Sessions(Protocol):
    """Sessions of a role that may create and drop the indexes; each call is one session of its own."""

    def ask(self, database: str, question: Statement, /, **params: Any) -> list[dict[str, Any]]: ...
    def run(self, database: str, *statements: Statement) -> list[dict[str, Any]]: ...


class State(StrEnum):
    """What the catalogue has under an index's name."""

    ABSENT = "absent"
    INVALID = "INVALID"
    BUILDING = "being built"
    VALID = "valid"
    DIFFERENT = "something else"


class Found(Frozen):
    """What there is under an index's name, and ``what`` it is in words; ``definition`` as CREATE INDEX, "" if there is none."""

    state: State
    what: str = ""
    definition: str = ""
    bytes: int = 0


class Finished(Frozen):
    """How one index came to be as it should: ``how`` in a word, and what was in the way."""

    name: str
    how: str
    seconds: float
    bytes: int = 0
    definition: str = ""
    attempts: int = 0
    waits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """Seconds that a statement may wait for a lock and may take in all, how often it is tried, and how often one looks."""

    lock_seconds: float = 60.0
    statement_seconds: float = 3600.0
    attempts: int = 5
    look_seconds: float = 1.0


Report = Callable[[str, float | None], None]
"""Reports in words, and as a fraction where it is known, how far it is."""


Look = Callable[[WantedIndex], Found]
"""Says what there is under an index's name now."""


def judge(wanted: WantedIndex, rows: Sequence[dict[str, Any]]) -> Found:
    """What the rows of ``sql/index_by_name.sql`` say. Raises VerificationError if the wanted index was not made for comparison."""
    shape = next((row for row in rows if row["wanted"]), None)
    there = next((row for row in rows if not row["wanted"]), None)
    if shape is None:
        raise VerificationError(
            f"index {wanted.place} can't be compared",
            expected="the index on an empty copy of its table",
            observed="none",
            todo="Report it: the statement names another index than was read from it.",
            changed=Changed.NOTHING,
        )
    if there is None:
        return Found(state=State.ABSENT)
    kept: dict[str, Any] = {"definition": str(there["statement"]), "bytes": int(there["bytes"])}
    if there["kind"] not in ("i", "I"):
        return Found(state=State.DIFFERENT, what=f"{wanted.place} is no index (relkind {there['kind']})", **kept)
    if (there["table_schema"], there["table_name"]) != (wanted.schema_name, wanted.table):
        of = f"{there['table_schema']}.{there['table_name']}"
        return Found(state=State.DIFFERENT, what=f"{wanted.place} is an index of {of}", **kept)
    if there["definition"] != shape["definition"]:
        what = f"{wanted.place} is {there['definition']}, wanted is {shape['definition']}"
        return Found(state=State.DIFFERENT, what=what, **kept)
    if there["builder"] is not None:
        return Found(state=State.BUILDING, what=f"by pid {there['builder']}", **kept)
    return Found(state=State.VALID if there["valid"] else State.INVALID, **kept)


def look(db: Database, wanted: WantedIndex) -> Found:
    """What there is under the index's name, seen in a session of a role that may read the table; nothing of it remains.

    Not by a superuser's session: making the index on the copy may call functions of the table's owner. Raises PostgresError,
    whose SQLSTATE says why the index can't be made at all.
    """
    with db.rolled_back():
        for setting in session_settings(wanted, Limits(lock_seconds=_LOOK_SECONDS, statement_seconds=60.0)):
            db.ask(setting)
        for statement in wanted.making_shape():
            db.run_text(statement.as_string(None))
        return judge(wanted, db.ask("index_by_name", schema=wanted.schema_name, name=wanted.name))


def build(server: Sessions, database: str, wanted: WantedIndex, limits: Limits, report: Report, look: Look) -> Finished:
    """Have the index valid and exactly as wanted; safe to repeat, after a kill too. ``look`` says what there is.

    Raises ConflictError if the name is something else's, StillRunning if another backend builds it for longer than
    ``limits`` allow, PostgresError if the server refuses it: no INVALID index of this name is left then.
    """
    work = _Work(server, database, wanted.schema_name, wanted.name, limits, report)
    how = ""
    while True:
        found = look(wanted)
        match found.state:
            case State.VALID:
                return work.finished(how or "adopted", found)
            case State.DIFFERENT:
                raise _taken(found)
            case State.INVALID if not work.is_worked_on():
                work.note(f"an INVALID leftover of {wanted.place} was removed")
                _remove_leftover(work, wanted)
            case State.ABSENT if not work.is_worked_on():
                if _create(work, wanted, look):
                    how = "built"
            case _:
                how = ""
                work.wait_for_others()


def drop(server: Sessions, database: str, schema: str, name: str, limits: Limits, report: Report) -> Finished:
    """Have the index gone; safe to repeat: what a killed drop has left INVALID is dropped again."""
    work = _Work(server, database, schema, name, limits, report)
    how = "gone before"
    while _there(server, database, schema, name):
        if work.is_worked_on():
            work.wait_for_others()
            continue
        how = "dropped"
        work.attempt(_DROP.format(Identifier(schema, name)), "dropping")
    return work.finished(how, Found(state=State.ABSENT))


_DROP = SQL("drop index concurrently if exists {}")


def session_settings(wanted: WantedIndex, limits: Limits) -> list[Composed]:
    """How a session reads the names in a statement, and for how long it waits: the table's schema is looked through first."""
    path = SQL(
        "select pg_catalog.set_config('search_path', {} || ', ' || pg_catalog.current_setting('search_path'), false)"
    ).format(Literal(SQL("{}").format(Identifier(wanted.schema_name)).as_string(None)))
    return [*_limits(limits), path]


def _limits(limits: Limits) -> list[Composed]:
    return [
        SQL("set application_name = {}").format(Literal(APPLICATION)),
        SQL("set lock_timeout = {}").format(Literal(f"{round(limits.lock_seconds * 1000)}ms")),
        SQL("set statement_timeout = {}").format(Literal(f"{round(limits.statement_seconds * 1000)}ms")),
    ]


def advisory_key(schema: str, name: str) -> int:
    """The key of the advisory lock of the session that works on this index: a signed 64-bit number, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"drillbook index {schema}.{name}".encode()).digest()[:8], signed=True)


def _create(work: _Work, wanted: WantedIndex, look: Look) -> bool:
    """Attempt to build it: False if another session turned out to have been faster."""
    try:
        return work.attempt(raw(wanted.sql), "building", settings=session_settings(wanted, work.limits))
    except RunbookError as error:
        # Refused for good: what it has left would cost every write and serve no read. Where it can't be removed now, the error
        # that counts is still the first.
        left = False
        with suppress(RunbookError):
            if look(wanted).state is State.INVALID and not work.is_worked_on():
                left = True
                _remove_leftover(work, wanted)
                left = False
        error.changed = Changed.DONE if left else Changed.NOTHING
        if left:
            error.todo = _still_invalid(error, wanted)
        raise


def _still_invalid(error: RunbookError, wanted: WantedIndex) -> str:
    return f"{error.todo} Until then {wanted.place} is left INVALID."


def _remove_leftover(work: _Work, wanted: WantedIndex) -> None:
    """Drop the index, unless it has become valid in the meantime."""
    guard = SQL(
        "begin if exists (select from pg_catalog.pg_index where indexrelid = pg_catalog.to_regclass({}) and indisvalid) "
        "then raise exception 'the index is valid' using errcode = {}; end if; end"
    ).format(Literal(wanted.quoted), Literal(_NOT_INVALID))
    statement = _DROP.format(Identifier(wanted.schema_name, wanted.name))
    try:
        work.attempt(
            statement, "removing an INVALID leftover of", before=[SQL("do {}").format(Literal(as_text(guard)))]
        )
    except PostgresError as error:
        if error.sqlstate != _NOT_INVALID:
            error.changed, error.todo = Changed.DONE, _still_invalid(error, wanted)
            raise


def _there(server: Sessions, database: str, schema: str, name: str) -> bool:
    found = SQL(
        "select exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = {} and c.relname = {} and c.relkind in ('i', 'I')) as there"
    ).format(Literal(schema), Literal(name))
    return bool(server.ask(database, found)[0]["there"])


def _taken(found: Found) -> ConflictError:
    return ConflictError(
        f"the name is taken: {found.what}",
        todo="Nothing was changed under this name. Give the index another name in the migration, or drop what is there by hand.",
    )


class _Work:
    """One index being worked on: its attempts, what they waited for, and the watching of them."""

    def __init__(self, server: Sessions, database: str, schema: str, name: str, limits: Limits, report: Report) -> None:
        self.server, self.database, self.schema, self.name = server, database, schema, name
        self.limits, self.report = limits, report
        self.tries: Counter[str] = Counter()
        self._began = time.monotonic()
        self._waits: list[str] = []
        self._held_by = ""
        self._others_since: float | None = None

    @property
    def place(self) -> str:
        return f"{self.schema}.{self.name}"

    def finished(self, how: str, found: Found) -> Finished:
        """The result, once it is as it should be."""
        seconds = round(time.monotonic() - self._began, 3)
        return Finished(
            name=self.place,
            how=how,
            seconds=seconds,
            bytes=found.bytes,
            definition=found.definition,
            attempts=sum(self.tries.values()),
            waits=tuple(self._waits),
        )

    def note(self, text: str) -> None:
        """Keep what was in the way, for the record."""
        self._waits.append(text)

    def attempt(
        self,
        statement: Statement,
        doing: str,
        *,
        settings: Sequence[Statement] = (),
        before: Sequence[Statement] = (),
    ) -> bool:
        """Run the statement once; returns if it is done, or if it is worth looking again. Raises what is final.

        A lock that was not free, a deadlock, a backend or connection that was lost: each counts as an attempt. False: another
        session works on the index, or has built it since the last look.
        """
        self.tries[doing] += 1
        self._held_by = ""
        statements = [*(settings or _limits(self.limits)), _exclusively(self.schema, self.name), *before, statement]
        try:
            with self._running(statements) as future:
                while not future.done():
                    futures.wait([future], self.limits.look_seconds)
                    self._look(doing)
                future.result()
        except (PostgresError, KubernetesError) as error:
            self._weigh(error, doing)
            return getattr(error, "sqlstate", "") not in (_TAKEN, _EXISTS)
        return True

    @contextmanager
    def _running(self, statements: Sequence[Statement]) -> Iterator[futures.Future[Any]]:
        with futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.server.run, self.database, *statements)
            try:
                yield future
            except BaseException:
                # Ctrl-C: the backend is cancelled as well, or it would go on and be waited for here.
                if not future.done():
                    self._cancel()
                raise

    def _weigh(self, error: PostgresError | KubernetesError, doing: str) -> None:
        """Raise the error unless another look, and perhaps another attempt, can help."""
        state = getattr(error, "sqlstate", "")
        if state == _TAKEN:
            self.tries[doing] -= 1
        if state == _TAKEN or (state == _EXISTS and self.tries[doing] < self.limits.attempts):
            return
        lost = isinstance(error, KubernetesError) or state[:2] in ("", "08") or state.startswith("57P")
        if state == _CANCELLED and doing == "building":
            error.todo = "It took longer than its time limit, or somebody cancelled it. Allow more time, then resume."
        if not (lost or state in (_LOCK, _DEADLOCK)):
            raise error
        held = f"; in the way: {self._held_by}" if self._held_by else ""
        self.note(f"attempt {self.tries[doing]} at {doing} {self.place}: {error.what}{held}")
        if self.tries[doing] >= self.limits.attempts:
            error.what = f"{doing} {self.place} failed {self.tries[doing]} times, the last time by: {error.what}{held}"
            error.todo = "End what is in the way, or wait until it has ended; then resume: what was built stays."
            raise error

    def is_worked_on(self) -> bool:
        """Whether any session builds or drops it now."""
        return bool(self._builders())

    def wait_for_others(self) -> None:
        """Wait for a session that works on it, for one look. Raises StillRunning after the statement's limit."""
        if self._others_since is None:
            self._others_since = time.monotonic()
            self.note(f"another session worked on {self.place}: it was waited for")
        waited = time.monotonic() - self._others_since
        if waited > self.limits.statement_seconds:
            pids = ", ".join(str(row["pid"]) for row in self._builders()) or "unknown"
            raise StillRunning(
                f"{self.place} is worked on by another session (pid {pids}) since more than {show_seconds(waited)}",
                todo="It goes on by itself: resume when it has ended, or end it with pg_cancel_backend and resume.",
            )
        self._look("waiting for the session that works on")
        time.sleep(self.limits.look_seconds)

    def _look(self, doing: str) -> None:
        """Report how far it is. That it can't be seen for a moment stops nothing."""
        with suppress(PostgresError, KubernetesError):
            for row in self._builders()[:1]:
                self._held_by = str(row["held_by"]) or self._held_by
                self.report(*progress_of(f"{doing} {self.place}", row))

    def _builders(self) -> list[dict[str, Any]]:
        key = advisory_key(self.schema, self.name) & (2**64 - 1)
        return self.server.ask(
            self.database,
            "index_builders",
            high=key >> 32,
            low=key & (2**32 - 1),
            schema=self.schema,
            name=self.name,
        )

    def _cancel(self) -> None:
        with suppress(RunbookError):
            for row in self._builders():
                self.server.run(self.database, SQL("select pg_catalog.pg_cancel_backend({})").format(row["pid"]))


def progress_of(doing: str, row: dict[str, Any]) -> tuple[str, float | None]:
    """A row of ``sql/index_builders.sql`` in words, and the fraction of its phase that is done."""
    words, fraction = f"{doing}: {row['phase'] or 'about to begin'}", None
    for done, total, unit in (
        ("blocks", "blocks", "blocks"),
        ("tuples", "tuples", "rows"),
        ("lockers", "lockers", "transactions"),
    ):
        if row[f"{total}_total"]:
            fraction = row[f"{done}_done"] / row[f"{total}_total"]
            words += f", {row[f'{done}_done']:,} of {row[f'{total}_total']:,} {unit}"
            break
    return words + (f"; waits for {row['held_by']}" if row["held_by"] else ""), fraction


def _exclusively(schema: str, name: str) -> Composed:
    """Refuse to go on (55006) while another session works on this index; held until the session ends, by no transaction."""
    body = SQL(
        "begin if not pg_catalog.pg_try_advisory_lock({}) then "
        "raise exception 'another session works on this index' using errcode = {}; end if; end"
    ).format(Literal(advisory_key(schema, name)), Literal(_TAKEN))
    return SQL("do {}").format(Literal(as_text(body)))


__all__ = ["Finished", "Found", "Limits", "Look", "Sessions", "State", "advisory_key", "build", "drop", "judge", "look"]
