"""The cluster that is to be replaced, read whatever state it is in: healthy, broken, or gone but for its archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import archive as objectstore
from drillbook import kube as k8s
from drillbook.archive import lost_cluster
from drillbook.engine import undo
from drillbook.engine.step import Context, Step
from drillbook.errors import BaseBackupMissing, NotReady
from drillbook.evidence.facts import ArchivedBy, Facts, NotedCluster, TestKind
from drillbook.manifests import replacement
from drillbook.model import Check, Verdict
from drillbook.steps.preflight.readiness import (
    ARCHIVED_BY,
    HEALTHY,
    Rights,
    SourceCluster,
    denied,
    pin_faults,
    replica_faults,
)

STILL_HEALTHY = (
    "a full restore stops every tenant and loses what is not archived: for one tenant's data there is "
    "recover-point-in-time, for a failed node CloudNativePG's own failover"
)

# What a replacement needs in the source's namespace, each asked of the API server itself.
RIGHTS: Rights = (
    *((verb, k8s.CLUSTER, "") for verb in ("get", "list", "create", "patch", "delete")),
    *((verb, k8s.OBJECT_STORE, "") for verb in ("get", "create")),
    *((verb, k8s.SECRET, "") for verb in ("get", "create", "patch", "delete")),
    *((verb, k8s.CONFIG_MAP, "") for verb in ("get", "create", "patch", "delete")),
    *((verb, kind, "") for kind in (k8s.POD, k8s.JOB, k8s.PVC) for verb in ("get", "list")),
    ("get", k8s.POD, "log"),
    ("create", k8s.POD, "portforward"),
    ("create", k8s.POD, "exec"),
    ("create", k8s.BACKUP, ""),
    *(
        (verb, kind, "")
        for kind in (k8s.POOLER, k8s.SCHEDULED_BACKUP)
        for verb in ("list", "create", "patch", "delete")
    ),
)


class OldCluster(SourceCluster):
    """The cluster that is to be replaced. ``uid`` "": its object no longer exists; ``primary`` "": it has none.

    ``secret`` is the user's own Secret with the owner's password, "" if CloudNativePG generated one, which dies with
    the Cluster. ``instances`` is how many it has, or should have by the profile.
    """

    method: str
    instances: int
    database: str
    owner: str
    secret: str

    @property
    def gone(self) -> bool:
        """Whether the Cluster object no longer exists."""
        return not self.uid


@dataclass(frozen=True)
class ReadOldCluster(Step[OldCluster]):
    """Read what is to be replaced, from whatever is left of it.

    A Cluster that is healthy, broken, or no longer there: then the bucket and the site's profile must say all that a
    replacement needs. Identity, rights and profile are checked together while nothing has been touched.
    """

    rights: ClassVar[Rights] = RIGHTS
    instead: ClassVar[bool] = True
    """Whether a healthy cluster is a warning: all of it is to be replaced, and not one tenant's data."""

    def do(self, ctx: Context) -> OldCluster:
        site = ctx.site
        found = ctx.kube.get(k8s.CLUSTER, site.cluster.namespace, site.cluster.name)
        cluster = found or {"metadata": {}, "spec": {}, "status": {}}
        missing = denied(ctx, self.rights, site.cluster.namespace)
        faults = [f"missing right: {right} (deploy/recover/, deploy/replace/)" for right in missing]
        faults += pin_faults(ctx, cluster) + replica_faults(cluster)
        if found is None and not faults:
            faults += profile_faults(ctx)
        if faults:
            raise NotReady(faults, where=f"Cluster {ctx.source_ref}")
        status: dict[str, Any] = cluster.get("status", {})
        archive = ctx.archive
        said = str(status.get("systemID", "")) or site.identity.system_identifier
        timeline = archive.timeline_in(archive.server_name, int(status.get("timelineID") or 0))
        kept = objectstore.kept(ctx.store, archive.server_name, system_id=said, timeline=timeline)
        newest, system_id = (kept.backups[-1] if kept.backups else None), kept.system_id
        if newest is None and not system_id:
            raise BaseBackupMissing(
                f"no usable base backup under {archive.location}, and nothing else says which system it was",
                todo="Check archive.server_name and the folder's name in the bucket.",
            )
        database, owner, secret = application(ctx, cluster)
        old = OldCluster(
            ref=ctx.source_ref,
            uid=cluster["metadata"].get("uid", ""),
            system_id=system_id,
            timeline=kept.own,
            primary=str(status.get("currentPrimary", "")),
            server_name=archive.server_name,
            location=archive.location,
            server_version=newest.pg_version if newest else 0,
            image=str(status.get("image") or cluster["spec"].get("imageName") or site.replacement.image),
            storage_class=str(
                cluster["spec"].get("storage", {}).get("storageClass", "") or site.replacement.storage_class
            ),
            method=archive.method,
            instances=int(cluster["spec"].get("instances") or site.replacement.instances),
            database=database,
            owner=owner,
            secret=secret,
        )
        self._record(ctx, old, str(status.get("phase", "")))
        return old

    def _record(self, ctx: Context, old: OldCluster, phase: str) -> None:
        cluster = NotedCluster(namespace=old.ref.namespace, name=old.ref.name, uid=old.uid, system_id=old.system_id)
        ctx.recorder.note(Facts(cluster=cluster, archived_by=ArchivedBy(method=old.method, location=old.location)))
        if self.instead:
            ctx.recorder.note(Facts(test=TestKind(type="full restore, put into service")))
        if self.instead and phase == HEALTHY:
            ctx.recorder.check(
                Check(
                    name="restore called for",
                    proves="the cluster is lost or corrupted, and nothing less than all of it will do",
                    verdict=Verdict.UNPROVEN,
                    required=False,
                    expected="a cluster that is gone or broken",
                    observed=f"WARNING: Cluster {old.ref} is healthy",
                    reason=STILL_HEALTHY,
                )
            )
        pinned = ctx.site.identity.pinned
        ctx.recorder.check(
            Check(
                name="right cluster",
                proves="what is replaced is the cluster that the profile means",
                verdict=Verdict.VERIFIED if pinned else Verdict.NOT_APPLICABLE,
                expected=f"system identifier {ctx.site.identity.system_identifier}" if pinned else "",
                observed=f"system identifier {old.system_id}" + (", known from the archive" if old.gone else ""),
                reason="" if pinned else "the profile pins no identity",
                details=(
                    ("Cluster object", "no longer there" if old.gone else old.uid),
                    ("phase", phase or "none"),
                    ("primary", old.primary or "none"),
                    ("archive", old.location),
                    ("archived by", ARCHIVED_BY[old.method]),
                    ("instances", str(old.instances)),
                    ("application's password", f"Secret {old.secret}" if old.secret else "CloudNativePG's own Secret"),
                ),
            )
        )


