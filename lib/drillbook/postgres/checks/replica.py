"""Reading tables at rest on a replica, so that their digests cost the primary nothing.

A replica has the very row versions of the primary, so a reading there before the marker and one after the moment
prove the same as two on the primary, if the second one is made when the replica has replayed the WAL up to the
moment. What counts the writes is asked of the primary: a replica counts none.

A replica has troubles of its own: replay cancels a query that is in its way, its session may end, it may lag. Then
the table is read on the primary, and it is said why. A table that is written to is always read on the primary, in the
moment's snapshot: which transactions a snapshot on a replica sees can't be asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from drillbook.errors import PostgresError
from drillbook.model import Lsn
from drillbook.postgres.checks.common import said
from drillbook.postgres.checks.yielding import LockYieldedError, Watch
from drillbook.postgres.client import Database

# A replica that has not replayed the moment by then is not waited for.
REPLAY_SECONDS = 60.0
_ANY = "any table"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Replica:
    """A replica that may be read: its name, what opens a session there, and what makes the primary flush its WAL.

    ``flush`` commits something on the primary: until then the replica may not be sent the last records before a moment.
    """

    name: str
    open_db: Callable[[str], Database]
    flush: Callable[[], Any]
    patience_seconds: float = REPLAY_SECONDS


@dataclass(frozen=True)
class ReadPlace:
    """Where a table is read: the session, who watches it, and a session on the primary, which knows what is written."""

    db: Database
    watch: Watch
    primary: Database

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """A new snapshot there, watched; raises what `Watch.reading` raises."""
        with self.watch.reading(self.db):
            yield self.db


Look = Callable[[ReadPlace, str], Answer]
"""What is read of a table, by its name in the profile."""


@dataclass
class Elsewhere:
    """The replica while it is read, if there is one.

    ``instead`` says of each ``database table`` that was read on the primary after all, why; of ``any table``, why the
    replica was not read any more.
    """

    replica: Replica | None = None
    watch: Watch | None = None
    instead: dict[str, str] = field(default_factory=dict)
    _passed: Lsn | None = None

    @property
    def name(self) -> str:
        """The replica's name, "" for none."""
        return self.replica.name if self.replica is not None else ""

    def flush(self) -> None:
        """Let the primary send what it has written so far. Raises ``PostgresError``."""
        if self.replica is not None:
            self.replica.flush()

    def first(self, look: Look[Answer], other: Database | None, here: ReadPlace, database: str, name: str) -> Answer:
        """What ``look`` gives on the replica's session ``other``; ``here`` if there isn't one, or if it fails there."""
        if other is not None and self.watch is not None:
            try:
                return look(ReadPlace(other, self.watch, here.db), name)
            except LockYieldedError:
                raise
            except PostgresError as error:
                self.instead[f"{database} {name}"] = said(error)
        return look(here, name)

    @contextmanager
    def session(self, database: str, until: Lsn | None) -> Iterator[Database | None]:
        """A session on the replica, which has replayed ``until`` (None: no matter what); None, if none can be had."""
        db = (
            self._opened(self.replica, database, until)
            if self.replica is not None and _ANY not in self.instead
            else None
        )
        try:
            yield db
        finally:
            if db is not None:
                db.close()

    def _opened(self, replica: Replica, database: str, until: Lsn | None) -> Database | None:
        try:
            db = replica.open_db(database)
        except PostgresError as error:
            self.instead[_ANY] = said(error)
            return None
        try:
            why = _wait(db, until, replica.patience_seconds) if until is not None and until != self._passed else ""
        except PostgresError as error:
            why = said(error)
        if why:
            self.instead[_ANY] = why
            db.close()
            return None
        self._passed = until
        return db


def _wait(db: Database, until: Lsn, seconds: float) -> str:
    """Wait for the replay of ``until``; why it did not come, "" if it did. Raises ``PostgresError``."""
    deadline = time.monotonic() + seconds
    while True:
        row = db.ask_one("integrity_replayed")
        if not row["in_recovery"]:
            return "it is no replica any more"
        if row["replayed"] is not None and Lsn(row["replayed"]) >= until:
            return ""
        if time.monotonic() > deadline:
            return f"it had replayed {row['replayed']} and not {until} after {seconds:.0f} s"
        time.sleep(0.1)


@contextmanager
def elsewhere(replica: Replica | None, database: str) -> Iterator[Elsewhere]:
    """The replica with its own watch: whom a session there is in the way of is seen there."""
    if replica is None:
        yield Elsewhere()
        return
    try:
        look = replica.open_db(database)
    except PostgresError as error:
        yield Elsewhere(replica, instead={_ANY: said(error)})
        return
    with Watch(look) as watch:
        yield Elsewhere(replica, watch)
