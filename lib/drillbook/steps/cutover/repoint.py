"""Clients follow to the replacement: Poolers, the applications' addresses, the schedules; the old cluster stays fenced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine import undo as restoring
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import KubernetesError, NotReady, PreconditionError, VerificationError
from drillbook.evidence.facts import Cut, Facts
from drillbook.kube import connection_env
from drillbook.manifests.replacement import ReplacementNames
from drillbook.model import Effect, Frozen, show_instant
from drillbook.steps.archive.losses import of_every_tenant
from drillbook.steps.cutover import schedules
from drillbook.steps.cutover.application import (
    Addressed,
    addressed,
    promises,
    readdress,
)
from drillbook.steps.cutover.service import adopt, bare, of_cluster, recall, remember
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import promises_on
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.recovery.replacement import ReplacementCluster, require_new_server_name

POOLERS, FENCE, HANDED_OVER = "poolers", "fence", "handed_over"
"""What the run's ConfigMap keeps for the way back: the Poolers, what lifts the old cluster's fence, and how far the
replacement's transactions had come when the first client could reach it."""


class Repointable(Frozen):
    """What can be pointed at a replacement by this run, in words, and the tenants whose address is theirs to change."""

    server_name: str
    applications: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class CheckRepoint(Step[Repointable]):
    """Check that the applications can follow to another name.

    Where each one's address is, whether it names one of the old cluster's services, and who would put it back; a
    serverName that was never used: all faults at once. Tenants whose address the profile does not know are named: they
    change it themselves.
    """

    old: OldCluster

    def do(self, ctx: Context) -> Repointable:
        names = ReplacementNames.for_new_cluster(self.old.ref, ctx.run_id)
        if faults := follow_faults(ctx, self.old, names):
            raise NotReady(faults, where=f"a replacement of {self.old.ref}")
        found, others = addressed(ctx, self.old.ref.name, names.ref.name)
        return Repointable(
            server_name=names.server_name, applications=tuple(one.where for one in found), others=tuple(others)
        )


