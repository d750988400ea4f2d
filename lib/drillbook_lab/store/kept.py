"""The store on disk: what moto holds in memory is written through, so that a killed store comes back whole.

Bodies lie in files of their own, under names of ours, and moto is made to read them from there: an object takes no
memory once it is stored. Everything else is rows of one SQLite file. Kept are objects with their versions, delete
markers, metadata, tags, ACL, storage class, checksums and locks, and the buckets with what was set on them. Lost by
a kill are uploads in parts that were not completed. The parts that a completed one came in are not distinguished.
"""

from __future__ import annotations

import collections
import datetime
import io
import json
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moto.s3.models import FakeAcl, FakeBucket, FakeDeleteMarker, FakeGrant, FakeGrantee, FakeKey

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
  bucket TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, body TEXT, facts TEXT NOT NULL,
  PRIMARY KEY (bucket, name, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
  bucket TEXT NOT NULL, setting TEXT NOT NULL, query TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (bucket, setting)
) WITHOUT ROWID;
"""
_READ_AGAIN = 100
_READING_SECONDS = 30.0
# Attributes of a moto key that are plain values.
_PLAIN = (
    "_storage_class",
    "_etag",
    "_version_id",
    "_is_versioned",
    "encryption",
    "kms_key_id",
    "bucket_key_enabled",
    "lock_mode",
    "lock_legal_status",
    "lock_until",
    "checksum_value",
    "checksum_type",
    "checksum_parts",
    "checksum_algorithm",
    "website_redirect_location",
    "contentsize",
)


class StoredBody(io.RawIOBase):
    """An object's bytes in its file, which is open only while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.path.stat().st_size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        with self.path.open("rb") as source:
            source.seek(self._position)
            data = source.read(-1 if size is None else size)
        self._position += len(data)
        return data


