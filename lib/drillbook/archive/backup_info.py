"""``backup.info``: how barman describes a base backup, in lines of ``key=value``.

Values are Python's text forms (``None``, times with a zone, lists); only what is needed is read, by name, and keys that
are not known are no fault, because newer barman releases add some.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from drillbook.model import Lsn, parse_instant
from drillbook.postgres.wal import SegmentName, check_segment_bytes

DEFAULT_SEGMENT_BYTES = 16 << 20
T = TypeVar("T")


class BackupInfoError(ValueError):
    """The file doesn't say what a base backup must say; the message names the key."""


@dataclass(frozen=True)
class BackupInfo:
    """What a finished backup's file says; sizes in bytes."""

    begin_time: datetime
    end_time: datetime
    begin_wal: str
    end_wal: str
    begin_lsn: Lsn
    end_lsn: Lsn
    timeline: int
    system_id: str
    pg_version: int
    segment_bytes: int
    cluster_size_bytes: int
    compression: str
    backup_name: str
    tablespaces: tuple[tuple[str, int], ...]  # name and id
    is_snapshot: bool


def fields(text: str) -> dict[str, str]:
    """The file's keys and values; a value ``None`` is left out. BackupInfoError names a line that is neither."""
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise BackupInfoError(f"line {number} is not key=value")
        if value.strip() != "None":
            found[key.strip()] = value.strip()
    return found


def backup_info(said: Mapping[str, str]) -> BackupInfo:
    """The description of a finished backup; BackupInfoError names the first key that is missing or wrong."""

    def need(key: str) -> str:
        if key not in said:
            raise BackupInfoError(f"it has no {key}")
        return said[key]

    def read(key: str, reader: Callable[[str], T]) -> T:
        text = need(key)
        try:
            return reader(text)
        except ValueError as error:
            raise _wrong(key, error) from error

    segment_bytes = read("xlog_segment_size", int) if "xlog_segment_size" in said else DEFAULT_SEGMENT_BYTES
    try:
        check_segment_bytes(segment_bytes)
    except ValueError as error:
        raise _wrong("xlog_segment_size", error) from error
    begin = read("begin_wal", lambda name: SegmentName.parse(name, segment_bytes))
    read("end_wal", lambda name: SegmentName.parse(name, segment_bytes))
    info = BackupInfo(
        begin_time=read("begin_time", parse_instant),
        end_time=read("end_time", parse_instant),
        begin_wal=need("begin_wal"),
        end_wal=need("end_wal"),
        begin_lsn=read("begin_xlog", Lsn),
        end_lsn=read("end_xlog", Lsn),
        timeline=read("timeline", int),
        system_id=need("systemid"),
        pg_version=read("version", int),
        segment_bytes=segment_bytes,
        cluster_size_bytes=read("cluster_size", int) if "cluster_size" in said else 0,
        compression=said.get("compression", ""),
        backup_name=said.get("backup_name", ""),
        tablespaces=_tablespaces(said.get("tablespaces", "")),
        is_snapshot="snapshots_info" in said,
    )
    if info.begin_lsn.value // segment_bytes != begin.number or info.timeline != begin.timeline:
        raise BackupInfoError(f"begin_wal {info.begin_wal} does not hold {info.begin_lsn} of timeline {info.timeline}")
    if info.end_lsn < info.begin_lsn:
        raise BackupInfoError(f"end_xlog {info.end_lsn} is before begin_xlog {info.begin_lsn}")
    return info


def _tablespaces(text: str) -> tuple[tuple[str, int], ...]:
    """The first two of each (name, oid, location)."""
    try:
        return tuple((str(item[0]), int(item[1])) for item in ast.literal_eval(text)) if text else ()
    except (ValueError, SyntaxError, TypeError, IndexError) as error:
        raise _wrong("tablespaces", error) from error


def _wrong(key: str, error: Exception) -> BackupInfoError:
    return BackupInfoError(f"its {key} can't be read: {error}")
