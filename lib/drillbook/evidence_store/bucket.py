"""A bucket with Object Lock: objects are put with a lock and a checksum, and read, listed and judged by version.

Permissions: s3:PutObject, PutObjectRetention, GetObject(Version), GetObjectRetention, ListBucket(Versions),
GetBucketVersioning and GetBucketObjectLockConfiguration; with ``legal_hold`` Put and GetObjectLegalHold. Sources: the S3 user guide,
"Managing Object Lock" and "Conditional writes".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import botocore.exceptions
import urllib3.exceptions

from drillbook.archive.s3 import S3Store
from drillbook.errors import NotReady, ObjectStoreError
from drillbook.model import show_instant

_FAILED = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError)
_EVER = datetime.min.replace(tzinfo=UTC)
_LEAST = timedelta(days=1)
_STRENGTH = {"": 0, "GOVERNANCE": 1, "COMPLIANCE": 2}
_TODO = {
    "AccessDenied": (
        "Give these credentials s3:PutObject, s3:PutObjectRetention, s3:GetObjectVersion, s3:GetObjectRetention, "
        "s3:ListBucketVersions, s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration, and nothing that deletes."
    ),
    "InvalidRequest": "The bucket has no Object Lock: it can't be locked as the profile says. Make one with Object Lock.",
}


@dataclass(frozen=True)
class Lock:
    """How an object is kept: mode "" is not at all; ``hold`` is the legal hold."""

    mode: str = ""
    until: datetime | None = None
    hold: bool = False

    def lacks(self, wanted: Lock) -> str:
        """What it has less of than ``wanted``, "" if nothing."""
        found = []
        if _STRENGTH.get(self.mode, 0) < _STRENGTH[wanted.mode]:
            found.append(f"its lock mode is {self.mode or 'none'}, {wanted.mode} is required")
        if wanted.until and (self.until is None or self.until < wanted.until):
            kept = f"is kept until {show_instant(self.until)}" if self.until else "is not kept"
            found.append(f"it {kept}, required is {show_instant(wanted.until)}")
        if wanted.hold and not self.hold:
            found.append("it has no legal hold")
        return "; ".join(found)


@dataclass(frozen=True)
class Version:
    """One version of an object, or a delete marker."""

    key: str
    version_id: str
    at: datetime
    is_latest: bool
    deleted: bool = False
    size: int = 0


class LockedBucket(S3Store):
    """As `S3Store`, with versions and locks; keys are below the profile's prefix."""

    section: ClassVar[str] = "evidence.archive"
    key_from: ClassVar[str] = "evidence.archive.secret"

    def require_lock(self) -> str:
        """What the bucket keeps by itself, in words; NotReady names every reason why nothing can be locked in it."""
        faults = []
        try:
            if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") != "Enabled":
                faults.append("its versioning is not enabled: what is put there could be overwritten")
            said = self._client.get_object_lock_configuration(Bucket=self._bucket)["ObjectLockConfiguration"]
        except botocore.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ObjectLockConfigurationNotFoundError":
                self._fail(error, "looking at the bucket of", "")
            said = {}
        except _FAILED as error:
            self._fail(error, "looking at the bucket of", "")
        if said.get("ObjectLockEnabled") != "Enabled":
            faults.append("it has no Object Lock: nothing in it can be locked")
        if faults:
            raise NotReady(
                faults,
                where=f"bucket {self._bucket}",
                todo="Make a bucket with Object Lock (`aws s3api create-bucket --object-lock-enabled-for-bucket …`).",
            )
        usual = (said.get("Rule") or {}).get("DefaultRetention") or {}
        length = f"{usual['Years']} years" if usual.get("Years") else f"{usual.get('Days') or 0} days"
        return f"{usual['Mode']} for {length}" if usual.get("Mode") else ""

    def put(self, key: str, data: bytes, lock: Lock, *, if_absent: bool = False, if_match: str = "") -> str | None:
        """Put a locked object; its version id, or None where the condition does not hold (``if_match`` is an ETag).

        What would have to be kept until an instant that has passed is kept for a day: S3 takes only dates to come.
        """
        more: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        if lock.hold:
            more["ObjectLockLegalHoldStatus"] = "ON"
        try:
            made = self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=data,
                ObjectLockMode=lock.mode,
                ObjectLockRetainUntilDate=max(lock.until or _EVER, datetime.now(UTC) + _LEAST),
                # A lock asks for a checksum; this one is known to every store, and what was stored is read back besides.
                ContentMD5=base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
                **more,
            )
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            gone = if_match and code == "NoSuchKey"  # what was to be replaced has been deleted
            if more and (gone or code in ("PreconditionFailed", "ConditionalRequestConflict")):
                return None
            self._fail(error, "writing", key)
        except _FAILED as error:
            self._fail(error, "writing", key)
        if not made.get("VersionId"):
            raise ObjectStoreError(
                f"writing {self.location}/{key}: the store gave no version id, so the bucket has no versions",
                reason="NoVersion",
                todo="Use a bucket with versioning and Object Lock.",
            )
        return str(made["VersionId"])

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The current version's bytes and its ETag for ``put``; None where there is none."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            return bytes(answer["Body"].read()), str(answer["ETag"])
        except botocore.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                return None
            self._fail(error, "reading", key)
        except _FAILED as error:
            self._fail(error, "reading", key)

    def version(self, key: str, version_id: str) -> bytes:
        """The bytes of a version."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, VersionId=version_id)
            return bytes(answer["Body"].read())
        except _FAILED as error:
            self._fail(error, "reading", f"{key} (version {version_id})")

    def lock(self, key: str, version_id: str, *, hold: bool = False) -> Lock:
        """How a version is kept; the legal hold is looked at only where ``hold`` asks for it."""
        where = {"Bucket": self._bucket, "Key": self._prefix + key, "VersionId": version_id}
        try:
            kept = self._said(self._client.get_object_retention, where, "Retention")
            held = self._said(self._client.get_object_legal_hold, where, "LegalHold") if hold else {}
        except _FAILED as error:
            self._fail(error, "reading the lock of", f"{key} (version {version_id})")
        until = kept.get("RetainUntilDate")
        return Lock(str(kept.get("Mode", "")), until.astimezone(UTC) if until else None, held.get("Status") == "ON")

    @staticmethod
    def _said(ask: Any, where: dict[str, str], name: str) -> dict[str, Any]:
        try:
            return dict(ask(**where).get(name) or {})
        except botocore.exceptions.ClientError as error:
            # The second: in a bucket without Object Lock.
            if error.response.get("Error", {}).get("Code") in ("NoSuchObjectLockConfiguration", "InvalidRequest"):
                return {}
            raise

    def versions(self, prefix: str) -> Iterator[Version]:
        """Every version and delete marker below ``prefix``, by key, the newest of each first."""
        marker: dict[str, str] = {}
        while True:
            try:
                page = self._client.list_object_versions(Bucket=self._bucket, Prefix=self._prefix + prefix, **marker)
            except _FAILED as error:
                self._fail(error, "listing the versions of", prefix)
            found = [
                Version(
                    self._relative(entry["Key"]),
                    str(entry["VersionId"]),
                    entry["LastModified"].astimezone(UTC),
                    bool(entry.get("IsLatest")),
                    deleted,
                    int(entry.get("Size") or 0),
                )
                for name, deleted in (("Versions", False), ("DeleteMarkers", True))
                for entry in page.get(name, ())
            ]
            found.sort(key=lambda version: version.at, reverse=True)
            yield from sorted(found, key=lambda version: version.key)
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}

    def _todo(self, code: str) -> str:
        return _TODO.get(code) or super()._todo(code)


__all__ = ["Lock", "LockedBucket", "Version"]