class Kept:
    """The files of one store."""

    def __init__(self, folder: Path) -> None:
        self._bodies = folder / "bodies"
        self._bodies.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(folder / "index.db", isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=OFF")  # a killed process's writes stay with the kernel
        self._base.executescript(_SCHEMA)
        self._discarded: collections.deque[tuple[float, str]] = collections.deque()

    # -- settings of buckets -----------------------------------------------------------------------------------

    def settings(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        """Bucket, query, headers and body of every request that made a bucket what it is, in their order."""
        rows = self._base.execute("SELECT bucket, query, headers, body FROM requests ORDER BY bucket, setting")
        return [(bucket, query, json.loads(headers), body) for bucket, query, headers, body in rows]

    def keep_setting(self, bucket: str, setting: str, query: str, headers: dict[str, str], body: bytes) -> None:
        """Keep one request, in the place of an earlier one for the same setting."""
        self._base.execute(
            "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)",
            (bucket, setting, query, json.dumps(headers), body),
        )

    def drop_setting(self, bucket: str, setting: str) -> None:
        """Forget a setting; with the empty one, the bucket."""
        if setting:
            self._base.execute("DELETE FROM requests WHERE bucket = ? AND setting = ?", (bucket, setting))
            return
        self._base.execute("DELETE FROM requests WHERE bucket = ?", (bucket,))
        for name in self.names(bucket):
            self.write(bucket, name, (), None)

    # -- objects -----------------------------------------------------------------------------------------------

    @property
    def bodies(self) -> Path:
        """The folder of the bodies."""
        return self._bodies

    def names(self, bucket: str) -> set[str]:
        """The keys of a bucket that are on disk."""
        return {
            name for (name,) in self._base.execute("SELECT DISTINCT name FROM versions WHERE bucket = ?", (bucket,))
        }

    def write(self, bucket: str, name: str, versions: Iterable[Any], tags: Any) -> None:
        """Keep all versions of a key as they are now; none: the key is gone."""
        rows: list[tuple[str, str, int, str | None, str]] = []
        for position, version in enumerate(versions):
            if isinstance(version, FakeKey):
                rows.append((bucket, name, position, self._body(version), json.dumps(_facts(version, tags(version)))))
            else:
                marker = {"version": version.version_id, "last_modified": version.last_modified.isoformat()}
                rows.append((bucket, name, position, None, json.dumps(marker)))
        before = self._bodies_of(bucket, name)
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("DELETE FROM versions WHERE bucket = ? AND name = ?", (bucket, name))
            self._base.executemany("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", rows)
        self._discard(before - {row[3] or "" for row in rows})

    def _discard(self, bodies: Iterable[str]) -> None:
        """Remove bodies, a while from now: somebody may have just begun to read them."""
        now = time.monotonic()
        self._discarded.extend((now, body) for body in bodies)
        while self._discarded and self._discarded[0][0] < now - _READING_SECONDS:
            (self._bodies / self._discarded.popleft()[1]).unlink(missing_ok=True)

    def load(self, bucket: FakeBucket, tag: Any) -> int:
        """Put everything back into a bucket; how many versions."""
        rows = self._base.execute(
            "SELECT name, body, facts FROM versions WHERE bucket = ? ORDER BY name, position", (bucket.name,)
        ).fetchall()
        for name, body, facts in rows:
            known = json.loads(facts)
            if body is None:
                version: Any = FakeDeleteMarker(key=bucket.keys.get(name))
                version.name, version._version_id = name, known["version"]
                version.last_modified = datetime.datetime.fromisoformat(known["last_modified"])
            else:
                version = _key(bucket, name, known, self._bodies / body)
            bucket.keys.setlist(name, [*bucket.keys.getlist(name, []), version])
            if known.get("tags"):
                tag(version, known["tags"])
        return len(rows)

    def sweep(self) -> None:
        """Remove bodies that no version has: a kill came between the file and its row, or between row and file."""
        used = {body for (body,) in self._base.execute("SELECT body FROM versions")}
        for path in self._bodies.iterdir():
            if path.name not in used:
                path.unlink()

    def _bodies_of(self, bucket: str, name: str) -> set[str]:
        rows = self._base.execute(
            "SELECT body FROM versions WHERE bucket = ? AND name = ? AND body IS NOT NULL", (bucket, name)
        )
        return {body for (body,) in rows}

    def _body(self, key: FakeKey) -> str:
        """The name of the body's file, which is written the first time, and read by moto from then on."""
        with key.lock:
            buffer: Any = key._value_buffer
            if isinstance(buffer, StoredBody):
                return buffer.path.name
            path = self._bodies / uuid.uuid4().hex
            # moto computes an etag, which a listing asks for, from the same buffer and without the lock: anyone who
            # reads at the same time moves the place, and one of both sees too little. So it is read again until it is
            # whole.
            for _ in range(_READ_AGAIN):
                buffer.seek(0)
                with path.open("wb") as out:
                    shutil.copyfileobj(buffer, out, 1 << 20)
                if path.stat().st_size == key.contentsize:
                    break
            key._value_buffer = StoredBody(path)  # type: ignore[assignment]
            buffer.close()
            if key.multipart is not None:
                key.multipart.dispose()  # its parts would stay in memory next to the whole
                key.multipart = None
        return path.name


def _facts(key: FakeKey, tags: dict[str, str]) -> dict[str, Any]:
    _ = key.etag  # computed now, if it wasn't yet
    return {
        **{name: getattr(key, name) for name in _PLAIN},
        "metadata": dict(key._metadata),
        "last_modified": key.last_modified.isoformat(),
        "expiry": key._expiry.isoformat() if key._expiry else None,
        "acl": [
            {"permissions": list(grant.permissions), "grantees": [dict(vars(grantee)) for grantee in grant.grantees]}
            for grant in (key.acl.grants if key.acl else ())
        ],
        "tags": tags,
    }


def _key(bucket: FakeBucket, name: str, facts: dict[str, Any], body: Path) -> FakeKey:
    key = FakeKey(
        name=name, value=b"", account_id=bucket.account_id, region_name=bucket.region_name, bucket_name=bucket.name
    )
    key._value_buffer.close()
    key._value_buffer = StoredBody(body)  # type: ignore[assignment]
    for attribute in _PLAIN:
        setattr(key, attribute, facts[attribute])
    key._metadata.update(facts["metadata"])
    key.last_modified = datetime.datetime.fromisoformat(facts["last_modified"])
    key._expiry = datetime.datetime.fromisoformat(facts["expiry"]) if facts["expiry"] else None
    key.acl = FakeAcl(
        [
            FakeGrant([_grantee(grantee) for grantee in grant["grantees"]], grant["permissions"])
            for grant in facts["acl"]
        ]
    )
    return key


def _grantee(facts: dict[str, str]) -> FakeGrantee:
    return FakeGrantee(facts.get("id", ""), facts.get("uri", ""), facts.get("display_name", ""))
