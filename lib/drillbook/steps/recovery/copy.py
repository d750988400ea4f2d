"""The recovery copy: made from a pinned base backup, watched until it is up, removed and proven gone."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive import ResolvedTarget
from drillbook.archive.location import SourceArchive
from drillbook.archive.long_term import ChosenBackup
from drillbook.engine.step import Context, Obligation, Plan, Step
from drillbook.errors import Changed, RecoveryFailed, StillRunning, VerificationError
from drillbook.evidence.facts import Facts, Reached
from drillbook.manifests import cleanup
from drillbook.manifests import recovery as manifests
from drillbook.manifests.recovery import Copy
from drillbook.model import BaseBackup, ClusterRef, Effect, Frozen, Instant, show_instant, show_seconds
from drillbook.postgres.recovery_log import RecoveryLog, failed_attempt
from drillbook.profile import Site
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.preflight.old_cluster import OldCluster, as_it_was
from drillbook.steps.preflight.readiness import HEALTHY, SourceCluster
from drillbook.steps.recovery.archive_end import ArchiveEnd
from drillbook.steps.recovery.boundary import ProvenTarget
from drillbook.steps.recovery.copy_objects import copy_objects
from drillbook.steps.recovery.egress import Egress, ways_out
from drillbook.steps.recovery.log_following import Follower
from drillbook.steps.recovery.own_history import own_end

UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"


class RecoveryCopy(Frozen):
    """The copy's Cluster as it was created."""

    ref: ClusterRef
    uid: str
    created_at: Instant
    objects: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [
            ("cluster", str(self.ref)),
            ("UID", self.uid),
            ("created at", show_instant(self.created_at)),
            ("objects", str(len(self.objects))),
        ]


class Recovered(Frozen):
    """How the copy came up. Times in seconds; ``recovery_seconds`` from creation to accepting connections again."""

    ref: ClusterRef
    timeline: int
    stopped: str
    stopped_xid: int
    stopped_at: Instant | None
    last_completed_at: Instant | None
    segments: int
    provision_seconds: float
    fetch_seconds: float
    replay_seconds: float
    promote_seconds: float
    recovery_seconds: float
    log: str
    replicas_seconds: float = 0.0  # until the other instances had joined; 0 for a copy of one
    redo_end: str = (
        ""  # the LSN of the last record replayed: as the log says it, else (timeline 0) by the own history file
    )
    last_segment: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it; what did not happen is left out."""
        stopped = f"{self.stopped} transaction {self.stopped_xid}" if self.stopped else ""
        at = f" of {show_instant(self.stopped_at)}" if stopped and self.stopped_at else ""
        shown = [
            ("cluster", str(self.ref)),
            ("timeline", str(self.timeline)),
            ("stopped", stopped + at),
            ("last commit replayed", show_instant(self.last_completed_at) if self.last_completed_at else ""),
            ("segments replayed", str(self.segments)),
            ("provision", show_seconds(self.provision_seconds)),
            ("fetch", show_seconds(self.fetch_seconds)),
            ("replay", show_seconds(self.replay_seconds)),
            ("promote", show_seconds(self.promote_seconds)),
            ("replicas", show_seconds(self.replicas_seconds) if self.replicas_seconds else ""),
            ("recovery", show_seconds(self.recovery_seconds)),
            ("log", self.log),
        ]
        return [(name, value) for name, value in shown if value]


def source_object(ctx: Context, cluster: SourceCluster) -> dict[str, Any]:
    """The source's Cluster; of one that is being replaced, as it was before this run, or as the profile describes it."""
    return as_it_was(ctx, cluster) if isinstance(cluster, OldCluster) else ctx.cluster_object(cluster.ref)


