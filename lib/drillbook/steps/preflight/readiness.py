"""Before anything is touched: the right cluster, the rights to drill it, and nothing else under way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.location import IN_TREE, PLUGIN
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import NotReady, PreconditionError, RunbookError
from drillbook.evidence.facts import ArchivedBy, Facts, NotedCluster
from drillbook.manifests import recovery as manifests
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.model import (
    Check,
    ClusterRef,
    Frozen,
    Verdict,
    parse_instant,
    show_instant,
)
from drillbook.postgres.client import Database

HEALTHY = "Cluster in healthy state"
ARCHIVED_BY = {
    PLUGIN: "the Barman Cloud Plugin",
    IN_TREE: "CloudNativePG's in-tree barmanObjectStore, deprecated and removed in 1.31.0: plan the move to the "
    "Barman Cloud Plugin, which reads the same archive",
}


class SourceCluster(Frozen):
    """The cluster that is drilled, as it answered."""

    ref: ClusterRef
    uid: str
    system_id: str
    timeline: int
    primary: str
    server_name: str
    location: str
    server_version: int  # server_version_num
    image: str
    storage_class: str
    instances: int = 1


# What the drill needs, each asked of the API server itself (SelfSubjectAccessReview).
Rights = Sequence[tuple[str, k8s.Kind, str]]
SOURCE_RIGHTS: Rights = (
    ("get", k8s.CLUSTER, ""),
    ("list", k8s.BACKUP, ""),
    ("get", k8s.OBJECT_STORE, ""),
    ("get", k8s.POD, ""),
    ("create", k8s.POD, "portforward"),
)
DRILL_RIGHTS: Rights = (
    *(
        (verb, kind, "")
        for kind in (k8s.CLUSTER, k8s.OBJECT_STORE, k8s.SECRET, k8s.CONFIG_MAP, k8s.NETWORK_POLICY)
        for verb in ("create", "get", "list", "watch", "delete")
    ),
    *((verb, kind, "") for kind in (k8s.POD, k8s.JOB) for verb in ("get", "list", "watch")),
    *(("list", kind, "") for kind in (k8s.PVC, k8s.SERVICE)),
    ("get", k8s.POD, "log"),
    ("create", k8s.POD, "portforward"),
)
# What a drill must not need: reported when it is granted all the same.
EXCESS_RIGHTS: Rights = (("create", k8s.POD, "exec"), ("get", k8s.SECRET, ""))


def denied(ctx: Context, rights: Rights, namespace: str) -> list[str]:
    missing: dict[str, list[str]] = {}
    for verb, kind, sub in rights:
        if not ctx.kube.can_i(verb, kind, subresource=sub, namespace=namespace):
            missing.setdefault(f"{kind.plural}{'/' + sub if sub else ''} in {namespace}", []).append(verb)
    return [f"{', '.join(verbs)} on {what}" for what, verbs in missing.items()]


def archive_key_denied(ctx: Context) -> list[str]:
    """The right to read the archive's key, by its name: what only reads the archive needs no other Secret."""
    reader, namespace = ctx.site.archive.reader_secret, ctx.site.drill_namespace
    if reader is None or ctx.kube.can_i("get", k8s.SECRET, namespace=namespace, name=reader.name):
        return []
    return [f"get on secrets/{reader.name} in {namespace}"]


def pin_faults(ctx: Context, cluster: dict[str, Any]) -> list[str]:
    """How Kubernetes and PostgreSQL differ from what the profile pins."""
    pin = ctx.site.identity
    faults = []
    if pin.kube_system_uid:
        namespace = ctx.kube.get(k8s.NAMESPACE, "", "kube-system") or {"metadata": {"uid": "unknown"}}
        observed = namespace["metadata"]["uid"]
        if observed != pin.kube_system_uid:
            faults.append(
                f"wrong Kubernetes cluster: kube-system has UID {observed}, the profile pins {pin.kube_system_uid}"
            )
    system_id = str(cluster.get("status", {}).get("systemID", ""))
    if pin.system_identifier and system_id and system_id != pin.system_identifier:
        faults.append(f"wrong PostgreSQL: system identifier {system_id}, the profile pins {pin.system_identifier}")
    return faults


