"""The words of the domain as frozen types; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import total_ordering
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator
from pydantic_core import core_schema


class Frozen(BaseModel):
    """An immutable value that goes to the journal as JSON and comes back equal; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    def _ipython_display_(self) -> None:
        """Nothing: the card of the step whose result it is has shown it; ``print`` shows the whole value."""

    memory_only: ClassVar[str] = ""
    """Why such a value means nothing to another process, so that no run is resumed past it; "" where it does."""


class Verdict(StrEnum):
    """What a check, or a run, has shown. ``NOT_APPLICABLE`` needs a reason and never counts as green."""

    VERIFIED = "VERIFIED"
    UNPROVEN = "UNPROVEN"
    FAILED = "FAILED"
    NOT_APPLICABLE = "n/a"

    @staticmethod
    def worst(verdicts: list[Verdict]) -> Verdict:
        """The worst of ``verdicts``; FAILED outranks UNPROVEN; nothing seen is UNPROVEN."""
        seen = [v for v in verdicts if v is not Verdict.NOT_APPLICABLE]
        if Verdict.FAILED in seen:
            return Verdict.FAILED
        return Verdict.UNPROVEN if Verdict.UNPROVEN in seen or not seen else Verdict.VERIFIED


@total_ordering
class Lsn:
    """A log sequence number: a byte position in the WAL, written ``X/Y`` in hexadecimal."""

    __slots__ = ("value",)

    def __init__(self, value: int | str | Lsn) -> None:
        if isinstance(value, Lsn):
            value = value.value
        if isinstance(value, str):
            high, slash, low = value.partition("/")
            if not slash:
                raise ValueError(f"not an LSN: {value!r} (expected X/Y in hexadecimal)")
            value = (int(high, 16) << 32) | int(low, 16)
        if not 0 <= value < 1 << 64:
            raise ValueError(f"not an LSN: {value}")
        object.__setattr__(self, "value", value)

    value: int

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Lsn is immutable")

    def __reduce__(self) -> tuple[type[Lsn], tuple[int]]:
        return Lsn, (self.value,)

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lsn) and self.value == other.value

    def __lt__(self, other: Lsn) -> bool:
        return self.value < other.value

    def __sub__(self, other: Lsn) -> int:
        return self.value - other.value

    def __hash__(self) -> int:
        return hash(self.value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="always")
        )


_ZONED = re.compile(r"(.*[T ]\d{2}:\d{2}\S*?) ?(UTC|GMT|Z|[+-]\d{2}(?::?\d{2}){0,2})", re.IGNORECASE)
_NAMED_ZONE = re.compile(r".*\d ?([A-Za-z]{2,5}|[A-Za-z_]+/[A-Za-z_/]+)")
_END_OF_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ]24:00(:00([.,]0+)?)?\b.*")
_SINCE_1970 = {10: 1, 13: 1_000, 16: 1_000_000, 19: 1_000_000_000}  # digits in our time, and how many to a second
_AS_WRITTEN = "expected e.g. 2026-11-01T10:15:00Z or 2026-11-01 10:15:00.123 UTC"


def parse_instant(value: Any) -> datetime:
    """An aware instant in UTC from a datetime or text, as ISO 8601 or PostgreSQL's log write it.

    ValueError: it is none, or it can be read in several ways; the message says how it would be written.
    """
    if isinstance(value, str):
        value = _instant_in(value.strip())
    if not isinstance(value, datetime):
        raise ValueError(f"not an instant: {value!r}")
    if value.tzinfo is None:
        found = value.isoformat(sep=" ")
        raise ValueError(f"{found} has no time zone; read as UTC it is {_utc_form(value)}: write it with a zone")
    return value.astimezone(UTC)


def _instant_in(text: str) -> datetime:
    zoned = _ZONED.fullmatch(text)
    written = f"{zoned[1]}{'Z' if zoned[2][0] in 'UGZugz' else zoned[2]}" if zoned else text
    try:
        return datetime.fromisoformat(written.replace("z", "Z"))
    except ValueError as error:
        raise ValueError(f"not an instant: {text[:80]!r} ({_how_to_write(text)})") from error


