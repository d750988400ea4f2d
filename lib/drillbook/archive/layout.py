"""Where barman-cloud puts things, and the listing of the archived WAL.

Below ``<location>/<server name>/``: ``base/<backup id>/`` holds a base backup; ``wals/<16 hex>/`` holds the segments of
one timeline and log, with backup labels (``.backup``) and, after a demotion, ``.partial`` segments among them;
``wals/<8 hex>.history`` lies next to these folders. An ending says how an object is compressed.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from drillbook.archive.protocol import ObjectInfo, ObjectStore
from drillbook.errors import ParameterError
from drillbook.postgres.wal import SegmentName, sorted_once

PARALLEL = 8
COMPRESSIONS = {"": "", "gz": "gzip", "bz2": "bzip2", "xz": "xz", "snappy": "snappy", "zst": "zstd", "lz4": "lz4"}
_ENDINGS = tuple(COMPRESSIONS)
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{16})(?:\.([a-z0-9]+))?")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history(?:\.([a-z0-9]+))?")
_PARTIAL = re.compile(r"([0-9A-F]{24})\.partial(?:\.[a-z0-9]+)?")
_KNOWN = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup(?:\.[a-z0-9]+)?")
_FOLDER = re.compile(r"[0-9A-F]{16}/")


def base_prefix(server_name: str) -> str:
    """Where the server's base backups lie."""
    return f"{server_name}/base/"


def wal_prefix(server_name: str) -> str:
    """Where the server's WAL is."""
    return f"{server_name}/wals/"


