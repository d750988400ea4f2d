"""The cut-over ``repoint``: the application and its Poolers follow to the replacement; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from drillbook import addresses, restoring
from drillbook import kube as k8s
from drillbook.errors import KubernetesError, PreconditionError, VerificationError
from drillbook.model import Effect, Frozen
from drillbook.procedures import pausing, schedules
from drillbook.procedures.application import (
    Addressed,
    addressed,
    promises,
    readdress,
    rolled_out,
    secret_promise,
)
from drillbook.procedures.fence import lift_fence, promises_on
from drillbook.procedures.oldcluster import OldCluster
from drillbook.procedures.replacement import ReplacementCluster, require_new_server_name
from drillbook.procedures.service import bare, hand_over, of_cluster, recall, remember, take_back
from drillbook.replacements import Replacement
from drillbook.step import Context, Obligation, Plan, Step, Touch

_POOLERS, _FENCE = "poolers", "fence"


class Repointed(Frozen):
    """What points at the other cluster now, in words; ``others`` are the tenants whose address is theirs to change."""

    now: str
    changed: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepointPoolers(Step[Repointed]):
    """Make the Poolers anew, with the same names, over the replacement.

    A Pooler's Cluster can't be changed. Its Service has the Pooler's name, so clients keep their address; their
    connections end with the old pods.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        pausing.require_free(ctx, of_cluster(ctx, k8s.POOLER, self.old, self.old.ref.name))

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        known = _known_poolers(ctx, self.old, self.replacement)
        namespace = self.old.ref.namespace
        return Plan(
            summary=f"{len(known)} Poolers removed and made anew over {self.replacement.ref.name}",
            objects=tuple(over(item, self.replacement.ref.name) for item in known),
            touches=tuple(Touch("make anew", "Pooler", namespace, item["metadata"]["name"]) for item in known),
            lost=tuple(f"the connections of Pooler {item['metadata']['name']}" for item in known),
            harmless=not known,
        )

    def do(self, ctx: Context) -> Repointed:
        hand_over(ctx, self.replacement)
        known = _known_poolers(ctx, self.old, self.replacement)
        pausing.pause(ctx, of_cluster(ctx, k8s.POOLER, self.old, self.old.ref.name))
        remember(ctx, self.old.ref.namespace, self.replacement.note, _POOLERS, known)
        for item in known:
            ctx.recorder.obligation(pooler_promise(self.old, item["metadata"]["name"], as_it_was=item))
            make_anew(ctx, over(item, self.replacement.ref.name))
        return Repointed(now=self.replacement.ref.name, changed=tuple(item["metadata"]["name"] for item in known))

    def verify(self, ctx: Context, result: Repointed) -> None:
        wrong = [name for name in result.changed if _pooler_over(ctx, self.old, name) != self.replacement.ref.name]
        if wrong:
            raise VerificationError(
                "Poolers are not over the replacement",
                expected=self.replacement.ref.name,
                observed=", ".join(f"{name}: {_pooler_over(ctx, self.old, name) or 'gone'}" for name in wrong),
                todo="Another controller has made them again: pause it, then do this step again.",
            )


def _known_poolers(ctx: Context, old: OldCluster, replacement: ReplacementCluster) -> list[dict[str, Any]]:
    """The Poolers that stood over the old cluster when this was first asked, as they were before this run."""
    kept: list[dict[str, Any]] | None = recall(ctx, old.ref.namespace, replacement.note, _POOLERS)
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


def make_anew(ctx: Context, wanted: dict[str, Any]) -> None:
    """Replace the Pooler of this name, and wait until it is active; safe to repeat."""
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    limit = ctx.site.limits.step.total_seconds()
    found = ctx.kube.get(k8s.POOLER, namespace, name)
    if found is not None and found["spec"]["cluster"] != wanted["spec"]["cluster"]:
        uid = found["metadata"]["uid"]
        ctx.hold()
        ctx.kube.delete(k8s.POOLER, namespace, name, uid=uid, propagation="Foreground")
        for kind in (
            k8s.POOLER,
            k8s.DEPLOYMENT,
            k8s.SERVICE,
        ):  # what it owned must be gone before its name is used again
            ctx.kube.wait(
                kind, namespace, name, lambda item, owner=uid: _not_of(item, owner),  # type: ignore[misc]
                timeout_seconds=limit, what=f"{kind.kind} {name} of the old Pooler to be gone",
            )  # fmt: skip
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
    """What making a Pooler anew promises: to make it again as it was, unless the cut is kept."""
    place = {"kind": "Pooler", "namespace": old.ref.namespace, "name": name}
    undo = {"verb": "make anew", **place, "object": as_it_was} if as_it_was else None
    what = f"over {old.ref.name} again, unless the replacement is in service"
    return Obligation("Pooler", old.ref.namespace, name, what, undo=undo)