def _how_to_write(text: str) -> str:
    if found := _END_OF_DAY.fullmatch(text):
        following = date.fromisoformat(found[1]) + timedelta(days=1)
        return f"24:00 is the next day's first instant: write {following}T00:00:00 with the zone"
    if text.isdecimal() and len(text) in _SINCE_1970:
        seconds, rest = divmod(int(text), _SINCE_1970[len(text)])
        read = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest * 1_000_000 // _SINCE_1970[len(text)])
        return f"read as the time since 1970 it is {_utc_form(read)}: write it so"
    if found := _NAMED_ZONE.fullmatch(text):
        return f"the zone {found[1]!r} has no one offset: write the offset instead, e.g. +02:00, or Z for UTC"
    return _AS_WRITTEN


def _utc_form(value: datetime) -> str:
    return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def show_instant(value: datetime) -> str:
    """RFC 3339 in UTC with microseconds where they matter."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_lsn(value: Any) -> Lsn:
    """An LSN from text as PostgreSQL writes it."""
    text = str(value).strip()
    if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text):
        raise ValueError(f"not an LSN: {text[:80]!r} (expected X/Y in hexadecimal, e.g. 0/3000028)")
    return Lsn(text)


def parse_xid(value: Any) -> int:
    """A transaction id as recovery compares it: of a 64-bit one (``pg_current_xact_id``) the lower 32 bits."""
    text = str(value).strip()
    if not text.isdecimal() or not text.isascii() or not 3 <= int(text) < 1 << 64 or int(text) & 0xFFFFFFFF < 3:
        raise ValueError(f"not a transaction id: {text!r} (expected a number from 3)")
    return int(text) & 0xFFFFFFFF


def parse_restore_point(value: Any) -> str:
    """A restore point's name, as PostgreSQL and CloudNativePG accept it: under 64 bytes, nothing unprintable."""
    text = str(value)
    if not 0 < len(text.encode()) < 64 or not text.isprintable():
        raise ValueError(f"not a restore point's name: {text[:80]!r} (expected 1 to 63 printable bytes)")
    return text


def parse_backup_id(value: Any) -> str:
    """A base backup's id as it is in the bucket, e.g. ``20261101T020000``."""
    text = str(value).strip()
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", text):
        raise ValueError(f"not a base backup's id: {text[:80]!r} (expected e.g. 20261101T020000)")
    return text


def show_seconds(seconds: float) -> str:
    """A duration as a person says it: ``0.4 s``, ``42 s``, ``4 min 12 s``, ``1 h 05 min``, ``2 d 3 h``."""
    if seconds < 0:
        return f"−{show_seconds(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60:02d} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60:02d} min" if minutes % 60 else "")
    hours = round(seconds / 3600)
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def show_span(seconds: float | None, low: float | None, high: float | None) -> str:
    """A predicted duration with its interval as a person says them: ``42 s (30 s to 1 min)``; without one ``unknown``."""
    if seconds is None or low is None or high is None:
        return "unknown"
    return f"{show_seconds(seconds)} ({show_seconds(low)} to {show_seconds(high)})"


TARGET_PARAMETERS: Mapping[str, Callable[[Any], Any]] = {
    "target_time": parse_instant,
    "target_lsn": parse_lsn,
    "target_xid": parse_xid,
    "target_name": parse_restore_point,
    "target_immediate": parse_backup_id,
}
"""A runbook's parameters that say where recovery stops, and how each is read; ``target_immediate`` names a backup."""

Instant = Annotated[datetime, BeforeValidator(parse_instant), PlainSerializer(show_instant, return_type=str)]
Timeline = Annotated[int, "a PostgreSQL timeline id, from 1"]


