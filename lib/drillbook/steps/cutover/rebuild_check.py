"""Whether a cluster can be removed and created again under its name, asked before anything is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drillbook import archive
from drillbook import kube as k8s
from drillbook.engine.step import Context, Step
from drillbook.errors import BaseBackupMissing, KubernetesError, NotReady, PreconditionError, WalGap
from drillbook.manifests.replacement import ReplacementNames
from drillbook.model import Frozen
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.cutover.service import of_cluster
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.old_cluster import OldCluster, as_it_was
from drillbook.steps.recovery.replacement import has_own_secret, owner_password, require_new_server_name

SERIAL = "cnpg.io/nodeSerial"


class Rebuildable(Frozen):
    """What a restore in place will delete: volumes and schedules as (name, UID); ``server_name`` is the new one."""

    server_name: str
    volumes: tuple[tuple[str, str], ...]
    schedules: tuple[tuple[str, str], ...]
    kept_volumes: tuple[str, ...]  # PersistentVolumes that their class retains: they stay, and hold the old data


@dataclass(frozen=True)
class CheckRebuild(Step[Rebuildable]):
    """Check that the name can be used again: no orphaned volume, a serverName that was never used.

    A volume that has lost its Cluster is taken over by the next one of the name, which then returns the old data
    instead of the recovered. It is refused here, before anything is removed.
    """

    old: OldCluster
    server_name: str = ""

    def do(self, ctx: Context) -> Rebuildable:
        names = ReplacementNames.under_the_old_name(self.old.ref, ctx.run_id, self.server_name)
        claims = claims_of(ctx, self.old)
        faults = [orphan_fault(self.old, claim) for claim in claims if not claim["metadata"].get("ownerReferences")]
        try:
            require_new_server_name(ctx, names.server_name)
        except PreconditionError as error:
            faults.append(f"{error.what}. {error.todo}")
        try:
            if not has_own_secret(ctx, self.old):
                owner_password(ctx, self.old)
        except PreconditionError as error:
            faults.append(f"{error.what}. {error.todo}")
        waiting = [
            item["metadata"]["name"]
            for item in of_cluster(ctx, k8s.BACKUP, self.old, self.old.ref.name)
            if item.get("status", {}).get("phase", "") not in ("completed", "failed", "invalid backup definition")
        ]
        if waiting:
            faults.append(
                f"Backup {', '.join(waiting)} waits or runs: it would start by itself on the new cluster of this name; "
                "let it end, or delete it"
            )
        faults += pausing.faults(ctx, held(ctx, self.old))
        found = of_cluster(ctx, k8s.SCHEDULED_BACKUP, self.old, self.old.ref.name)
        if faults:
            raise NotReady(faults, where=f"Cluster {self.old.ref}")
        return Rebuildable(
            server_name=names.server_name,
            volumes=tuple((claim["metadata"]["name"], claim["metadata"]["uid"]) for claim in claims),
            schedules=tuple((item["metadata"]["name"], item["metadata"]["uid"]) for item in found),
            kept_volumes=tuple(claim["spec"].get("volumeName", "") for claim in claims if _retained(ctx, claim)),
        )


def held(ctx: Context, old: OldCluster) -> list[dict[str, Any]]:
    """What a restore in place changes and somebody else may declare: the Cluster, there or removed by this run, and its schedules."""
    cluster = [] if old.gone else [as_it_was(ctx, old) | {"kind": k8s.CLUSTER.kind}]
    return [*cluster, *of_cluster(ctx, k8s.SCHEDULED_BACKUP, old, old.ref.name)]


def orphan_fault(old: OldCluster, claim: dict[str, Any]) -> str:
    """An orphaned volume in words, with the fix."""
    name = claim["metadata"]["name"]
    return (
        f"volume claim {old.ref.namespace}/{name} carries {SERIAL} and has no owner: a new Cluster {old.ref.name} would "
        "take it over and return its old data instead of the recovery. Look at what it holds, then: "
        f"kubectl delete pvc -n {old.ref.namespace} {name}"
    )


def claims_of(ctx: Context, old: OldCluster) -> list[dict[str, Any]]:
    """The volume claims that a Cluster of the old name has, or would take over."""
    labels = f"cnpg.io/cluster={old.ref.name}"
    found = ctx.kube.list(k8s.PVC, old.ref.namespace, labels=labels)
    return [claim for claim in found if SERIAL in (claim["metadata"].get("annotations") or {})]


def _retained(ctx: Context, claim: dict[str, Any]) -> bool:
    name = claim["spec"].get("storageClassName", "")
    try:
        found = ctx.kube.get(k8s.STORAGE_CLASS, "", name) if name else None
    except KubernetesError:
        return False
    return found is not None and found.get("reclaimPolicy", "Delete") != "Delete"


def require_recoverable(ctx: Context, old: OldCluster, point: RestoreStart) -> None:
    """Raise unless the base backup is whole in the bucket, with unbroken WAL to the target: asked right before removing."""
    backup = point.backup
    found = archive.catalogue(ctx.store, backup.server_name, system_id=old.system_id)
    if found.find(backup.backup_id) is None:
        why = dict(found.unusable).get(backup.backup_id, "it is not in the bucket any more")
        raise BaseBackupMissing(
            f"base backup {backup.backup_id} can't be relied on: {why}",
            todo="Hold backups against retention while you recover; choose another one in a new run.",
        )
    listing = archive.wal_names(ctx.store, backup.server_name, since=backup.begin_wal)
    chain = archive.archive_chain(ctx.store, backup, listing, timeline=old.timeline)
    if not chain.unbroken and not point.before_gap(chain.first_missing):
        raise WalGap(chain.problem, todo="Nothing was removed. Salvage the segment from the old volume (SalvageWal).")


__all__ = ["CheckRebuild", "Rebuildable", "claims_of", "held", "orphan_fault", "require_recoverable"]
