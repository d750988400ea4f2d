"""What a commit record says: when, and which transaction; and a restore point's: when, and its name.

The record of an ordinary COMMIT carries its transaction's id in the header; COMMIT PREPARED is written by another
session, so the id of the prepared transaction stands among the optional parts of the record, after lists whose lengths
have to be stepped over. Savepoints' ids are in one of these lists: the id given here is the top-level transaction's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct, error

from drillbook.postgres.wal.pages import WalFormatError

RECORD = Struct("<IIQBBxxI")  # length, transaction id, previous record, info, resource manager, CRC
RECORD_BYTES = 24

_COMMIT, _COMMIT_PREPARED = 0x00, 0x30
_OPERATION, _HAS_FLAGS = 0x70, 0x80
_SHORT_DATA, _LONG_DATA, _ORIGIN, _TOP_LEVEL = 255, 254, 253, 252

_DATABASE, _TWO_PHASE, _STATISTICS = 0x001, 0x010, 0x100
# Flag and bytes an item of the lists that come before the prepared transaction's id: savepoints, dropped relations,
# dropped statistics (since PostgreSQL 15; four bytes longer since 18), cache invalidations.
_SAVEPOINTS, _DROPPED = 0x002, 0x004
_LISTS = ((_SAVEPOINTS, 4), (_DROPPED, 12), (_STATISTICS, 12), (0x008, 16))
_LONGER_STATISTICS_SINCE = 18

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def commit_in(record: bytes, major: int) -> tuple[int, int] | None:
    """(commit time in microseconds since 2000, 32-bit transaction id) of a transaction manager's record; None: no commit.

    WalFormatError: the record's checksum was right but its parts don't fit, so this is a format unknown to us.
    """
    _, xid, _, info, _, _ = RECORD.unpack_from(record)
    operation = info & _OPERATION
    if operation not in {_COMMIT, _COMMIT_PREPARED}:
        return None
    try:
        data = _main_data(record)
        (microseconds,) = _TIME.unpack_from(data)
        if operation == _COMMIT_PREPARED:
            xid = _prepared_id(data, info, major)
        return int(microseconds), xid
    except (error, OverflowError, IndexError) as wrong:
        raise WalFormatError(f"a commit record of {len(record)} bytes can't be read: {wrong}") from wrong


def restore_point_in(record: bytes) -> tuple[datetime, str]:
    """(time, name) of a whole restore point record; WalFormatError if its parts don't fit."""
    try:
        data = _main_data(record)
        (microseconds,) = _TIME.unpack_from(data)
        name = data[_TIME.size :].partition(b"\0")[0].decode(errors="backslashreplace")
        return _EPOCH + timedelta(microseconds=microseconds), name
    except (error, OverflowError, IndexError) as wrong:
        raise WalFormatError(f"a restore point of {len(record)} bytes can't be read: {wrong}") from wrong


def tablespace_in(record: bytes) -> tuple[int, str]:
    """(id, folder) of a whole record of a tablespace's creation; WalFormatError if its parts don't fit."""
    try:
        data = _main_data(record)
        (oid,) = _WORD.unpack_from(data)
        return int(oid), data[_WORD.size :].partition(b"\0")[0].decode(errors="backslashreplace")
    except (error, IndexError) as wrong:
        raise WalFormatError(f"a tablespace's record of {len(record)} bytes can't be read: {wrong}") from wrong


def file_created(record: bytes) -> tuple[tuple[int, int, int], int]:
    """((tablespace, database, file number), fork) of a whole record of a relation's new file; WalFormatError: unknown parts."""
    try:
        spc, db, number, fork = _NEW_FILE.unpack_from(_main_data(record))
    except (error, IndexError) as wrong:
        raise WalFormatError(f"a new file's record of {len(record)} bytes can't be read: {wrong}") from wrong
    return (spc, db, number), fork


_TIME, _WORD, _NEW_FILE = Struct("<q"), Struct("<I"), Struct("<4I")


def _main_data(record: bytes) -> bytes:
    """The resource manager's own data; a commit record has no blocks, so it is what follows the short headers."""
    at = RECORD_BYTES
    while True:
        kind = record[at]
        if kind == _SHORT_DATA:
            length, at = record[at + 1], at + 2
            break
        if kind == _LONG_DATA:
            length, at = _WORD.unpack_from(record, at + 1)[0], at + 5
            break
        if kind not in {_ORIGIN, _TOP_LEVEL}:
            raise WalFormatError(f"a record with an unknown part {kind}")
        at += 3 if kind == _ORIGIN else 5
    if at + length != len(record):
        raise WalFormatError(f"a record of {len(record)} bytes holds {length} bytes of data from {at}")
    return record[at:]


def _prepared_id(data: bytes, info: int, major: int) -> int:
    if not info & _HAS_FLAGS:
        raise WalFormatError("a COMMIT PREPARED record without flags")
    (flags,) = _WORD.unpack_from(data, _TIME.size)
    if not flags & _TWO_PHASE:
        raise WalFormatError("a COMMIT PREPARED record without a prepared transaction's id")
    at = _TIME.size + _WORD.size
    if flags & _DATABASE:
        at += 8
    for flag, item_bytes in _LISTS:
        if flags & flag:
            longer = 4 if flag == _STATISTICS and major >= _LONGER_STATISTICS_SINCE else 0
            at += _WORD.size + _WORD.unpack_from(data, at)[0] * (item_bytes + longer)
    return int(_WORD.unpack_from(data, at)[0])


@dataclass(frozen=True)
class CommitParts:
    """What a commit record says besides its time: its database (0: not said), savepoints' ids, and dropped files.

    A dropped file is (tablespace, database, file number) of a relation whose file is removed by this commit: it was
    dropped, truncated or rewritten.
    """

    database: int
    savepoints: tuple[int, ...]
    dropped: tuple[tuple[int, int, int], ...]


def commit_parts(record: bytes) -> CommitParts:
    """The optional parts of a whole commit record. WalFormatError if they don't fit."""
    _, _, _, info, _, _ = RECORD.unpack_from(record)
    if not info & _HAS_FLAGS:
        return CommitParts(0, (), ())
    try:
        data = _main_data(record)
        (flags,) = _WORD.unpack_from(data, _TIME.size)
        at = _TIME.size + _WORD.size
        database = 0
        if flags & _DATABASE:
            database, at = _WORD.unpack_from(data, at)[0], at + 8
        lists: list[list[tuple[int, ...]]] = []
        for flag, words in ((_SAVEPOINTS, 1), (_DROPPED, 3)):
            found: list[tuple[int, ...]] = []
            if flags & flag:
                (count,) = _WORD.unpack_from(data, at)
                item = Struct(f"<{words}I")
                found = [item.unpack_from(data, at + 4 + number * item.size) for number in range(count)]
                at += 4 + count * item.size
            lists.append(found)
    except (error, IndexError) as wrong:
        raise WalFormatError(f"a commit record of {len(record)} bytes can't be read: {wrong}") from wrong
    savepoints, dropped = lists
    return CommitParts(
        database, tuple(xid for (xid,) in savepoints), tuple((spc, db, file) for spc, db, file in dropped)
    )
