"""Object Lock and conditional writes where moto differs from S3. Pure: what is asked and how it lies there, in S3's words.

moto takes each of these, and S3 refuses it: a shorter or weaker retention, a bypass without the permission for it,
versioning suspended on a bucket with Object Lock, a lock without a checksum or half of its headers. Sources: the S3 user
guide, "Managing Object Lock" and "Conditional writes"; the API reference of PutObject, PutObjectRetention, DeleteObject.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from drillbook_lab.store.signature import Refused

MODES = ("GOVERNANCE", "COMPLIANCE")
BYPASS = "x-amz-bypass-governance-retention"
_MODE, _UNTIL, _HOLD = (f"x-amz-object-lock-{name}" for name in ("mode", "retain-until-date", "legal-hold"))
_PROTECTED = "Access Denied because object protected by object lock."


@dataclass(frozen=True)
class Retention:
    """How long a version is kept; mode "" for not at all."""

    mode: str = ""
    until: datetime.datetime | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Retention:
        """From the headers of a request or an answer; half of one is refused."""
        mode, until = headers.get(_MODE, ""), headers.get(_UNTIL, "")
        if bool(mode) != bool(until):
            raise Refused(400, "InvalidArgument", f"{_UNTIL} and {_MODE} must both be supplied")
        return cls._read(mode, until) if mode else cls()

    @classmethod
    def of_xml(cls, body: bytes) -> Retention:
        """From PutObjectRetention's body; an empty one takes the retention away."""
        found = _texts(body)
        mode, until = found.get("Mode", ""), found.get("RetainUntilDate", "")
        if bool(mode) != bool(until):
            raise _malformed()
        return cls._read(mode, until) if mode else cls()

    @classmethod
    def _read(cls, mode: str, until: str) -> Retention:
        if mode not in MODES:
            raise Refused(400, "InvalidArgument", "Unknown wormMode directive.")
        try:
            at = datetime.datetime.fromisoformat(until)
        except ValueError:
            raise Refused(400, "InvalidArgument", "The retain until date must be provided in ISO 8601 format") from None
        return cls(mode, at if at.tzinfo else at.replace(tzinfo=datetime.UTC))

    def holds(self, now: datetime.datetime) -> bool:
        """Whether it still protects."""
        return self.until is not None and now < self.until

    def as_xml(self) -> str:
        """GetObjectRetention's answer; Refused if there is none."""
        if self.until is None:
            raise Refused(
                404,
                "NoSuchObjectLockConfiguration",
                "The specified object does not have a ObjectLock configuration",
            )
        until = self.until.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Mode>{self.mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
        )


def asks_for_a_lock(headers: Mapping[str, str]) -> bool:
    """Whether a PUT wants its object locked."""
    return any(name in headers for name in (_MODE, _UNTIL, _HOLD))


def admit_locked(headers: Mapping[str, str], now: datetime.datetime) -> None:
    """A PUT with a lock: both halves, a date to come, and a checksum; otherwise Refused."""
    wanted = Retention.of(headers)
    if wanted.until is not None and wanted.until <= now:
        raise Refused(400, "InvalidArgument", "The retain until date must be in the future!")
    if headers.get(_HOLD, "ON") not in ("ON", "OFF"):
        raise Refused(400, "InvalidArgument", "Legal Hold must be either of 'ON' or 'OFF'")
    if not any(name.lower() == "content-md5" or name.lower().startswith("x-amz-checksum-") for name in headers):
        raise Refused(
            400,
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters",
        )


def admit_body(headers: Mapping[str, str], body: bytes) -> None:
    """The digests that a request names must be its body's; otherwise Refused."""
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    for name, digest in (("Content-MD5", md5), ("x-amz-checksum-sha256", hashlib.sha256(body).digest())):
        if headers.get(name, base64.b64encode(digest).decode()) != base64.b64encode(digest).decode():
            raise Refused(400, "BadDigest", f"The {name} you specified did not match the calculated checksum.")


def admit_retention(present: Retention, wanted: Retention, now: datetime.datetime, *, bypass: bool) -> None:
    """Another retention for a version: longer always; shorter, weaker or none only under GOVERNANCE with a bypass."""
    if wanted.until is not None and wanted.until <= now:
        raise Refused(400, "InvalidArgument", "The retain until date must be in the future!")
    longer = wanted.mode == present.mode and wanted.until is not None and wanted.until >= (present.until or now)
    free = not present.holds(now) or (present.mode == "GOVERNANCE" and bypass)
    if not (free or longer):
        raise Refused(403, "AccessDenied", _PROTECTED)


def admit_bypass(headers: Mapping[str, str], *, permitted: bool) -> bool:
    """Whether GOVERNANCE is bypassed; Refused for a key without s3:BypassGovernanceRetention."""
    asked = headers.get(BYPASS, "").lower() == "true"
    if asked and not permitted:
        raise Refused(403, "AccessDenied", "Access Denied")
    return asked


def admit_condition(headers: Mapping[str, str]) -> bool:
    """Whether a write is conditional; Refused for a condition that S3 doesn't know of a write."""
    absent = headers.get("If-None-Match")
    if absent not in (None, "*") or (absent and "If-Match" in headers):
        raise Refused(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
    return bool(absent or "If-Match" in headers)


def admit_versioning(body: bytes) -> None:
    """A bucket with Object Lock stays versioned; otherwise Refused."""
    if _texts(body).get("Status") != "Enabled":
        raise Refused(
            409,
            "InvalidBucketState",
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        )


def _texts(body: bytes) -> dict[str, str]:
    if not body.strip():
        return {}
    try:
        tree = ElementTree.fromstring(body)  # noqa: S314 - from the holder of a key, on loopback
    except ElementTree.ParseError:
        raise _malformed() from None
    return {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in tree.iter()}


def _malformed() -> Refused:
    return Refused(
        400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema"
    )