def profile_faults(ctx: Context) -> list[str]:
    """What the profile does not say, and a replacement needs where only it and the bucket are left."""
    site, namespace = ctx.site, ctx.site.cluster.namespace
    faults: list[str] = []
    if not site.replacement.storage_size:
        faults.append("the Cluster is gone and the profile's replacement.storage_size is not set")
    store = site.archive.object_store
    left = store and ctx.kube.get(k8s.OBJECT_STORE, namespace, store) is not None
    if not left:
        if not site.archive.destination:
            faults.append(
                f"ObjectStore {namespace}/{store or '(not named)'} is gone and archive.destination is not set"
            )
        if site.archive.writer_secret is None:
            faults.append("archive.writer_secret is not set: a new ObjectStore needs the cluster's own key")
        elif ctx.kube.get(k8s.SECRET, namespace, site.archive.writer_secret.name) is None:
            faults.append(
                f"Secret {namespace}/{site.archive.writer_secret.name} (archive.writer_secret) does not exist"
            )
    if site.tenants[0].app_login is None:
        faults.append(f"tenant {site.tenants[0].database} has no app_login: the owner's password would change")
    return faults


def application(ctx: Context, cluster: dict[str, Any]) -> tuple[str, str, str]:
    """Database, owner and the user's own Secret ("" for none), as the cluster was bootstrapped.

    Where it doesn't say, the profile's first tenant: CloudNativePG's defaults would add a stray ``app``.
    """
    methods = cluster["spec"].get("bootstrap", {})
    section: dict[str, Any] = next((value for value in methods.values() if isinstance(value, dict)), {})
    tenant = ctx.site.tenants[0]
    database = str(section.get("database") or tenant.database)
    owner = str(section.get("owner") or (database if section.get("database") else tenant.app_role))
    return database, owner, str(section.get("secret", {}).get("name", ""))


def as_it_was(ctx: Context, old: OldCluster) -> dict[str, Any]:
    """The old Cluster's object: as it was before this run, else as the run that removed it kept it, else by the profile."""
    found = ctx.kube.get(k8s.CLUSTER, old.ref.namespace, old.ref.name)
    if found is not None and found["metadata"]["uid"] == old.uid:
        return undo.before(ctx, found)
    kept = None if old.gone else lost_cluster.kept_cluster(ctx.kube, ctx.site, ctx.run_id)
    return kept or replacement.from_profile(ctx.site)


__all__ = ["RIGHTS", "OldCluster", "ReadOldCluster", "as_it_was"]
