"""A backup failed, is stuck, or was not made: the symptom first, then each possible cause, then the one that it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import KubernetesError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.model import Check, Frozen
from drillbook.postgres.recovery_log import sidecar_cause
from drillbook.steps.troubleshoot.answer import SIDECAR, Named
from drillbook.steps.troubleshoot.backup_causes import Seen, checked, symptoms
from drillbook.steps.troubleshoot.fix import AfterFix
from drillbook.steps.troubleshoot.search import cause_checks, record_answer, symptom_checks

WELL = "backups are made and WAL is archived"


class BackupState(Frozen):
    """What was read, as a card shows it."""

    seen: Seen
    log_read: str  # how much of the sidecar's log could be read

    def rows(self) -> Iterator[tuple[str, str]]:
        seen = self.seen
        yield "Cluster", f"{seen.name}: {seen.phase or 'no phase'}"
        said = seen.archiving.get("message") or "no message"
        yield "Archiving", f"{said} (ContinuousArchiving is {seen.archiving.get('status', 'not known')})"
        yield (
            "ObjectStore",
            f"{seen.object_store or 'in-tree'}{'' if seen.object_store_there or not seen.object_store else ': NOT FOUND'}",
        )
        yield "Backups", f"{len(seen.backups)}, the newest {self._newest()}"
        yield "Schedules", ", ".join(str(one["metadata"]["name"]) for one in seen.schedules) or "none"
        yield "Sidecar's log", self.log_read
        if seen.words:
            yield "barman says", seen.words

    def _newest(self) -> str:
        if not self.seen.backups:
            return "none"
        last = self.seen.backups[-1]
        return f"{last['metadata']['name']}: {(last.get('status') or {}).get('phase') or 'pending'}"


@dataclass(frozen=True)
class ReadBackupState(Step[BackupState]):
    """Read Cluster, Backups, ScheduledBackups and ObjectStore, and what the plugin's sidecar last said.

    By get and list alone; the object store itself is not asked. Without the right to read the sidecar's log
    (deploy/rbac/troubleshoot.yaml) its words are missing, and the card says so.
    """

    def do(self, ctx: Context) -> BackupState:
        ctx.recorder.note(Facts(test=TestKind(type="search for the cause of failing backups; nothing was changed")))
        return _state(ctx)


@dataclass(frozen=True)
class BackupSymptom(CheckStep):
    """Whether the backups are in trouble at all: if not, this is not your problem."""

    state: BackupState
    name: ClassVar[str] = "symptom"
    proves: ClassVar[str] = "there is something to look for"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        expected = "a Backup that failed, is stuck or is late, WAL that is not archived, or no schedule"
        return symptom_checks(self, symptoms(self.state.seen), expected=expected, well=WELL)


@dataclass(frozen=True)
class BackupCauses(CheckStep):
    """Each thing that keeps backups from being made, from the root to the leaves: one that is broken hides those below it."""

    state: BackupState
    name: ClassVar[str] = "causes"
    proves: ClassVar[str] = "this is not what keeps backups from being made"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        return cause_checks(self, checked(self.state.seen))


@dataclass(frozen=True)
class NameBackupCause(Step[Named]):
    """The cause, its evidence, and what to do; or that the backups are well, and the trouble is somewhere else."""

    state: BackupState

    def do(self, ctx: Context) -> Named:
        seen = self.state.seen
        return record_answer(
            ctx,
            symptoms(seen),
            checked(seen),
            about=f"Backups of {ctx.source_ref.name}",
            proves="what keeps backups from being made is known",
            well=WELL,
            unread=self.state.log_read,
        )


@dataclass(frozen=True)
class BackupAfterFix(AfterFix):
    """Look again, after the fix: the cause is gone, or still there.

    Whether a backup can be made again, only a backup shows: run backup-manual.
    """

    proves: ClassVar[str] = "what kept backups from being made is gone"
    waits: ClassVar[bool] = False

    def look(self, ctx: Context) -> tuple[list[str], list[str]]:
        seen = _state(ctx).seen
        return [cause.name for _, cause in checked(seen) if cause], symptoms(seen)


# -- reading -----------------------------------------------------------------------------------


def _state(ctx: Context) -> BackupState:
    site, space = ctx.site, ctx.source_ref.namespace
    cluster = ctx.cluster_object(ctx.source_ref)
    plugin: dict[str, Any] = next(
        (one for one in cluster["spec"].get("plugins") or () if one.get("name") == BARMAN_PLUGIN), {}
    )
    store = str((plugin.get("parameters") or {}).get("barmanObjectName", ""))
    mine = [one for one in ctx.kube.list(k8s.BACKUP, space) if one["spec"]["cluster"]["name"] == ctx.source_ref.name]
    mine.sort(key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))
    words, log_read = _words(ctx, cluster)
    seen = Seen(
        now=datetime.now(UTC),
        cluster=cluster,
        backups=tuple(mine),
        schedules=tuple(
            one
            for one in ctx.kube.list(k8s.SCHEDULED_BACKUP, space)
            if one["spec"].get("cluster", {}).get("name") == ctx.source_ref.name
        ),
        object_store=store,
        object_store_there=bool(store) and ctx.kube.get(k8s.OBJECT_STORE, space, store) is not None,
        words=words,
        patience=site.limits.step,
        every=site.freshness.backup_age,
    )
    return BackupState(seen=seen, log_read=log_read)


def _words(ctx: Context, cluster: dict[str, object]) -> tuple[str, str]:
    status = cluster.get("status") or {}
    primary = str(status.get("currentPrimary", "")) if isinstance(status, dict) else ""
    if not primary:
        return "", "there is no primary"
    try:
        text = ctx.kube.log(ctx.source_ref.namespace, primary, SIDECAR)
    except KubernetesError as error:
        if error.status == 403:
            return (
                "",
                "not read: the right is missing, and barman's words would say more; apply deploy/rbac/troubleshoot.yaml",
            )
        return "", f"not read: {error.what.partition(': ')[2] or error.what}"
    return sidecar_cause("\n".join(text.splitlines()[-200:])), f"read, of {primary}"


__all__ = ["BackupAfterFix", "BackupCauses", "BackupState", "BackupSymptom", "NameBackupCause", "ReadBackupState"]
