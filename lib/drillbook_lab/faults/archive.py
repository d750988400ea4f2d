"""Faults of what is in the archive: base backups, WAL and history files that are gone, cut, damaged or not what they seem.

Each keeps the objects that it changes under the lab's home, byte for byte, so that all of it can be undone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from drillbook_lab.errors import LabError
from drillbook_lab.faults.store import Bucket, Inject, Undo, bucket
from drillbook_lab.home import LabHome

_ENDINGS = ("gz", "bz2", "xz", "snappy", "zst", "lz4")
Spoil = Callable[[bytes], bytes]


# -- what is changed, and how it is put back -------------------------------------------------------------------------


def _change(
    home: LabHome, store: Bucket, key: str, did: str, body: bytes | None, storage_class: str = "STANDARD"
) -> Undo:
    """Put ``body`` in an object's place, or nothing for ``None``; the object is kept first."""
    kept = home.faults / "kept" / key.replace("/", "_")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.write_bytes(store.read(key))
    if body is None:
        store.remove(key)
    else:
        store.write(key, body, storage_class)
    return {"did": did, "key": key, "kept": str(kept)}


def put_back(home: LabHome, undo: Undo) -> None:
    """The object as it was; one that the fault has added is gone."""
    store, kept = bucket(home), Path(undo["kept"])
    store.write(undo["key"], kept.read_bytes())
    if "added" in undo:
        store.remove(undo["added"])
    kept.unlink()


def _free(home: LabHome, keys: list[str]) -> str:
    """The first that is not kept for another fault's undo."""
    taken = {json.loads(path.read_text(encoding="utf-8")).get("key") for path in home.faults.glob("*.json")}
    left = [key for key in keys if key not in taken]
    if not left:
        raise LabError("other faults have it already", keys[0], "lift them first: drillbook lab fault --all-off")
    return left[0]


def halved(body: bytes) -> bytes:
    """The first half: the upload that nobody noticed was cut."""
    return body[: len(body) // 2]


def emptied(_: bytes) -> bytes:
    """No byte of it."""
    return b""


def damaged(body: bytes) -> bytes:
    """Its length, with a run of wrong bytes from its first quarter on.

    That is what begins a page of WAL or is in a compressed stream; past the end of records nobody would ever look.
    """
    at, length = len(body) // 4, max(1, len(body) // 4)
    return body[:at] + bytes(byte ^ 0xFF for byte in body[at : at + length]) + body[at + length :]


# -- base backups ----------------------------------------------------------------------------------------------------


def newest_backup(store: Bucket) -> tuple[str, str]:
    """The newest base backup's id and its begin WAL, from its `backup.info`."""
    infos = [key for key in store.keys("base/") if key.endswith("/backup.info")]
    if not infos:
        raise LabError("there is no base backup to damage", f"s3://{store.name}/{store.prefix}/base/")
    text = store.read(infos[-1]).decode()
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return infos[-1].split("/")[-2], facts["begin_wal"]


def backup_data(did: str, spoil: Spoil | None, storage_class: str = "STANDARD") -> Inject:
    """The newest base backup's data is ``did``: of several parts the largest, which surely holds tables."""

    def inject(home: LabHome) -> Undo:
        store = bucket(home)
        backup, _ = newest_backup(store)
        parts = [key for key in store.keys(f"base/{backup}/") if "/data" in key]
        sizes = {key: store.client.head_object(Bucket=store.name, Key=key)["ContentLength"] for key in parts}
        key = _free(home, sorted(sizes, key=lambda part: -sizes[part]))
        body = spoil(store.read(key)) if spoil else None
        return _change(home, store, key, f"{_file(key)} of base backup {backup}: {did}", body, storage_class)

    return inject


def backup_info(did: str, *edits: tuple[str, str]) -> Inject:
    """The newest base backup's `backup.info` is gone, or says something else: (pattern, replacement) of its lines."""

    def inject(home: LabHome) -> Undo:
        store = bucket(home)
        backup, _ = newest_backup(store)
        key = _free(home, [key for key in store.keys(f"base/{backup}/") if key.endswith("/backup.info")])
        text = store.read(key).decode()
        for pattern, replacement in edits:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return _change(home, store, key, f"backup.info of {backup}: {did}", text.encode() if edits else None)

    return inject


# -- WAL -------------------------------------------------------------------------------------------------------------


def _needed_wal(home: LabHome, store: Bucket) -> tuple[str, str]:
    """A segment in the middle of the chain that a recovery needs, that no other fault has in hand; its backup."""
    backup, begin = newest_backup(store)
    segments = [key for key in store.keys("wals/") if len(_wal(key)) == 24 and _wal(key)[8:] > begin[8:]]
    if len(segments) < 2:
        raise LabError(
            "the archive has no segment to lose",
            f"{len(segments)} segment(s) after {begin}",
            "switch WAL (SELECT pg_switch_wal()) until two more segments are archived, then inject this again",
        )
    return _free(home, segments), backup


def needed_wal(did: str, spoil: Spoil | None) -> Inject:
    """A segment that a recovery needs is ``did``."""

    def inject(home: LabHome) -> Undo:
        store = bucket(home)
        key, backup = _needed_wal(home, store)
        told = f"{did} {_wal(key)}, needed after base backup {backup}"
        return _change(home, store, key, told, spoil(store.read(key)) if spoil else None)

    return inject


def remove_begin_wal(home: LabHome) -> Undo:
    """The segment in which the newest base backup begins is gone."""
    store = bucket(home)
    backup, begin = newest_backup(store)
    key = _free(home, [key for key in store.keys("wals/") if _wal(key) == begin])
    return _change(home, store, key, f"removed {begin}, the begin WAL of base backup {backup}", None)


def make_partial(home: LabHome) -> Undo:
    """A `.partial`, as a demoted primary leaves it, is in a segment's place."""
    store = bucket(home)
    key, backup = _needed_wal(home, store)
    stem, _, ending = key.rpartition(".")
    added = f"{stem}.partial.{ending}" if ending in _ENDINGS else f"{key}.partial"
    store.write(added, store.read(key))
    did = f"{_file(added)} in place of {_wal(key)}, needed after base backup {backup}"
    return {**_change(home, store, key, did, None), "added": added}


def history(did: str, spoil: Spoil | None) -> Inject:
    """The newest timeline's history file is ``did``."""

    def inject(home: LabHome) -> Undo:
        store = bucket(home)
        files = [key for key in store.keys("wals/") if ".history" in _file(key)]
        if not files:
            raise LabError(
                "the archive has no history file",
                f"s3://{store.name}/{store.prefix}/wals/",
                "promote another instance first: a switchover or a failover begins a timeline",
            )
        key = _free(home, files[::-1])
        return _change(home, store, key, f"{did} {_file(key)}", spoil(store.read(key)) if spoil else None)

    return inject


def _file(key: str) -> str:
    return key.rpartition("/")[2]


def _wal(key: str) -> str:
    """A segment's name without its compression's suffix; the name of a backup label or a history file stays long."""
    stem, _, suffix = _file(key).rpartition(".")
    return stem if suffix in _ENDINGS else _file(key)
