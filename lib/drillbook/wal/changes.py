"""What each committed transaction deleted, and which relations' files it dropped: who did the damage, and when.

The heap's own records are looked into as far as their first block reference, which names the relation's file; a commit
record names the files that go with it. So a `DELETE` shows as rows of a file, and a `DROP TABLE`, a `TRUNCATE` or a
rewrite (`VACUUM FULL`, `CLUSTER`) as a dropped file: which of these it was, WAL does not say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from struct import Struct, error

from drillbook.model import ArchivedCommit, Lsn
from drillbook.wal.records import WalReader
from drillbook.wal.transactions import RECORD_BYTES, CommitParts, commit_parts

_HEAP = 10  # resource manager
_DELETE, _UPDATE, _HOT_UPDATE, _OPERATION = 0x10, 0x20, 0x40, 0x70
_MAX_BLOCK_ID = 32
_BLOCK = Struct("<BBH")  # id, fork and flags, length of its data
_IMAGE = Struct("<HHB")  # length, hole's offset, flags
_FILE = Struct("<III")
_FORK, _HAS_IMAGE, _SAME_FILE = 0x0F, 0x10, 0x80
_HOLE, _COMPRESSED = 0x01, 0x1C

File = tuple[int, int, int]
"""A relation's file: tablespace, database, file number."""


@dataclass(frozen=True)
class Changes:
    """A committed transaction that deleted, updated or dropped something; rows by file, as WAL counts them."""

    xid: int
    committed_at: datetime
    lsn: Lsn  # where its commit record starts
    end_lsn: Lsn
    segment: str
    database: int  # 0 where the record doesn't say
    deleted: dict[File, int] = field(default_factory=dict)
    updated: dict[File, int] = field(default_factory=dict)
    dropped: tuple[File, ...] = ()


class ChangeReader(WalReader):
    """Reads what transactions delete, beside their commits; a transaction counts from where the reading begins."""

    def __init__(self, *, expected_system_id: str = "") -> None:
        super().__init__(expected_system_id=expected_system_id)
        self._rows: dict[int, tuple[Counter[File], Counter[File]]] = {}
        self._parts_of: dict[int, CommitParts] = {}

    def changes(self, name: str, data: bytes) -> list[Changes]:
        """The committed changes whose commit records end in this segment; raises what `feed` raises."""
        return [self._settle(commit) for commit in self.feed(name, data)]

    def _settle(self, commit: ArchivedCommit) -> Changes:
        parts = self._parts_of.pop(commit.lsn.value)
        deleted: Counter[File] = Counter()
        updated: Counter[File] = Counter()
        for xid in (commit.xid, *parts.savepoints):
            for total, own in zip((deleted, updated), self._rows.pop(xid, ()), strict=False):
                total.update(own)
        return Changes(
            xid=commit.xid,
            committed_at=commit.committed_at,
            lsn=commit.lsn,
            end_lsn=commit.end_lsn,
            segment=commit.segment,
            database=parts.database or next((db for _, db, _ in (*deleted, *updated)), 0),
            deleted=dict(deleted),
            updated=dict(updated),
            dropped=parts.dropped,
        )

    def _worth_keeping(self, head: bytes) -> bool:
        return super()._worth_keeping(head) or head[17] == _HEAP

    def _whole(self, major: int):  # type: ignore[no-untyped-def]  # as the reader's own
        told = super()._whole(major)
        if self.stopped or not self._parts:
            return told
        if told is not None and isinstance(told[1], int):
            self._parts_of[self._start] = commit_parts(b"".join(self._parts))
        elif len(self._parts[0]) > RECORD_BYTES or len(self._parts) > 1:
            self._count(b"".join(self._parts[:2]))
        return told

    def _count(self, record: bytes) -> None:
        operation = record[16] & _OPERATION
        if record[17] != _HEAP or operation not in {_DELETE, _UPDATE, _HOT_UPDATE}:
            return
        file = first_file(record)
        if file is None:
            return
        xid = int.from_bytes(record[4:8], "little")
        deleted, updated = self._rows.setdefault(xid, (Counter(), Counter()))
        (deleted if operation == _DELETE else updated)[file] += 1


def first_file(record: bytes) -> File | None:
    """The file of a record's first block reference; None if it has none, or the start of the record doesn't reach it."""
    try:
        block, flags, _ = _BLOCK.unpack_from(record, RECORD_BYTES)
        if block > _MAX_BLOCK_ID or flags & _SAME_FILE or flags & _FORK:
            return None
        at = RECORD_BYTES + _BLOCK.size
        if flags & _HAS_IMAGE:
            _, _, image = _IMAGE.unpack_from(record, at)
            at += _IMAGE.size + (2 if image & _HOLE and image & _COMPRESSED else 0)
        spc, db, number = _FILE.unpack_from(record, at)
    except error:
        return None
    return spc, db, number


__all__ = ["ChangeReader", "Changes", "File", "first_file"]
