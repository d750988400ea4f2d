"""The way back to the old cluster: from what the run that replaced it noted on the cluster, by any machine, weeks later.

The replacement is stopped first, so that at no moment two clusters of one history can be written to. It keeps what was
written to it, with its volumes, until somebody deletes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.location import source_archive
from drillbook.engine import undo as restoring
from drillbook.engine.step import Action, CheckStep, Context, Plan, Step
from drillbook.errors import KubernetesError, NotReady
from drillbook.evidence.facts import Facts
from drillbook.manifests.replacement import MADE_BY
from drillbook.model import Check, ClusterRef, Effect, Frozen, Instant, Verdict, parse_instant, show_instant
from drillbook.steps.backup.safety_backup import BackUpNewTimeline, backed_up
from drillbook.steps.cutover import schedules
from drillbook.steps.cutover.application import addressed, promises, readdress, rolled_out
from drillbook.steps.cutover.fence import FenceOldCluster, lift_fence
from drillbook.steps.cutover.repoint import (
    FENCE,
    HANDED_OVER,
    Repointed,
    known_poolers,
    over,
    recreate,
    require_addressed_to,
    require_known_address,
)
from drillbook.steps.cutover.service import of_cluster, recall, remember
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import is_fenced
from drillbook.steps.preflight.old_cluster import RIGHTS, OldCluster, application
from drillbook.steps.preflight.readiness import denied, pin_faults
from drillbook.steps.recovery.replacement import ReplacementCluster

UNDONE_BY = "undone_by"


class RestoreFound(Frozen):
    """A restore of an earlier run: the old cluster, fenced, and ``serving``, the one that has taken its place."""

    run: str
    old: OldCluster
    serving: OldCluster
    replacement: ReplacementCluster
    handed_over_at: Instant | None
    next_xid: int


@dataclass(frozen=True)
class FindRestore(Step[RestoreFound]):
    """Find the restore that is to be undone.

    It is read from the ConfigMap that its run left in the cluster's namespace, so neither the run's folder nor the
    machine that it ran on is needed. Both clusters, rights, addresses and who else holds what will change are looked
    at; all faults at once.
    """

    of_run: str

    def do(self, ctx: Context) -> RestoreFound:
        namespace = ctx.site.cluster.namespace
        faults = [
            f"missing right: {right} (deploy/recover/, deploy/replace/)" for right in denied(ctx, RIGHTS, namespace)
        ]
        named = ctx.kube.get(k8s.CLUSTER, namespace, ctx.site.cluster.name)
        faults += pin_faults(ctx, named) if named is not None else []
        note = self._note(ctx, faults)
        if note is None:
            raise NotReady(faults, where="the way back")
        data = note["data"]
        old_name, new_name = data["source"].rpartition("/")[2], data["replacement"]
        old, new = (ctx.kube.get(k8s.CLUSTER, namespace, name) for name in (old_name, new_name))
        if old is None:
            faults.append(
                f"Cluster {namespace}/{old_name} no longer exists: there is nothing to go back to but its archive"
            )
        elif not is_fenced(old):
            faults.append(f"Cluster {namespace}/{old_name} is not fenced: it may be in service already")
        if new is None:
            faults.append(f"Cluster {namespace}/{new_name}, which took its place, no longer exists")
        if old is None or new is None or faults:
            raise NotReady(faults, where="the way back")
        found = self._found(ctx, note, old, new)
        faults += self._held(ctx, found)
        if faults:
            raise NotReady(faults, where="the way back")
        ctx.recorder.note(Facts(undoes={"run": found.run, "from": new_name, "to": old_name}))
        return found

    def _note(self, ctx: Context, faults: list[str]) -> dict[str, Any] | None:
        """The ConfigMap of the run; of the newest run that put a replacement into service, where none is named."""
        try:
            notes = ctx.kube.list(k8s.CONFIG_MAP, ctx.site.cluster.namespace, labels=MADE_BY)
        except KubernetesError as error:
            faults.append(error.what)
            return None
        known = [item for item in notes if HANDED_OVER in (item.get("data") or {}) and UNDONE_BY not in item["data"]]
        mine = [item for item in known if self.of_run in ("", item["data"]["run"])]
        if not mine:
            there = ", ".join(f"{item['data']['replacement']} (run {item['data']['run']})" for item in known) or "none"
            rebuilt = [
                item for item in notes if item["data"].get("run") == self.of_run and HANDED_OVER not in item["data"]
            ]
            faults.append(
                f"of_run: run {self.of_run or '(none given)'} has put no replacement into service that could be gone back from; there are: {there}"
            )
            faults += [
                f"run {self.of_run} created Cluster {item['data']['replacement']} again under its own name: what was before is in the "
                "archive under its old serverName, and comes back by recover-full-restore with a target before the cut"
                for item in rebuilt
            ]
            return None
        return max(mine, key=lambda item: str(item["metadata"]["creationTimestamp"]))

    def _found(self, ctx: Context, note: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> RestoreFound:
        data, handed = (
            note["data"],
            recall(ctx, note["metadata"]["namespace"], note["metadata"]["name"], HANDED_OVER) or {},
        )
        serving = as_cluster(ctx, new)
        replacement = ReplacementCluster(
            ref=serving.ref,
            uid=serving.uid,
            created_at=new["metadata"]["creationTimestamp"],
            objects=(),
            left_out=(),
            server_name=data["server_name"],
            instances=serving.instances,
            note=note["metadata"]["name"],
            secret=serving.secret,
        )
        return RestoreFound(
            run=data["run"],
            old=as_cluster(ctx, old),
            serving=serving,
            replacement=replacement,
            handed_over_at=parse_instant(handed["at"]) if handed else None,
            next_xid=int(handed.get("next_xid", 0)),
        )

    def _held(self, ctx: Context, found: RestoreFound) -> list[str]:
        names = {found.old.ref.name, found.serving.ref.name}
        applications, _ = addressed(ctx, *sorted(names))
        others = [
            item
            for kind in (k8s.POOLER, k8s.SCHEDULED_BACKUP)
            for item in ctx.kube.list(kind, found.old.ref.namespace)
            if item["spec"]["cluster"]["name"] in names
        ]
        return pausing.faults(ctx, [*(item for one in applications for item in one.objects), *others])


def as_cluster(ctx: Context, item: dict[str, Any]) -> OldCluster:
    """A Cluster as the steps that fence, serve and back up need it."""
    status, metadata = item.get("status", {}), item["metadata"]
    archive = source_archive(ctx.kube, ctx.site, item)
    database, owner, secret = application(ctx, item)
    return OldCluster(
        ref=ClusterRef(namespace=metadata["namespace"], name=metadata["name"]),
        uid=metadata["uid"],
        system_id=str(status.get("systemID", "")),
        timeline=int(status.get("timelineID") or 0),
        primary=str(status.get("currentPrimary", "")),
        server_name=archive.server_name,
        location=archive.location,
        server_version=0,
        image=str(status.get("image") or item["spec"].get("imageName", "")),
        storage_class=str(item["spec"].get("storage", {}).get("storageClass", "")),
        method=archive.method,
        instances=int(item["spec"].get("instances") or 1),
        database=database,
        owner=owner,
        secret=secret,
    )


@dataclass(frozen=True)
class ShowWrittenSinceRestore(CheckStep):
    """What was written to the replacement since it was put into service, table by table.

    By the server's own counters and its transaction ids. None of it is in the cluster that comes back into service;
    all of it stays in the replacement, which is fenced and kept.
    """

    found: RestoreFound
    name: ClassVar[str] = "written since"
    proves: ClassVar[str] = "what goes out of service is known before anybody decides"

    def observe(self, ctx: Context) -> Sequence[Check]:
        ref, found = self.found.serving.ref, self.found
        checks = []
        with ctx.source(of=ref) as db:
            now = int(db.ask_one("wal_position")["next_xid"])
        since = f"since {show_instant(found.handed_over_at)}" if found.handed_over_at else "since it was recovered"
        observed = f"{max(0, now - found.next_xid):,} transactions {since}"
        checks.append(self.result(Verdict.VERIFIED, expected="known", observed=observed))
        written: dict[str, Any] = {}
        for tenant in ctx.site.tenants:
            with ctx.source(tenant.database, of=ref) as db:
                rows = db.ask("cutover_writes")
            tables = [
                (str(row["name"]), f"{row['inserted']} inserted, {row['updated']} updated, {row['deleted']} deleted")
                for row in rows
            ]
            written[tenant.database] = tables[:50]
            total = sum(int(row["inserted"]) + int(row["updated"]) + int(row["deleted"]) for row in rows)
            said = f"{total:,} rows in {len(tables)} tables" if tables else "nothing"
            name = f"{self.name}: {tenant.database}"
            checks.append(
                self.result(Verdict.VERIFIED, name=name, expected="known", observed=said, details=tuple(tables[:12]))
            )
        ctx.recorder.note(Facts(written_since=written))
        return checks


@dataclass(frozen=True)
class FenceReplacement(FenceOldCluster):
    """Fence the replacement: no server of it runs from now on.

    Its volumes stay, and keep everything that was written to it. Only then may the old cluster be written to again.
    """


@dataclass(frozen=True)
class ServeOldCluster(Step[Repointed]):
    """Lift the fence of the old cluster, and wait until every instance serves.

    A fence that somebody else had put up before the restore stays: whether that cluster may serve is theirs to say.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    found: RestoreFound

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        old, new = self.found.old.ref, self.found.serving.ref
        return Plan(
            summary=f"The fence of Cluster {old} is lifted",
            touches=(Action("put back into service", "Cluster", old.namespace, old.name, self.found.old.uid),),
            lost=(f"from service, what was written to {new.name}; it stays there to be read",),
        )

    def do(self, ctx: Context) -> Repointed:
        old, replacement = self.found.old, self.found.replacement
        ctx.require_lease()
        for undo in recall(ctx, old.ref.namespace, replacement.note, FENCE) or []:
            restoring.put_back(ctx.kube, undo)
        serves = lift_fence(ctx, old)
        ctx.recorder.note(Facts(old_cluster_serves=serves))
        return Repointed(now=old.ref.name, changed=(f"Cluster {old.ref.name}",) if serves else ())


