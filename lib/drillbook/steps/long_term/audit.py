"""The retention audit: what was promised to be kept, compared with what the long-term location holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from drillbook.archive.long_term import Audit, LongTermBackup, audit, read_long_term
from drillbook.engine.step import CheckGroup, CheckStep, Context, Step
from drillbook.model import Check, Frozen, Instant, Verdict, show_instant
from drillbook.steps.long_term.location import reading, settings

SHOWN = 12


class LongTermReading(Frozen):
    """What the long-term location holds, oldest first, and how it keeps to what was promised."""

    location: str
    read_at: Instant
    years: int
    every: str
    backups: tuple[LongTermBackup, ...]
    audit: Audit

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        owed, usable = self.audit.periods, [one for one in self.backups if one.usable]
        rows = [
            ("location", self.location),
            ("promised", f"one of each complete {self.every} within {self.years} years: {_span(owed)}"),
            ("found", f"{len(self.backups)}, of which {len(usable)} can be recovered"),
        ]
        if usable:
            first, last = usable[0], usable[-1]
            rows += [("oldest", _of(first)), ("newest", _of(last))]
        return rows


def _span(owed: Sequence[object]) -> str:
    if len(owed) < 2:
        return str(owed[0]) if owed else "none yet"
    return f"{owed[0]} to {owed[-1]}, {len(owed)} in all"


def _of(one: LongTermBackup) -> str:
    return f"{one.backup_id}{f', ended {show_instant(one.at)}' if one.at else ''}"


@dataclass(frozen=True)
class ReadLongTermBackups(Step[LongTermReading]):
    """Read what the long-term location holds: every backup's description, its objects with their classes, and its WAL.

    By listing and by each backup.info. No archived object is asked for.
    """

    def do(self, ctx: Context) -> LongTermReading:
        said, now = settings(ctx), datetime.now(UTC)
        with reading(ctx) as store:
            backups = read_long_term(store, said.server_name)
            location = f"{store.location}/{said.server_name}"
        found = audit(backups, every=said.every, years=said.years, now=now, since=said.since)
        return LongTermReading(
            location=location, read_at=now, years=said.years, every=said.every, backups=backups, audit=found
        )


@dataclass(frozen=True)
class RetentionHolds(CheckStep):
    """Each complete period within the retention has a backup that can be recovered."""

    reading: LongTermReading
    name: ClassVar[str] = "retention"
    proves: ClassVar[str] = "what was promised to be kept is there, period by period"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = self.reading.audit
        gaps = [str(gap) for gap in found.gaps]
        held = len(found.periods) - len(gaps)
        details = [("of the period under way", ", ".join(found.recent))] if found.recent else []
        if not found.periods:
            reason = "no period within the retention is complete yet"
            return [self.result(Verdict.UNPROVEN, reason=reason, details=tuple(details))]
        return [
            self.result(
                Verdict.FAILED if gaps else Verdict.VERIFIED,
                expected=f"one of each {self.reading.every}: {_span(found.periods)}",
                observed=f"{held} of {len(found.periods)}" + (f"; none of {', '.join(gaps)}" if gaps else ""),
                details=tuple(details),
            )
        ]


@dataclass(frozen=True)
class BackupsWhole(CheckStep):
    """Every long-term backup that can be judged is whole: described, finished, with its data and its WAL."""

    reading: LongTermReading
    name: ClassVar[str] = "long-term backups"
    proves: ClassVar[str] = "no long-term backup is unusable without anybody having noticed"

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = self.reading
        broken, judged = found.audit.broken, len(found.backups) - len(found.audit.unread)
        if not judged:
            reason = "there is none" if not found.backups else "no description could be read"
            return [self.result(Verdict.FAILED if not found.backups else Verdict.UNPROVEN, reason=reason)]
        words = "; ".join(f"{name}: {why}" for name, why in broken[:3])
        more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
        return [
            self.result(
                Verdict.FAILED if broken else Verdict.VERIFIED,
                expected="each has backup.info, data and WAL from its begin to its end",
                observed=f"{judged - len(broken)} of {judged}" + (f"; {words}{more}" if broken else ""),
                details=broken[:SHOWN],
            )
        ]


@dataclass(frozen=True)
class DescriptionsReadable(CheckStep):
    """Each description lies where it can be read, so that nothing has to be paid for to know what a backup is."""

    reading: LongTermReading
    name: ClassVar[str] = "descriptions"
    proves: ClassVar[str] = "each backup.info can be read without being asked for"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        unread = self.reading.audit.unread
        reason = "they were not judged: keep objects under 128 KB out of the lifecycle rule, as S3 does by default"
        return [
            self.result(
                Verdict.UNPROVEN if unread else Verdict.VERIFIED,
                expected="every backup.info in a readable class",
                observed=f"{len(unread)} archived: {', '.join(unread[:SHOWN])}" if unread else "each is",
                reason=reason if unread else "",
            )
        ]


@dataclass(frozen=True)
class NothingOverdue(CheckStep):
    """Nothing is kept longer than was promised: what was to be deleted may hold data that must not be there any more."""

    reading: LongTermReading
    name: ClassVar[str] = "kept too long"
    proves: ClassVar[str] = "no backup has outlived its retention"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        expired = self.reading.audit.expired
        return [
            self.result(
                Verdict.FAILED if expired else Verdict.VERIFIED,
                expected=f"none older than {self.reading.years} years, but for those with barman's keep annotation",
                observed=", ".join(expired[:SHOWN]) or "none",
            )
        ]


@dataclass(frozen=True)
class LongTermSafeguards(CheckStep):
    """What the bucket does against loss over the years, as far as the reader's key may ask: Object Lock and lifecycle rules."""

    reading: LongTermReading
    name: ClassVar[str] = "long-term bucket"
    proves: ClassVar[str] = "nobody deletes a long-term backup before its time"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        with reading(ctx) as store:
            found = store.safeguards()
        return [
            self.result(
                Verdict.UNPROVEN if value is None else Verdict.VERIFIED if value else Verdict.FAILED,
                name=f"{self.name}: {name}",
                expected="set",
                observed=value or ("not set" if value == "" else ""),
                reason="this key may not read it" if value is None else "",
            )
            for name, value in found.items()
            if name in ("object lock", "lifecycle", "versioning")
        ]


@dataclass(frozen=True)
class AuditRetention(CheckGroup):
    """Is there what was promised, is it whole, and is nothing kept too long?

    A period without a backup that can be recovered is a gap, and named; one that is under way owes none yet.
    """

    reading: LongTermReading

    def checks(self) -> Sequence[CheckStep]:
        return [
            RetentionHolds(self.reading),
            BackupsWhole(self.reading),
            DescriptionsReadable(self.reading),
            NothingOverdue(self.reading),
            LongTermSafeguards(self.reading),
        ]


__all__ = ["AuditRetention", "LongTermReading", "ReadLongTermBackups"]
