"""A base backup as one step: of what is about to be replaced, and of the new line once it is in service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import Action, CheckStep, Context, Plan
from drillbook.evidence.facts import Facts, NotedBackup
from drillbook.manifests import recovery as manifests
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.model import Check, ClusterRef, Effect, Verdict
from drillbook.steps.backup.manual_backup import RequestedBackup, archive_before, bucket_checks, wait_for_backup
from drillbook.steps.backup.new_timeline import new_line
from drillbook.steps.backup.switch_wal import archive_the_end
from drillbook.steps.preflight.instances import is_fenced
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.preflight.readiness import HEALTHY, SourceCluster
from drillbook.steps.recovery.replacement import ReplacementCluster

_REASON = "drillbook.io/reason"
_PATIENCE_SECONDS = 60.0
"""How long a cluster that is about to be replaced may take to archive a segment."""


@dataclass(frozen=True)
class _BackUp(CheckStep):
    """A base backup, and read back from the bucket: every object, its WAL, and the window that it extends.

    Asked for only if this run hasn't yet: a run that is resumed waits for the one that it asked for before.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    cluster: SourceCluster
    why: ClassVar[str] = ""

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=f"Backup of Cluster {self.cluster.ref}", notes=(f"below {self.cluster.location}/base/",))

    def observe(self, ctx: Context) -> Sequence[Check]:
        return backed_up(ctx, self.cluster, self.name)


def backed_up(ctx: Context, cluster: SourceCluster, name: str) -> list[Check]:
    """A base backup of the cluster, and its checks under ``name``, by which a resumed run finds the one that it asked for."""
    before_it = ctx.recorder.facts
    before = archive_before(ctx, cluster)
    requested = _requested(ctx, cluster, name) or _request(ctx, cluster, name)
    finished = wait_for_backup(ctx, cluster, requested)
    archive_the_end(ctx, cluster, ctx.site.limits.step.total_seconds())
    checks = bucket_checks(ctx, cluster, before, finished)
    made = NotedBackup.model_validate({"backup_id": finished.backup_id, "seconds": finished.seconds})
    ctx.recorder.note(Facts.model_validate({name.replace(" ", "_"): made}))
    # The record's backup is the one that the recovery relies on.
    if before_it.backup is not None:
        ctx.recorder.note(Facts(backup=before_it.backup))
    if before_it.window is not None:
        ctx.recorder.note(Facts(window=before_it.window))
    return [check.model_copy(update={"name": f"{name}: {check.name}"}) for check in checks]


def _requested(ctx: Context, cluster: SourceCluster, reason: str) -> RequestedBackup | None:
    for item in ctx.kube.list(k8s.BACKUP, cluster.ref.namespace, labels=f"{RUN_LABEL}={ctx.run_id}"):
        ours = (item["metadata"].get("annotations") or {}).get(_REASON) == reason
        if ours and item.get("status", {}).get("phase") != "failed":
            return _as_requested(item)
    return None


def _request(ctx: Context, cluster: SourceCluster, reason: str) -> RequestedBackup:
    item = manifests.backup(
        cluster.ref, ctx.run_id, method=ctx.archive.method, reason=reason, requested_at=datetime.now(UTC)
    )
    ctx.kube.create(item, dry_run=True)
    return _as_requested(ctx.kube.create(item))


def _as_requested(item: dict[str, Any]) -> RequestedBackup:
    metadata = item["metadata"]
    return RequestedBackup(
        ref=ClusterRef(namespace=metadata["namespace"], name=metadata["name"]),
        uid=metadata["uid"],
        method=item["spec"]["method"],
        requested_at=metadata["creationTimestamp"],
    )


@dataclass(frozen=True)
class BackUpBeforeCutover(_BackUp):
    """Back up what is about to be replaced.

    Damaged or not, it is the fallback if the undo fails. Where it can't be had, the reason that the runbook was given
    is recorded, shown at the gate and confirmed with it.
    """

    no_backup_because: str = ""
    name: ClassVar[str] = "backup before the cut"
    proves: ClassVar[str] = "what is replaced can be restored as it is now"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if reason := self.no_backup_because:
            ctx.recorder.note(Facts(no_backup_before_the_cut=reason))
            return [self.result(Verdict.NOT_APPLICABLE, reason=f"not taken, because: {reason}")]
        return super().observe(ctx)


def unsaved(ref: ClusterRef, because: str) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    """What a cut's plan adds where there is a reason to back nothing up first: it is confirmed with the cut."""
    if not because:
        return (), ()
    touch = Action("cut over without a fresh backup of", "Cluster", ref.namespace, ref.name)
    return (touch,), (f"no backup was taken before the cut, because: {because}",)