@dataclass(frozen=True)
class PoolersBack(Step[Repointed]):
    """Recreate the Poolers, with the same names, over the old cluster.

    Their clients keep the address; their connections ended with the replacement's fence.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    found: RestoreFound

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        old = self.found.old
        known = known_poolers(ctx, old, self.found.replacement)
        return Plan(
            summary=f"{len(known)} Poolers deleted and created again over {old.ref.name}",
            objects=tuple(over(item, old.ref.name) for item in known),
            touches=tuple(Action("recreate", "Pooler", old.ref.namespace, item["metadata"]["name"]) for item in known),
        )

    def do(self, ctx: Context) -> Repointed:
        old = self.found.old
        known = known_poolers(ctx, old, self.found.replacement)
        pausing.pause(ctx, of_cluster(ctx, k8s.POOLER, old, self.found.serving.ref.name))
        for item in known:
            recreate(ctx, over(item, old.ref.name))
        return Repointed(now=old.ref.name, changed=tuple(item["metadata"]["name"] for item in known))


@dataclass(frozen=True)
class AddressesBack(Step[Repointed]):
    """Point the applications at the old cluster again.

    In each address the replacement's services are replaced by the old cluster's; user, password and database stay as
    they are. The pods are replaced.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    point_of_no_return: ClassVar[bool] = True
    found: RestoreFound

    def check(self, ctx: Context) -> None:
        applications, _ = addressed(ctx, self.found.old.ref.name, self.found.serving.ref.name)
        for one in applications:
            require_known_address(one, self.found.old.ref.name, self.found.serving.ref.name)
        pausing.require_free(ctx, [item for one in applications for item in one.objects])

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        name, serving = self.found.old.ref.name, self.found.serving.ref.name
        applications, others = addressed(ctx, name, serving)
        controlled = [item for one in applications for item in one.objects]
        return Plan(
            summary=f"{len(applications)} applications pointed at {name}",
            notes=(
                *(line for one in applications for line in one.listed(name, serving)),
                *(f"not changed by this run: {text}" for text in others),
            ),
            touches=pausing.touches(ctx, controlled)
            + tuple(
                Action(
                    f"point at {name}",
                    "Deployment",
                    one.app.namespace,
                    one.app.deployment,
                    one.deployment["metadata"]["uid"],
                )
                for one in applications
            ),
        )

    def do(self, ctx: Context) -> Repointed:
        old, new = self.found.old.ref.name, self.found.serving.ref.name
        applications, others = addressed(ctx, old, new)
        serves, changed = bool(ctx.recorder.facts.old_cluster_serves), []
        for one in applications:
            pausing.pause(ctx, one.objects)
            if one.services_of(new):
                readdress(ctx, one, new, old, wait=False)
                changed.append(one.where)
            for promise in promises(ctx, one):
                if any(kept.id == promise.id for kept in ctx.recorder.promises()):
                    ctx.recorder.settled(promise, "not undone", f"it points at {old} again")
            if serves:
                rolled_out(ctx, one.app)
        return Repointed(now=old, changed=tuple(changed), others=tuple(others))

    def verify(self, ctx: Context, result: Repointed) -> None:
        require_addressed_to(ctx, self.found.serving.ref.name, result.now)