class ArchivedSegment(NamedTuple):
    """A segment in the archive: ``size`` in bytes as stored; ``compression`` "" for none."""

    name: str
    key: str
    size: int
    modified: datetime
    compression: str

    def number(self, segment_bytes: int) -> int:
        """Its segment number; only the name is looked at."""
        return (int(self.name[8:16], 16) * (1 << 32) // segment_bytes) + int(self.name[16:], 16)


class HistoryObject(NamedTuple):
    """A history file in the archive."""

    timeline: int
    key: str
    compression: str
    modified: datetime


class WalListing:
    """What the archive holds of one server's WAL, in about 30 bytes a segment however long the archive.

    ``empty`` segments are there with no byte in them, ``partial`` ones were cut off at a promotion and end in
    ``.partial``, ``unknown`` are objects that are no WAL (the first 12).
    """

    def __init__(self, server_name: str, *, since: str = "") -> None:
        self.server_name = server_name
        self.since = since
        self.histories: dict[int, HistoryObject] = {}
        self.empty: list[str] = []
        self.partial: list[str] = []
        self.unknown: list[str] = []
        self._columns: dict[int, _Columns] = {}

    def __len__(self) -> int:
        return sum(len(columns.keys) for columns in self._columns.values())

    @property
    def timelines(self) -> tuple[int, ...]:
        """The timelines that have segments here, ascending."""
        return tuple(sorted(t for t, columns in self._columns.items() if columns.keys))

    def names(self) -> Iterator[str]:
        """The names of all segments that hold something, ascending."""
        for timeline in self.timelines:
            prefix = f"{timeline:08X}"
            for key in self._columns[timeline].keys:
                yield f"{prefix}{key:016X}"

    def segment(self, name: str) -> ArchivedSegment | None:
        """The segment of this name, ``None`` if the archive has none (or an empty one)."""
        columns = self._columns.get(int(name[:8], 16))
        if columns is None:
            return None
        key = int(name[8:], 16)
        at = bisect_left(columns.keys, key)
        if at == len(columns.keys) or columns.keys[at] != key:
            return None
        return self._row(int(name[:8], 16), columns, at)

    def numbered(self, timeline: int, number: int, segment_bytes: int) -> ArchivedSegment | None:
        """The segment of this timeline and number, ``None`` if the archive has none (or an empty one)."""
        return self.segment(SegmentName(timeline, number).text(segment_bytes))

    def first(self, timeline: int) -> ArchivedSegment | None:
        """The timeline's first segment by number, ``None`` if it has none."""
        columns = self._columns.get(timeline)
        return self._row(timeline, columns, 0) if columns and columns.keys else None

    def last(self, timeline: int) -> ArchivedSegment | None:
        """The timeline's last segment by number, ``None`` if it has none."""
        columns = self._columns.get(timeline)
        return self._row(timeline, columns, len(columns.keys) - 1) if columns and columns.keys else None

    def latest(self, timeline: int) -> ArchivedSegment | None:
        """The timeline's segment that was archived last, ``None`` if it has none."""
        columns = self._columns.get(timeline)
        if not columns or not columns.keys:
            return None
        return self._row(timeline, columns, max(range(len(columns.keys)), key=columns.modified.__getitem__))

    def segments(self) -> Iterator[ArchivedSegment]:
        """All segments that hold something, ascending by name."""
        for timeline in self.timelines:
            columns = self._columns[timeline]
            for at in range(len(columns.keys)):
                yield self._row(timeline, columns, at)

    def torn(self, segment_bytes: int) -> list[str]:
        """The segments that the listing itself shows to be torn: empty, or stored uncompressed in another size."""
        found = list(self.empty)
        for timeline, columns in self._columns.items():
            for key, size, ending in zip(columns.keys, columns.sizes, columns.endings, strict=True):
                if not ending and size != segment_bytes:
                    found.append(f"{timeline:08X}{key:016X}")
        return found

    def numbers(self, segment_bytes: int) -> dict[int, array[int]]:
        """The segment numbers by timeline, ascending and each once, without those that `torn` names.

        Names that are none at this segment size are left out. Eight bytes a segment.
        """
        per_log = (1 << 32) // segment_bytes
        found = {}
        for timeline in self.timelines:
            columns = self._columns[timeline]
            rows = zip(columns.keys, columns.sizes, columns.endings, strict=True)
            found[timeline] = sorted_once(
                array(
                    "Q",
                    (
                        (key >> 32) * per_log + (key & 0xFFFFFFFF)
                        for key, size, ending in rows
                        if (ending or size == segment_bytes) and key & 0xFFFFFFFF < per_log
                    ),
                )
            )
        return found

    @property
    def newest(self) -> ArchivedSegment | None:
        """The last segment of the highest timeline, ``None`` if there is no WAL at all."""
        return self.last(self.timelines[-1]) if self.timelines else None

    def _row(self, timeline: int, columns: _Columns, at: int) -> ArchivedSegment:
        name = f"{timeline:08X}{columns.keys[at]:016X}"
        ending = _ENDINGS[columns.endings[at]]
        return ArchivedSegment(
            name,
            f"{wal_prefix(self.server_name)}{name[:16]}/{name}{'.' + ending if ending else ''}",
            columns.sizes[at],
            datetime.fromtimestamp(columns.modified[at], UTC),
            COMPRESSIONS[ending],
        )

    def _add(self, item: ObjectInfo) -> None:
        name = item.key.rpartition("/")[2]
        if found := _SEGMENT.fullmatch(name):
            timeline, key, ending = found.groups(default="")
            if ending in COMPRESSIONS:
                if item.size == 0:
                    self.empty.append(timeline + key)
                else:
                    columns = self._columns.setdefault(int(timeline, 16), _no_columns())
                    columns.keys.append(int(key, 16))
                    columns.sizes.append(item.size)
                    columns.modified.append(item.modified.timestamp())
                    columns.endings.append(_ENDINGS.index(ending))
                return
        if found := _HISTORY.fullmatch(name):
            timeline, ending = found.groups(default="")
            if ending in COMPRESSIONS:
                self.histories[int(timeline, 16)] = HistoryObject(
                    int(timeline, 16), item.key, COMPRESSIONS[ending], item.modified
                )
                return
        if found := _PARTIAL.fullmatch(name):
            self.partial.append(found[1])
        elif not _KNOWN.fullmatch(name) and len(self.unknown) < 12:
            self.unknown.append(name)

    def _extend(self, other: WalListing) -> None:
        for timeline, columns in other._columns.items():
            mine = self._columns.setdefault(timeline, _no_columns())
            mine.keys.extend(columns.keys)
            mine.sizes.extend(columns.sizes)
            mine.modified.extend(columns.modified)
            mine.endings.extend(columns.endings)
        self.empty += other.empty
        self.partial += other.partial
        self.unknown += other.unknown[: 12 - len(self.unknown)]
        self.histories |= other.histories


class _Columns(NamedTuple):
    """One timeline's segments, ascending by key (log and segment: the name's last 16 digits)."""

    keys: array[int]
    sizes: array[int]
    modified: array[float]
    endings: array[int]


def _no_columns() -> _Columns:
    return _Columns(array("Q"), array("Q"), array("d"), array("B"))


def wal_histories(store: ObjectStore, server_name: str) -> WalListing:
    """The history files alone, by one request for most archives: a listing without any segment."""
    listing = WalListing(server_name)
    for item in store.level(wal_prefix(server_name)).objects:
        listing._add(item)
    return listing


def wal_names(store: ObjectStore, server_name: str, *, since: str = "") -> WalListing:
    """List the server's WAL; folder by folder, several at once.

    ``since`` is a segment's name: folders that can hold only older WAL are left out (those of a timeline before its,
    or of a log before its on any timeline), so that looking again costs little. History files are always listed.
    ObjectStoreError: the store refused or did not answer.
    """
    if since and not _SEGMENT.fullmatch(since):
        raise ParameterError([f"since {since!r} is not a WAL segment's name"], where="WAL listing")
    top = store.level(wal_prefix(server_name))
    listing = WalListing(server_name, since=since)
    for item in top.objects:
        listing._add(item)
    wanted = []
    for folder in sorted(top.folders):
        name = folder.removeprefix(wal_prefix(server_name))
        if not _FOLDER.fullmatch(name):
            listing.unknown.append(name)
        elif name[:8] >= since[:8] and name[8:16] >= since[8:16]:
            wanted.append(folder)

    def one(folder: str) -> WalListing:
        part = WalListing(server_name)
        for item in store.list(folder):
            part._add(item)
        return part

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="wal-listing") as pool:
        for part in pool.map(one, wanted):
            listing._extend(part)
    return listing