class Repointed(Frozen):
    """What points at the other cluster now, in words; ``others`` are the tenants whose address is theirs to change."""

    now: str
    changed: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepointPoolers(Step[Repointed]):
    """Recreate the Poolers, with the same names, over the replacement.

    A Pooler's Cluster can't be changed. Its Service has the Pooler's name, so clients keep their address; their
    connections end with the old pods.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()
        pausing.require_free(ctx, of_cluster(ctx, k8s.POOLER, self.old, self.old.ref.name))

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        known = known_poolers(ctx, self.old, self.replacement)
        namespace = self.old.ref.namespace
        touches, lost = of_every_tenant(ctx, self.old.ref)
        return Plan(
            summary=f"{len(known)} Poolers deleted and created again over {self.replacement.ref.name}",
            objects=tuple(over(item, self.replacement.ref.name) for item in known),
            touches=(*(Action("recreate", "Pooler", namespace, item["metadata"]["name"]) for item in known), *touches),
            lost=(*(f"the connections of Pooler {item['metadata']['name']}" for item in known), *lost),
            harmless=not known and not lost,
        )

    def do(self, ctx: Context) -> Repointed:
        adopt(ctx, self.replacement)
        self._note_for_the_way_back(ctx)
        known = known_poolers(ctx, self.old, self.replacement)
        pausing.pause(ctx, of_cluster(ctx, k8s.POOLER, self.old, self.old.ref.name))
        remember(ctx, self.old.ref.namespace, self.replacement.note, POOLERS, known)
        for item in known:
            ctx.recorder.obligation(pooler_promise(self.old, item["metadata"]["name"], as_it_was=item))
            recreate(ctx, over(item, self.replacement.ref.name))
        return Repointed(now=self.replacement.ref.name, changed=tuple(item["metadata"]["name"] for item in known))

    def _note_for_the_way_back(self, ctx: Context) -> None:
        """Before the first client can reach the replacement: what an undo needs, kept on the cluster itself."""
        ref = self.replacement.ref
        fence = promises_on(ctx, k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        remember(ctx, ref.namespace, self.replacement.note, FENCE, [promise.undo for promise in fence])
        with ctx.copy(ref, "postgres", read_only=True) as db:
            now = db.ask_one("wal_position")
        handed = {"at": show_instant(datetime.now(UTC)), "next_xid": int(now["next_xid"])}
        remember(ctx, ref.namespace, self.replacement.note, HANDED_OVER, handed)

    def verify(self, ctx: Context, result: Repointed) -> None:
        wrong = [name for name in result.changed if _pooler_over(ctx, self.old, name) != self.replacement.ref.name]
        if wrong:
            raise VerificationError(
                "Poolers are not over the replacement",
                expected=self.replacement.ref.name,
                observed=", ".join(f"{name}: {_pooler_over(ctx, self.old, name) or 'gone'}" for name in wrong),
                todo="Another controller has made them again: pause it, then do this step again.",
            )


def known_poolers(ctx: Context, old: OldCluster, replacement: ReplacementCluster) -> list[dict[str, Any]]:
    """The Poolers that stood over the old cluster when this was first asked, as they were before this run."""
    kept: list[dict[str, Any]] | None = recall(ctx, old.ref.namespace, replacement.note, POOLERS)
    if kept is not None:
        return kept
    return [bare(restoring.before(ctx, item)) for item in of_cluster(ctx, k8s.POOLER, old, old.ref.name)]


def _pooler_over(ctx: Context, old: OldCluster, name: str) -> str:
    found = ctx.kube.get(k8s.POOLER, old.ref.namespace, name)
    return str(found["spec"]["cluster"]["name"]) if found else ""


def over(item: dict[str, Any], cluster: str) -> dict[str, Any]:
    """The same Pooler over another Cluster, not paused."""
    bouncer = {key: value for key, value in item["spec"].get("pgbouncer", {}).items() if key != "paused"}
    return bare(item, cluster={"name": cluster}, pgbouncer=bouncer)


def recreate(ctx: Context, wanted: dict[str, Any]) -> None:
    """Replace the Pooler of this name, and wait until it is active; safe to repeat."""
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    limit = ctx.site.limits.step.total_seconds()
    found = ctx.kube.get(k8s.POOLER, namespace, name)
    if found is not None and found["spec"]["cluster"] != wanted["spec"]["cluster"]:
        uid = found["metadata"]["uid"]
        ctx.require_lease()
        ctx.kube.delete(k8s.POOLER, namespace, name, uid=uid, propagation="Foreground")
        for kind in (
            k8s.POOLER,
            k8s.DEPLOYMENT,
            k8s.SERVICE,
        ):  # what it owned must be gone before its name is used again
            ctx.kube.wait(
                kind,
                namespace,
                name,
                lambda item, owner=uid: _not_of(item, owner),  # type: ignore[misc]
                timeout_seconds=limit,
                what=f"{kind.kind} {name} of the old Pooler to be gone",
            )
    try:
        ctx.kube.create(wanted)
    except KubernetesError as error:
        if error.status != 409:
            raise
    ctx.kube.wait(
        k8s.POOLER, namespace, name, _is_active, timeout_seconds=limit, what=f"Pooler {namespace}/{name} to be active"
    )


def _not_of(item: dict[str, Any] | None, uid: str) -> bool:
    if item is None:
        return True
    owners = [owner["uid"] for owner in item["metadata"].get("ownerReferences") or []]
    return item["metadata"]["uid"] != uid and uid not in owners


def _is_active(found: dict[str, Any] | None) -> bool:
    """Active since CloudNativePG 1.30; before that there is no phase, and as many instances as asked must do."""
    status = (found or {}).get("status", {})
    if "phase" in status:
        return bool(status["phase"] == "active")
    return found is not None and int(status.get("instances") or 0) >= int(found["spec"].get("instances", 1))


def pooler_promise(old: OldCluster, name: str, *, as_it_was: dict[str, Any] | None = None) -> Obligation:
    """What making a new Pooler promises: to make it again as it was, unless the cut is kept."""
    place = {"kind": "Pooler", "namespace": old.ref.namespace, "name": name}
    undo = {"verb": "recreate", **place, "object": as_it_was} if as_it_was else None
    what = f"over {old.ref.name} again, unless the replacement is in service"
    return Obligation("Pooler", old.ref.namespace, name, what, undo=undo)


@dataclass(frozen=True)
class RepointApplication(Step[Repointed]):
    """Point the applications at the replacement.

    In the address that its Deployment has, or the Secret or ConfigMap that it refers to, the old cluster's services are
    replaced by the new one's; user, password and database stay as they are. The pods are replaced.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        found, _ = addressed(ctx, self.old.ref.name, self.replacement.ref.name)
        for one in found:
            require_known_address(one, self.old.ref.name, self.replacement.ref.name)
        pausing.require_free(ctx, [item for one in found for item in one.objects])

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        old, new = self.old.ref.name, self.replacement.ref.name
        found, others = addressed(ctx, old, new)
        notes = [line for one in found for line in one.listed(old, new)]
        return Plan(
            summary=f"{len(found)} applications pointed at {new}",
            notes=(*notes, *(f"not ours to change: {text}" for text in others)),
            touches=pausing.touches(ctx, [item for one in found for item in one.objects])
            + tuple(
                Action(
                    f"point at {new}",
                    "Deployment",
                    one.app.namespace,
                    one.app.deployment,
                    one.deployment["metadata"]["uid"],
                )
                for one in found
            ),
            lost=(f"every write on {old} that {new} does not hold, for the application",) if found else (),
            harmless=not found,
        )

    def do(self, ctx: Context) -> Repointed:
        adopt(ctx, self.replacement)
        old, new = self.old.ref.name, self.replacement.ref.name
        found, others = addressed(ctx, old, new)
        changed = []
        for one in found:
            if not one.services_of(old) and not one.services_of(new):
                continue  # through its Pooler, which was created again under its name
            pausing.pause(ctx, one.objects)
            readdress(ctx, one, old, new)
            changed.append(one.where)
        return Repointed(now=new, changed=tuple(changed), others=tuple(others))

    def verify(self, ctx: Context, result: Repointed) -> None:
        require_addressed_to(ctx, self.old.ref.name, result.now)