def _pull_secret_faults(ctx: Context, cluster: dict[str, Any], missing: list[str]) -> list[str]:
    """The image is pulled in the drill namespace, with Secrets that must be there under the same names."""
    wanted = [item["name"] for item in cluster["spec"].get("imagePullSecrets") or []]
    if any("secrets in" in right for right in missing):
        return []  # already reported
    return [
        f"Secret {ctx.site.drill_namespace}/{name} does not exist: the source's image is pulled with it "
        f"(imagePullSecrets); copy it from {ctx.site.cluster.namespace}"
        for name in dict.fromkeys(wanted)
        if ctx.kube.get(k8s.SECRET, ctx.site.drill_namespace, name) is None
    ]


def _account_faults(ctx: Context) -> list[str]:
    """The ServiceAccount that the copy reads the archive as must be there: CloudNativePG makes none of that name."""
    identity = ctx.site.archive.identity
    if identity is None or not identity.service_account:
        return []
    name = f"{ctx.site.drill_namespace}/{identity.service_account}"
    if ctx.kube.get(k8s.SERVICE_ACCOUNT, ctx.site.drill_namespace, identity.service_account) is not None:
        return []
    return [f"ServiceAccount {name} (archive.identity.service_account) does not exist"]


def replica_faults(cluster: dict[str, Any]) -> list[str]:
    """Whether the Cluster follows another one, by ``spec.replica`` in either of its forms (standalone, distributed)."""
    replica = cluster.get("spec", {}).get("replica") or {}
    name = cluster["metadata"].get("name", "")
    follows = replica.get("enabled")
    if follows is None:
        follows = bool(replica.get("primary")) and replica["primary"] != (replica.get("self") or name)
    if not follows:
        return []
    leader = replica.get("primary") or replica.get("source") or "another cluster"
    return [
        f"it is a replica cluster of {leader} (spec.replica): it takes no writes and its history is the other's; "
        "name the primary cluster in the profile"
    ]


def asleep_faults(cluster: dict[str, Any]) -> list[str]:
    """Why a Cluster whose phase may still be healthy answers nobody: hibernated, or its primary fenced."""
    annotations = cluster["metadata"].get("annotations") or {}
    conditions = {item["type"]: item for item in cluster.get("status", {}).get("conditions") or []}
    faults = []
    asleep = conditions.get("cnpg.io/hibernation", {}).get("status") == "True"
    if asleep or annotations.get("cnpg.io/hibernation") == "on":
        faults.append("it is hibernated (annotation cnpg.io/hibernation): set it to off and wait until it is healthy")
    try:
        fenced = json.loads(annotations.get("cnpg.io/fencedInstances") or "[]")
    except ValueError:
        fenced = []
    primary = cluster.get("status", {}).get("currentPrimary")
    if "*" in fenced or primary in fenced:
        faults.append(
            f"its primary {primary or ''} is fenced (annotation cnpg.io/fencedInstances): `kubectl cnpg fencing off` lifts it"
        )
    return faults


def _primary_serves(ctx: Context, cluster: dict[str, Any]) -> bool:
    """Whether the primary is Ready and no other instance is about to take its place."""
    status = cluster.get("status", {})
    primary = str(status.get("currentPrimary") or "")
    if not primary or status.get("targetPrimary", primary) != primary:
        return False
    pod = ctx.kube.get(k8s.POD, cluster["metadata"]["namespace"], primary) or {}
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _archive_faults(ctx: Context) -> list[str]:
    """A Cluster whose ObjectStore is gone is frozen: its phase stays healthy, and CloudNativePG does nothing for it."""
    try:
        _ = ctx.archive
    except NotReady as error:
        return error.faults
    except PreconditionError as error:
        return [f"{error.what}: {error.todo}" if error.todo else error.what]
    return []


