"""The source's digests at a marker: what the chosen tables held at the very point that recovery will stop after.

The marker. In each database a session without any lock on a table opens a transaction and exports two snapshots: one just
before the marker is written, one just after its commit. No table is read for that, so the two are milliseconds apart
however large the tables are. The server is asked which transactions, of all databases, have committed between them. If the
marker's is the only one, the second snapshot is the source at the marker, for every table; else another marker is written.
If the source never rests that long, the last marker stays, and each table is compared: where both snapshots see the same
row versions (place and inserting transaction of each row), its rows in the second one are its rows at the marker.
(A row that one transaction inserted and another one deleted within those milliseconds is in neither snapshot: then the
digest differs from the copy's, which is a false alarm and no false proof.)

A transaction's commit record stands in the WAL a moment before other sessions see its effect. One that wrote its record
before the marker's could therefore still be missing in the second snapshot, though recovery to the marker brings it. So
between the marker's commit and the second snapshot we ask which transactions are under way, and shortly afterwards whether
one of them has committed; if so, the second snapshots are taken again, and see it.

The reads. Each table is read in a transaction of its own that takes over the second snapshot: its lock ends with its scan,
and it gives way to whoever waits for it (``yielding``). While the lock is held, the table's files and columns at present are
compared with those in the snapshot: after a TRUNCATE, a rewrite or an ALTER TABLE the old snapshot no longer tells the
truth. For such a table, or if the session that holds the snapshots had to give way, another round begins with another
marker. A digest of an earlier round counts for the new marker if the new snapshot sees the same row versions, files and
columns as the one that it was made in: both are states of the whole table, so the rows are the same ones.

Sessions. One in each database while its snapshots are needed, one that reads and one that looks: as many as the role's
CONNECTION LIMIT leaves, and ``MOST_HELD`` databases at most. The tables of any further database are digested before the
marker and compared after it, with the statistics of writes as well (a row that came and went is in neither snapshot): the
same proof over a longer time, which a table that is written to in that time doesn't pass.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from drillbook.errors import PostgresError
from drillbook.integrity.rows import Table, TableDigest, digest_and_versions, find_table, unknown, versions
from drillbook.integrity.structure import Structure, structure_seen
from drillbook.integrity.yielding import TRIES, GaveWayError, Watch, Watched, patiently
from drillbook.postgres import SQL, Database

SETTLE_SECONDS = 0.05
MOST_HELD = 8
# Markers in a round: each is one row and some 50 ms. Beside a hundred transactions a second the first ones suffice; beside
# thousands it is chance whether one of them is the only commit between its snapshots.
ATTEMPTS = 60
ROUNDS = 3
# A session that was just closed counts for a moment longer.
TOO_MANY, TOO_MANY_SECONDS = "53300", 10.0
_MOVED = TableDigest(reason="it was written to while the marker was")
_ALTERED = TableDigest(reason="it was altered, rewritten or truncated after the marker")
_LET_GO = TableDigest(reason="the marker's snapshot was given up for somebody who waited for it")
_WRITTEN = TableDigest(
    reason="it was written to between its digest and the marker; no session was left to hold a snapshot of its database "
    f"(they are held in {MOST_HELD} databases at most, and in as many as the role's CONNECTION LIMIT leaves sessions for)"
)
# What another round can change.
_ANOTHER_ROUND = (_WRITTEN, _ALTERED, _LET_GO)

Marker = TypeVar("Marker")


class _When(Enum):
    """How a table's digest gets its place at the marker."""

    DIGESTED = "the snapshot is the place"
    RESTLESS = "the snapshots before and after the marker must see the same"
    COMPARED = "it must be as it was digested before the marker"


@dataclass(frozen=True)
class AtBoundary(Generic[Marker]):
    """The marker that becomes the target, and what the source was at it: digests by database and by name in the profile.

    ``unproven`` names, as ``database table``, each table without a digest and why. ``structures`` by database, in the
    marker's snapshot (where none could be held, just after the marker). ``attempts`` is the number of markers written.
    """

    marker: Marker
    digests: dict[str, dict[str, TableDigest]]
    unproven: dict[str, str]
    attempts: int
    structures: dict[str, Structure] = field(default_factory=dict)
    another_round: bool = False  # whether another marker could give a digest that is missing


