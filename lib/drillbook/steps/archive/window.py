"""Can this archive be recovered from, how far back, and what is wrong with it: read from the bucket alone, once, then judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from drillbook import kube as k8s
from drillbook.archive import BackupReach, BackupStatus, Reading
from drillbook.engine.step import Context, Step
from drillbook.errors import BaseBackupMissing, NotReady
from drillbook.evidence.facts import ArchivedBy, Facts, NotedCluster, TestKind, Window
from drillbook.model import Check, Frozen, Verdict, show_instant, show_seconds
from drillbook.report import timeline
from drillbook.report.cards import show_bytes
from drillbook.steps.archive.base_backup import ArchivedWal
from drillbook.steps.archive.reading import ArchiveReading, read_archive
from drillbook.steps.preflight.readiness import (
    ARCHIVED_BY,
    Rights,
    SourceCluster,
    archive_key_denied,
    denied,
    pin_faults,
)

MOST = 12
"""How many rows a table or the details of a check have."""

Rows = tuple[tuple[str, str], ...]


class TableCard(Frozen):
    """A table as a card shows it, and the picture that belongs to it ({} for none)."""

    lines: Rows
    drawn: dict[str, Any] = Field(default_factory=dict)

    def card(self) -> dict[str, str]:
        return timeline.bundle(self.drawn) if self.drawn else {}

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return list(self.lines)

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has shown it."""


@dataclass(frozen=True)
class FindArchive(Step[SourceCluster]):
    """Find the archive, and see that it is the one that the profile means.

    The Cluster names it. If the Cluster is gone, what a run kept of it says where it archived, else the profile.
    """

    rights: ClassVar[Rights] = (("get", k8s.CLUSTER, ""), ("list", k8s.BACKUP, ""), ("get", k8s.OBJECT_STORE, ""))

    def do(self, ctx: Context) -> SourceCluster:
        site = ctx.site
        cluster = ctx.kube.get(k8s.CLUSTER, site.cluster.namespace, site.cluster.name) or {}
        missing = denied(ctx, self.rights, site.cluster.namespace) + archive_key_denied(ctx)
        faults = [f"missing right: {right} (deploy/rbac/)" for right in missing] + pin_faults(ctx, cluster)
        if faults:
            raise NotReady(faults, where=f"Cluster {ctx.source_ref}")
        spec, status = cluster.get("spec", {}), cluster.get("status", {})
        archive = ctx.archive
        found = SourceCluster(
            ref=ctx.source_ref,
            uid=str(cluster.get("metadata", {}).get("uid", "")),
            system_id=str(status.get("systemID", "")) or site.identity.system_identifier,
            timeline=int(status.get("timelineID") or 0),
            primary=str(status.get("currentPrimary", "")),
            server_name=archive.server_name,
            location=archive.location,
            server_version=int(status.get("pgDataImageInfo", {}).get("majorVersion") or 0) * 10000,
            image=str(status.get("image") or spec.get("imageName", "")),
            storage_class=site.copy_.storage_class or str(spec.get("storage", {}).get("storageClass", "")),
            instances=int(spec.get("instances") or 0),
        )
        self._record(ctx, found, bool(cluster))
        return found

    def _record(self, ctx: Context, found: SourceCluster, there: bool) -> None:
        archive, pin = ctx.archive, ctx.site.identity
        ctx.recorder.note(Facts(test=TestKind(type="reading of the archive; nothing was restored")))
        ctx.recorder.note(
            Facts(
                cluster=NotedCluster(
                    namespace=found.ref.namespace, name=found.ref.name, uid=found.uid, system_id=found.system_id
                ),
                archived_by=ArchivedBy(method=archive.method, location=archive.location),
            )
        )
        folders = [f"{item.name}{_period(item.since, item.until)}" for item in archive.folders]
        ctx.recorder.check(
            Check(
                name="right cluster",
                proves="the archive that is read is that of the cluster which the profile means",
                verdict=Verdict.VERIFIED if pin.pinned else Verdict.NOT_APPLICABLE,
                expected=f"system identifier {pin.system_identifier}" if pin.pinned else "",
                observed=f"system identifier {found.system_id or 'that of the archived WAL'}",
                reason="" if pin.pinned else "the profile pins no identity",
                details=(
                    ("Cluster object", found.uid if there else "no longer there"),
                    ("archived by", ARCHIVED_BY[archive.method]),
                    ("retention", archive.retention_policy or "none"),
                    ("serverNames, oldest first", ", ".join(folders)),
                ),
            )
        )