@dataclass(frozen=True)
class RepointApplication(Step[Repointed]):
    """Point the application at the replacement.

    In the address that its Deployment has, or the Secret or ConfigMap that it refers to, the old cluster's services are
    replaced by the new one's; user, password and database stay as they are. The pods are made anew.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        found, _ = addressed(ctx)
        for one in found:
            require_known_address(one, self.old.ref.name, self.replacement.ref.name)
        pausing.require_free(ctx, [one.deployment for one in found])

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        found, others = addressed(ctx)
        old, new = self.old.ref.name, self.replacement.ref.name
        notes = []
        for one in found:
            services = addresses.services_in(one.place.value, old) or addresses.services_in(one.place.value, new)
            notes.append(f"{one.where}: {', '.join(services) or f'Pooler {one.app.pooler}, as it is'}")
        return Plan(
            summary=f"{len(found)} applications pointed at {new}",
            notes=(*notes, *(f"not ours to change: {text}" for text in others)),
            touches=pausing.touches(ctx, [one.deployment for one in found])
            + tuple(
                Touch(
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
        hand_over(ctx, self.replacement)
        old, new = self.old.ref.name, self.replacement.ref.name
        found, others = addressed(ctx)
        changed = []
        for one in found:
            if not addresses.services_in(one.place.value, old) and not addresses.services_in(one.place.value, new):
                continue  # through its Pooler, which has been made anew under its name
            pausing.pause(ctx, [one.deployment])
            readdress(ctx, one, old, new)
            changed.append(one.where)
        return Repointed(now=new, changed=tuple(changed), others=tuple(others))

    def verify(self, ctx: Context, result: Repointed) -> None:
        require_addressed_to(ctx, self.old.ref.name, result.now)


def require_known_address(one: Addressed, old: str, new: str) -> None:
    """Raise unless the address names a service of one of the clusters, or the profile's Pooler."""
    value = one.place.value
    if addresses.services_in(value, old) or addresses.services_in(value, new):
        return
    if one.app.pooler and one.app.pooler in value:
        return
    raise PreconditionError(
        f"{one.where} names no service of Cluster {old} ({', '.join(f'{old}-{kind}' for kind in addresses.SERVICES)})"
        + (f" and not Pooler {one.app.pooler}" if one.app.pooler else ""),
        todo="Check address_variable and pooler in the profile, and by what name the application reaches its database.",
    )


def follow_faults(ctx: Context, old: OldCluster, names: Replacement) -> list[str]:
    """What keeps the applications from following to a replacement of these names, all of it at once. Changes nothing."""
    faults: list[str] = []
    found, _ = addressed(ctx)
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
        "Secret that the Deployment refers to, or choose rebuild, which changes no address"
        for one in found
        if one.place.kind == "Deployment" and (held := addresses.literal_secrets(one.deployment))
    ]
    others = [item for kind in (k8s.POOLER, k8s.SCHEDULED_BACKUP) for item in of_cluster(ctx, kind, old, old.ref.name)]
    return faults + pausing.faults(ctx, [*(one.deployment for one in found), *others])


def require_addressed_to(ctx: Context, other: str, cluster: str) -> None:
    """Raise if an application still has an address of Cluster ``other``."""
    found, _ = addressed(ctx)
    wrong = [one.where for one in found if addresses.services_in(one.place.value, other)]
    if wrong:
        raise VerificationError(
            f"an application is not pointed at {cluster}",
            expected=f"services of {cluster}",
            observed=f"still {other}: {', '.join(wrong)}",
            todo="A reconciler (Argo CD, Flux, Helm) has put the address back: pause it, or change it in Git first.",
        )


