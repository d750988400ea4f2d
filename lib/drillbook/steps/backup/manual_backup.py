"""A backup by hand: asked for, watched, verified in the bucket, and announced.

"Completed" is what the tool said about itself. What counts is read back from the bucket: every object, the WAL from
the backup's begin to its end, and a recovery window that now reaches past it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from drillbook import archive
from drillbook import kube as k8s
from drillbook.engine.step import CheckGroup, CheckStep, Context, Plan, Step
from drillbook.errors import BackupFailed, Changed, RunbookError, StillRunning, VerificationError
from drillbook.evidence.facts import Facts, NotedBackup, TestKind, Window
from drillbook.manifests import recovery as manifests
from drillbook.model import (
    BaseBackup,
    Check,
    ClusterRef,
    Effect,
    Frozen,
    Instant,
    Lsn,
    Verdict,
    show_instant,
    show_seconds,
)
from drillbook.report.cards import show_bytes
from drillbook.steps.archive.base_backup import LastArchivingSucceeded
from drillbook.steps.backup.switch_wal import ArchivedEnd, ArchiveTheEnd
from drillbook.steps.preflight.readiness import CheckReadiness, Rights, SourceCluster

_STUCK = ("walArchivingFailing", "invalid backup definition")


@dataclass(frozen=True)
class CheckBackupReadiness(CheckReadiness):
    """The right cluster, and the rights to back it up.

    Cluster, identity pin, rights and the role's grants are checked together, so that all faults are reported together
    while nothing has been touched.
    """

    source_rights: ClassVar[Rights] = (
        *CheckReadiness.source_rights,
        ("create", k8s.BACKUP, ""),
        ("get", k8s.BACKUP, ""),
    )
    makes_a_copy: ClassVar[bool] = False
    compares_rows: ClassVar[bool] = False

    def do(self, ctx: Context) -> SourceCluster:
        ctx.recorder.note(Facts(test=TestKind(type="base backup by hand, read back from the archive")))
        return super().do(ctx)


class ArchiveBefore(Frozen):
    """The archive before this backup. ``problem`` says why recovery is not possible from it now, "" if it is."""

    backups: int
    newest_backup: str
    first_time: Instant | None = None
    last_time: Instant | None = None
    problem: str = ""


@dataclass(frozen=True)
class ReadArchiveBefore(Step[ArchiveBefore]):
    """Read what the archive can recover now.

    It is compared with the window after the backup. An archive that is broken is no reason not to take one: a new base
    backup begins a new chain.
    """

    cluster: SourceCluster

    def do(self, ctx: Context) -> ArchiveBefore:
        return archive_before(ctx, self.cluster)


def archive_before(ctx: Context, cluster: SourceCluster) -> ArchiveBefore:
    """What the archive can recover now; that it is broken is a result, not an error."""
    server = cluster.server_name
    found = archive.catalogue(ctx.store, server, system_id=cluster.system_id)
    newest = found.newest.backup_id if found.newest else ""
    try:
        listing = archive.wal_names(ctx.store, server, since=min((b.begin_wal for b in found.usable), default=""))
        window = archive.window(ctx.store, listing, found.usable, timeline=cluster.timeline)
    except RunbookError as error:
        if error.verdict is None:
            raise
        return ArchiveBefore(backups=len(found.usable), newest_backup=newest, problem=error.what)
    return ArchiveBefore(
        backups=len(found.usable),
        newest_backup=newest,
        first_time=window.first_time,
        last_time=window.last_time,
    )


@dataclass(frozen=True)
class ArchivingWorks(CheckGroup):
    """The source archives its WAL now.

    A base backup can't be restored without the WAL that was written while it ran. An in-tree backup on a cluster that
    does not archive would wait without an end.
    """

    cluster: SourceCluster

    def checks(self) -> Sequence[CheckStep]:
        return [LastArchivingSucceeded(self.cluster)]


class RequestedBackup(Frozen):
    """The Backup object as it was created."""

    ref: ClusterRef  # the Backup's own namespace and name
    uid: str
    method: str
    requested_at: Instant


@dataclass(frozen=True)
class RequestBackup(Step[RequestedBackup]):
    """Ask CloudNativePG for a base backup.

    By the cluster's own method: the plugin, or in-tree. Nothing is overwritten: it gets its own folder in the
    archive, and retention treats it like any other.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    cluster: SourceCluster
    reason: str = ""
    ticket: str = ""

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"Backup of Cluster {self.cluster.ref}",
            objects=(self._object(ctx, datetime.now(UTC)),),
            notes=(f"archived below {self.cluster.location}/base/", f"reason: {self._why}"),
        )

    @property
    def _why(self) -> str:
        return self.reason + (f" ({self.ticket})" if self.ticket else "")

    def _object(self, ctx: Context, now: datetime) -> dict[str, Any]:
        return manifests.backup(
            self.cluster.ref, ctx.run_id, method=ctx.archive.method, reason=self._why, requested_at=now
        )

    def do(self, ctx: Context) -> RequestedBackup:
        now = datetime.now(UTC)
        item = self._object(ctx, now)
        ctx.kube.create(item, dry_run=True)
        created = ctx.kube.create(item)
        metadata = created["metadata"]
        return RequestedBackup(
            ref=ClusterRef(namespace=metadata["namespace"], name=metadata["name"]),
            uid=metadata["uid"],
            method=created["spec"]["method"],
            requested_at=now,
        )

    def verify(self, ctx: Context, result: RequestedBackup) -> None:
        if ctx.kube.get(k8s.BACKUP, result.ref.namespace, result.ref.name) is None:
            raise VerificationError(
                f"Backup {result.ref} is gone",
                expected="it waits or runs",
                observed="no such object",
                todo="Find out who deleted it; start a new run.",
            )