def _period(since: Any, until: Any) -> str:
    told = [f"from {show_instant(since)}"] if since else []
    told += [f"until {show_instant(until)}"] if until else []
    return f" ({' '.join(told)})" if told else ""


@dataclass(frozen=True)
class ReadArchive(Step[ArchiveReading]):
    """Read the whole archive once: base backups, WAL, history files, and a sample of what they hold.

    By listing and getting alone. The steps below judge what was read here, at one instant.
    """

    cluster: SourceCluster

    def do(self, ctx: Context) -> ArchiveReading:
        return read_archive(ctx, system_id=self.cluster.system_id, timeline=self.cluster.timeline)


@dataclass(frozen=True)
class CheckBaseBackups(Step[TableCard]):
    """Which base backups there are, and which of them can be used.

    Determined from each backup.info and the objects next to it: a folder may be unfinished, failed, another system's,
    or left over from a backup that nobody remembers.
    """

    reading: ArchiveReading

    def do(self, ctx: Context) -> TableCard:
        newest = self.reading.current.reach.backups[-1:]
        spare = self.reading.spare
        ctx.recorder.check(
            Check(
                name="base backup",
                proves="there is a base backup that recovery can begin with",
                verdict=Verdict.VERIFIED if newest else Verdict.FAILED,
                expected=f"one that can be used, under {self.reading.current.server_name}",
                observed=f"{len(self.reading.current.reach.backups)} usable, the newest {newest[0].backup_id}"
                if newest
                else "none",
                details=tuple(
                    (f"not used: {item.backup_id}", item.reason)
                    for folder in self.reading.folders
                    for item in folder.backups
                    if item.reason
                )[:MOST],
            )
        )
        if newest:
            ctx.recorder.check(self._age(ctx, newest[0]))
        ctx.recorder.check(
            Check(
                name="left over",
                proves="no folder of an unfinished, failed, foreign or forgotten base backup takes room",
                verdict=Verdict.FAILED if spare else Verdict.VERIFIED,
                required=False,
                expected="none",
                observed=f"{len(spare)}, the first: {spare[0].what}" if spare else "none",
                details=tuple((item.state, item.what) for item in spare[:MOST]),
            )
        )
        return TableCard(lines=tuple(self._lines()))

    def _age(self, ctx: Context, newest: BackupReach) -> Check:
        age = (self.reading.read_at - newest.earliest).total_seconds()
        limit = ctx.site.freshness.backup_age.total_seconds()
        return Check(
            name="backup age",
            proves="the schedule still makes base backups",
            verdict=Verdict.VERIFIED if age <= limit else Verdict.FAILED,
            expected=f"the newest is at most {show_seconds(limit)} old",
            observed=f"{show_seconds(max(age, 0))} ({newest.backup_id})",
        )

    def _lines(self) -> Iterator[tuple[str, str]]:
        listed = [(folder, item) for folder in self.reading.folders for item in folder.backups]
        several = len(self.reading.folders) > 1
        for folder, item in listed[::-1]:
            yield item.backup_id, _told(self.reading, item) + (f", under {folder.server_name}" if several else "")


def _told(reading: ArchiveReading, item: BackupStatus) -> str:
    words = [item.state]
    if item.at is not None:
        words.append(f"{show_seconds(max((reading.read_at - item.at).total_seconds(), 0))} old")
    words.append(f"{show_bytes(item.size_bytes)}{f' {item.compression}' if item.compression else ''}")
    words += [f"timeline {item.timeline}"] if item.timeline else []
    words += ["kept by an annotation"] if item.kept else []
    words += [f"retention may delete it from {show_instant(item.goes_at)}"] if item.goes_at else []
    return ", ".join(words)


