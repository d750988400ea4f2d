"""Deleting the cluster that a full restore, or its undo, left fenced: that one Cluster and its volumes, and nothing else.

Which one it is follows from what the run noted on the cluster. After this there is only its archive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import Action, Context, Plan, Step
from drillbook.errors import KubernetesError, NotReady, PreconditionError, VerificationError
from drillbook.manifests.replacement import MADE_BY
from drillbook.model import Check, ClusterRef, Effect, Frozen, Instant, Verdict
from drillbook.steps.cutover.application import addressed
from drillbook.steps.cutover.rebuild import wait_gone
from drillbook.steps.cutover.rebuild_check import claims_of
from drillbook.steps.cutover.repoint import FENCE, HANDED_OVER
from drillbook.steps.cutover.service import of_cluster
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import is_fenced
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.preflight.readiness import HEALTHY, Rights, denied
from drillbook.steps.recovery.replacement import made_by
from drillbook.steps.undo.full_restore import UNDONE_BY

RIGHTS: Rights = (
    *((verb, k8s.CLUSTER, "") for verb in ("get", "list", "delete")),
    *(
        ("list", kind, "")
        for kind in (k8s.CONFIG_MAP, k8s.PVC, k8s.POD, k8s.JOB, k8s.POOLER, k8s.BACKUP, k8s.SCHEDULED_BACKUP)
    ),
)
GENERATED = ("app", "superuser", "ca", "server", "replication")
"""What the names of the Secrets end in that CloudNativePG generates for a Cluster, and that go with it."""


class KeptCluster(Frozen):
    """The cluster that was put aside, and ``serving``, the one in service; ``volumes`` as (claim, UID)."""

    run: str
    kept: OldCluster
    serving: ClusterRef
    serving_uid: str
    volumes: tuple[tuple[str, str], ...]
    schedules: tuple[str, ...]


def note_of(ctx: Context, of_run: str) -> dict[str, Any] | None:
    """The note of the restore that ``of_run`` made or undid; None if there isn't one."""
    notes = ctx.kube.list(k8s.CONFIG_MAP, ctx.site.cluster.namespace, labels=MADE_BY)
    return next((item for item in notes if HANDED_OVER in (item.get("data") or {}) and of_run in runs_of(item)), None)


def runs_of(note: Mapping[str, Any]) -> set[str]:
    """The run that made a restore's note, and the one that undid it."""
    data = note.get("data") or {}
    undone = {str(json.loads(data[UNDONE_BY]))} if UNDONE_BY in data else set()
    return undone | {str((note["metadata"].get("labels") or {}).get(MADE_BY, ""))} - {""}


def kept_cluster(ctx: Context, note: Mapping[str, Any]) -> KeptCluster:
    """The cluster that the note's restore, or its undo, put aside; NotReady with all faults unless nothing relies on it."""
    data, namespace = note["data"], ctx.site.cluster.namespace
    old_name, new_name = data["source"].rpartition("/")[2], data["replacement"]
    kept_name, serving_name = (new_name, old_name) if UNDONE_BY in data else (old_name, new_name)
    where = f"Cluster {namespace}/{kept_name}, which run {data['run']} put aside"
    missing = [f"missing right: {right} (deploy/recover/, deploy/replace/)" for right in denied(ctx, RIGHTS, namespace)]
    if missing:
        raise NotReady(missing, where=where)
    kept, serving = (ctx.kube.get(k8s.CLUSTER, namespace, name) for name in (kept_name, serving_name))
    if kept is None:
        raise NotReady([f"Cluster {namespace}/{kept_name} no longer exists"], where=where)
    faults = _not_aside(ctx, kept, serving, serving_name, _uid_of(data, kept_name), by_label=UNDONE_BY in data)
    if serving is not None:
        faults += _relied_on(ctx, kept, serving)
    faults += _snapshots_that_would_go(ctx, kept)
    faults += pausing.faults(ctx, [kept | {"kind": k8s.CLUSTER.kind}])
    if faults or serving is None:
        raise NotReady(faults, where=where)
    aside = _bare_cluster(kept)
    return KeptCluster(
        run=data["run"],
        kept=aside,
        serving=ClusterRef(namespace=namespace, name=serving_name),
        serving_uid=serving["metadata"]["uid"],
        volumes=tuple((claim["metadata"]["name"], claim["metadata"]["uid"]) for claim in claims_of(ctx, aside)),
        schedules=tuple(item["metadata"]["name"] for item in of_cluster(ctx, k8s.SCHEDULED_BACKUP, aside, kept_name)),
    )


def _uid_of(data: Mapping[str, str], name: str) -> str:
    """The UID of the old cluster, as the promise to lift its fence knows it; "" if that was fenced by somebody else."""
    fence = json.loads(data.get(FENCE) or "[]")
    return next((str(one["uid"]) for one in fence if one.get("name") == name and one.get("uid")), "")