class FinishedBackup(Frozen):
    """What CloudNativePG says of the finished backup; the tool's own word, not yet seen in the bucket."""

    ref: ClusterRef
    backup_id: str
    begin_wal: str
    end_wal: str
    begin_lsn: Lsn
    end_lsn: Lsn
    pod: str
    started_at: Instant
    stopped_at: Instant
    seconds: float


@dataclass(frozen=True)
class WaitForBackup(Step[FinishedBackup]):
    """Wait for the backup, and show how far it is.

    A plugin backup stays in the phase started until the end; what is in the bucket shows whether it moves. A failed
    one ends the wait at once, with the tool's own message.
    """

    cluster: SourceCluster
    requested: RequestedBackup

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=f"Wait at most {show_seconds(ctx.site.limits.recovery.total_seconds())} for the backup")

    def do(self, ctx: Context) -> FinishedBackup:
        return wait_for_backup(ctx, self.cluster, self.requested)


def wait_for_backup(ctx: Context, cluster: SourceCluster, requested: RequestedBackup) -> FinishedBackup:
    """Wait until the Backup is complete; BackupFailed with the tool's message, StillRunning past limits.recovery."""
    begun = time.monotonic()
    limit = ctx.site.limits.recovery.total_seconds()
    looked_at, seen = 0.0, "nothing yet"
    while True:
        found = ctx.kube.get(k8s.BACKUP, requested.ref.namespace, requested.ref.name) or {}
        status: dict[str, Any] = found.get("status", {})
        phase = status.get("phase", "")
        waited = time.monotonic() - begun
        if phase == "completed":
            return _finished(ctx, requested, status, waited)
        if not found or phase == "failed" or phase in _STUCK:
            told = status.get("error") or status.get("commandError") or "no message"
            raise BackupFailed(
                f"Backup {requested.ref} is {phase or 'gone'}: {told}",
                changed=Changed.DONE,
                todo="Fix what the message names. What it left in the archive is unfinished and never used.",
            )
        if waited > limit:
            raise StillRunning(
                f"Backup {requested.ref} was not completed within {show_seconds(limit)}; its phase is "
                f"{phase or 'pending'}",
                todo="See whether it moves (the archive's base/ folder grows): then raise limits.recovery, and a run that is "
                "resumed waits on. A Backup that never ends blocks those after it: delete the object.",
            )
        if waited - looked_at > 2:
            looked_at, seen = waited, _in_bucket(ctx, cluster, requested)
        rows = (("phase", phase or "pending"), ("in the bucket", seen), ("waited", show_seconds(waited)))
        ctx.recorder.progress("backing up", rows=rows)
        ctx.pause(0.5)


def _in_bucket(ctx: Context, cluster: SourceCluster, requested: RequestedBackup) -> str:
    """What the newest folder holds so far: multipart uploads show when a part of the backup is whole."""
    prefix = f"{cluster.server_name}/base/"
    # A backup's id is its begin in UTC; clocks may differ by some seconds.
    stamp = (requested.requested_at - timedelta(minutes=1)).strftime("%Y%m%dT%H%M%S")
    folders = [name for name in ctx.store.level(prefix).folders if name > f"{prefix}{stamp}"]
    if not folders:
        return "nothing yet"
    objects = list(ctx.store.list(folders[-1]))
    return f"{len(objects)} objects, {show_bytes(sum(item.size for item in objects))}"


def _finished(ctx: Context, requested: RequestedBackup, status: dict[str, Any], waited: float) -> FinishedBackup:
    ctx.recorder.phase("backup", requested.requested_at, waited, "from the request until it was completed")
    ctx.recorder.log("backup-status.json", _readable(status))
    return FinishedBackup(
        ref=requested.ref,
        backup_id=status["backupId"],
        begin_wal=status["beginWal"],
        end_wal=status["endWal"],
        begin_lsn=status["beginLSN"],
        end_lsn=status["endLSN"],
        pod=status.get("instanceID", {}).get("podName", ""),
        started_at=status["startedAt"],
        stopped_at=status["stoppedAt"],
        seconds=waited,
    )


