"""The schedules of base backups, held up while a cluster is replaced, and set going for the one that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import KubernetesError, VerificationError
from drillbook.manifests import replacement as replacements
from drillbook.model import Effect, Frozen
from drillbook.steps.cutover.service import adopt, bare, of_cluster, recall, remember
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import promises_on
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.recovery.replacement import ReplacementCluster, made_by, to_delete

_KEY = "schedules"


class Schedules(Frozen):
    """ScheduledBackups by name: those held up, those made, those set going again."""

    suspended: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class MoveSchedules(Step[Schedules]):
    """Suspend the old cluster's backup schedules, and schedule the replacement's backups.

    A ScheduledBackup can't be pointed at another Cluster, and one of a fenced cluster would leave Backups that wait and
    block each other. The replacement's begin at the next slot of the same schedule.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        pausing.require_free(ctx, of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name))

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        found = of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name)
        namespace = self.old.ref.namespace
        touches = tuple(
            Action("suspend", "ScheduledBackup", namespace, item["metadata"]["name"], item["metadata"]["uid"])
            for item in found
        )
        return Plan(
            summary=f"{len(found)} ScheduledBackups suspended, as many made for {self.replacement.ref.name}",
            objects=tuple(self._new(ctx, item) for item in found),
            touches=pausing.touches(ctx, found) + touches,
            harmless=not found,
        )

    def _new(self, ctx: Context, item: dict[str, Any]) -> dict[str, Any]:
        # One that somebody had suspended before this run stays so.
        asleep = bool(undo.before(ctx, item)["spec"].get("suspend"))
        made = bare(item, cluster={"name": self.replacement.ref.name}, suspend=asleep, immediate=False)
        made["metadata"] = {
            "name": replacements.stamped(item["metadata"]["name"], ctx.run_id),
            "namespace": item["metadata"]["namespace"],
            "labels": {replacements.MADE_BY: ctx.run_id, "app.kubernetes.io/managed-by": "drillbook"},
        }
        return made

    def do(self, ctx: Context) -> Schedules:
        adopt(ctx, self.replacement)
        found = of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name)
        suspended = suspend(ctx, self.old, found, self.replacement.note)
        created = []
        for item in found:
            new = self._new(ctx, item)
            ctx.recorder.obligation(to_delete("ScheduledBackup", new["metadata"]["namespace"], new["metadata"]["name"]))
            try:
                ctx.kube.create(new)
            except KubernetesError as error:
                if error.status != 409:
                    raise
            created.append(new["metadata"]["name"])
        return Schedules(suspended=tuple(suspended), created=tuple(created))

    def verify(self, ctx: Context, result: Schedules) -> None:
        awake = [
            item["metadata"]["name"]
            for item in of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name)
            if item["metadata"]["name"] in result.suspended and not item["spec"].get("suspend")
        ]
        if awake:
            raise VerificationError(
                "schedules of the old cluster are not suspended",
                expected="suspend: true",
                observed=", ".join(awake),
                todo="Another controller has put them back: pause it.",
            )


def suspend(ctx: Context, old: OldCluster, found: list[dict[str, Any]], note: str) -> list[str]:
    """Suspend the schedules, each promised to be resumed; how they were is kept in the run's ConfigMap."""
    pausing.pause(ctx, found)
    # What this run has suspended already was awake before it.
    before = {item["metadata"]["name"]: bool(undo.before(ctx, item)["spec"].get("suspend")) for item in found}
    remember(ctx, old.ref.namespace, note, _KEY, before)
    names = []
    for item in found:
        name = item["metadata"]["name"]
        undo.change(
            ctx,
            k8s.SCHEDULED_BACKUP,
            old.ref.namespace,
            name,
            {"spec": {"suspend": True}},
            "suspended while its cluster is replaced",
        )
        names.append(name)
    return names


def move_back(ctx: Context, old: OldCluster, replacement: ReplacementCluster, *, made_by_run: str) -> None:
    """Remove the replacement's schedules, which ``made_by_run`` created, and resume the old cluster's as they were; safe to
    repeat."""
    for item in of_cluster(ctx, k8s.SCHEDULED_BACKUP, old, replacement.ref.name):
        name = item["metadata"]["name"]
        if made_by(item) == made_by_run:
            ctx.require_lease()
            ctx.kube.delete(k8s.SCHEDULED_BACKUP, old.ref.namespace, name, uid=item["metadata"]["uid"])
    resume(ctx, old, replacement.note)


def resume(ctx: Context, old: OldCluster, note: str) -> list[str]:
    """Set the schedules going that were before; safe to repeat."""
    before: dict[str, bool] = recall(ctx, old.ref.namespace, note, _KEY) or {}
    resumed = [name for name, was_suspended in before.items() if not was_suspended]
    for name in resumed:
        known = promises_on(ctx, k8s.SCHEDULED_BACKUP, old.ref.namespace, name)
        for promise in known:
            undo.restore(ctx, promise)
        if not known:  # a cut that was kept, and is gone back from
            ctx.kube.patch(k8s.SCHEDULED_BACKUP, old.ref.namespace, name, {"spec": {"suspend": False}})
    return resumed


def promises(ctx: Context, old: OldCluster, replacement: ReplacementCluster) -> list[Obligation]:
    """What moving the schedules has promised."""
    before: dict[str, bool] = recall(ctx, old.ref.namespace, replacement.note, _KEY) or {}
    made = of_cluster(ctx, k8s.SCHEDULED_BACKUP, old, replacement.ref.name)
    return [
        *(item for name in before for item in promises_on(ctx, k8s.SCHEDULED_BACKUP, old.ref.namespace, name)),
        *(to_delete("ScheduledBackup", old.ref.namespace, item["metadata"]["name"]) for item in made),
    ]


__all__ = ["MoveSchedules", "Schedules"]