@dataclass(frozen=True)
class CheckWalChains(Step[ArchivedWal]):
    """Whether the WAL is unbroken from each base backup to now.

    A gap is otherwise found only at restore, after the base backup has been fetched. Every gap has its first and last
    segment, and a state: lost, delayed, uploading, partial, zero-length or damaged.
    """

    reading: ArchiveReading

    def do(self, ctx: Context) -> ArchivedWal:
        current = self.reading.current
        if not current.reach.backups:
            raise BaseBackupMissing(
                f"no usable base backup under {self.reading.location}/{current.server_name}: no chain begins there",
                todo="Take one with runbooks/backup-manual.ipynb, and find out why none was made.",
            )
        newest = current.reach.backups[-1]
        ctx.recorder.check(self._newest(newest, current))
        ctx.recorder.check(gaps(self.reading))
        result = ArchivedWal(
            unbroken=not newest.problem,
            first_segment=newest.first_segment,
            last_segment=newest.last_segment,
            segments=newest.segments,
            end_lsn=newest.latest_lsn or newest.earliest_lsn,
            timeline=newest.timeline,
            newest_commit=current.newest_commit,
            server_name=current.server_name,
        )
        ctx.recorder.note(Facts(chain=result.model_dump(mode="json", exclude={"drawn"})))
        return result

    def _newest(self, newest: BackupReach, current: Reading) -> Check:
        held, passing = not newest.problem, current.waits
        chains = [(item, folder) for folder in self.reading.folders for item in folder.reach.backups]
        several = len(self.reading.folders) > 1
        return Check(
            name="WAL chain",
            proves="recovery finds every WAL segment from the newest base backup to the newest segment",
            verdict=Verdict.VERIFIED if held else Verdict.UNPROVEN if passing else Verdict.FAILED,
            expected=f"every segment from {newest.first_segment} to {newest.last_segment or 'the newest'}",
            observed=f"{newest.segments:,} segments, unbroken" if held else newest.problem,
            reason="what is missing may be on its way" if passing and not held else "",
            details=tuple(
                (
                    f"from {item.backup_id}{f' under {folder.server_name}' if several else ''}",
                    f"{item.segments:,} segments to {item.last_segment or 'none'}, {item.problem or 'unbroken'}",
                )
                for item, folder in chains[::-1][:MOST]
            ),
        )


def gaps(reading: ArchiveReading) -> Check:
    """Whether anything between the oldest base backup and now is missing."""
    broken = [item.broken for item in reading.gaps]
    lost = [item for item in broken if not item.state.passing]
    return Check(
        name="WAL gaps",
        proves="no WAL between the oldest base backup and now is missing",
        verdict=Verdict.FAILED if lost else Verdict.UNPROVEN if broken else Verdict.VERIFIED,
        expected="none",
        observed="none" if not broken else f"{len(broken)}, the first: {broken[0]}",
        reason="what is missing may be on its way" if broken and not lost else "",
        details=tuple((f"gap {n}", f"{item}. {item.todo}") for n, item in enumerate(broken[:MOST], 1)),
    )


