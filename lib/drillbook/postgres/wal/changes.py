"""What each committed transaction deleted, and which relations' files it dropped: who did the damage, and when.

The heap's own records are looked into as far as their first block reference, which names the relation's file; a
commit record names the files that go with it. So a `DELETE` shows as rows of a file, and a `DROP TABLE` as a dropped
file. A `TRUNCATE` or a rewrite (`VACUUM FULL`, `CLUSTER`, `REFRESH MATERIALIZED VIEW`) drops a file too, but has
created another one in the same transaction, which after a `TRUNCATE` nobody has written to.

WAL may be read in runs of adjoining segments, side by side: each run gives what it has seen of transactions that
ended in it, and `Runs` puts together what one run began and another ended.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from struct import Struct, error
from typing import NamedTuple, TypeVar

from drillbook.model import Lsn
from drillbook.postgres.wal.commit_list import Commits
from drillbook.postgres.wal.records import WalReader
from drillbook.postgres.wal.transactions import RECORD_BYTES, CommitParts, commit_parts, file_created

_STORAGE, _HEAP2, _HEAP = 2, 9, 10  # resource managers
_INSERT, _DELETE, _UPDATE, _HOT_UPDATE, _OPERATION = 0x00, 0x10, 0x20, 0x40, 0x70
_MULTI_INSERT, _PAGES, _CREATE, _MAIN_FORK = 0x50, 0xB0, 0x10, 0
_MAX_BLOCK_ID = 32
_BLOCK = Struct("<BBH")  # id, fork and flags, length of its data
_IMAGE = Struct("<HHB")  # length, hole's offset, flags
_FILE = Struct("<III")
_FORK, _HAS_IMAGE, _SAME_FILE = 0x0F, 0x10, 0x80
_HOLE, _COMPRESSED, _COMPRESSED_14 = 0x01, 0x1C, 0x02
_ABORTS, _TRANSACTION_OPERATION = frozenset({0x20, 0x40}), 0x70
_HAS_FLAGS, _DATABASE, _LISTS = 0x80, 0x001, 0x006
# Behind a record's header and the head of its data: commit time, flags, database.
_SHORT, _FLAGS = 255, Struct("<BxqII").unpack_from

File = tuple[int, int, int]
"""A relation's file: tablespace, database, file number."""


class Content(NamedTuple):
    """What a transaction wrote into a file that it created: records with rows, records with whole pages.

    ``known``: all of it was seen; not so if the transaction went on in another run of segments, unless something was.
    """

    rows: int
    pages: int
    known: bool = True


Work = Counter[tuple[File, str]]
"""The files that a transaction created (``created``), and the records that wrote ``rows`` or ``pages`` into them."""


@dataclass(frozen=True)
class Changes:
    """A committed transaction that deleted or dropped something, or may have; rows by file, as WAL counts them."""

    xid: int
    committed_at: datetime
    lsn: Lsn  # where its commit record starts
    end_lsn: Lsn
    segment: str
    database: int  # 0 where the record doesn't say
    deleted: dict[File, int] = field(default_factory=dict)
    dropped: tuple[File, ...] = ()
    savepoints: tuple[int, ...] = ()
    created: dict[File, Content] = field(default_factory=dict)
    """If something was dropped: the files that the transaction created, and what it wrote into them."""


@dataclass
class ChangesRead:
    """What a run of adjoining segments has shown. ``databases`` are those of ``commits``, one for one, 0 for unknown.

    ``changes`` are the transactions that ended here and deleted or dropped something, as far as this run has seen;
    ``unended`` are the rows that others deleted here, by transaction, ``unended_files`` the files that they created.
    ``stopped``: where and why valid WAL ends, ``stopped_in``: in which segment.
    """

    commits: list[Commits] = field(default_factory=list)
    databases: array[int] = field(default_factory=lambda: array("I"))
    changes: list[Changes] = field(default_factory=list)
    unended: dict[int, Counter[File]] = field(default_factory=dict)
    unended_files: dict[int, Work] = field(default_factory=dict)
    stopped: str = ""
    stopped_in: str = ""
    pending: bool = False