@dataclass(frozen=True)
class BackUpOld(BackUpBeforeCutover):
    """Back up the old cluster, if it still can be.

    Damaged or not, it is the fallback if the undo fails. A cluster that is gone, or that no instance of serves, can't
    be backed up: that is the reason, shown at the gate, confirmed with it, and kept in the record.
    """

    gated: ClassVar[bool] = True
    cluster: OldCluster

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        why, ref = self._none(ctx), self.cluster.ref
        if why and self.cluster.gone:
            return Plan(summary=f"No backup: {why}", harmless=True)
        if why:
            touch = Action("go on without a fresh backup of", "Cluster", ref.namespace, ref.name, self.cluster.uid)
            return Plan(
                summary=f"No backup: {why}", touches=(touch,), lost=(f"no backup of {ref} as it is now: {why}",)
            )
        return replace(
            super().plan(ctx), touches=(Action("back up", "Cluster", ref.namespace, ref.name, self.cluster.uid),)
        )

    def observe(self, ctx: Context) -> Sequence[Check]:
        why = self._none(ctx)
        if not why or self.no_backup_because:
            return super().observe(ctx)
        ctx.recorder.note(Facts(no_backup_before_the_cut=why))
        return [self.result(Verdict.NOT_APPLICABLE, reason=f"it can't be had: {why}")]

    def _none(self, ctx: Context) -> str:
        """Why there isn't one; "" if it can be had."""
        return self.no_backup_because or not_serving(ctx, self.cluster.ref)


def not_serving(ctx: Context, ref: ClusterRef) -> str:
    """Why nothing can be asked of the Cluster; "" if it serves."""
    found = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
    if found is None:
        return f"Cluster {ref} no longer exists"
    status = found.get("status", {})
    phase, ready = str(status.get("phase") or "without a phase"), int(status.get("readyInstances") or 0)
    # A hibernated cluster stays healthy, without an instance.
    return (
        ""
        if phase == HEALTHY and ready and not is_fenced(found)
        else f"no instance of {ref} serves ({phase}, {ready} ready)"
    )


@dataclass(frozen=True)
class ArchiveServingWal(CheckStep):
    """Archive what was written until now, if the cluster still serves.

    One row in Drillbook's own database and one WAL switch: a moment ago can then be reached, and is not lost with the
    volume. A cluster that does not serve, or does not archive, stops nobody: its volume is read once it is stopped.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    name: ClassVar[str] = "archived until now"
    proves: ClassVar[str] = "what was written until now can be recovered"
    required: ClassVar[bool] = False
    old: OldCluster

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="One row and one WAL switch, seen in the bucket, if the cluster still serves")

    def observe(self, ctx: Context) -> Sequence[Check]:
        if why := not_serving(ctx, self.old.ref):
            return [self.result(Verdict.NOT_APPLICABLE, reason=why)]
        found = archive_the_end(ctx, self.old, _PATIENCE_SECONDS)
        return [self.result(Verdict.VERIFIED, expected="the segment in the bucket", observed=found.segment)]


@dataclass(frozen=True)
class BackUpReplacement(CheckStep):
    """The replacement's first WAL and its first backup are in the archive, under its own serverName.

    Until then a second loss would go back to the old line's backups, and lose all that came after the cut.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    name: ClassVar[str] = "backup after the cut"
    proves: ClassVar[str] = "what is in service now can be recovered"
    old: OldCluster
    replacement: ReplacementCluster
    in_service: Any

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary="One commit and one WAL switch on the replacement, and a Backup of it, read back from the bucket"
        )

    def observe(self, ctx: Context) -> Sequence[Check]:
        return backed_up(ctx, new_line(ctx, self.old, self.replacement), self.name)


@dataclass(frozen=True)
class BackUpNewTimeline(_BackUp):
    """The first backup after the cut, and the WAL after it, are in the archive.

    Until then a recovery to after the cut is not possible from a base backup that was taken after it.
    """

    name: ClassVar[str] = "backup after the cut"
    proves: ClassVar[str] = "what is in service now can be recovered"
    in_service: Any

    def observe(self, ctx: Context) -> Sequence[Check]:
        line = getattr(self.in_service, "line", None)
        if line is None and not ctx.recorder.facts.cut:
            return [self.result(Verdict.NOT_APPLICABLE, reason="nothing was cut: no new line of WAL began")]
        return backed_up(ctx, line or self.cluster, self.name)


__all__ = [
    "ArchiveServingWal",
    "BackUpBeforeCutover",
    "BackUpNewTimeline",
    "BackUpOld",
    "BackUpReplacement",
    "backed_up",
    "unsaved",
]