@dataclass(frozen=True)
class CheckRecoveryWindow(Step[TableCard]):
    """Which instants can be recovered now, overall and under each serverName.

    By the commit times in the WAL itself, not by those of objects. Recovery to a time needs a later commit in the
    archive, so the last instant is just before the newest one, which LSN or XID reach.
    """

    reading: ArchiveReading

    def do(self, ctx: Context) -> TableCard:
        reading, current = self.reading, self.reading.current
        newest = current.reach.backups[-1] if current.reach.backups else None
        problem = newest.problem if newest else "there is no usable base backup"
        periods = [f"{show_instant(item.first)} to {show_instant(item.last)}" for item in reading.periods]
        only = newest is not None and newest.newest is None and not reading.periods
        if only and newest is not None:
            periods = [f"only the end of base backup {newest.backup_id}: nothing was committed and archived since"]
        reached = bool(current.periods or only) and not problem
        ctx.recorder.note(Facts(reach=reading.drawing))
        if reading.periods:
            first, last = reading.periods[0].first, reading.periods[-1].last
            ctx.recorder.note(Facts(window=Window(first_time=show_instant(first), last_time=show_instant(last))))
        ctx.recorder.check(
            Check(
                name="recovery window",
                proves="the newest archived commit can be reached from a base backup",
                verdict=Verdict.VERIFIED if reached else Verdict.UNPROVEN if current.waits else Verdict.FAILED,
                expected="a usable base backup with unbroken WAL to the archive's end",
                observed="; ".join(periods[-3:]) if reached else problem or "nothing can be recovered to a time",
                reason="what is missing may be on its way" if current.waits and not reached else "",
                details=tuple(
                    (f"serverName {folder.server_name}{_period(folder.since, folder.until)}", _reached(folder))
                    for folder in reading.folders
                )[-MOST:],
            )
        )
        lines = [
            *(("reachable", item) for item in periods),
            *_newest_commit(reading),
            *(("to do", item) for item in reading.todo),
        ]
        return TableCard(lines=tuple(lines), drawn=reading.drawing)


def _reached(folder: Reading) -> str:
    return "; ".join(f"{show_instant(p.first)} to {show_instant(p.last)}" for p in folder.periods) or "nothing"


def _newest_commit(reading: ArchiveReading) -> Iterator[tuple[str, str]]:
    if reading.newest is not None:
        newest = reading.newest
        yield "newest commit", f"XID {newest.xid} at {show_instant(newest.committed_at)}, target_lsn {newest.lsn}"


@dataclass(frozen=True)
class CheckArchiveDamage(Step[TableCard]):
    """What is damaged: each by its object or segment.

    From listings, backup.info, history files, the ends of the base backups' tars, the newest backup read through as far
    as that is cheap, and a sample of the WAL. What was not read is said.
    """

    reading: ArchiveReading

    def do(self, ctx: Context) -> TableCard:
        for check in (damage(self.reading), wal_sample(self.reading)):
            ctx.recorder.check(check)
        found = [*self.reading.damages, *self.reading.passing]
        read = [("read", line) for folder in self.reading.folders for line in folder.survey.read]
        read += [("note", line) for folder in self.reading.folders for line in folder.survey.notes]
        return TableCard(lines=tuple([(item.state, item.key or item.segment or item.what) for item in found] + read))


def damage(reading: ArchiveReading) -> Check:
    """Whether the archive is damaged, as far as it was read."""
    damages, passing = reading.damages, reading.passing
    found = [*damages, *passing]
    return Check(
        name="damage",
        proves="nothing that a recovery needs is missing, cut, empty, cold or corrupt, as far as it was read",
        verdict=Verdict.FAILED if damages else Verdict.UNPROVEN if passing else Verdict.VERIFIED,
        expected="none",
        observed=f"{len(found)}, the first: {found[0].what}" if found else "none",
        reason="what is missing may be on its way" if passing and not damages else "",
        details=tuple((item.state, f"{item.what}{f' ({item.key})' if item.key else ''}") for item in found[:MOST])
        or tuple(("read", line) for folder in reading.folders for line in folder.survey.read)[-MOST:],
    )


def wal_sample(reading: ArchiveReading) -> Check:
    """Whether a few segments of the newest chain hold what PostgreSQL wrote, every record's checksum among it."""
    reach = reading.current.reach
    return Check(
        name="WAL sample",
        proves="archived segments hold what PostgreSQL wrote, record by record",
        verdict=Verdict.FAILED if reach.damaged else Verdict.VERIFIED if reach.sampled else Verdict.UNPROVEN,
        expected="page headers, links and checksums right",
        observed="; ".join(map(str, reach.damaged))
        or (f"{len(reach.sampled)} segments, all right" if reach.sampled else ""),
        reason="" if reach.sampled else "no segment was read through",
    )


__all__ = [
    "CheckArchiveDamage",
    "CheckBaseBackups",
    "CheckRecoveryWindow",
    "CheckWalChains",
    "FindArchive",
    "ReadArchive",
    "TableCard",
    "damage",
    "gaps",
    "wal_sample",
]