@dataclass
class _Holder:
    """A session that keeps both snapshots of its database, and no lock on a table."""

    db: Database
    watched: Watched | None = None
    before: str = ""
    after: str = ""
    sees: tuple[str, str] = ("", "")

    @property
    def gone(self) -> bool:
        return self.watched is not None and bool(self.watched.past)

    def begin(self) -> None:
        self.end()
        self.db.ask(SQL("BEGIN READ ONLY"))  # READ COMMITTED: each statement has a snapshot of its own to export
        row = self.db.ask_one("integrity_export")
        self.before, self.sees = row["id"], (row["sees"], "")

    def note_after(self) -> None:
        row = self.db.ask_one("integrity_export")
        self.after, self.sees = row["id"], (self.sees[0], row["sees"])

    def end(self) -> None:
        if not self.db.closed:
            self.db.ask(SQL("ROLLBACK"))


@dataclass(frozen=True)
class _Known:
    """A digest and the state of the table that it is the digest of."""

    state: tuple[str, int, int]
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
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    known: dict[tuple[str, str], _Known] = field(default_factory=dict)
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

    # -- the marker ---------------------------------------------------------------------------

    @contextmanager
    def holders(self, databases: Sequence[str]) -> Iterator[dict[str, _Holder]]:
        with ExitStack() as stack:
            found = {}
            for database in databases:
                holder = _Holder(stack.enter_context(self.opened(database)))
                holder.watched = stack.enter_context(self.watch.over(holder.db, holder.end, holds_only=True))
                found[database] = holder
            yield found

    def mark(self, holders: Sequence[_Holder]) -> tuple[Marker, bool]:
        """A new marker, and whether it is the only commit between the snapshots that ``holders`` keep afterwards."""
        for _ in range(self.attempts):
            for holder in holders:
                holder.begin()
            marker = self.write_marker()
            self.markers += 1
            if not holders:
                break
            self._note_after(holders)
            # The widest pair: of the first one that was opened before the marker, and the last one after it.
            between = {"before": holders[0].sees[0], "after": holders[-1].sees[1]}
            if holders[0].db.ask_one("integrity_committed_between", **between)["committed"] <= 1:
                return marker, True
        return marker, False

    def _note_after(self, holders: Sequence[_Holder]) -> None:
        """Take the snapshots after the marker's commit, such that they see all that stands before it in the WAL."""
        under_way = holders[0].db.ask_one("integrity_under_way")["xids"]
        for holder in holders:
            holder.note_after()
        if not under_way:
            return
        # A transaction that has written its commit record is visible within the time that its process needs to be scheduled.
        time.sleep(SETTLE_SECONDS)
        if holders[0].db.ask_one("integrity_still_committing", xids=under_way)["committed"]:
            for holder in holders:
                holder.note_after()

    # -- the tables ---------------------------------------------------------------------------

    def table(self, db: Database, database: str, name: str, holder: _Holder | None, when: _When) -> TableDigest:
        """One table, in a transaction of its own; raises ``GaveWayError`` if that was given up."""
        if holder is not None and holder.gone:
            return _LET_GO
        with self.watch.reading(db, holder.after if holder else ""):
            table = find_table(db, name)
            if isinstance(table, TableDigest):
                return table
            signature = self._signature(db, table, holder)
            known = self.known.get((database, name))
            if known is None or known.state != (signature, *versions(db, table, self.seed)):
                if when is _When.COMPARED:
                    return _WRITTEN
                digest, seen = digest_and_versions(db, table, self.key, self.seed)
                known = _Known((signature, *seen), digest)
            # Asked while the lock is held: nobody can change it before the transaction ends.
            if holder is not None and _signature(holder.db, table) != _signature(db, table):
                return _ALTERED
        if when is _When.RESTLESS and holder is not None:
            with self.watch.reading(db, holder.before):
                if versions(db, table, self.seed) != known.state[1:]:
                    return _MOVED
        self.known[database, name] = known
        return known.digest

    def _signature(self, db: Database, table: Table, holder: _Holder | None) -> str:
        if holder is not None:
            return _signature(db, table)
        return f"{_signature(db, table)} {db.ask_one('integrity_writes', table=table.quoted)['writes']}"

    def read(self, db: Database, database: str, holder: _Holder | None, when: _When) -> dict[str, TableDigest]:
        """Every table of a database; those that gave way are tried again after the others."""
        found: dict[str, TableDigest] = {}
        left = list(self.tables[database])
        for pause in TRIES:
            if not left:
                break
            time.sleep(pause)
            again = []
            for name in left:
                try:
                    found[name] = self.table(db, database, name, holder, when)
                except GaveWayError as error:
                    again.append(name)
                    found[name] = TableDigest(reason=f"{error.what}, in each of {len(TRIES)} tries")
                except PostgresError as error:
                    # A snapshot that was given up can't be taken over.
                    found[name] = _LET_GO if holder is not None and holder.gone else unknown(error)
            left = again
        return {name: found[name] for name in self.tables[database]}

    def structure(self, db: Database, holder: _Holder | None) -> Structure:
        """The structure of a database at the marker; as it is now if there is no snapshot of that."""

        def look() -> Structure:
            snapshot = holder.after if holder is not None and not holder.gone else ""
            try:
                with self.watch.reading(db, snapshot):
                    return structure_seen(db)
            except GaveWayError:
                raise
            except PostgresError as error:
                if snapshot and holder is not None and holder.gone:
                    raise GaveWayError(error.what, sqlstate=error.sqlstate, todo=error.todo) from None
                raise

        return patiently(look)

    def round(self, held: Sequence[str]) -> AtBoundary[Marker]:
        """One target, and what was found of each table at it; what has no digest is in ``unproven`` as well."""
        found: dict[str, dict[str, TableDigest]] = {}
        structures: dict[str, Structure] = {}
        others = [database for database in self.tables if database not in held]
        earlier: dict[str, dict[str, TableDigest]] = {}
        for database in others:
            with self.opened(database) as db:
                earlier[database] = self.read(db, database, None, _When.DIGESTED)
        with self.holders(held) as holders:
            marker, exact = self.mark(list(holders.values()))
            for database, holder in holders.items():
                with self.opened(database) as db:
                    structures[database] = self.structure(db, holder)
                    found[database] = self.read(db, database, holder, _When.DIGESTED if exact else _When.RESTLESS)
                holder.end()
        for database in others:
            with self.opened(database) as db:
                structures[database] = self.structure(db, None)
                # What could not be read before has nothing to be compared with, and says why.
                compared = self.read(db, database, None, _When.COMPARED)
            found[database] = {
                name: compared[name] if digest.known else digest for name, digest in earlier[database].items()
            }
        unproven = {
            f"{database} {name}": digest
            for database, digests in found.items()
            for name, digest in digests.items()
            if not digest.known
        }
        digests = {database: {name: digest for name, digest in of.items() if digest.known} for database, of in found.items()}
        return AtBoundary(
            marker=marker,
            digests={database: of for database, of in digests.items() if of},
            unproven={name: self._reason(digest) for name, digest in unproven.items()},
            attempts=self.markers,
            structures=structures,
            another_round=any(digest in _ANOTHER_ROUND for digest in unproven.values()),
        )

    def _reason(self, digest: TableDigest) -> str:
        return digest.reason + (f", in each of {self.attempts} attempts" if digest is _MOVED else "")