def require_known_address(one: Addressed, old: str, new: str) -> None:
    """Raise unless the address names a service of one of the clusters, or the profile's Pooler."""
    if one.services_of(old) or one.services_of(new):
        return
    if one.app.pooler and any(one.app.pooler in place.value for place in one.places):
        return
    raise PreconditionError(
        f"{one.where} names no service of Cluster {old} ({', '.join(f'{old}-{kind}' for kind in connection_env.SERVICES)})"
        + (f" and not Pooler {one.app.pooler}" if one.app.pooler else ""),
        todo="Check address_variable and pooler in the profile, and by what name the application reaches its database.",
    )


def follow_faults(ctx: Context, old: OldCluster, names: ReplacementNames) -> list[str]:
    """What keeps the applications from following to a replacement of these names, all of it at once. Changes nothing."""
    faults: list[str] = []
    found, _ = addressed(ctx, old.ref.name, names.ref.name)
    for check in (
        partial(require_new_server_name, ctx, names.server_name),
        *(partial(require_known_address, one, old.ref.name, names.ref.name) for one in found),
    ):
        try:
            check()
        except PreconditionError as error:
            faults.append(f"{error.what}. {error.todo}")
    # Old and new value of what is changed are kept in the journal, which may hold no secret.
    faults += [
        f"Deployment {one.app.namespace}/{one.app.deployment} itself holds a secret, in {', '.join(held)}: move it to a "
        "Secret that the Deployment refers to, or take recover-full-restore-in-place, which changes no address"
        for one in found
        if any(place.kind == "Deployment" for place in one.places)
        and (held := connection_env.literal_secrets(one.deployment))
    ]
    others = [item for kind in (k8s.POOLER, k8s.SCHEDULED_BACKUP) for item in of_cluster(ctx, kind, old, old.ref.name)]
    return faults + pausing.faults(ctx, [*(item for one in found for item in one.objects), *others])


def require_addressed_to(ctx: Context, other: str, cluster: str) -> None:
    """Raise if an application still has an address of Cluster ``other``."""
    found, _ = addressed(ctx, other)
    wrong = [one.where for one in found if one.services_of(other)]
    if wrong:
        raise VerificationError(
            f"an application is not pointed at {cluster}",
            expected=f"services of {cluster}",
            observed=f"still {other}: {', '.join(wrong)}",
            todo="A reconciler (Argo CD, Flux, Helm) has put the address back: pause it, or change it in Git first.",
        )


@dataclass(frozen=True)
class KeepReplacement(Step[Repointed]):
    """Keep the replacement: the cut stands, and what was promised to be undone is not.

    The superuser's network login, switched on for the checks, is as it was in the old cluster. The old cluster stays
    fenced, with its volumes, until somebody removes it.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Superuser access as in the old cluster; the promises to go back are settled")

    def do(self, ctx: Context) -> Repointed:
        adopt(ctx, self.replacement)
        pausing.stay_paused(ctx, f"Cluster {self.replacement.ref} is in service in place of {self.old.ref.name}")
        ref, proof = self.replacement.ref, f"Cluster {self.replacement.ref} is in service"
        before = recall(ctx, ref.namespace, self.replacement.note, "superuser")
        fence = promises_on(ctx, k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        remember(ctx, ref.namespace, self.replacement.note, FENCE, [promise.undo for promise in fence])
        ctx.kube.patch(k8s.CLUSTER, ref.namespace, ref.name, {"spec": {"enableSuperuserAccess": bool(before)}})
        found, others = addressed(ctx, self.old.ref.name, ref.name)
        kept: Sequence[Obligation] = [
            *fence,
            *(
                pooler_promise(self.old, item["metadata"]["name"])
                for item in known_poolers(ctx, self.old, self.replacement)
            ),
            *(promise for one in found for promise in promises(ctx, one)),
            *schedules.promises(ctx, self.old, self.replacement),
        ]
        still_open = {promise.id for promise in ctx.recorder.promises()}
        for promise in kept:
            if promise.id in still_open:
                ctx.recorder.settled(promise, "not undone", proof)
        cut = {"now": ref.name, "server_name": self.replacement.server_name, "cut_at": show_instant(datetime.now(UTC))}
        ctx.recorder.note(Facts(cut=Cut.model_validate(cut)))
        return Repointed(now=ref.name, changed=tuple(one.where for one in found), others=tuple(others))


__all__ = [
    "CheckRepoint",
    "KeepReplacement",
    "RepointApplication",
    "RepointPoolers",
    "Repointable",
    "Repointed",
    "follow_faults",
    "known_poolers",
    "over",
    "recreate",
    "require_addressed_to",
    "require_known_address",
]