@dataclass(frozen=True)
class CheckReadiness(Step[SourceCluster]):
    """The right cluster, and the rights to drill it.

    Cluster, identity pin, rights, storage class and the role's grants are checked together, so that all faults are
    reported together while nothing has been touched.
    """

    source_rights: ClassVar[Rights] = SOURCE_RIGHTS
    drill_rights: ClassVar[Rights] = DRILL_RIGHTS
    granted_by: ClassVar[str] = "deploy/rbac/"
    makes_a_copy: ClassVar[bool] = True
    in_an_emergency: ClassVar[bool] = False
    """A drill waits for better days; a recovery takes a cluster whose primary serves, and says what is not as it should be."""
    compares_rows: ClassVar[bool] = True

    def do(self, ctx: Context) -> SourceCluster:
        site = ctx.site
        cluster = ctx.cluster_object(ctx.source_ref)
        status = cluster.get("status", {})
        # Waiting does not help here, and no session could be opened: reported by itself, before anything else is asked.
        asleep = replica_faults(cluster) + asleep_faults(cluster)
        if asleep:
            raise NotReady(
                asleep, where=f"Cluster {ctx.source_ref}", todo="Choose the cluster that serves, or wake this one."
            )
        faults: list[str] = []
        unusual: list[tuple[str, str]] = []
        if status.get("phase") != HEALTHY:
            words = f"Cluster {ctx.source_ref} is {status.get('phase') or 'without a phase'!r}, not {HEALTHY!r}"
            if self.in_an_emergency and _primary_serves(ctx, cluster):
                unusual.append(("phase", f"{words}; its primary {status['currentPrimary']} serves"))
            else:
                faults.append(words)
        missing = denied(ctx, self.source_rights, site.cluster.namespace)
        missing += (
            denied(ctx, self.drill_rights, site.drill_namespace) if self.makes_a_copy else archive_key_denied(ctx)
        )
        faults += [f"missing right: {right} ({self.granted_by})" for right in missing]
        classes = manifests.volumes(site, cluster["spec"])
        if self.makes_a_copy:
            for storage_class in dict.fromkeys(classes.values()):
                kept = self._storage_faults(ctx, storage_class)
                if self.in_an_emergency and ctx.kube.get(k8s.STORAGE_CLASS, "", storage_class) is not None:
                    unusual += [("volumes", f"{words}; remove the copy's PersistentVolumes by hand") for words in kept]
                else:
                    faults += kept
            faults += manifests.image_faults(site, cluster) + _pull_secret_faults(ctx, cluster, missing)
            faults += _account_faults(ctx)
        faults += pin_faults(ctx, cluster) + _archive_faults(ctx)
        facts: dict[str, Any] = {}
        if status.get("currentPrimary") and not missing:
            try:
                with ctx.source() as db:
                    facts = db.ask_one("server_facts")
                    faults += self._database_faults(ctx, self._grants(ctx, db), facts)
            except RunbookError as error:
                if not faults:
                    raise
                faults.append(error.what)  # one fault does not hide the others
        if faults:
            raise NotReady(faults, where=f"Cluster {ctx.source_ref}")
        found = SourceCluster(
            ref=ctx.source_ref,
            uid=cluster["metadata"]["uid"],
            system_id=str(facts["system_identifier"]),
            timeline=int(facts["timeline"]),
            primary=status["currentPrimary"],
            server_name=ctx.archive.server_name,
            location=ctx.archive.location,
            server_version=int(facts["server_version_num"]),
            image=status.get("image", cluster["spec"].get("imageName", "")),
            storage_class=classes["storage"],
            instances=int(cluster["spec"].get("instances", 1)),
        )
        self._record(ctx, cluster, found, unusual)
        return found

    def _storage_faults(self, ctx: Context, storage_class: str) -> list[str]:
        if not storage_class:
            return []
        found = ctx.kube.get(k8s.STORAGE_CLASS, "", storage_class)
        if found is None:
            return [f"StorageClass {storage_class} does not exist (the copy's volume would wait indefinitely)"]
        if found.get("reclaimPolicy", "Delete") != "Delete":
            return [
                f"StorageClass {storage_class} keeps volumes (reclaimPolicy {found['reclaimPolicy']}): a drill's "
                "copy could not be proven gone; name another in copy.storage_class"
            ]
        return []

    def _database_faults(self, ctx: Context, grants: list[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
        pinned = ctx.site.identity.system_identifier
        faults = [
            f"role {ctx.site.sql.role} lacks: {grant['what']} (deploy/sql/)" for grant in grants if not grant["granted"]
        ]
        if pinned and str(facts["system_identifier"]) != pinned:
            faults.append(f"wrong PostgreSQL: the server says {facts['system_identifier']}, the profile pins {pinned}")
        return faults

    def _grants(self, ctx: Context, db: Database) -> list[dict[str, Any]]:
        found = db.ask("role_grants") + db.ask("connect_grants", databases=[t.database for t in ctx.site.tenants])
        for tenant in ctx.site.tenants:
            if not self.compares_rows:
                break  # no table of the source is read, and one that is gone must not stop its own recovery
            if tenant.digest_tables and any(g.get("name") == tenant.database and g["granted"] for g in found):
                with ctx.source(tenant.database) as own:
                    found += own.ask("table_grants", tables=list(tenant.digest_tables))
        return found

    def _record(
        self, ctx: Context, cluster: dict[str, Any], found: SourceCluster, unusual: list[tuple[str, str]]
    ) -> None:
        pin = ctx.site.identity
        pinned = bool(pin.kube_system_uid and pin.system_identifier)
        cluster_noted = NotedCluster(
            namespace=found.ref.namespace, name=found.ref.name, uid=found.uid, system_id=found.system_id
        )
        archived_by = ArchivedBy(method=ctx.archive.method, location=found.location)
        versions = {
            "postgresql": str(found.server_version),
            "image": found.image,
            "kubernetes": ctx.kube.server_version(),
        }
        versions |= {p["name"]: p.get("version", "") for p in cluster.get("status", {}).get("pluginStatus", [])}
        ctx.recorder.note(Facts(cluster=cluster_noted, versions=versions, archived_by=archived_by))
        allowed = [
            f"{verb} {kind.plural}{'/' + sub if sub else ''}"
            for verb, kind, sub in EXCESS_RIGHTS
            if ctx.kube.can_i(verb, kind, subresource=sub, namespace=ctx.site.cluster.namespace)
        ]
        ctx.recorder.note(Facts(rights={"missing": [], "more_than_needed": allowed}))
        ctx.recorder.check(
            Check(
                name="right cluster",
                proves="the cluster that answers is the one that the profile means",
                verdict=Verdict.VERIFIED if pinned else Verdict.NOT_APPLICABLE,
                expected=f"system identifier {pin.system_identifier}" if pinned else "",
                observed=f"system identifier {found.system_id}",
                reason="" if pinned else "the profile pins no identity",
                details=(
                    ("UID", found.uid),
                    ("primary", found.primary),
                    ("timeline", str(found.timeline)),
                    ("archive", found.location),
                    ("archived by", ARCHIVED_BY[ctx.archive.method]),
                    ("more rights than needed", ", ".join(allowed) or "none"),
                    *unusual,
                ),
            )
        )


@dataclass(frozen=True)
class NothingElseRunning(CheckStep):
    """Nothing else is under way on this cluster.

    A backup or another drill at the same time would invalidate each other's figures.
    """

    cluster: SourceCluster
    name: ClassVar[str] = "nothing else running"
    proves: ClassVar[str] = "no backup and no other drill is under way"

    def observe(self, ctx: Context) -> Sequence[Check]:
        done = {"completed", "failed", "invalid backup definition"}
        limit = ctx.site.freshness.backup_age
        busy: list[str] = []
        stuck: list[str] = []
        for item in ctx.kube.list(k8s.BACKUP, self.cluster.ref.namespace):
            status = item.get("status", {})
            if item["spec"]["cluster"]["name"] != self.cluster.ref.name or status.get("phase", "") in done:
                continue
            begun = parse_instant(status.get("startedAt") or item["metadata"]["creationTimestamp"])
            age = datetime.now(UTC) - begun
            said = (
                f"Backup {item['metadata']['name']} is {status.get('phase') or 'pending'} since {show_instant(begun)}"
            )
            (stuck if age > limit else busy).append(said)
        busy += [
            f"copy {item['metadata']['name']} of run {item['metadata']['labels'][RUN_LABEL]} is still there"
            for item in ctx.kube.list(k8s.CLUSTER, ctx.site.drill_namespace, labels=RUN_LABEL)
            if item["metadata"]["labels"][RUN_LABEL] != ctx.run_id
        ]
        verdict = Verdict.FAILED if busy else Verdict.VERIFIED
        observed = "; ".join(busy) or "nothing under way"
        # Longer than the newest backup may be old, it is no longer under way but left: it says nothing of today.
        details = tuple(
            ("left unfinished", f"{said}, longer than freshness.backup_age: delete it, it may hold up later backups")
            for said in stuck
        )
        return [self.result(verdict, expected="nothing under way", observed=observed, details=details)]


__all__ = ["HEALTHY", "CheckReadiness", "NothingElseRunning", "SourceCluster"]
