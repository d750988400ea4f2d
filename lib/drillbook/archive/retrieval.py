"""Objects in an archive class: whether they can be read now, and the request that makes them readable for some days.

An object of class GLACIER or DEEP_ARCHIVE keeps its class; after RestoreObject a copy in STANDARD can be read under the
same key until it expires. HEAD says how far that is, in ``x-amz-restore``. Source: the S3 API reference,
"RestoreObject" and "HeadObject".
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, ClassVar

import botocore.exceptions

from drillbook.archive.catalogue import COLD
from drillbook.archive.s3 import S3Store
from drillbook.errors import Changed, ObjectStoreError
from drillbook.model import Frozen, Instant

_RESTORE = re.compile(r'ongoing-request="(true|false)"(?:, expiry-date="([^"]+)")?')
_FAILED = (botocore.exceptions.BotoCoreError, OSError)


class ReadState(StrEnum):
    """Whether an object can be read."""

    READABLE = "readable"
    UNDER_WAY = "under way"
    ARCHIVED = "archived"
    GONE = "gone"


class Readable(Frozen):
    """An object as HEAD shows it. ``until``: how long it can be read; None for ever, or that it can't be."""

    key: str
    state: ReadState
    storage_class: str = ""
    until: Instant | None = None


class Request(StrEnum):
    """What came of asking for an object."""

    BEGUN = "requested"
    UNDER_WAY = "already under way"
    EXTENDED = "already readable; its days count again from now"


def readable(key: str, storage_class: str, restore: str) -> Readable:
    """From HEAD's ``StorageClass`` and ``x-amz-restore``; ObjectStoreError: the header can't be read."""
    if storage_class not in COLD:
        return Readable(key=key, state=ReadState.READABLE, storage_class=storage_class)
    if not restore:
        return Readable(key=key, state=ReadState.ARCHIVED, storage_class=storage_class)
    found = _RESTORE.fullmatch(restore)
    try:
        until = parsedate_to_datetime(found[2]).astimezone(UTC) if found and found[2] else None
    except ValueError:
        found = None
    if found is None:
        raise ObjectStoreError(
            f"{key}: x-amz-restore {restore[:120]!r} can't be read",
            reason="UnknownRestore",
            todo="See what the store means by it; nothing was asked of it.",
        )
    state = ReadState.UNDER_WAY if found[1] == "true" else ReadState.READABLE
    return Readable(key=key, state=state, storage_class=storage_class, until=until)


_DENIED = {
    "archive.reader_secret": "Give the reader's key s3:ListBucket and s3:GetObject on the long-term location.",
    "long_term.secret": "Give this key s3:RestoreObject on the long-term location; it needs no other right.",
}


class LongTermStore(S3Store):
    """The long-term location, read by the archive's reader: as `S3Store`, and whether an object can be read now."""

    section: ClassVar[str] = "long_term"

    def readable(self, key: str) -> Readable:
        """Whether the object can be read now; one that isn't there is GONE. ObjectStoreError."""
        try:
            answer: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except botocore.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return Readable(key=key, state=ReadState.GONE)
            self._fail(error, "looking at", key)
        except _FAILED as error:
            self._fail(error, "looking at", key)
        return readable(key, str(answer.get("StorageClass", "STANDARD")), str(answer.get("Restore", "")))

    def _todo(self, code: str) -> str:
        return _DENIED[self.key_from] if code == "AccessDenied" else super()._todo(code)


class Retriever(LongTermStore):
    """The long-term location by the key that may call s3:RestoreObject: it asks for objects, and does nothing else."""

    key_from: ClassVar[str] = "long_term.secret"

    def retrieve(self, key: str, *, tier: str, days: int) -> Request:
        """Ask for an object to be readable for ``days``; safe to repeat. It costs what the provider charges.

        ObjectStoreError, its ``changed`` UNKNOWN where the store did not answer: the object may be under way.
        """
        wanted = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
        try:
            answer = self._client.restore_object(Bucket=self._bucket, Key=self._prefix + key, RestoreRequest=wanted)
        except botocore.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") == "RestoreAlreadyInProgress":
                return Request.UNDER_WAY
            self._fail(error, "asking to restore", key)
        except _FAILED as error:
            try:
                self._fail(error, "asking to restore", key)
            except ObjectStoreError as found:
                found.changed = Changed.UNKNOWN
                raise
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return Request.BEGUN if status == 202 else Request.EXTENDED


__all__ = ["LongTermStore", "ReadState", "Readable", "Request", "Retriever", "readable"]
