"""Giving way on the source: no migration of a tenant waits long for one of our locks or snapshots.

A read of a table holds ACCESS SHARE until its transaction ends, and that is enough to make an ALTER TABLE wait, and
every query of the application behind it. So a second session looks four times a second whether anybody waits for one
of ours. If so our statement is cancelled and its transaction ended at once; the read is tried again later, a bounded
number of times. What waits is found by session, not by table: locks of indexes and partitions, and CREATE INDEX
CONCURRENTLY, which waits for older snapshots, are among it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from drillbook.errors import PostgresError
from drillbook.postgres.checks.common import CANCELLED, pin
from drillbook.postgres.client import SQL, Database, Literal

LOOK_SECONDS = 0.25
# For how long we wait for a lock held by another session: as long as others may wait for one of ours.
LOCK_MILLISECONDS = 1000
# Seconds before each try of one read.
TRIES = (0.0, 1.0, 3.0, 9.0)
# Sessions that only hold a snapshot are idle: they are asked something, before idle_in_transaction_session_timeout.
KEEP_ALIVE_LOOKS = 240
LOCK_NOT_AVAILABLE = "55P03"

Answer = TypeVar("Answer")


class LockYieldedError(PostgresError):
    """A read was given up for somebody else's sake; it can be tried again."""


@dataclass
class Watched:
    """One of our sessions: how it gives way, and whom it was given to ("" as long as it wasn't)."""

    db: Database
    give_way: Callable[[], None]
    holds_only: bool
    past: str = ""


@dataclass
class Watch:
    """A thread with the session ``db``, which only looks; it owns the session and closes it.

    If the session is lost nobody looks any more: running reads are cancelled and no other is begun (``PostgresError``).
    """

    db: Database
    _watched: dict[int, Watched] = field(default_factory=dict)
    # Held while a session is made to give way: one that has left is never cancelled.
    _turn: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)
    _lost: PostgresError | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="give way", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.db.close()

    def _run(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_SECONDS):
            looks += 1
            with self._turn:
                try:
                    self._look(ping=looks % KEEP_ALIVE_LOOKS == 0)
                except PostgresError as error:
                    self._lost = error
                    for watched in self._watched.values():
                        _give_way(watched, "")
                    return

    def _look(self, *, ping: bool) -> None:
        if not self._watched:
            return
        for row in self.db.ask("integrity_let_past", pids=list(self._watched)):
            # Again at each look while somebody waits: a cancellation that met no statement has had no effect.
            _give_way(self._watched[row["ours"]], f"{row['who']}, which waits for {row['mode']}")
        for watched in self._watched.values():
            if ping and watched.holds_only and not watched.past:
                with suppress(PostgresError):  # it shows where the snapshot is used
                    watched.db.ask(SQL("SELECT 1"))

    @contextmanager
    def over(self, db: Database, give_way: Callable[[], None], *, holds_only: bool = False) -> Iterator[Watched]:
        """Watch the session ``db`` and call ``give_way`` (in the thread) at each look that finds somebody waiting for it."""
        watched = Watched(db, give_way, holds_only)
        pid = int(db.ask_one(SQL("SELECT pg_catalog.pg_backend_pid() AS pid"))["pid"])
        with self._turn:
            if self._lost is not None:
                raise self._lost
            self._watched[pid] = watched
        try:
            yield watched
        finally:
            with self._turn:
                del self._watched[pid]

    @contextmanager
    def _read(self, db: Database) -> Iterator[Watched]:
        watched = None
        try:
            with self.over(db, db.cancel) as watched:
                yield watched
        finally:
            # A cancellation may have met the very ROLLBACK: nothing cancels this one any more.
            if watched is not None and watched.past and not db.closed:
                db.ask(SQL("ROLLBACK"))

    @contextmanager
    def reading(self, db: Database, snapshot: str = "") -> Iterator[None]:
        """One REPEATABLE READ snapshot, a new one or the exported ``snapshot``, pinned; watched until it has ended.

        Every read of tenants' tables on the source happens in here. Raises ``LockYieldedError`` if it was cancelled for
        somebody's sake, or waited a second for somebody's lock; other ``PostgresError`` as they are.
        """
        with self._read(db) as watched:
            try:
                with db.snapshot():
                    if snapshot:
                        db.ask(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
                    pin(db)
                    db.ask(SQL("SET LOCAL lock_timeout = {}").format(Literal(LOCK_MILLISECONDS)))
                    yield
            except PostgresError as error:
                if self._lost is not None:
                    raise self._lost from None
                if watched.past and error.sqlstate == CANCELLED:
                    raise _gave_way(f"it gave way to {watched.past}") from None
                if error.sqlstate == LOCK_NOT_AVAILABLE:
                    raise _gave_way("somebody else holds a lock on it") from None
                raise


def _give_way(watched: Watched, past: str) -> None:
    watched.past = past or watched.past
    with suppress(PostgresError):  # a session that is gone holds nothing
        watched.give_way()


def _gave_way(what: str) -> LockYieldedError:
    todo = "Run it again when no migration or maintenance is under way."
    return LockYieldedError(what, sqlstate=LOCK_NOT_AVAILABLE, todo=todo)


def patiently(read: Callable[[], Answer], tries: Sequence[float] = TRIES) -> Answer:
    """What ``read`` gives, tried again with pauses as long as it gives way; the last ``LockYieldedError`` if it always does."""
    for pause in tries[:-1]:
        time.sleep(pause)
        with suppress(LockYieldedError):
            return read()
    time.sleep(tries[-1])
    return read()