class ClusterRef(Frozen):
    """A CloudNativePG Cluster by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class BaseBackup(Frozen):
    """A base backup as its ``backup.info`` in the bucket describes it; sizes in bytes."""

    backup_id: str
    server_name: str
    status: str
    begin_time: Instant
    end_time: Instant
    begin_wal: str
    end_wal: str
    begin_lsn: Lsn
    end_lsn: Lsn
    timeline: Timeline
    system_id: str
    pg_version: int  # major * 10000, as server_version_num
    segment_bytes: int
    size_bytes: int  # stored in the bucket
    cluster_size_bytes: int  # the data directory's, 0 if unknown
    compression: str
    location: str  # s3://bucket/prefix, no credentials
    backup_name: str = ""
    objects: int = 0
    tablespaces: tuple[str, ...] = ()
    stored_bytes_of: tuple[tuple[str, int], ...] = ()  # of the bytes in the bucket, each tablespace's

    def age_seconds(self, now: datetime) -> float:
        """Seconds since the backup ended."""
        return (now - self.end_time).total_seconds()


class RecoveryTarget(Frozen):
    """Where recovery stops. At most one of time, LSN, XID, name and immediate; none means the end of the archive."""

    target_time: Instant | None = None
    target_lsn: Lsn | None = None
    target_xid: int | None = None
    target_name: str | None = None
    target_immediate: bool = False
    exclusive: bool = False
    timeline: Timeline | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.target_time, self.target_lsn, self.target_xid, self.target_name, self.target_immediate or None]
        if sum(kind is not None for kind in kinds) > 1:
            raise ValueError("give one of target_time, target_lsn, target_xid, target_name, target_immediate")
        return self

    def __str__(self) -> str:
        if self.target_time is not None:
            return f"time {show_instant(self.target_time)}"
        if self.target_lsn is not None:
            return f"LSN {self.target_lsn}"
        if self.target_xid is not None:
            return f"XID {self.target_xid}"
        if self.target_name is not None:
            return f"restore point {self.target_name!r}"
        return "end of the base backup" if self.target_immediate else "end of the archive"


class AskedTarget(Frozen):
    """Where recovery is to stop, as somebody asks; ``backup_id`` where it is the end of one base backup."""

    target: RecoveryTarget = RecoveryTarget()
    backup_id: str = ""

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """By a runbook's parameters; none of them, or all of them "", is the end of the archive.

        ValueError: one can't be read, or two are given.
        """
        given = {
            name: parse(parameters[name]) for name, parse in TARGET_PARAMETERS.items() if parameters.get(name, "") != ""
        }
        backup_id = given.pop("target_immediate", "")
        return cls(target=RecoveryTarget(**given, target_immediate=bool(backup_id)), backup_id=backup_id)

    @property
    def end_of_archive(self) -> bool:
        """Whether nothing was asked for: everything that is archived is replayed."""
        return self == AskedTarget()

    def __str__(self) -> str:
        return f"{self.target}{f' {self.backup_id}' if self.backup_id else ''}"


class ArchivedCommit(Frozen):
    """A commit record read from the archive's WAL."""

    committed_at: Instant
    xid: int
    lsn: Lsn  # where the record starts
    end_lsn: Lsn
    segment: str


class RestorePoint(Frozen):
    """A named restore point read from the archive's WAL."""

    name: str
    at: Instant
    lsn: Lsn  # where the record starts
    end_lsn: Lsn
    segment: str


class RecoveryWindow(Frozen):
    """What recovery can reach now. ``last_time`` is 1 µs before the newest archived commit, which LSN or XID reach."""

    first_time: Instant
    last_time: Instant
    newest_commit: ArchivedCommit


class Effect(StrEnum):
    """What a step does to the world."""

    READS = "reads"
    CREATES = "creates"
    CHANGES = "changes"
    DESTROYS = "destroys"


class Check(Frozen):
    """One check or precondition: what it proves, what was expected and observed, and the verdict."""

    name: str
    proves: str
    verdict: Verdict
    expected: str = ""
    observed: str = ""
    reason: str = ""  # why it is UNPROVEN or n/a
    required: bool = True
    seconds: float = 0.0
    details: tuple[tuple[str, str], ...] = ()  # at most a dozen (what, value) rows; never a row of the database

    @property
    def unmet(self) -> bool:
        """Whether it is in the way: required, and not seen to hold."""
        return self.required and self.verdict in (Verdict.FAILED, Verdict.UNPROVEN)


def causes(checks: Iterable[Check]) -> str:
    """What each of the checks has seen, or why it has seen nothing, in one line."""
    return "; ".join(f"{check.name}: {check.observed or check.reason}" for check in checks)


class Actor(Frozen):
    """Who acts, and how that is known: ``api`` (the API server said so), ``os`` (the machine's account), ``declared``."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    strength: str = "api"