@dataclass(frozen=True)
class SchedulesBack(Step[Repointed]):
    """Resume the old cluster's backup schedules, and remove the replacement's.

    The undo is noted in the restore's ConfigMap. The replacement stays fenced, with its volumes.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    found: RestoreFound

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        name, namespace = self.found.serving.ref.name, self.found.old.ref.namespace
        made = of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.found.old, name)
        return Plan(
            summary=f"{len(made)} ScheduledBackups of {name} removed, those of {self.found.old.ref.name} resumed",
            touches=tuple(Action("delete", "ScheduledBackup", namespace, item["metadata"]["name"]) for item in made),
        )

    def do(self, ctx: Context) -> Repointed:
        old, replacement = self.found.old, self.found.replacement
        schedules.move_back(ctx, old, replacement, made_by_run=self.found.run)
        remember(ctx, old.ref.namespace, replacement.note, UNDONE_BY, ctx.run_id)
        for promise in ctx.recorder.promises():
            if (promise.kind, promise.name) == (k8s.CLUSTER.kind, replacement.ref.name):
                ctx.recorder.settled(promise, "not undone", "it stays fenced, and keeps what was written to it")
        return Repointed(now=old.ref.name, changed=())


@dataclass(frozen=True)
class BackUpOldTimeline(BackUpNewTimeline):
    """The first backup after the way back, and the WAL after it, are in the archive.

    Where the profile still names the replacement, the old cluster's archive is not its to judge: take a backup once it
    names the old one again. Of a cluster that is still fenced there is none: the operator would leave it pending.
    """

    def observe(self, ctx: Context) -> Sequence[Check]:
        if ctx.source_ref != self.cluster.ref:
            reason = f"the profile names {ctx.source_ref}: put it back as it was, then run backup-manual"
            return [self.result(Verdict.NOT_APPLICABLE, reason=reason)]
        if not ctx.recorder.facts.old_cluster_serves:
            return self.not_run(f"{self.cluster.ref} is still fenced: lift the fence, then run backup-manual")
        return backed_up(ctx, self.cluster, self.name)


@dataclass(frozen=True)
class AnnounceUndoneRestore(Announcement):
    """Say which cluster is in service again, and where what was written in the meantime is kept; and inform people."""

    found: RestoreFound

    def observe(self, ctx: Context) -> Sequence[Check]:
        old, new, run = self.found.old.ref, self.found.serving.ref, self.found.run
        serves = ctx.recorder.facts.old_cluster_serves
        proven = serves and not ctx.recorder.unmet()
        state = "is in service again" if proven else "is NOT PROVEN to be in service again"
        lines = [f"{old}: {state} in place of {new.name}."]
        if serves is not None:  # the replacement is fenced before
            lines.append(
                f"What was written to {new.name} stays there: it is fenced, with its volumes, until somebody deletes it."
            )
        if serves is False:
            lines.append(f"{old.name} was fenced before the restore by somebody else, and still is.")
        if serves:  # Git above all where it is what was not proven
            lines += [
                f"If run {run} stopped midway, end it where its evidence lies: drillbook abandon {run} --as-it-stands.",
                f"Git and the profile must name {old.name} again, before anything syncs.",
            ]
        lines.append(f"Run {ctx.run_id}." if proven else f"The report of run {ctx.run_id} says what is where.")
        return self.publish(ctx, lines, claim=f"{old.name} is in service again in place of {new.name}")


__all__ = [
    "AddressesBack",
    "AnnounceUndoneRestore",
    "BackUpOldTimeline",
    "FenceReplacement",
    "FindRestore",
    "PoolersBack",
    "RestoreFound",
    "SchedulesBack",
    "ServeOldCluster",
    "ShowWrittenSinceRestore",
]