@dataclass(frozen=True)
class RepointBack(Step[Repointed]):
    """Go back to the old cluster: fence lifted, Poolers, application and schedules as they were.

    The old cluster was kept for this. The replacement stays, out of service: what was written to it since the cut is
    in it and nowhere else.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        found = ctx.kube.get(k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        if found is None or found["metadata"]["uid"] != self.old.uid:
            raise PreconditionError(
                f"Cluster {self.old.ref} of this run's beginning no longer exists: there is nothing to go back to",
                todo="Recover from its archive, which is untouched: serverName " + self.old.server_name,
            )

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        ref, new = self.old.ref, self.replacement.ref.name
        return Plan(
            summary=f"Lift the fence of {ref}; Poolers, application and schedules back to it",
            touches=(
                Touch("put back into service", "Cluster", ref.namespace, ref.name, self.old.uid),
                Touch("take out of service", "Cluster", ref.namespace, new, self.replacement.uid),
            ),
            lost=(f"for the application, what was written to {new} since the cut; it stays there to be read",),
        )

    def do(self, ctx: Context) -> Repointed:
        old, new = self.old.ref.name, self.replacement.ref.name
        for undo in recall(ctx, self.old.ref.namespace, self.replacement.note, _FENCE) or []:
            restoring.put_back(ctx.kube, undo)  # the cut was kept: its promises are settled, what they knew is here
        serves = lift_fence(ctx, self.old)
        # Fenced before this run by somebody, it can't be served from yet: everything points to it, and waits for them.
        ctx.recorder.fact("old_cluster_serves", serves)
        for item in _known_poolers(ctx, self.old, self.replacement):
            make_anew(ctx, over(item, old))
            ctx.recorder.settled(pooler_promise(self.old, item["metadata"]["name"]), "put back", f"over {old}")
        found, others = addressed(ctx)
        changed = []
        # Where no promise holds the old value any more (the cut was kept), the way back is the same change the other way.
        kept = {one.where for one in found if not promises(ctx, one)}
        for one in found:
            if addresses.services_in(one.place.value, new):
                self._address_back(ctx, one, kept=one.where in kept, wait=serves)
                changed.append(one.where)
            for promise in promises(ctx, one):
                if one.where in kept:
                    ctx.recorder.settled(promise, "kept", f"it points at {old} again")
                else:
                    restoring.restore(ctx, promise)
            if serves:
                rolled_out(ctx, one.app)
        schedules.move_back(ctx, self.old, self.replacement)
        pausing.let_go_on(ctx)
        take_back(ctx, self.replacement)
        return Repointed(now=old, changed=tuple(changed), others=tuple(others))

    def _address_back(self, ctx: Context, one: Addressed, *, kept: bool, wait: bool) -> None:
        if kept or one.place.kind == "Secret":
            readdress(ctx, one, self.replacement.ref.name, self.old.ref.name, wait=wait)
        if one.place.kind == "Secret":
            ctx.recorder.settled(secret_promise(one), "put back", f"names services of {self.old.ref.name}")

    def verify(self, ctx: Context, result: Repointed) -> None:
        require_addressed_to(ctx, self.replacement.ref.name, result.now)


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
        hand_over(ctx, self.replacement)
        pausing.stay_paused(ctx, f"Cluster {self.replacement.ref} is in service in place of {self.old.ref.name}")
        ref, proof = self.replacement.ref, f"Cluster {self.replacement.ref} is in service"
        before = recall(ctx, ref.namespace, self.replacement.note, "superuser")
        fence = promises_on(ctx, k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        remember(ctx, ref.namespace, self.replacement.note, _FENCE, [promise.undo for promise in fence])
        ctx.kube.patch(k8s.CLUSTER, ref.namespace, ref.name, {"spec": {"enableSuperuserAccess": bool(before)}})
        found, others = addressed(ctx)
        kept: Sequence[Obligation] = [
            *fence,
            *(
                pooler_promise(self.old, item["metadata"]["name"])
                for item in _known_poolers(ctx, self.old, self.replacement)
            ),
            *(promise for one in found for promise in (*promises(ctx, one), secret_promise(one))),
            *schedules.promises(ctx, self.old, self.replacement),
        ]
        still_open = {promise.id for promise in ctx.recorder.promises()}
        for promise in kept:
            if promise.id in still_open:
                ctx.recorder.settled(promise, "not undone", proof)
        return Repointed(now=ref.name, changed=tuple(one.where for one in found), others=tuple(others))


__all__ = ["KeepReplacement", "RepointApplication", "RepointBack", "RepointPoolers", "Repointed", "follow_faults"]
