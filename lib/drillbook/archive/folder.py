"""One folder of the archive, read once: its catalogue, every chain, what can be reached, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Unpack

from drillbook.archive.catalogue import Entry
from drillbook.archive.gaps import ARCHIVE_TIMEOUT_SECONDS, SAMPLES, uploading
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.reachability import Period, Reachable, reachable
from drillbook.archive.retention import deleted_at
from drillbook.archive.survey import ArchiveFinding, ArchiveSurvey, SurveyOptions, SurveyResult, look
from drillbook.model import ArchivedCommit, Frozen, Instant


class BackupStatus(Frozen):
    """A folder below ``base/``. ``state`` is complete, or what is wrong with it; ``at`` when it ended, or was last written.

    ``goes_at``: retention may delete it from then on; ``None`` if it keeps it for now.
    """

    backup_id: str
    state: str
    reason: str
    at: Instant | None
    size_bytes: int
    compression: str = ""
    timeline: int = 0
    kept: bool = False
    goes_at: Instant | None = None


class Reading(Frozen):
    """All that is known of one folder. ``since`` and ``until`` bound the cluster's history in it, ``None`` where it is open.

    ``backups`` are all there are, oldest first; those of ``reach`` are the usable ones.
    """

    server_name: str
    since: Instant | None
    until: Instant | None
    backups: tuple[BackupStatus, ...]
    reach: Reachable
    survey: ArchiveSurvey

    @property
    def periods(self) -> tuple[Period, ...]:
        """What can be reached of the cluster's history here: what was archived after ``until`` is none of it."""
        # The end of a period is the first instant that it does not hold.
        end = self.until - timedelta(microseconds=1) if self.until else None
        clipped = [
            (max(period.first, self.since or period.first), min(period.last, end or period.last))
            for period in self.reach.periods
        ]
        return tuple(Period(first=first, last=last) for first, last in clipped if first <= last)

    @property
    def newest_commit(self) -> ArchivedCommit | None:
        """The newest commit in the WAL of any chain: a base backup that was made since on an idle server has none in its own."""
        found = [reach.last_commit for reach in self.reach.backups if reach.last_commit is not None]
        return max(found, key=lambda commit: commit.lsn) if found else None

    @property
    def damages(self) -> tuple[ArchiveFinding, ...]:
        """What costs instants for good. A folder that is archived to no more may have lost its backups by retention."""
        return tuple(item for item in self.survey.damages if not (self.until and item.state == "no backup"))

    @property
    def passing(self) -> tuple[ArchiveFinding, ...]:
        """What may well resolve itself."""
        return tuple(item for item in self.survey.findings if item.passing)

    @property
    def waits(self) -> bool:
        """Whether all that is wrong may well resolve itself."""
        lasting = self.damages or self.reach.damaged or any(not gap.broken.state.passing for gap in self.reach.gaps)
        return bool(self.passing and not lasting)

    @property
    def spare(self) -> tuple[ArchiveFinding, ...]:
        """What takes room and costs nothing."""
        return tuple(item for item in self.survey.findings if item.spare)


def read_folder(
    store: ObjectStore,
    server_name: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    retention_policy: str = "",
    checked: int = SAMPLES,
    **asked: Unpack[SurveyOptions],
) -> Reading:
    """Read the folder ``server_name``. ``checked`` segments of the newest chain are read with every record's checksum.

    The rest is as for `survey`. ValueError: the ``retention_policy`` can't be read. ObjectStoreError: the store refused
    or did not answer.
    """
    asked["now"] = now = asked.get("now") or datetime.now(UTC)
    found = look(store, server_name, **asked)
    goes = deleted_at(found.catalogue.entries, retention_policy)
    wrong = _wrong(found)
    reach = reachable(
        found.held,
        now=now,
        unusable=[(item.backup_id, item.reason) for item in _listed(found, wrong, goes) if item.reason],
        under_way=uploading(store, server_name),
        archive_timeout_seconds=asked.get("archive_timeout_seconds", ARCHIVE_TIMEOUT_SECONDS),
        samples=checked,
    )
    return Reading(
        server_name=server_name,
        since=since,
        until=until,
        backups=_listed(found, wrong, goes),
        reach=reach,
        survey=found.survey,
    )


def _wrong(found: SurveyResult) -> dict[str, ArchiveFinding]:
    """What the survey says of base backups' own objects, by the backup's id."""
    return {item.backup_id: item for item in found.survey.findings if item.backup_id and not item.segment}


def _listed(
    found: SurveyResult, wrong: Mapping[str, ArchiveFinding], goes: Mapping[str, datetime]
) -> tuple[BackupStatus, ...]:
    usable = {backup.backup_id for backup in found.held.backups}
    return tuple(_one(entry, wrong, entry.backup_id in usable, goes) for entry in found.catalogue.entries)


def _one(entry: Entry, wrong: Mapping[str, ArchiveFinding], usable: bool, goes: Mapping[str, datetime]) -> BackupStatus:
    backup, told = entry.backup, None if usable else wrong.get(entry.backup_id)
    return BackupStatus(
        backup_id=entry.backup_id,
        state=told.state if told else str(entry.state),
        reason="" if usable else entry.reason or (_without_its_name(told.what, entry.backup_id) if told else ""),
        at=backup.end_time if backup else entry.modified,
        size_bytes=entry.size_bytes,
        compression=backup.compression if backup else "",
        timeline=backup.timeline if backup else 0,
        kept=entry.kept,
        goes_at=goes.get(entry.backup_id) if usable else None,
    )


def _without_its_name(what: str, backup_id: str) -> str:
    return what.removeprefix(f"base backup {backup_id} is ").removeprefix(f"from base backup {backup_id}: ")


__all__ = ["BackupStatus", "Reading", "read_folder"]