def _bare_cluster(item: dict[str, Any]) -> OldCluster:
    """The Cluster that is put aside: its archive is not asked for, which may be one that this profile does not know any more."""
    metadata, status = item["metadata"], item.get("status") or {}
    return OldCluster(
        ref={"namespace": metadata["namespace"], "name": metadata["name"]},  # type: ignore[arg-type]
        uid=metadata["uid"],
        system_id=str(status.get("systemID", "")),
        timeline=int(status.get("timelineID") or 0),
        primary=str(status.get("currentPrimary", "")),
        server_name="",
        location="",
        server_version=0,
        image="",
        storage_class="",
        method="",
        instances=int(item["spec"].get("instances") or 1),
        database="",
        owner="",
        secret="",
    )


def _not_aside(
    ctx: Context, kept: dict[str, Any], serving: dict[str, Any] | None, serving_name: str, uid: str, *, by_label: bool
) -> list[str]:
    """Why the cluster is not one that was put aside, or the other one does not serve in its place."""
    namespace, name = kept["metadata"]["namespace"], kept["metadata"]["name"]
    faults = []
    if uid and uid != kept["metadata"]["uid"]:
        faults.append(
            f"Cluster {namespace}/{name} is another object than the one that was put aside (UID {kept['metadata']['uid']}, noted was {uid})"
        )
    if not uid and not (by_label and made_by(kept)):
        faults.append(
            f"nothing says that Cluster {namespace}/{name} is the object that was put aside (no label, no UID in the note): delete it by hand"
        )
    if not is_fenced(kept):
        faults.append(f"Cluster {namespace}/{name} is not fenced: it may be in service")
    if ctx.site.cluster.name != serving_name:
        faults.append(
            f"the profile names Cluster {ctx.site.cluster.name}, and {serving_name} is in service: apply logs/git.patch.yaml of the run to the profile first"
        )
    if serving is None:
        faults.append(f"Cluster {namespace}/{serving_name}, which is in service in its place, does not exist")
    elif is_fenced(serving) or (phase := (serving.get("status") or {}).get("phase", "")) != HEALTHY:
        faults.append(
            f"Cluster {namespace}/{serving_name} is {'fenced' if is_fenced(serving) else phase or 'without a phase'}: it must serve first"
        )
    return faults


def _relied_on(ctx: Context, kept: dict[str, Any], serving: dict[str, Any]) -> list[str]:
    """Who still uses the cluster, or a Secret that goes with it."""
    namespace, name, uid = kept["metadata"]["namespace"], kept["metadata"]["name"], kept["metadata"]["uid"]
    found, _ = addressed(ctx, name)
    faults = [f"{one.where} names a service of {name}" for one in found if one.services_of(name)]
    poolers = ctx.kube.list(k8s.POOLER, namespace)
    faults += [
        f"Pooler {namespace}/{item['metadata']['name']} is over {name}"
        for item in poolers
        if item["spec"]["cluster"]["name"] == name
    ]
    going = [
        secret
        for secret in (f"{name}-{ending}" for ending in GENERATED)
        if uid in _owners(ctx.kube.get(k8s.SECRET, namespace, secret) or {"metadata": {}})
    ]
    users = [
        (f"Deployment {one.app.namespace}/{one.app.deployment}", one.deployment)
        for one in found
        if one.app.namespace == namespace
    ]
    users += [(f"Cluster {namespace}/{serving['metadata']['name']}", serving)]
    users += [
        (f"Pooler {namespace}/{item['metadata']['name']}", item)
        for item in poolers
        if item["spec"]["cluster"]["name"] != name
    ]
    return faults + [
        f"{who} refers to Secret {namespace}/{secret}, which CloudNativePG generated for {name} and which would go with it: give it one of its own first"
        for who, item in users
        for secret in going
        if secret in _strings(item["spec"])
    ]


def _snapshots_that_would_go(ctx: Context, kept: dict[str, Any]) -> list[str]:
    """Volume snapshots that Kubernetes would collect with the Cluster, or with a Backup that goes with it."""
    namespace, uid = kept["metadata"]["namespace"], kept["metadata"]["uid"]
    try:
        snapshots = ctx.kube.list(k8s.VOLUME_SNAPSHOT, namespace)
    except KubernetesError as error:
        if error.status == 404:  # the cluster has no snapshots at all
            return []
        return [
            f"VolumeSnapshots of {namespace} can't be read: {error.what}. Some may be owned by the Cluster, and go with it"
        ]
    owners = {uid} | {item["metadata"]["uid"] for item in ctx.kube.list(k8s.BACKUP, namespace) if uid in _owners(item)}
    return [
        f"VolumeSnapshot {namespace}/{item['metadata']['name']} is owned by the Cluster (or by its Backup) and would be deleted with it: "
        f'kubectl patch volumesnapshot {item["metadata"]["name"]} -n {namespace} --type=merge -p \'{{"metadata":{{"ownerReferences":null}}}}\''
        for item in snapshots
        if owners & _owners(item)
    ]


def _owners(item: Mapping[str, Any]) -> set[str]:
    return {str(owner["uid"]) for owner in item["metadata"].get("ownerReferences") or ()}