@dataclass(frozen=True)
class CreateRecoveryCluster(Step[RecoveryCopy]):
    """Create the recovery cluster in the drill namespace, from the pinned base backup.

    It is quarantined before its first start: it can't archive, reads the archive with read-only credentials, and
    runs no subscription and no scheduled job. Database, owner and secret are named so that no password changes.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    cluster: SourceCluster
    backup: BaseBackup
    target: ProvenTarget | ArchiveEnd | ResolvedTarget | RestoreStart | ChosenBackup
    instances: int = 1

    def archive_of(self, ctx: Context) -> SourceArchive:
        """The archive that the copy is recovered from."""
        return ctx.archive

    def site_of(self, ctx: Context) -> Site:
        """The profile that the copy is made by."""
        return ctx.site

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        copy = Copy.named(ctx.site, ctx.run_id, datetime.now(UTC))
        notes = [
            f"in namespace {ctx.site.drill_namespace}; expires after {show_seconds(ctx.site.limits.copy_expires.total_seconds())}"
        ]
        if self.unknown is not None:
            return Plan(summary=f"Cluster {copy.ref.name} (its target is {self.unknown})", notes=tuple(notes))
        ways = ways_out(ctx.kube, ctx.site, self.archive_of(ctx))
        objects, left_out = self._objects(ctx, copy, ways, owner_uid="")
        notes += [f"left out: {name} ({reason})" for name, reason in left_out]
        notes += [f"reaches {what}: {where}" for what, where in ways.said]
        return Plan(summary=f"Cluster {copy.ref}", objects=tuple(objects), notes=tuple(notes))

    def _objects(
        self, ctx: Context, copy: Copy, ways: Egress, owner_uid: str
    ) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        return copy_objects(
            copy,
            ways,
            source=source_object(ctx, self.cluster),
            backup=self.backup,
            target=self.target.target,
            owner_uid=owner_uid,
            instances=self.instances,
            archive=self.archive_of(ctx),
            site=self.site_of(ctx),
        )

    def do(self, ctx: Context) -> RecoveryCopy:
        now = datetime.now(UTC)
        copy = Copy.named(ctx.site, ctx.run_id, now)
        self._remove_earlier(ctx)
        owner = manifests.owner_object(copy, source=self.cluster.ref, expires_at=now + ctx.site.limits.copy_expires)
        ways = ways_out(ctx.kube, ctx.site, self.archive_of(ctx))
        objects, _ = self._objects(ctx, copy, ways, owner_uid="")
        # Everything is tried as a dry run first, so that a refusal leaves nothing behind.
        for item in (owner, *objects):
            ctx.kube.create(item, dry_run=True)
        self._promise(ctx, owner)
        owner_uid = ctx.kube.create(owner)["metadata"]["uid"]
        secret = ctx.kube.secret(ctx.site.sql.secret.namespace, ctx.site.sql.secret.name)
        password = manifests.password_secret(
            copy, username=secret["username"], password=secret["password"], owner_uid=owner_uid
        )
        objects, left_out = self._objects(ctx, copy, ways, owner_uid=owner_uid)
        created_at, created = datetime.now(UTC), dict[str, Any]()
        for item in (password, *objects):
            self._promise(ctx, item)
            created = ctx.kube.create(item)
        names = [f"{item['kind']}/{item['metadata']['name']}" for item in (owner, password, *objects)]
        spec = created["spec"]
        quarantine = {
            "plugins": spec.get("plugins", []),
            "backup": spec.get("backup"),
            "managed": spec.get("managed"),
            "namespace": copy.ref.namespace,
            "left_out": left_out,
            "reaches": [f"{what}: {where}" for what, where in ways.said],
        }
        ctx.recorder.note(Facts(quarantine=quarantine))
        found = RecoveryCopy(
            ref=copy.ref,
            uid=created["metadata"]["uid"],
            created_at=created_at,
            objects=tuple(names),
            left_out=tuple(left_out),
        )
        seen = {
            "image": spec.get("imageName", ""),
            "storage": spec.get("storage", {}),
            "resources": spec.get("resources", {}),
        }
        ctx.recorder.note(Facts(copy_=found.model_dump(mode="json") | seen))
        return found

    def _remove_earlier(self, ctx: Context) -> None:
        """One copy a run: what an attempt that was killed here has made, or one to another target, goes first."""
        if cleanup.left_of(ctx.kube, ctx.site.drill_namespace, ctx.run_id):
            remove_copy(ctx)

    def _promise(self, ctx: Context, item: dict[str, Any]) -> None:
        metadata = item["metadata"]
        ctx.recorder.obligation(Obligation(item["kind"], metadata["namespace"], metadata["name"], "made by this run"))

    def verify(self, ctx: Context, result: RecoveryCopy) -> None:
        spec = ctx.cluster_object(result.ref)["spec"]
        archiving = [name for name in ("plugins", "backup") if spec.get(name)]
        if archiving:
            raise VerificationError(
                f"the copy {result.ref} could archive",
                expected="no spec.plugins and no spec.backup",
                observed=", ".join(archiving),
                todo="Remove it with `drillbook cleanup` at once: it would write to the archive.",
            )


@dataclass(frozen=True)
class WaitForRecovery(Step[Recovered]):
    """Wait for fetch, replay and promotion, and keep the job's log.

    CloudNativePG deletes the job, and its log with it, once the cluster is healthy. A failed attempt ends the wait at
    once: the job's own retries would repeat it for minutes.
    """

    about: ClassVar[str] = ""
    """Set before the names of phases and of the log, where a run recovers more than one cluster."""
    cluster: SourceCluster
    copy: RecoveryCopy

    def noted(self, reached: Reached) -> Facts:
        """What the run has learned by it."""
        return Facts(reached=reached)

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"Wait at most {show_seconds(ctx.site.limits.recovery.total_seconds())} for the copy; keep the job's log"
        )

    def do(self, ctx: Context) -> Recovered:
        job = f"{self.copy.ref.name}-1-full-recovery"
        follower = Follower(ctx, self.copy.ref.namespace, job)
        try:
            primary_at = self._wait(ctx, job, follower)
        finally:
            log_name = follower.keep(ctx, f"{self.about}recovery.log")
        return self._result(ctx, follower.log, log_name, primary_at)

    def _wait(self, ctx: Context, job: str, follower: Follower) -> datetime:
        """Until the copy is healthy; the instant at which its primary was first seen to be ready."""
        primary_at: datetime | None = None
        started = time.monotonic()
        limit = ctx.site.limits.recovery.total_seconds()
        while True:
            follower.step()
            cluster = ctx.kube.get(k8s.CLUSTER, self.copy.ref.namespace, self.copy.ref.name) or {}
            status = cluster.get("status", {})
            if primary_at is None and int(status.get("readyInstances") or 0) > 0:
                primary_at = datetime.now(UTC)
            if status.get("phase") == HEALTHY:
                return primary_at or datetime.now(UTC)
            found = ctx.kube.get(k8s.JOB, self.copy.ref.namespace, job)
            first = ctx.kube.get(k8s.POD, self.copy.ref.namespace, f"{self.copy.ref.name}-1") if found is None else None
            if self._failed(found, first) or status.get("phase") == UNRECOVERABLE:
                follower.finish()
                words = follower.cause() or status.get("phaseReason") or "it left no message"
                raise RecoveryFailed(
                    f"the recovery of {self.copy.ref} failed: {words}",
                    changed=Changed.DONE,
                    todo="Read the recovery log kept with this run; the copy is removed by this run's clean-up.",
                )
            waited = time.monotonic() - started
            if waited > limit:
                raise StillRunning(
                    f"{self.copy.ref} was not up within {limit:.0f} s; last seen: {status.get('phase') or 'no phase'}, {follower.log.doing}",
                    todo="It goes on by itself. Read the recovery log kept with this run; raise limits.recovery if the archive is large "
                    "(a run that is resumed takes the new limit, and waits on).",
                )
            rows = (
                ("phase", status.get("phase") or "none yet"),
                ("now", follower.log.doing),
                ("waited", f"{waited:.0f} s"),
            )
            ctx.recorder.progress("recovering", rows=rows)
            ctx.pause(0.5)

    def _failed(self, job: dict[str, Any] | None, first: dict[str, Any] | None) -> bool:
        """Whether there is nothing left to wait for."""
        return failed_attempt(job, first)

    def _result(self, ctx: Context, log: RecoveryLog, log_name: str, primary_at: datetime) -> Recovered:
        healthy_at = datetime.now(UTC)
        created = self.copy.created_at
        several = int(ctx.cluster_object(self.copy.ref)["spec"].get("instances", 1)) > 1
        marks = [created, log.first_at or created]
        ends = (primary_at, healthy_at) if several else (healthy_at,)
        for mark in (log.server_started_at, log.redo_ended_at or log.ready_at, *ends):
            marks.append(max(mark or marks[-1], marks[-1]))
        seconds = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(marks)]
        redo_end, last_segment = log.redo_end, log.last_segment
        if not log.timeline and (own := own_end(ctx, self.copy.ref)):  # the log was not read to its end
            redo_end, last_segment = str(own[0]), max(last_segment, own[1])
        how = "PostgreSQL's own log records; ends when the Cluster is healthy"
        for name, start, length in zip(
            ("provision", "fetch", "replay", "promote", "replicas"), marks, seconds, strict=False
        ):
            ctx.recorder.phase(f"{self.about}{name}", start, length, how)
        reached = Reached.model_validate(
            {
                "timeline": log.timeline,
                "stopped": log.stopped,
                "stopped_xid": log.stopped_xid,
                "stopped_at": show_instant(log.stopped_at) if log.stopped_at else None,
                "last_completed_at": show_instant(log.last_completed_at) if log.last_completed_at else None,
                "segments": log.segments,
                "last_segment": last_segment,
            }
        )
        ctx.recorder.note(self.noted(reached))
        return Recovered(
            ref=self.copy.ref,
            timeline=log.timeline,
            stopped=log.stopped,
            stopped_xid=log.stopped_xid,
            stopped_at=log.stopped_at,
            last_completed_at=log.last_completed_at,
            segments=log.segments,
            provision_seconds=seconds[0],
            fetch_seconds=seconds[1],
            replay_seconds=seconds[2],
            promote_seconds=seconds[3],
            recovery_seconds=(healthy_at - created).total_seconds(),
            log=log_name,
            replicas_seconds=seconds[4] if several else 0.0,
            redo_end=redo_end,
            last_segment=last_segment,
        )

    def verify(self, ctx: Context, result: Recovered) -> None:
        with ctx.copy(result.ref, "postgres", read_only=True) as db:
            facts = db.ask_one("server_facts")
        if facts["in_recovery"]:
            raise VerificationError(
                "the copy is still in recovery",
                expected="promoted",
                observed="in recovery",
                todo="Read the recovery log kept with this run.",
            )


class Removal(Frozen):
    """What was removed, and how it was seen to be gone."""

    removed: tuple[tuple[str, str], ...]
    seconds: float

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has said it."""


