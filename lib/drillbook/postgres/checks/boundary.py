"""The source's digests at a moment: what the chosen tables held at the very point that recovery will stop at.

The marker bounds the moment from below: it is written first, and recovery must bring it. The moment (``moment``) is a
snapshot in each database, taken together, to which the archive gives a place in the WAL; that place is the target.

A table that rests. It is digested before the marker, and after the moment its row versions (place and inserting
transaction of each row), files, columns and counted writes are compared: what both readings see was there at the
moment too. Each of the two readings has its own new snapshot, so no snapshot is held while other tables are read,
however many there are. (A row that came and went between the two readings, uncounted, is in neither: then the digest
differs from the copy's, which is a false alarm and no false proof.)

A table that is written to. It can't be read but in the moment's snapshot. Such tables are read first and several side
by side, each in its own transaction that has taken the snapshot over. The session that gave it lets it go as soon as
the last of them has taken it: from then on the oldest snapshot is as old as the longest of these reads. Which tables
are written to is known from the statistics, from their first reading to the moment; a table that moved all the same
is one of them in the next round, with another marker. What has not moved is not digested again, only compared with
the new moment.

Giving way. Each read gives way to any session that waits for its lock, or for its snapshot (``yielding``). While the
lock is held, a table's files and columns at present are compared with those in the snapshot: after a TRUNCATE, a
rewrite or an ALTER TABLE an old snapshot no longer tells the truth, and the table waits for the next round.

A replica. Where one is given, tables at rest are read there (``replica``), and the primary only has the others.

Sessions. One in each database for its snapshot, one that looks, and those that read: as many as the role's CONNECTION
LIMIT leaves, and in ``MOST_HELD`` databases at most. In any further database a table that is written to stays
unproven.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from drillbook.errors import PostgresError
from drillbook.model import Lsn
from drillbook.postgres.checks.moment import Holder, Moment, Waiting, holders, take
from drillbook.postgres.checks.replica import Elsewhere, Look, ReadPlace, Replica, elsewhere
from drillbook.postgres.checks.rows import (
    DigestTable,
    TableDigest,
    digest_and_versions,
    find_table,
    unknown,
    versions,
)
from drillbook.postgres.checks.sampling import Budget
from drillbook.postgres.checks.state import about_bytes, signature, writes_of
from drillbook.postgres.checks.structure import Structure, structure_seen
from drillbook.postgres.checks.yielding import TRIES, LockYieldedError, Watch, patiently
from drillbook.postgres.client import Database

MOST_HELD = 8
# Tables that are read side by side while the moment's snapshot is held for them: more would be felt by the tenants.
MOST_READERS = 3
# Tries to find a quiet moment, some milliseconds each.
ATTEMPTS = 60
ROUNDS = 4
STRUCTURE_TRIES = TRIES[:3]
# A session that was just closed counts for a moment longer.
TOO_MANY, TOO_MANY_SECONDS = "53300", 10.0
_MOVED = TableDigest(reason="it was written to between its digest and the marker")
_ALTERED = TableDigest(reason="it was altered, rewritten or truncated after the marker")
_LET_GO = TableDigest(reason="the marker's snapshot was given up for somebody who waited for it")
_NOT_HELD = TableDigest(
    reason="it was written to between its digest and the marker; no session was left to hold a snapshot of its database "
    f"(they are held in {MOST_HELD} databases at most, and in as many as the role's CONNECTION LIMIT leaves sessions for)"
)
# What another round can change.
_ANOTHER_ROUND = (_MOVED, _ALTERED, _LET_GO, _NOT_HELD)

Marker = TypeVar("Marker")
Digests = dict[str, dict[str, TableDigest]]
Name = tuple[str, str]


@dataclass(frozen=True)
class AtBoundary(Generic[Marker]):
    """The marker that bounds the target, and what the source was at the moment: digests by database and by name in the profile.

    ``unproven`` names, as ``database table``, each table without a digest and why. ``structures`` by database, in the
    moment's snapshot (where none could be held, just after it). ``attempts`` is the number of markers written.
    ``in_snapshot`` are the tables, by database, whose digest is that of the moment's snapshot and of no other
    instant: it holds only where that snapshot has a place in the WAL. All others were at rest around it.
    ``read_bytes`` and ``read_seconds`` are what digesting took, without the comparison afterwards.
    """

    marker: Marker
    digests: Digests
    unproven: dict[str, str]
    attempts: int
    structures: dict[str, Structure] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # databases whose structure could not be read, and why
    moment: Moment = field(default_factory=Moment)
    in_snapshot: dict[str, tuple[str, ...]] = field(default_factory=dict)
    read_bytes: int = 0
    read_seconds: float = 0.0
    replica: str = ""  # where tables at rest were read; "" on the primary
    instead: dict[str, str] = field(default_factory=dict)  # what was read on the primary in its place, and why
    another_round: bool = False  # whether another marker could give a digest that is missing


@dataclass(frozen=True)
class _Known:
    """A digest and the state of the table that it is the digest of: signature, writes, rows, row versions."""

    state: tuple[str, str, int, int]
    digest: TableDigest


@dataclass
class _Reader(Generic[Marker]):
    """What the rounds share."""

    open_db: Callable[[str], Database]
    write_marker: Callable[[], Marker]
    tables: Mapping[str, Sequence[str]]
    key: bytes
    attempts: int
    watch: Watch
    held: Sequence[str]
    readers: int
    budget: Budget
    elsewhere: Elsewhere
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    known: dict[Name, _Known] = field(default_factory=dict)
    busy: set[Name] = field(default_factory=set)
    writes: dict[Name, str] = field(default_factory=dict)  # at the beginning
    sizes: dict[Name, int] = field(default_factory=dict)  # in bytes, at the beginning and about
    markers: int = 0

    def opened(self, database: str) -> Database:
        """A session; waited for, for some seconds, where the role has too many."""
        deadline = time.monotonic() + TOO_MANY_SECONDS
        while True:
            try:
                return self.open_db(database)
            except PostgresError as error:
                if error.sqlstate != TOO_MANY or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def each(
        self, database: str, names: Sequence[str], look: Look[TableDigest | None], until: Lsn | None = None
    ) -> dict[str, TableDigest]:
        """What ``look`` gives for each table, if anything; those that gave way are tried again after the others.

        On the replica if there is one, which has replayed ``until``; else, or where that fails, on the primary.
        """
        found: dict[str, TableDigest] = {}
        left = list(names)
        with self.opened(database) as db, self.elsewhere.session(database, until) as other:
            here = ReadPlace(db, self.watch, db)
            for pause in TRIES:
                if not left:
                    break
                time.sleep(pause)
                again = []
                for name in left:
                    try:
                        seen = self.elsewhere.first(look, other, here, database, name)
                    except LockYieldedError as error:
                        again.append(name)
                        seen = _always(error)
                    except PostgresError as error:
                        seen = unknown(error)
                    found.pop(name, None)
                    if seen is not None:
                        found[name] = seen
                left = again
        return found

    # -- before the marker ---------------------------------------------------------------------

    def begin(self) -> None:
        """Note the size of every table, and its counted writes: one whose count changes until its turn is written to."""
        for database, names in self.tables.items():
            if names:
                with self.opened(database) as db:
                    for name in names:
                        self.sizes[database, name] = size = about_bytes(db, name)
                        self.budget.expect((database, name), size)
                        if database in self.held:
                            self.writes[database, name] = writes_of(db, name)

    def before(self, database: str) -> dict[str, TableDigest]:
        """Digest the tables that have no digest yet and are not written to; what can't be read says why."""

        def look(place: ReadPlace, name: str) -> TableDigest | None:
            at, writes = (database, name), writes_of(place.primary, name)
            if self.writes.get(at, "") and writes != self.writes[at]:
                self.busy.add(at)
                return None
            with place.reading() as db:
                table = find_table(db, name)
                if isinstance(table, TableDigest):
                    return table
                made_of = signature(db, table)
                digest, seen = self.digested(db, at, table)
                if not digest.known:
                    return digest
                self.known[at] = _Known((made_of, writes, *seen), digest)
            return None

        names = [name for name in self.tables[database] if (database, name) not in self.busy | self.known.keys()]
        # Small ones first: they show how fast rows are digested, and what they leave of the budget is the others'.
        return self.each(database, sorted(names, key=lambda name: self.sizes[database, name]), look) if names else {}

    def digested(self, db: Database, at: Name, table: DigestTable) -> tuple[TableDigest, tuple[int, int]]:
        """The digest and the row versions of as much of a table as may be read; or why it has none, and nothing."""
        with self.budget.part(db, at, table.quoted, self.key) as part:
            if isinstance(part, str):
                return TableDigest(reason=part), (0, 0)
            return digest_and_versions(db, table.model_copy(update={"sample": part}), self.key, self.seed)

    # -- at the moment -------------------------------------------------------------------------

    def at_moment(self, waiting: Mapping[str, Waiting]) -> Digests:
        """Digest the tables that are written to in the moment's snapshot, some of them side by side."""
        wanted = [(database, name) for database, found in waiting.items() for name in sorted(found.names)]
        with ThreadPoolExecutor(self.readers, thread_name_prefix="digest") as pool:
            digests = list(pool.map(lambda at: self._in_snapshot(waiting[at[0]], *at), wanted))
        found: Digests = {}
        for (database, name), digest in zip(wanted, digests, strict=True):
            found.setdefault(database, {})[name] = digest
        return found

    def _in_snapshot(self, waiting: Waiting, database: str, name: str) -> TableDigest:
        def look() -> TableDigest:
            if waiting.holder.gone:
                return _LET_GO
            try:
                with self.opened(database) as db, self.watch.reading(db, waiting.holder.snapshot):
                    waiting.begun(name)
                    table = find_table(db, name)
                    if isinstance(table, TableDigest):
                        return table
                    digest, _ = self.digested(db, (database, name), table)
                    # Asked while the lock is held: nobody can change it before the transaction ends.
                    return digest if signature(waiting.holder.db, table) == signature(db, table) else _ALTERED
            except LockYieldedError:
                raise
            except PostgresError as error:
                # A snapshot that was given up can't be taken over.
                return _LET_GO if waiting.holder.gone and name in waiting.names else unknown(error)

        try:
            return patiently(look)
        except LockYieldedError as error:
            return _always(error)
        finally:
            waiting.begun(name)

    def structure(self, database: str, holder: Holder | None) -> Structure | str:
        """The structure of a database at the moment, as it is now if there is no snapshot of that; or why it isn't known."""

        def look() -> Structure:
            snapshot = holder.snapshot if holder is not None and not holder.gone else ""
            try:
                with self.opened(database) as db, self.watch.reading(db, snapshot):
                    return structure_seen(db)
            except LockYieldedError:
                raise
            except PostgresError as error:
                if snapshot and holder is not None and holder.gone:
                    raise LockYieldedError(error.what, sqlstate=error.sqlstate, todo=error.todo) from None
                raise

        try:
            # Its snapshot is held for it: it is not tried as long as a table is.
            return patiently(look, STRUCTURE_TRIES)
        except LockYieldedError as error:
            return f"{error.what}, in each of {len(STRUCTURE_TRIES)} tries"

    # -- after it ------------------------------------------------------------------------------

    def after(self, database: str, moment: Moment) -> dict[str, TableDigest]:
        """The digests of the tables at rest: what they were before the marker, if they are so still after the moment."""

        def look(place: ReadPlace, name: str) -> TableDigest:
            known = self.known[database, name]
            with place.reading() as db:
                table = find_table(db, name)
                state = None
                if isinstance(table, DigestTable):
                    part = table.model_copy(update={"sample": known.digest.sample})
                    made_of, seen = signature(db, table), versions(db, part, self.seed)
                    state = (made_of, writes_of(place.primary, name), *seen)
            if state == known.state:
                return known.digest
            del self.known[database, name]
            if database not in self.held:
                return _NOT_HELD
            self.busy.add((database, name))
            return _MOVED

        names = [name for name in self.tables[database] if (database, name) in self.known]
        return self.each(database, names, look, moment.lsn) if names else {}

    # -- all of it -----------------------------------------------------------------------------

    def round(self) -> AtBoundary[Marker]:
        """One target, and what was found of each table at it; what has no digest is in ``unproven`` as well."""
        found: Digests = {database: self.before(database) for database in self.tables}
        with holders(self.held, self.opened, self.watch) as held:
            self._notice_writes(held)
            marker = self.write_marker()
            self.markers += 1
            moment = take(held, self.attempts)
            waiting = {database: Waiting(holder, self._busy_in(database)) for database, holder in held.items()}
            structures: dict[str, Structure | str] = {}
            for database, holder in held.items():
                structures[database] = self.structure(database, holder)
                waiting[database].begun("")  # if no table waits for this snapshot, it is let go
            in_snapshot = self.at_moment(waiting)
        self.elsewhere.flush()
        for database in self.tables:
            if database not in structures:
                structures[database] = self.structure(database, None)
            found[database] |= in_snapshot.get(database, {})
            # What could not be read before has nothing to be compared with, and says why.
            found[database] |= self.after(database, moment)
        unproven = {
            f"{database} {name}": digest
            for database, digests in found.items()
            for name, digest in digests.items()
            if not digest.known
        }
        digests = {
            database: {name: of[name] for name in self.tables[database] if name in of and of[name].known}
            for database, of in found.items()
        }
        return AtBoundary(
            marker=marker,
            digests={database: of for database, of in digests.items() if of},
            unproven={name: self._reason(digest) for name, digest in unproven.items()},
            attempts=self.markers,
            structures={database: seen for database, seen in structures.items() if not isinstance(seen, str)},
            unread={database: seen for database, seen in structures.items() if isinstance(seen, str)},
            moment=moment,
            in_snapshot={
                database: tuple(name for name, digest in of.items() if digest.known)
                for database, of in in_snapshot.items()
            },
            read_bytes=self.budget.spent_bytes,
            read_seconds=self.budget.spent_seconds,
            replica=self.elsewhere.name,
            instead=self.elsewhere.instead,
            another_round=any(digest in _ANOTHER_ROUND for digest in unproven.values()),
        )

    def _busy_in(self, database: str) -> set[str]:
        return {name for at, name in self.busy if at == database}

    def _notice_writes(self, held: Mapping[str, Holder]) -> None:
        """What was written to since it was digested has to be read at the moment, and not again before it."""
        for (database, name), known in list(self.known.items()):
            if database in held and writes_of(held[database].db, name) != known.state[1]:
                del self.known[database, name]
                self.busy.add((database, name))

    def _reason(self, digest: TableDigest) -> str:
        return digest.reason + (f", in {self.markers} rounds" if digest is _MOVED else "")


