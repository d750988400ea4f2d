"""Restoring in place: the old cluster is deleted, and created again under its own name by recovery.

There is no way back but the archive: so it is read once more in the last moment, and the old volumes must be proven
gone before the name is used again, for CloudNativePG would take over an ownerless volume, and return the old data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.lost_cluster import KEPT_CLUSTER, MADE_AGAIN
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import Changed, KubernetesError, PreconditionError, StepTimeoutError, VerificationError
from drillbook.evidence.facts import Cut, Facts
from drillbook.manifests import replacement
from drillbook.manifests.replacement import ReplacementNames
from drillbook.model import ClusterRef, Effect, Frozen, Instant, show_instant, show_seconds
from drillbook.steps.archive.losses import of_every_tenant
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.cutover import access, schedules
from drillbook.steps.cutover.rebuild_check import Rebuildable, claims_of, held, orphan_fault, require_recoverable
from drillbook.steps.cutover.service import of_cluster, recall, remember
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import promises_on
from drillbook.steps.preflight.old_cluster import OldCluster, as_it_was
from drillbook.steps.preflight.readiness import HEALTHY
from drillbook.steps.recovery.replacement import (
    CreateReplacementCluster,
    has_own_secret,
    made_by,
    owner_password,
)

OUTLIVING = ("ca", "app")
"""The Secrets that CloudNativePG generated, ``<cluster>-ca`` and ``<cluster>-app``, which clients refer to by name: the
operator uses those that it finds. (Its other certificates are issued again, by the same CA.)"""


class RemovedCluster(Frozen):
    """The old cluster is gone, with its volumes. ``note`` is the ConfigMap that keeps its object as it was."""

    uid: str
    removed_at: Instant
    volumes: tuple[tuple[str, str], ...]
    note: str
    seconds: float


def wait_gone(ctx: Context, left: Callable[[], list[str]], limit: float, ref: ClusterRef) -> None:
    """Wait until nothing of the deleted Cluster is left; StepTimeoutError after ``limit`` seconds names what is."""

    def late(names: list[str]) -> StepTimeoutError:
        return StepTimeoutError(
            f"still there {show_seconds(limit)} after Cluster {ref} was deleted: {', '.join(names)}",
            todo="Look for finalizers and for pods that still use the volumes. Resume the run when they are gone.",
        )

    ctx.wait_while(left, limit, lambda names: f"waiting for {len(names)} to be gone: {', '.join(names[:4])}", late)


@dataclass(frozen=True)
class RemoveOldCluster(Step[RemovedCluster]):
    """Remove the old cluster, and prove it gone with its volumes.

    Its backup schedules are suspended first; its object is kept in a ConfigMap; and what the recovery relies on is read
    in the archive once more. Nothing prunes the old folder of the archive any more: retention runs on the primary that
    archives into it.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    old: OldCluster
    point: RestoreStart
    checked: Rebuildable

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()
        found = ctx.kube.get(k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        if found is not None and found["metadata"]["uid"] == self.old.uid:
            pausing.require_free(ctx, held(ctx, self.old))
            require_recoverable(ctx, self.old, self.point)

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        ref = self.old.ref
        losing, losses = of_every_tenant(ctx, ref)
        touches = [*losing, *pausing.touches(ctx, held(ctx, self.old))]
        touches += [Action("suspend", "ScheduledBackup", ref.namespace, *pair) for pair in self.checked.schedules]
        if self.old.gone:
            return Plan(summary=f"Cluster {ref} is gone already: its schedules are suspended", touches=tuple(touches))
        touches.append(Action("delete", "Cluster", ref.namespace, ref.name, self.old.uid))
        touches += [Action("delete", "PersistentVolumeClaim", ref.namespace, *pair) for pair in self.checked.volumes]
        kept = [
            f"the class retains volume {name}: it stays, and holds the old data" for name in self.checked.kept_volumes
        ]
        return Plan(
            summary=f"Delete Cluster {ref} by its UID, wait until its pods and volumes are gone",
            notes=(
                f"recovered again from base backup {self.point.backup.backup_id} in {self.old.location}",
                *kept,
                *(str(hand) for hand in pausing.reconcilers_of(ctx, held(ctx, self.old))),
                *(f"Secret {ref.name}-{part} stays, where CloudNativePG generated it" for part in OUTLIVING),
            ),
            touches=tuple(touches),
            outage=(f"every tenant of {ref}, until the new cluster is verified and open",),
            lost=(
                f"Cluster {ref} with {len(self.checked.volumes)} volumes: every database of every tenant, as it is now",
                f"what is not archived under {self.old.location} yet",
                *losses,
            ),
        )

    def do(self, ctx: Context) -> RemovedCluster:
        begun, at = time.monotonic(), datetime.now(UTC)
        ref = self.old.ref
        names = ReplacementNames.under_the_old_name(ref, ctx.run_id, self.checked.server_name)
        self._keep(ctx, names)
        found = of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, ref.name)
        pausing.pause(ctx, held(ctx, self.old))
        schedules.suspend(ctx, self.old, found, names.made_by)
        ctx.recorder.obligation(rebuild_promise(self.old))
        pausing.stay_paused(ctx, f"Cluster {ref} is made again by recovery")
        if not self.old.gone:
            now = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
            # Done again after a kill: it may be gone already, or have been made again by this very run.
            if now is not None and now["metadata"]["uid"] == self.old.uid:
                self._keep_password(ctx, names)
                self._keep_generated(ctx)
                for number in range(1, self.old.instances + 4):
                    ctx.forget_pod(ref.namespace, f"{ref.name}-{number}")
                ctx.require_lease()
                ctx.kube.delete(k8s.CLUSTER, ref.namespace, ref.name, uid=self.old.uid, propagation="Background")
            wait_gone(ctx, lambda: self._left(ctx), ctx.site.limits.recovery.total_seconds(), ref)
            for promise in promises_on(ctx, k8s.CLUSTER, ref.namespace, ref.name):
                ctx.recorder.settled(promise, "no longer needed", f"Cluster {ref} is gone")
        seconds = time.monotonic() - begun
        ctx.recorder.phase("remove old cluster", at, seconds, "until its object, pods and volumes were gone")
        result = RemovedCluster(
            uid=self.old.uid,
            removed_at=datetime.now(UTC),
            volumes=self.checked.volumes,
            note=names.made_by,
            seconds=seconds,
        )
        ctx.recorder.note(Facts(removed=result.model_dump(mode="json")))
        return result

    def _keep(self, ctx: Context, names: ReplacementNames) -> None:
        """The Cluster's object in a ConfigMap: what is made again is made from it, also by another machine."""
        if ctx.kube.get(k8s.CONFIG_MAP, self.old.ref.namespace, names.made_by) is not None:
            return
        was = as_it_was(ctx, self.old)
        note = replacement.note(names, source=self.old.ref, expires_at=None)
        note["metadata"]["labels"][KEPT_CLUSTER] = self.old.ref.name
        place = {key: was["metadata"][key] for key in ("name", "namespace")}
        note["data"]["cluster"] = json.dumps({"metadata": place | replacement.marks(was), "spec": was["spec"]})
        note["data"]["superuser"] = json.dumps(bool(was["spec"].get("enableSuperuserAccess")))
        ctx.kube.create(note)

    def _keep_password(self, ctx: Context, names: ReplacementNames) -> None:
        """The owner's password in a Secret that outlives the Cluster: CloudNativePG's own dies with it."""
        if has_own_secret(ctx, self.old):
            return
        known = owner_password(ctx, self.old, kept=names.password_secret)
        try:
            ctx.kube.create(replacement.password_secret(names, username=self.old.owner, password=known, stays=True))
        except KubernetesError as error:
            if error.status != 409:  # an earlier attempt of this step has made it
                raise

    def _keep_generated(self, ctx: Context) -> None:
        """The generated CA and application Secret outlive the Cluster: no longer owned by it, they are not deleted with it."""
        ref = self.old.ref
        for name in (f"{ref.name}-{part}" for part in OUTLIVING):
            found = ctx.kube.get(k8s.SECRET, ref.namespace, name)
            owners = (found or {"metadata": {}})["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == self.old.uid for owner in owners):
                ctx.require_lease()
                ctx.kube.patch(k8s.SECRET, ref.namespace, name, {"metadata": {"ownerReferences": None}})

    def _left(self, ctx: Context) -> list[str]:
        """What is still there of the old cluster, by UID: the Cluster, its volumes, and whatever it owns of pods and jobs."""
        ref, uids = self.old.ref, {uid for _, uid in self.checked.volumes}
        cluster = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
        left = [f"Cluster/{ref.name}"] if cluster is not None and cluster["metadata"]["uid"] == self.old.uid else []
        for kind in (k8s.POD, k8s.JOB, k8s.PVC):
            for item in ctx.kube.list(kind, ref.namespace, labels=f"cnpg.io/cluster={ref.name}"):
                owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences") or []}
                if self.old.uid in owners or item["metadata"]["uid"] in uids:
                    left.append(f"{kind.kind}/{item['metadata']['name']}")
        return left

    def verify(self, ctx: Context, result: RemovedCluster) -> None:
        left = [] if self.old.gone else self._left(ctx)
        if left:
            raise VerificationError(
                f"Cluster {self.old.ref} is not gone",
                expected="no object, pod or volume of it",
                observed=", ".join(left),
                todo="Nothing may be made under its name before: the new cluster would take over the old volumes.",
            )


def rebuild_promise(old: OldCluster) -> Obligation:
    """What removing the old cluster promises."""
    return Obligation(
        "Rebuild", old.ref.namespace, old.ref.name, "its Cluster was removed: make it again under this name"
    )


@dataclass(frozen=True)
class CreateUnderOldName(CreateReplacementCluster):
    """Make the cluster again under its old name, by recovery from its archive.

    It reads the old serverName and archives under a new one. Connection strings, Services, Poolers and schedules stay
    as they are; its own pg_hba rejects every client until it is verified. Refused while any volume of the old name is
    left.
    """

    gated: ClassVar[bool] = True
    stays: ClassVar[bool] = True

    def _cluster(
        self, ctx: Context, names: ReplacementNames, secret: str
    ) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Shut to its clients until it is verified: its Services route to it from the first second."""
        cluster, left_out = super()._cluster(ctx, names, secret)
        return access.shut(cluster, ctx.site), left_out

    def names(self, ctx: Context) -> ReplacementNames:
        return ReplacementNames.under_the_old_name(self.old.ref, ctx.run_id, self.server_name)

    def check(self, ctx: Context) -> None:
        super().check(ctx)
        ref = self.old.ref
        found = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
        if found is not None and made_by(found) == ctx.run_id:
            return  # an earlier attempt of this step has made it
        if found is not None:
            raise PreconditionError(
                f"Cluster {ref} exists (UID {found['metadata']['uid']})",
                todo="It must be removed first (RemoveOldCluster), unless another controller has made it: pause that one.",
            )
        claims = claims_of(ctx, self.old)
        if claims:
            raise PreconditionError(
                "; ".join(orphan_fault(self.old, claim) for claim in claims),
                changed=Changed.UNKNOWN,
                todo="Nothing was created. Remove what is left, then resume.",
            )


class Rebuilt(Frozen):
    """The cluster under its old name, in service; schedules that go on; the serverNames that its history is under."""

    name: str
    resumed: tuple[str, ...]
    old_server_name: str
    server_name: str


@dataclass(frozen=True)
class FinishRebuild(Step[Rebuilt]):
    """Finish the rebuild: schedules go on, superuser access as it was.

    From here on the new cluster has base backups of its own. What is under the old serverName is the only way to
    before the cut: it must not be removed while that may be wanted.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    checked: Rebuildable

    def check(self, ctx: Context) -> None:
        found = ctx.cluster_object(self.old.ref)
        phase = found.get("status", {}).get("phase", "")
        if phase != HEALTHY:
            raise PreconditionError(f"Cluster {self.old.ref} is {phase or 'without a phase'!r}", todo="Wait for it.")

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Schedules resumed, superuser access as in the old cluster", harmless=True)

    def do(self, ctx: Context) -> Rebuilt:
        ref = self.old.ref
        names = ReplacementNames.under_the_old_name(ref, ctx.run_id, self.checked.server_name)
        before = recall(ctx, ref.namespace, names.made_by, "superuser")
        ctx.kube.patch(k8s.CLUSTER, ref.namespace, ref.name, {"spec": {"enableSuperuserAccess": bool(before)}})
        remember(ctx, ref.namespace, names.made_by, MADE_AGAIN, True)
        cut = {"now": ref.name, "server_name": names.server_name, "cut_at": show_instant(datetime.now(UTC))}
        ctx.recorder.note(Facts(cut=Cut.model_validate(cut)))
        resumed = schedules.resume(ctx, self.old, names.made_by)
        ctx.recorder.settled(rebuild_promise(self.old), "made again", f"Cluster {ref} is healthy")
        return Rebuilt(
            name=ref.name,
            resumed=tuple(resumed),
            old_server_name=self.old.server_name,
            server_name=names.server_name,
        )

    def verify(self, ctx: Context, result: Rebuilt) -> None:
        asleep = [
            item["metadata"]["name"]
            for item in of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name)
            if item["metadata"]["name"] in result.resumed and item["spec"].get("suspend")
        ]
        if asleep:
            raise VerificationError(
                "schedules are still suspended",
                expected="suspend: false",
                observed=", ".join(asleep),
                todo="Set them going by hand: without them there are no base backups.",
            )


__all__ = [
    "CreateUnderOldName",
    "FinishRebuild",
    "Rebuilt",
    "RemoveOldCluster",
    "RemovedCluster",
]
