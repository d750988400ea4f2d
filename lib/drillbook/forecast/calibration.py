"""A short, bounded read of the real objects: how fast they come, and how fast they are unpacked, from where this runs.

It is an honest stand-in, no more: the copy's node may be nearer to the store than this machine, or farther. Bytes and
seconds are capped; nothing is written anywhere, and what is read is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from drillbook.archive import ArchivedSegment, ObjectStore, Unpackable, unpacker
from drillbook.errors import ObjectStoreError
from drillbook.forecast.types import Calibration, Rate
from drillbook.model import BaseBackup

MOST_BYTES = 96 << 20
MOST_SECONDS = 8.0
MOST_SEGMENTS = 4
LONGEST_START_SECONDS = 600.0
_PIECE = 1 << 20


def calibrate(
    store: ObjectStore,
    backup: BaseBackup,
    segments: Sequence[ArchivedSegment],
    pods: Sequence[Mapping[str, Any]] = (),
    *,
    most_bytes: int = MOST_BYTES,
    most_seconds: float = MOST_SECONDS,
) -> Calibration:
    """Read the beginning of the base backup and the newest few of ``segments``; judge the starts of ``pods``.

    What can't be read is left out and noted, never raised: a forecast is worth less than the run that asked for it.
    """
    notes: list[str] = []
    found: dict[str, Any] = {}
    try:
        found |= _base(store, backup, most_bytes, most_seconds, notes)
    except ObjectStoreError as error:
        notes.append(f"base backup: {error.what}")
    try:
        found |= _wal(store, segments[-MOST_SEGMENTS:], notes)
    except ObjectStoreError as error:
        notes.append(f"WAL: {error.what}")
    return Calibration(**found, **_starts(pods), notes=tuple(notes))


def _base(
    store: ObjectStore, backup: BaseBackup, most_bytes: int, most_seconds: float, notes: list[str]
) -> dict[str, Any]:
    key = _data_object(store, backup)
    if key is None:
        notes.append(f"base backup {backup.backup_id} has no data object")
        return {}
    began = time.perf_counter()
    stream = store.stream(key, piece=_PIECE)
    pieces = [next(stream, b"")]
    first = time.perf_counter()
    size = 0
    # One request, as barman makes it; the first piece counts for the answer's delay, the others for the rate.
    for piece in stream:
        pieces.append(piece)
        size += len(piece)
        if size >= most_bytes or time.perf_counter() - began > most_seconds:
            break
    spent = time.perf_counter() - first
    stream.close()
    if not size:
        size, spent = len(pieces[0]), first - began
    found: dict[str, Any] = {"first_byte_seconds": first - began, "base_read": Rate(bytes=size, seconds=spent)}
    if backup.compression and pieces:
        found |= _unpack(pieces, backup.compression, most_seconds, notes)
    return found


def _data_object(store: ObjectStore, backup: BaseBackup) -> str | None:
    """The largest of the backup's objects: the data directory, or a tablespace that outgrew it."""
    objects = [item for item in store.list(f"{backup.server_name}/base/{backup.backup_id}/") if ".tar" in item.key]
    return max(objects, key=lambda item: item.size).key if objects else None


def _unpack(pieces: Sequence[bytes], compression: str, most_seconds: float, notes: list[str]) -> dict[str, Any]:
    try:
        unpack = unpacker(compression, name="it")
    except ObjectStoreError as error:
        notes.append(f"not unpacked: {error.what}")
        return {}
    taken, size, began = 0, 0, time.perf_counter()
    try:
        for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                part = piece[start : start + _PIECE]
                size, taken = size + len(unpack(part)), taken + len(part)
            if time.perf_counter() - began > most_seconds:
                break
    except Unpackable as error:
        notes.append(f"{error} after {taken} bytes")
        return {}
    rate = Rate(bytes=size, seconds=max(time.perf_counter() - began, 1e-6))
    return {"base_unpacked": rate, "base_ratio": size / taken if taken else None}


def _wal(store: ObjectStore, segments: Sequence[ArchivedSegment], notes: list[str]) -> dict[str, Any]:
    size, spent, unpacking, count = 0, 0.0, 0.0, 0
    for segment in segments:
        began = time.perf_counter()
        data = store.get(segment.key)
        spent += time.perf_counter() - began
        size, count = size + len(data), count + 1
        if segment.compression:
            unpacked = _unpack([data], segment.compression, MOST_SECONDS, notes).get("base_unpacked")
            unpacking += unpacked.seconds if unpacked else 0.0
    if not count:
        return {}
    return {"wal_read": Rate(bytes=size, seconds=spent), "wal_objects": count, "wal_unpack_seconds": unpacking}


def _starts(pods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The slowest start among pods that have run since they were made; a restarted container tells nothing.

    A pod that became Ready later than `LONGEST_START_SECONDS` after its start has lost it and had it again, as all pods
    of a node do whose kubelet was away for a while: how long it took at first is no longer known.
    """
    starts: list[float] = []
    readies: list[float] = []
    for pod in pods:
        status = pod.get("status") or {}
        containers = status.get("containerStatuses") or []
        running = [((item.get("state") or {}).get("running") or {}).get("startedAt") for item in containers]
        if not running or not all(running) or any(item.get("restartCount") for item in containers):
            continue
        created = _at(pod["metadata"]["creationTimestamp"])
        started = max(_at(text) for text in running if text)
        starts.append(max(0.0, (started - created).total_seconds()))
        since = [
            item for item in status.get("conditions") or [] if item["type"] == "Ready" and item["status"] == "True"
        ]
        if since and since[0].get("lastTransitionTime"):
            ready = max(0.0, (_at(since[0]["lastTransitionTime"]) - started).total_seconds())
            readies += [ready] if ready <= LONGEST_START_SECONDS else []
    return {
        "pod_started_seconds": max(starts) if starts else None,
        "pod_ready_seconds": max(readies) if readies else None,
    }


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


__all__ = ["LONGEST_START_SECONDS", "MOST_BYTES", "MOST_SECONDS", "MOST_SEGMENTS", "calibrate"]