def _always(error: LockYieldedError) -> TableDigest:
    return TableDigest(reason=f"{error.what}, in each of {len(TRIES)} tries")


def digests_at_boundary(
    open_db: Callable[[str], Database],
    write_marker: Callable[[], Marker],
    tables: Mapping[str, Sequence[str]],
    key: bytes,
    attempts: int = ATTEMPTS,
    budget: Budget | None = None,
    replica: Replica | None = None,
) -> AtBoundary[Marker]:
    """Write a marker and digest ``tables`` (by database, as ``schema.table``) as they are at a moment just after it.

    ``open_db(database)`` opens a session, which is closed here; ``write_marker`` commits a new marker, in one
    transaction, on the same cluster and gives what names it. A quiet moment is looked for at most ``attempts`` times,
    and there are at most ``ROUNDS`` markers; all digests belong to the last one. Beyond ``budget`` large tables are
    sampled. Tables at rest are read on ``replica``, if there is one. Reads only, but for the markers, and gives way
    to anyone who waits for one of our locks. Raises ``PostgresError`` if a session or the marker fails; a table's own
    error, or that its reads were always in somebody's way, only leaves that table unproven.
    """
    if attempts < 1:
        raise ValueError("at least one attempt is needed")
    if not tables:
        return AtBoundary(marker=write_marker(), digests={}, unproven={}, attempts=1)
    with Watch(open_db(next(iter(tables)))) as watch:
        left = watch.db.ask_one("integrity_sessions_left")["sessions"]
        held = _held(left, tables)
        readers = MOST_READERS if left is None else max(1, min(MOST_READERS, int(left) - len(held)))
        with elsewhere(replica, next(iter(tables))) as other:
            reader = _Reader(
                open_db, write_marker, tables, key, attempts, watch, held, readers, budget or Budget(), other
            )
            reader.begin()
            for _ in range(ROUNDS):
                found = reader.round()
                if not found.another_round:
                    break
    return found


def _held(left: int | None, tables: Mapping[str, Sequence[str]]) -> list[str]:
    """The databases whose snapshots can be held, those with tables first: of the sessions that are left one must read."""
    places = MOST_HELD if left is None else min(MOST_HELD, int(left) - 1)
    return sorted(tables, key=lambda database: not tables[database])[: max(0, places)]
