"""One object, kept: put under its lock, read back by version id, and compared, bytes and lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drillbook.errors import EvidenceTampered
from drillbook.evidence.canonical import sha256
from drillbook.evidence_store.bucket import Lock, LockedBucket, Version


@dataclass(frozen=True)
class Kept:
    """An object that is in the bucket as it must be."""

    key: str
    version: str
    sha256: str
    data: bytes


def keep(
    bucket: LockedBucket, key: str, data: bytes, lock: Lock, *, same: Callable[[bytes], bool] | None = None
) -> Kept:
    """Put an object, unless a version with these bytes and a sufficient lock is there: safe to repeat after any interruption.

    ``same`` says of other bytes that they are as good. Whatever else is under this key stays there as a version of its own,
    and is named by `audit`. ObjectStoreError; EvidenceTampered: what was put does not come back as it was put.
    """
    made = bucket.put(key, data, lock, if_absent=True)
    if made is None:
        found = first(bucket, key, lambda there: there == data or (same is not None and same(there)), lock)
        if found is not None:
            return found
        made = bucket.put(key, data, lock)
        if made is None:
            raise _other(bucket, key, "", "it was not taken, though nothing was asked for")
    return compared(bucket, key, made or "", data, lock)


def compared(bucket: LockedBucket, key: str, version: str, data: bytes, lock: Lock) -> Kept:
    """What was put, read back by its version: EvidenceTampered where its bytes or its lock are not what was asked for."""
    back = bucket.version(key, version)
    if back != data:
        what = f"{len(back)} bytes with SHA-256 {sha256(back)} came back, {len(data)} with {sha256(data)} were put"
        raise _other(bucket, key, version, what)
    if lacks := bucket.lock(key, version, hold=lock.hold).lacks(lock):
        raise _other(bucket, key, version, lacks)
    return Kept(key, version, sha256(data), data)


def first(bucket: LockedBucket, key: str, right: Callable[[bytes], bool], lock: Lock) -> Kept | None:
    """The oldest version of a key that has the right bytes and a sufficient lock; None for none."""
    for version in reversed(versions_of(bucket, key)):
        data = bucket.version(key, version.version_id)
        if right(data) and not bucket.lock(key, version.version_id, hold=lock.hold).lacks(lock):
            return Kept(key, version.version_id, sha256(data), data)
    return None


def versions_of(bucket: LockedBucket, key: str) -> list[Version]:
    """The versions of one key, the newest first, without delete markers."""
    return [version for version in bucket.versions(key) if version.key == key and not version.deleted]


def _other(bucket: LockedBucket, key: str, version: str, what: str) -> EvidenceTampered:
    return EvidenceTampered(
        f"{bucket.location}/{key} (version {version}) is not as it was put: {what}",
        todo="Look at the bucket's Object Lock, its policy and what stands between it and this machine; then `drillbook archive`.",
    )


__all__ = ["Kept", "compared", "first", "keep", "versions_of"]