def _signature(db: Database, table: Table) -> str:
    return str(db.ask_one("integrity_signature", table=table.quoted)["signature"])


def _held(watch: Watch, tables: Mapping[str, Sequence[str]]) -> list[str]:
    """The databases whose snapshots can be held, those with tables first: of the sessions that are left one must read."""
    left = watch.db.ask_one("integrity_sessions_left")["sessions"]
    places = MOST_HELD if left is None else min(MOST_HELD, int(left) - 1)
    return sorted(tables, key=lambda database: not tables[database])[: max(0, places)]


def digests_at_boundary(
    open_db: Callable[[str], Database],
    write_marker: Callable[[], Marker],
    tables: Mapping[str, Sequence[str]],
    key: bytes,
    attempts: int = ATTEMPTS,
) -> AtBoundary[Marker]:
    """Write a marker and digest ``tables`` (by database, as ``schema.table``) as they were when it was committed.

    ``open_db(database)`` opens a session, which is closed here; ``write_marker`` commits a new marker, in one transaction,
    on the same cluster and gives what names it. At most ``attempts`` markers are written in a round and there are at most
    ``ROUNDS`` of them; the last marker is the target, and all digests are those at it. Reads only, but for the markers, and
    gives way to whoever waits for a lock of ours. Raises ``PostgresError`` if a session or the marker fails; a table's own
    error, or that its reads were always in somebody's way, only leaves that table unproven.
    """
    if attempts < 1:
        raise ValueError("at least one attempt is needed")
    if not tables:
        return AtBoundary(marker=write_marker(), digests={}, unproven={}, attempts=1)
    with Watch(open_db(next(iter(tables)))) as watch:
        reader = _Reader(open_db, write_marker, tables, key, attempts, watch)
        held = _held(watch, tables)
        for _ in range(ROUNDS):
            found = reader.round(held)
            if not found.another_round:
                break
    return found