def _strings(value: Any) -> Iterator[str]:
    """Every text in an object."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


class DroppedCluster(Frozen):
    """The cluster that is gone, with its volumes."""

    cluster: str
    volumes: tuple[str, ...]
    gone_at: Instant


@dataclass(frozen=True)
class DropKeptCluster(Step[DroppedCluster]):
    """Delete the cluster that was put aside, by its UID and the version in which it was found fenced.

    Its pods and volumes go with it. Its archive, volume snapshots and the other cluster are not touched.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    found: KeptCluster

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        ref, serving = self.found.kept.ref, self.found.serving
        touches = [Action("delete", "Cluster", ref.namespace, ref.name, self.found.kept.uid)]
        touches += [Action("delete", "PersistentVolumeClaim", ref.namespace, *pair) for pair in self.found.volumes]
        return Plan(
            summary=f"Delete Cluster {ref} by its UID, wait until its pods and volumes are gone",
            touches=tuple(touches),
            notes=(
                f"{serving} serves, and stays",
                "its archive stays, and its volume snapshots",
                *(f"ScheduledBackup {name} stays, suspended: delete it by hand" for name in self.found.schedules),
            ),
            lost=(f"Cluster {ref} with {len(self.found.volumes)} volumes: what only it holds, and the way back to it",),
        )

    def do(self, ctx: Context) -> DroppedCluster:
        ref = self.found.kept.ref
        for number in range(1, self.found.kept.instances + 4):
            ctx.forget_pod(ref.namespace, f"{ref.name}-{number}")
        self._delete(ctx)
        wait_gone(ctx, lambda: self._left(ctx), ctx.site.limits.step.total_seconds(), ref)
        return DroppedCluster(
            cluster=str(ref), volumes=tuple(name for name, _ in self.found.volumes), gone_at=datetime.now(UTC)
        )

    def _delete(self, ctx: Context) -> None:
        """Delete the very object that was looked at last: one that was changed since is looked at again."""
        ref, uid = self.found.kept.ref, self.found.kept.uid
        for _ in range(10):
            now = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
            if now is None or now["metadata"]["uid"] != uid or now["metadata"].get("deletionTimestamp"):
                return  # gone, or going: done again after it was interrupted
            if not is_fenced(now):
                raise PreconditionError(
                    f"Cluster {ref} is not fenced any more: somebody has put it into service",
                    todo="Nothing was deleted. Find out who.",
                )
            ctx.require_lease()
            try:
                ctx.kube.delete(
                    k8s.CLUSTER, ref.namespace, ref.name, uid=uid, resource_version=now["metadata"]["resourceVersion"]
                )
            except KubernetesError as error:
                if error.status != 409:
                    raise
            else:
                return
        raise PreconditionError(
            f"Cluster {ref} is being changed all the time", todo="Nothing was deleted. Look who does it, then resume."
        )

    def _left(self, ctx: Context) -> list[str]:
        """What is still there of it, by UID: the Cluster, its volumes, and what it owns of pods and jobs."""
        ref, uid = self.found.kept.ref, self.found.kept.uid
        uids = {uid, *(claim for _, claim in self.found.volumes)}
        cluster = ctx.kube.get(k8s.CLUSTER, ref.namespace, ref.name)
        left = [f"Cluster/{ref.name}"] if cluster is not None and cluster["metadata"]["uid"] == uid else []
        for kind in (k8s.POD, k8s.JOB, k8s.PVC):
            found = ctx.kube.list(kind, ref.namespace, labels=f"cnpg.io/cluster={ref.name}")
            left += [
                f"{kind.kind}/{item['metadata']['name']}"
                for item in found
                if item["metadata"]["uid"] in uids or uid in _owners(item)
            ]
        return left

    def verify(self, ctx: Context, result: DroppedCluster) -> None:
        if left := self._left(ctx):
            raise VerificationError(
                f"Cluster {result.cluster} is not gone",
                expected="no object, pod or volume of it",
                observed=", ".join(left),
                todo="Find out what keeps it.",
            )
        serving = self.found.serving
        now = ctx.kube.get(k8s.CLUSTER, serving.namespace, serving.name)
        if (
            now is None
            or now["metadata"]["uid"] != self.found.serving_uid
            or (now.get("status") or {}).get("phase") != HEALTHY
        ):
            raise VerificationError(
                f"Cluster {serving} is not as it was",
                expected=HEALTHY,
                observed=str((now or {}).get("status", {}).get("phase", "gone")),
                todo="Look at it before anything else.",
            )
        wanted = f"no Cluster {result.cluster}, {serving} {HEALTHY}"
        proves = "the cluster that was put aside is gone, and the one in service is not touched"
        ctx.recorder.check(
            Check(name="dropped", proves=proves, verdict=Verdict.VERIFIED, expected=wanted, observed=wanted)
        )


__all__ = ["DropKeptCluster", "DroppedCluster", "KeptCluster", "kept_cluster", "note_of", "runs_of"]
