"""The source's digests at a marker: what the chosen tables held at the very point that recovery will stop after.

Two REPEATABLE READ snapshots a database stand around the marker: one is opened just before it is written, one just after
its commit. Opening them takes about a millisecond however large the tables are; they are read afterwards. Where both see
the same row versions (place and inserting transaction of each row, a cheap pass), nothing in that table was committed
between them, so its rows in the second one are its rows at the marker; only then is it digested.

A transaction's commit record stands in the WAL a moment before other sessions see its effect. One that wrote its record
before the marker's could therefore still be missing in the second snapshot, though recovery to the marker brings it. So
between the marker's commit and the second snapshot we ask which transactions are under way, and shortly afterwards whether
one of them has committed; if so, the second snapshots are opened anew, and see it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from drillbook.errors import PostgresError
from drillbook.integrity.common import pinned
from drillbook.integrity.rows import Table, TableDigest, digest_table, find_table, unknown
from drillbook.postgres import Database

SETTLE_SECONDS = 0.05
_MOVED = TableDigest(reason="it was written to while the marker was")

Marker = TypeVar("Marker")


@dataclass(frozen=True)
class AtBoundary(Generic[Marker]):
    """The marker that becomes the target, and what the tables held at it, by database and by name in the profile.

    ``unproven`` names, as ``database table``, each table without a digest and why. All digests belong to ``marker``.
    """

    marker: Marker
    digests: dict[str, dict[str, TableDigest]]
    unproven: dict[str, str]
    attempts: int


@dataclass
class _Side:
    """A session of its own in one database, and the snapshot that it holds."""

    db: Database
    held: ExitStack = field(default_factory=ExitStack)

    def hold(self) -> None:
        self.let_go()
        self.held.enter_context(pinned(self.db))

    def let_go(self) -> None:
        self.held.close()
        self.held = ExitStack()


def _hold_after(sides: Sequence[_Side]) -> None:
    """Open the snapshots after the marker's commit, such that they see all that stands before it in the WAL."""
    if not sides:
        return
    under_way = sides[0].db.ask_one("integrity_under_way")["xids"]
    for side in sides:
        side.hold()
    if not under_way:
        return
    # A transaction that has written its commit record is visible within the time that its process needs to be scheduled.
    time.sleep(SETTLE_SECONDS)
    if sides[0].db.ask_one("integrity_still_committing", xids=under_way)["committed"]:
        for side in sides:
            side.hold()


@contextmanager
def _sides(open_db: Callable[[str], Database], databases: Sequence[str]) -> Iterator[dict[str, _Side]]:
    with ExitStack() as stack:
        sides = {}
        for database in databases:
            sides[database] = _Side(stack.enter_context(open_db(database)))
            # Snapshots end before their connections do.
            stack.callback(sides[database].let_go)
        yield sides


def _find(side: _Side, names: Sequence[str]) -> dict[str, Table | TableDigest]:
    found: dict[str, Table | TableDigest] = {}
    for name in names:
        try:
            with pinned(side.db):
                found[name] = find_table(side.db, name)
        except PostgresError as error:
            found[name] = unknown(error)
    return found


def _versions(side: _Side, table: Table, seed: int) -> tuple[int, int]:
    """Count and order-independent sum of the row versions that the snapshot sees; the seed makes chance unrepeatable."""
    statement = (
        "select pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hash_record_extended("  # noqa: S608 - the server quoted the name
        f"row(t.tableoid, t.ctid, t.xmin), %s)), 0) from {table.quoted.replace('%', '%%')} t"
    )
    with side.db.savepoint():
        ((rows, total),) = side.db.ask_text(statement, (seed,))
    return int(rows), int(total)


def _compare(before: _Side, after: _Side, tables: Sequence[Table], seed: int) -> dict[str, TableDigest | None]:
    """For each table ``None`` if both snapshots see the same row versions, else why it has no digest."""
    result: dict[str, TableDigest | None] = {}
    for table in tables:
        try:
            same = _versions(before, table, seed) == _versions(after, table, seed)
            result[table.name] = None if same else _MOVED
        except PostgresError as error:
            result[table.name] = unknown(error)
    return result


def _outcome(side: _Side, place: Table | TableDigest, compared: TableDigest | None, key: bytes) -> TableDigest:
    """The digest where the table was found and didn't move, else why there is none."""
    if isinstance(place, TableDigest):
        return place
    if compared is not None:
        return compared
    try:
        with side.db.savepoint():
            return digest_table(side.db, place, key)
    except PostgresError as error:
        return unknown(error)


def digests_at_boundary(
    open_db: Callable[[str], Database],
    write_marker: Callable[[], Marker],
    tables: Mapping[str, Sequence[str]],
    key: bytes,
    attempts: int = 5,
) -> AtBoundary[Marker]:
    """Write a marker and digest ``tables`` (by database, as ``schema.table``) as they were when it was committed.

    ``open_db(database)`` opens a session (two a database are held; this function closes them); ``write_marker`` commits
    a new marker on the same cluster and gives what names it. If a table was written to around the marker, a new marker is
    written, at most ``attempts`` in all; the last one is the target, and a table still in the way then is ``unproven``.
    Reads only, but for the markers. Raises ``PostgresError`` if a session or the marker fails; a table's own error only
    leaves that table unproven.
    """
    if attempts < 1:
        raise ValueError("at least one attempt is needed")
    databases = list(tables)
    seed = secrets.randbits(63)
    with _sides(open_db, databases) as before, _sides(open_db, databases) as after:
        found = {database: _find(after[database], tables[database]) for database in databases}
        wanted = {
            database: [table for table in found[database].values() if isinstance(table, Table)]
            for database in databases
        }
        for attempt in range(1, attempts + 1):
            for database in databases:
                before[database].hold()
            marker = write_marker()
            _hold_after(list(after.values()))
            compared = {
                database: _compare(before[database], after[database], wanted[database], seed) for database in databases
            }
            # Only what another marker could mend is worth one: a table that can't be read won't be readable then.
            moved = any(outcome is _MOVED for outcomes in compared.values() for outcome in outcomes.values())
            for side in before.values():
                side.let_go()
            if not moved or attempt == attempts:
                break
            for side in after.values():
                side.let_go()
        digests: dict[str, dict[str, TableDigest]] = {}
        unproven: dict[str, str] = {}
        for database in databases:
            for name, place in found[database].items():
                outcome = _outcome(after[database], place, compared[database].get(name), key)
                if outcome.known:
                    digests.setdefault(database, {})[name] = outcome
                else:
                    again = f", in each of {attempts} attempts" if outcome is _MOVED else ""
                    unproven[f"{database} {name}"] = outcome.reason + again
    return AtBoundary(marker=marker, digests=digests, unproven=unproven, attempts=attempt)