@dataclass(frozen=True)
class VerifyInBucket(CheckStep):
    """The backup is whole in the bucket, with its WAL, and the recovery window reaches past it.

    Read from the bucket alone: backup.info, every object that it must have, the end of each tar (small ones are read
    through), each segment from its begin to its end.
    """

    cluster: SourceCluster
    before: ArchiveBefore
    finished: FinishedBackup
    end: ArchivedEnd | None = None  # it only comes before
    name: ClassVar[str] = "backup in the bucket"
    proves: ClassVar[str] = "every object of the backup is there, and none is cut"

    def not_run(self, reason: str) -> list[Check]:
        names = (self.name, "backup's WAL archived", "recovery window extended")
        return [self.result(Verdict.UNPROVEN, name=name, reason=f"not run: {reason}") for name in names]

    def observe(self, ctx: Context) -> Sequence[Check]:
        return bucket_checks(ctx, self.cluster, self.before, self.finished)


def bucket_checks(ctx: Context, cluster: SourceCluster, before: ArchiveBefore, finished: FinishedBackup) -> list[Check]:
    """Whether the backup is whole in the bucket, its WAL archived, and the recovery window longer than before."""
    look = VerifyInBucket(cluster, before, finished)
    server = look.cluster.server_name
    found = archive.catalogue(ctx.store, server, system_id=look.cluster.system_id)
    entry = found.entry(look.finished.backup_id)
    if entry is None or entry.backup is None:
        why = entry.reason if entry else "the bucket has no such backup"
        return [
            look.result(Verdict.FAILED, expected=f"{look.finished.backup_id} whole", observed=why),
            *look.not_run("there is no whole backup")[1:],
        ]
    backup = entry.backup
    ctx.recorder.note(Facts(backup=NotedBackup.of(backup, chosen="made by this run")))
    listing = archive.wal_names(ctx.store, server, since=backup.begin_wal)
    chain = archive.archive_chain(ctx.store, backup, listing, timeline=look.cluster.timeline)
    return [
        _whole(look, ctx, backup, entry),
        _wal(look, backup, chain),
        _window(look, ctx, backup, listing, found.usable),
    ]


def _whole(look: VerifyInBucket, ctx: Context, backup: BaseBackup, entry: archive.Entry) -> Check:
    said, finished = backup, look.finished
    same = (said.begin_wal, said.end_wal, said.begin_lsn, said.end_lsn) == (
        finished.begin_wal,
        finished.end_wal,
        finished.begin_lsn,
        finished.end_lsn,
    )
    faults = [] if same else ["backup.info and the Backup object name different WAL"]
    tars = archive.check_tars(ctx.store, entry.tars)
    faults += [f"{_file(tar.key)} is {tar.state}: {tar.found}" for tar in tars if tar.state.broken]
    unread = [tar for tar in tars if tar.state is archive.TarState.UNREAD]
    verdict = Verdict.FAILED if faults else Verdict.UNPROVEN if unread else Verdict.VERIFIED
    size = f"{backup.backup_id}: backup.info and {len(tars)} tars, {show_bytes(backup.size_bytes)}"
    return look.result(
        verdict,
        expected="backup.info is DONE and agrees with the Backup object; every object is there, and none is cut",
        observed="; ".join([size, *faults]),
        reason="" if faults or not unread else f"{_file(unread[0].key)}: {unread[0].found}",
        details=tuple((_file(tar.key), f"{show_bytes(tar.size)}, {tar.found}") for tar in tars[:12]),
    )


def _wal(look: VerifyInBucket, backup: BaseBackup, chain: Any) -> Check:
    reached = chain.end_lsn >= backup.end_lsn
    there = chain.unbroken and reached
    return look.result(
        Verdict.VERIFIED if there else Verdict.FAILED,
        name="backup's WAL archived",
        proves="the WAL written while the backup ran is in the archive: without it the backup can't be restored",
        expected=f"every segment from {backup.begin_wal} to {backup.end_wal}",
        observed=f"{chain.segments} segments to {chain.last_segment}"
        if there
        else chain.problem or f"archived only to {chain.last_segment or 'nothing'}",
    )


def _window(look: VerifyInBucket, ctx: Context, backup: BaseBackup, listing: Any, usable: list[BaseBackup]) -> Check:
    window = archive.window(ctx.store, listing, [backup], timeline=look.cluster.timeline)
    extended = window.last_time >= backup.end_time and (
        look.before.last_time is None or window.last_time > look.before.last_time
    )
    shown = {"first_time": show_instant(window.first_time), "last_time": show_instant(window.last_time)}
    ctx.recorder.note(Facts(window=Window.model_validate(shown | {"backups": len(usable)})))
    was = show_instant(look.before.last_time) if look.before.last_time else look.before.problem or "none"
    return look.result(
        Verdict.VERIFIED if extended else Verdict.FAILED,
        name="recovery window extended",
        proves="recovery can reach instants after this backup",
        expected=f"later than before ({was})",
        observed=f"from {shown['first_time']} to {shown['last_time']} by this backup alone",
    )


def _file(key: str) -> str:
    return key.rpartition("/")[2]


def _readable(status: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in sorted(status.items()) if not key.endswith("File")) + "\n"


__all__ = [
    "ArchiveTheEnd",
    "ArchivingWorks",
    "CheckBackupReadiness",
    "ReadArchiveBefore",
    "RequestBackup",
    "VerifyInBucket",
    "WaitForBackup",
    "archive_before",
    "bucket_checks",
    "wait_for_backup",
]