def remove_copy(ctx: Context) -> list[cleanup.Removed]:
    """Remove what the run made in the drill namespace, prove it gone, and settle its promises. Safe to repeat."""
    ctx.forget_pods(ctx.site.drill_namespace)
    removed = cleanup.remove_run(
        ctx.kube,
        ctx.site.drill_namespace,
        ctx.run_id,
        timeout_seconds=ctx.site.limits.step.total_seconds(),
        say=ctx.recorder.progress,
    )
    for item in removed:
        ctx.recorder.settled(Obligation(item.kind, item.namespace, item.name, ""), "removed", item.proof)
    return removed


@dataclass(frozen=True)
class RemoveRecoveryCluster(Step[Removal]):
    """Remove the copy, and prove it gone with its volume.

    It settles what this run promised when it made it: found by this run's label and UID, so it needs no gate.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    settles: ClassVar[bool] = True
    copy: RecoveryCopy

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"Remove every object labelled {manifests.RUN_LABEL}={ctx.run_id} in {ctx.site.drill_namespace}",
            notes=("Cluster first, then its pods, jobs and volumes are waited for, then ObjectStore and Secrets",),
        )

    def do(self, ctx: Context) -> Removal:
        started = time.monotonic()
        at = datetime.now(UTC)
        removed = remove_copy(ctx)
        seconds = time.monotonic() - started
        ctx.recorder.phase("remove", at, seconds, "until every object of the copy was gone")
        return Removal(removed=tuple((item.id, item.proof) for item in removed), seconds=seconds)

    def verify(self, ctx: Context, result: Removal) -> None:
        left = cleanup.left_of(ctx.kube, ctx.site.drill_namespace, ctx.run_id)
        if left:
            raise VerificationError(
                "objects of this run are still there",
                expected="none",
                observed=", ".join(f"{item['kind']}/{item['metadata']['name']}" for item in left),
                todo="Run `drillbook cleanup`.",
            )


__all__ = ["CreateRecoveryCluster", "Recovered", "RecoveryCopy", "Removal", "RemoveRecoveryCluster", "WaitForRecovery"]
