"""The moment at which the source is read: a snapshot in each database, and how it is found again in the WAL.

A snapshot sees a set of transactions. Recovery gives a prefix of the commits in the WAL. The two agree where no
transaction that the snapshot doesn't see has its commit record before that of one that it sees. A commit becomes
visible a moment after its record is written, and sessions may overtake each other in between, so not every snapshot
is such a prefix. At a quiet moment it is: the snapshot passes over no transaction, or none that commits shortly
afterwards, so that it had not begun to. (A transaction that is newer than all that the snapshot sees may have been
overtaken too; that is rare enough to be left to the proof.) With thousands of commits a second every third snapshot
or so is quiet, as a busy application's transactions are short; tried with pgbench, 8 clients at 3,000 a second, 319
of 319 of those had their place, of the others 96 in 100.

That is how a moment is chosen; it is not the proof. The proof is the archived WAL itself: `first_unseen` looks up
each commit after the marker and gives the first that a snapshot doesn't see, which is where recovery has to stop, or
says that there is no such place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from drillbook.model import ArchivedCommit, Frozen, Lsn
from drillbook.postgres.checks.newest import near_xid
from drillbook.postgres.checks.yielding import Watch, Watched
from drillbook.postgres.client import SQL, Database

# How long after the snapshot it is asked whether one of those under way has committed.
SETTLE_SECONDS = 0.05
NOWHERE = Lsn(0)


class Moment(Frozen):
    """The snapshots that the source was read in: what each sees (``xmin:xmax:xip``), by database.

    ``lsn``: all WAL before the snapshots is before it. ``quiet``: no snapshot was taken in the middle of a commit,
    and all see the same, as far as SQL can tell.
    """

    sees: dict[str, str] = Field(default_factory=dict)
    lsn: Lsn = NOWHERE
    quiet: bool = True
    tries: int = 1


@dataclass
class Holder:
    """A session of one database that can keep a snapshot for others to take over, and no lock on a table."""

    db: Database
    watched: Watched | None = None
    snapshot: str = ""
    sees: str = ""
    lsn: Lsn = NOWHERE

    @property
    def gone(self) -> bool:
        """Whether its snapshot was given up, or is needed no more."""
        return not self.snapshot or (self.watched is not None and bool(self.watched.past))

    def take(self) -> None:
        """A new snapshot, in place of the one before."""
        self.end()
        self.db.ask(SQL("BEGIN READ ONLY"))  # READ COMMITTED: other statements of this session see the present
        row = self.db.ask_one("integrity_export")
        self.sees, self.lsn = row["sees"], Lsn(row["lsn"])
        self.snapshot = row["id"]

    def end(self) -> None:
        """Let the snapshot go; those who have taken it over keep it until their own transaction ends."""
        self.snapshot = ""
        if not self.db.closed:
            self.db.ask(SQL("ROLLBACK"))


@dataclass
class Waiting:
    """The tables for which a database's snapshot is still needed; it is let go with the last."""

    holder: Holder
    names: set[str]
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def begun(self, name: str) -> None:
        """This table needs the snapshot no more: its own transaction has it, or it was given up; "" only looks."""
        with self._turn:
            self.names.discard(name)
            if not self.names and self.holder.snapshot:
                self.holder.end()


class Opening(Protocol):
    """What opens a session on a database."""

    def __call__(self, database: str) -> Database: ...


@contextmanager
def holders(databases: Sequence[str], opened: Opening, watch: Watch) -> Iterator[dict[str, Holder]]:
    """A session in each database, watched: it gives its snapshot up for any session that waits for it. Raises ``PostgresError``."""
    with ExitStack() as stack:
        found = {}
        for database in databases:
            holder = Holder(stack.enter_context(opened(database)))
            holder.watched = stack.enter_context(watch.over(holder.db, holder.end, holds_only=True))
            found[database] = holder
        yield found


def take(held: Mapping[str, Holder], tries: int) -> Moment:
    """Take a snapshot in each database, again and again until the moment is quiet, at most ``tries`` times.

    After the last try the snapshots stay as they are: whether they have a place in the WAL is for the archive to say.
    Raises ``PostgresError``.
    """
    if not held:
        return Moment()
    number, quiet = 0, False
    with ThreadPoolExecutor(len(held), thread_name_prefix="snapshot") as pool:
        while number < tries and not quiet:
            number += 1
            list(pool.map(lambda holder: holder.take(), held.values()))
            quiet = _quiet(list(held.values()))
    sees = {database: holder.sees for database, holder in held.items()}
    return Moment(sees=sees, lsn=max(holder.lsn for holder in held.values()), quiet=quiet, tries=number)


def _quiet(held: Sequence[Holder]) -> bool:
    db = held[0].db
    if len(held) > 1:
        # Snapshots of one server are ordered: a later one sees all that an earlier one sees.
        first, *_, last = sorted((holder.sees for holder in held), key=_ended)
        if first != last and db.ask_one("integrity_committed_between", before=first, after=last)["committed"]:
            return False
    passed_over = {xid for holder in held for xid in _parts(holder.sees)[2]}
    if not passed_over:
        return True
    time.sleep(SETTLE_SECONDS)
    return not db.ask_one("integrity_still_committing", xids=[str(xid) for xid in sorted(passed_over)])["committed"]


def _ended(sees: str) -> int:
    _, xmax, running = _parts(sees)
    return xmax - len(running)


def _parts(sees: str) -> tuple[int, int, set[int]]:
    xmin, xmax, running = sees.split(":")
    return int(xmin), int(xmax), {int(xid) for xid in running.split(",") if xid}


def first_unseen(sees: str, commits: Iterable[ArchivedCommit], until: Lsn) -> ArchivedCommit | None:
    """The first of ``commits`` (in the order of the WAL) that a snapshot doesn't see; None: the snapshot has no place there.

    ``commits`` begin at one that the snapshot sees. All commits up to ``until``, before which the snapshot was taken,
    are looked at: if a later one is seen again, recovery can't give what the snapshot sees. None as well if the
    commits end before one that isn't seen.
    """
    _, xmax, running = _parts(sees)
    first: ArchivedCommit | None = None
    for commit in commits:
        if first is not None and commit.lsn >= until:
            break
        xid = near_xid(commit.xid, xmax)
        seen = xid < xmax and xid not in running
        if first is None and not seen:
            first = commit
        elif first is not None and seen:
            return None
    return first
