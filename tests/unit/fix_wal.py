"""Archives made of single records: WAL of PostgreSQL's format in 1 MiB segments, base backups, and a store in memory.

What real servers write is read in the library's tests; here each test says which transaction is committed when, where a
timeline forks, and when an object was archived.
"""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from struct import pack

import google_crc32c

from drillbook.archive import Level, ObjectInfo
from drillbook.model import Lsn
from drillbook.postgres.wal import SegmentName

MIB = 1 << 20
PAGE = 8192
MAGIC = {15: 0xD110, 18: 0xD118}
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SYSTEM = 7_400_000_000_000_000_001
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class Wal:
    """A server's WAL as it is written: a commit after the other, a segment ended by a switch."""

    system_id: int = SYSTEM
    timeline: int = 1
    number: int = 2
    major: int = 15
    previous: int = 0
    page: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        if not self.page:
            self._begin()

    def _begin(self) -> None:
        head = pack("<HHIQI4x", MAGIC[self.major], 0x0002, self.timeline, self.number * MIB, 0)
        self.page = bytearray(head + pack("<QII", self.system_id, MIB, PAGE))

    @property
    def lsn(self) -> Lsn:
        """Where the next record will start."""
        return Lsn(self.number * MIB + len(self.page))

    @property
    def name(self) -> str:
        """The segment that is being written."""
        return SegmentName(self.timeline, self.number).text(MIB)

    def record(self, manager: int, info: int, data: bytes = b"", *, xid: int = 0) -> Lsn:
        """Append a record without blocks; gives where it starts."""
        at = self.lsn
        body = (bytes((255, len(data))) + data) if data else b""
        head = pack("<IIQBBxx", 24 + len(body), xid, self.previous, info, manager)
        self.page += head + pack("<I", google_crc32c.value(body + head)) + body
        self.page += bytes(-len(self.page) % 8)
        assert len(self.page) <= PAGE, "one page of records is all that a segment of these tests holds"
        self.previous = at.value
        return at

    def commit(self, xid: int, at: datetime) -> Lsn:
        """A COMMIT; gives where its record starts."""
        return self.record(1, 0, pack("<q", (at - _EPOCH) // timedelta(microseconds=1)), xid=xid)

    def switch(self) -> tuple[str, bytes]:
        """End the segment as pg_switch_wal does; gives it, and begins the next one."""
        self.record(0, 0x40)
        name, whole = self.name, bytes(self.page) + bytes(MIB - len(self.page))
        self.number += 1
        self._begin()
        return name, whole

    def segment(self, *commits: tuple[int, datetime]) -> tuple[str, bytes]:
        """A segment with these commits."""
        for xid, at in commits:
            self.commit(xid, at)
        return self.switch()

    def fork(self, timeline: int) -> Wal:
        """Another server that begins its timeline here."""
        other = copy.deepcopy(self)
        other.timeline = timeline
        return other


class Memory:
    """An object store that holds what it is given, each object with the time at which it was written."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.reads: list[str] = []
        self.now = NOON

    @property
    def location(self) -> str:
        return "memory://archive"

    def put(self, key: str, body: bytes, at: datetime | None = None) -> None:
        self.objects[key] = body, at or self.now

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                body, at = self.objects[key]
                yield ObjectInfo(key, len(body), at, "", "STANDARD")

    def level(self, prefix: str) -> Level:
        below = list(self.list(prefix))
        folders = {
            prefix + item.key[len(prefix) :].split("/")[0] + "/" for item in below if "/" in item.key[len(prefix) :]
        }
        return Level(tuple(sorted(folders)), tuple(item for item in below if "/" not in item.key[len(prefix) :]))

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.reads.append(key)
        return self.objects[key][0][start : None if length is None else start + length]

    def stream(self, key: str, *, piece: int) -> Generator[bytes, None, None]:
        body = self.get(key)
        yield from (body[at : at + piece] for at in range(0, len(body), piece))

    def head(self, key: str) -> ObjectInfo | None:
        return next((item for item in self.list(key) if item.key == key), None)

    def uploads(self, prefix: str) -> Sequence[str] | None:
        return ()

    def safeguards(self) -> Mapping[str, str | None]:
        return {}

    def close(self) -> None: ...

    # -- as barman-cloud would put it there ---------------------------------------------------------

    def archive(self, segment: tuple[str, bytes], at: datetime | None = None, *, server: str = "pg") -> str:
        name, body = segment
        self.put(f"{server}/wals/{name[:16]}/{name}", body, at)
        return name

    def history(
        self, timeline: int, *switches: tuple[int, Lsn], at: datetime | None = None, server: str = "pg"
    ) -> None:
        text = "".join(f"{left}\t{lsn}\tno recovery target specified\n" for left, lsn in switches)
        self.put(f"{server}/wals/{timeline:08X}.history", text.encode(), at)

    def backup(self, wal: Wal, at: datetime, *, server: str = "pg", tablespaces: str = "None") -> str:
        """A base backup of the segment that is being written, taken within a second; gives its id."""
        backup_id = f"{at:%Y%m%dT%H%M%S}"
        begin = wal.record(0, 0x10, bytes(80))
        end = wal.record(0, 0x50, pack("<Q", begin.value))
        said = {
            "backup_name": "None",
            "begin_time": at.isoformat(sep=" "),
            "begin_wal": wal.name,
            "begin_xlog": begin,
            "end_time": (at + timedelta(seconds=1)).isoformat(sep=" "),
            "end_wal": wal.name,
            "end_xlog": Lsn(end.value + 40),
            "mode": "concurrent",
            "size": "None",
            "status": "DONE",
            "systemid": wal.system_id,
            "tablespaces": tablespaces,
            "timeline": wal.timeline,
            "version": wal.major * 10000,
            "xlog_segment_size": MIB,
        }
        base = f"{server}/base/{backup_id}"
        text = "".join(f"{key}={value}\n" for key, value in said.items())
        self.put(f"{base}/backup.info", text.encode(), at + timedelta(seconds=1))
        self.put(f"{base}/data.tar", tar_with_label(), at + timedelta(seconds=1))
        return backup_id


def tar_with_label() -> bytes:
    """The smallest data.tar that barman would take for whole."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("PG_VERSION", "backup_label"):
            tar.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def minutes(count: float) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=count)