class ChangeReader(WalReader):
    """Reads what transactions delete along with their commits; a transaction counts from where the reading begins."""

    def __init__(self, *, expected_system_id: str = "") -> None:
        super().__init__(expected_system_id=expected_system_id)
        self._handlers[_HEAP], self._handlers[_HEAP2], self._handlers[_STORAGE] = self._heap, self._heap2, self._storage
        self._rows: dict[int, Counter[File]] = {}
        self._files: dict[int, Work] = {}
        self._database_of: dict[int, int] = {}
        self._databases = array("I")
        self._parts_of: list[tuple[int, CommitParts, Counter[File], Work]] = []

    def changes(self, name: str, data: bytes) -> list[Changes]:
        """The transactions whose commit records end in this segment and that deleted or dropped something, or had
        savepoints; raises what `feed` raises."""
        return self.read(name, data).changes

    def read(self, name: str, data: bytes, *, rest_only: bool = False) -> ChangesRead:
        """All that ended in this segment; ``rest_only`` and what is raised as in `feed`."""
        self._databases, self._parts_of = array("I"), []
        found = self.feed(name, data, rest_only=rest_only)
        changes = [self._settled(found, *one) for one in self._parts_of]
        return ChangesRead([found], self._databases, changes, stopped=self.stopped, pending=self.pending)

    @property
    def unended(self) -> dict[int, Counter[File]]:
        """Deleted rows of the transactions that have not ended."""
        return self._rows

    @property
    def unended_files(self) -> dict[int, Work]:
        """Files that the transactions that have not ended have created."""
        return self._files

    def _settled(self, found: Commits, at: int, parts: CommitParts, deleted: Counter[File], work: Work) -> Changes:
        commit = found[at]
        return Changes(
            xid=commit.xid,
            committed_at=commit.committed_at,
            lsn=commit.lsn,
            end_lsn=commit.end_lsn,
            segment=commit.segment,
            database=self._databases[at],
            deleted=dict(deleted),
            dropped=parts.dropped,
            savepoints=parts.savepoints,
            created=_contents(work),
        )

    def _transaction(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if info & _TRANSACTION_OPERATION in _ABORTS:
            self._rows.pop(xid, None)
            self._files.pop(xid, None)
            self._database_of.pop(xid, None)
            return
        super()._transaction(data, at, end, xid, info, start, after)

    def _committed(self, data: bytes, at: int, end: int, microseconds: int, xid: int, start: int, after: int) -> None:
        super()._committed(data, at, end, microseconds, xid, start, after)
        database = self._database_of.pop(xid, 0)
        parts = _NOTHING
        if data[at + 16] & _HAS_FLAGS:
            if data[at + RECORD_BYTES] == _SHORT and end - at >= RECORD_BYTES + _FLAGS_BYTES:
                _, _, flags, own = _FLAGS(data, at + RECORD_BYTES)
            else:
                flags, own = _LISTS, 0
            if flags & _LISTS:
                parts = commit_parts(data[at:end])
                database = parts.database or database
            elif flags & _DATABASE:
                database = own
        deleted, created = self._rows.pop(xid, None), self._files.pop(xid, None)
        for savepoint in parts.savepoints:
            deleted = _together(deleted, self._rows.pop(savepoint, None))
            created = _together(created, self._files.pop(savepoint, None))
            database = database or self._database_of.pop(savepoint, 0)
        self._databases.append(database)
        if deleted or parts.dropped or parts.savepoints:
            self._parts_of.append((len(self._databases) - 1, parts, deleted or Counter(), created or Counter()))

    def _heap(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        operation = info & _OPERATION
        if operation == _DELETE:
            file = first_file(data, at, end, self._major)
            if file is not None:
                self._rows.setdefault(xid, Counter())[file] += 1
                self._database_of.setdefault(xid, file[1])
        elif operation in (_UPDATE, _HOT_UPDATE) and xid not in self._database_of:
            file = first_file(data, at, end, self._major)
            if file is not None:
                self._database_of[xid] = file[1]
        elif operation == _INSERT and xid in self._files:
            self._written(data, at, end, xid, "rows")

    def _heap2(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if info & _OPERATION == _MULTI_INSERT and xid in self._files:
            self._written(data, at, end, xid, "rows")

    def _log(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if info & 0xF0 == _PAGES and xid in self._files:
            self._written(data, at, end, xid, "pages")
        else:
            super()._log(data, at, end, xid, info, start, after)

    def _storage(self, data: bytes, at: int, end: int, xid: int, info: int, start: int, after: int) -> None:
        if info & 0xF0 == _CREATE and xid and self._right(data, at, end, start):
            file, fork = file_created(data[at:end])
            if fork == _MAIN_FORK:
                self._files.setdefault(xid, Counter())[file, "created"] = 1

    def _written(self, data: bytes, at: int, end: int, xid: int, what: str) -> None:
        file = first_file(data, at, end, self._major)
        if file is not None and (file, "created") in self._files[xid]:
            self._files[xid][file, what] += 1


K = TypeVar("K")
_NOTHING = CommitParts(0, (), ())
_FLAGS_BYTES = 18


def _together(one: Counter[K] | None, other: Counter[K] | None) -> Counter[K] | None:
    if one and other:
        one.update(other)
    return one or other


def _contents(work: Work, *, known: bool = True) -> dict[File, Content]:
    files = [file for file, what in work if what == "created"]
    written = {file: (work[file, "rows"], work[file, "pages"]) for file in files}
    return {file: Content(*counts, known or any(counts)) for file, counts in written.items()}


def read_run(
    segments: Iterable[tuple[str, bytes]], following: Iterable[tuple[str, bytes]], system_id: str
) -> ChangesRead:
    """What ended in ``segments``, or begins to end there: a record that goes on into ``following`` counts here.

    WalFormatError: a segment is not what its name says. `Run.pending`: there are not enough ``following`` ones.
    """
    reader, found = ChangeReader(expected_system_id=system_id), ChangesRead()

    def take(one: ChangesRead) -> None:
        found.commits += one.commits
        found.databases += one.databases
        found.changes += one.changes

    for name, data in segments:
        take(reader.read(name, data))
        found.stopped_in = name if reader.stopped else ""
        if reader.stopped:
            break
    for name, data in following if not reader.stopped else ():
        if not reader.pending:
            break
        take(reader.read(name, data, rest_only=True))
        found.stopped_in = name if reader.stopped else ""
    found.unended, found.unended_files = dict(reader.unended), dict(reader.unended_files)
    found.stopped, found.pending = reader.stopped, reader.pending and not reader.stopped
    return found


class Runs:
    """Puts runs together that were read apart, in the order of the WAL."""

    def __init__(self) -> None:
        self._unended: dict[int, Counter[File]] = {}
        self._files: dict[int, Work] = {}  # of transactions that drop nothing in the end, they stay

    def settle(self, run: ChangesRead) -> list[Changes]:
        """The run's changes with what earlier runs have seen of the same transactions, in the order of the WAL."""
        found = [self._whole(changes) for changes in run.changes]
        late = [xid for xid in self._unended if any(xid in commits.xids for commits in run.commits)]
        found += [self._late(run, xid) for xid in late]
        for xid, rows in run.unended.items():
            self._unended[xid] = _together(self._unended.get(xid), rows) or rows
        for xid, files in run.unended_files.items():
            self._files[xid] = _together(self._files.get(xid), files) or files
        return sorted((changes for changes in found if changes.deleted or changes.dropped), key=lambda one: one.lsn)

    def _whole(self, changes: Changes) -> Changes:
        deleted, created = Counter(changes.deleted), dict(changes.created)
        for xid in (changes.xid, *changes.savepoints):
            deleted.update(self._unended.pop(xid, Counter()))
            created |= _contents(self._files.pop(xid, Counter()), known=False)
        return replace(changes, deleted=dict(deleted), created=created)

    def _late(self, run: ChangesRead, xid: int) -> Changes:
        """A transaction that deleted in an earlier run and did nothing in this one but commit."""
        before = 0
        for commits in run.commits:
            if (commit := commits.last_of(xid)) is not None:
                database = run.databases[before + commits.place(commit)]
                break
            before += len(commits)
        assert commit is not None  # noqa: S101 - the caller has seen it
        return Changes(
            xid, commit.committed_at, commit.lsn, commit.end_lsn, commit.segment, database, dict(self._unended.pop(xid))
        )


def rows_of(run: ChangesRead) -> Iterator[tuple[datetime, int, int]]:
    """(commit time, LSN of the record, database) of each commit of a run, in the order of the WAL."""
    at = 0
    for commits in run.commits:
        for instant, lsn in commits.instants():
            yield instant, lsn, run.databases[at]
            at += 1


def first_file(record: bytes, start: int = 0, end: int = 1 << 62, major: int = 18) -> File | None:
    """The file of a record's first block reference; None if it has none, or the record's bytes don't reach it.

    ``major`` is PostgreSQL's: 14 marks a compressed page image by another bit.
    """
    try:
        compressed = _COMPRESSED if major > 14 else _COMPRESSED_14
        block, flags, _ = _BLOCK.unpack_from(record, start + RECORD_BYTES)
        if block > _MAX_BLOCK_ID or flags & _SAME_FILE or flags & _FORK:
            return None
        at = start + RECORD_BYTES + _BLOCK.size
        if flags & _HAS_IMAGE:
            _, _, image = _IMAGE.unpack_from(record, at)
            at += _IMAGE.size + (2 if image & _HOLE and image & compressed else 0)
        if at + _FILE.size > end:
            return None
        spc, db, number = _FILE.unpack_from(record, at)
    except error:
        return None
    return spc, db, number


__all__ = ["ChangeReader", "Changes", "ChangesRead", "Content", "File", "Runs", "first_file", "read_run", "rows_of"]
