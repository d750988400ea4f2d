"""Before anything is touched: the right cluster, the rights, the newest backup, the archive and its WAL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook import objectstore
from drillbook.errors import BaseBackupMissing, NotReady, TargetOutsideWindow
from drillbook.manifests import RUN_LABEL
from drillbook.model import (
    ArchivedCommit,
    BaseBackup,
    Check,
    ClusterRef,
    Frozen,
    Instant,
    Lsn,
    Verdict,
    parse_instant,
    show_instant,
)
from drillbook.postgres import Database
from drillbook.step import Context, Rung, Rungs, Step

HEALTHY = "Cluster in healthy state"


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


# What the drill needs, each asked of the API server itself (SelfSubjectAccessReview).
SOURCE_RIGHTS: tuple[tuple[str, k8s.Kind, str], ...] = (
    ("get", k8s.CLUSTER, ""),
    ("list", k8s.BACKUP, ""),
    ("get", k8s.OBJECT_STORE, ""),
    ("get", k8s.POD, ""),
    ("create", k8s.POD, "portforward"),
)
DRILL_RIGHTS: tuple[tuple[str, k8s.Kind, str], ...] = (
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
# What a drill must not need: told when it is granted all the same.
EXCESS_RIGHTS: tuple[tuple[str, k8s.Kind, str], ...] = (("create", k8s.POD, "exec"), ("get", k8s.SECRET, ""))


def _denied(ctx: Context, rights: Sequence[tuple[str, k8s.Kind, str]], namespace: str) -> list[str]:
    return [
        f"{verb} {kind.plural}{'/' + sub if sub else ''} in {namespace}"
        for verb, kind, sub in rights
        if not ctx.kube.can_i(verb, kind, subresource=sub, namespace=namespace)
    ]


@dataclass(frozen=True)
class CheckReadiness(Step[SourceCluster]):
    """The right cluster, and the rights to drill it.

    Cluster, identity pin, rights, storage class and the role's grants are checked together, so that all faults are
    told at once while nothing has been touched.
    """

    def do(self, ctx: Context) -> SourceCluster:
        site = ctx.site
        faults: list[str] = []
        cluster = ctx.cluster_object(ctx.source_ref)
        status = cluster.get("status", {})
        if status.get("phase") != HEALTHY:
            faults.append(f"Cluster {ctx.source_ref} is {status.get('phase') or 'without a phase'!r}, not {HEALTHY!r}")
        denied = _denied(ctx, SOURCE_RIGHTS, site.cluster.namespace) + _denied(ctx, DRILL_RIGHTS, site.drill_namespace)
        faults += [f"missing right: {right} (deploy/rbac/)" for right in denied]
        storage_class = site.copy_.storage_class or cluster["spec"].get("storage", {}).get("storageClass", "")
        faults += self._storage_faults(ctx, storage_class)
        faults += self._pin_faults(ctx, cluster)
        facts: dict[str, Any] = {}
        if status.get("currentPrimary") and not denied:
            with ctx.source() as db:
                facts = db.ask_one("server_facts")
                faults += self._database_faults(ctx, self._grants(ctx, db), facts)
        if faults:
            raise NotReady(faults, where=f"Cluster {ctx.source_ref}")
        found = SourceCluster(
            ref=ctx.source_ref,
            uid=cluster["metadata"]["uid"],
            system_id=str(facts["system_identifier"]),
            timeline=int(facts["timeline"]),
            primary=status["currentPrimary"],
            server_name=ctx.server_name,
            location=ctx.object_store["spec"]["configuration"]["destinationPath"].rstrip("/") + "/" + ctx.server_name,
            server_version=int(facts["server_version_num"]),
            image=status.get("image", cluster["spec"].get("imageName", "")),
            storage_class=storage_class,
        )
        self._record(ctx, cluster, found)
        return found

    def _storage_faults(self, ctx: Context, storage_class: str) -> list[str]:
        if not storage_class:
            return []
        found = ctx.kube.get(k8s.STORAGE_CLASS, "", storage_class)
        if found is None:
            return [f"StorageClass {storage_class} does not exist (the copy's volume would wait for ever)"]
        if found.get("reclaimPolicy", "Delete") != "Delete":
            return [
                f"StorageClass {storage_class} keeps volumes (reclaimPolicy {found['reclaimPolicy']}): a drill's "
                "copy could not be proven gone; name another in copy.storage_class"
            ]
        return []

    def _pin_faults(self, ctx: Context, cluster: dict[str, Any]) -> list[str]:
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
            if tenant.digest_tables and any(g.get("name") == tenant.database and g["granted"] for g in found):
                with ctx.source(tenant.database) as own:
                    found += own.ask("table_grants", tables=list(tenant.digest_tables))
        return found

    def _record(self, ctx: Context, cluster: dict[str, Any], found: SourceCluster) -> None:
        pin = ctx.site.identity
        pinned = bool(pin.kube_system_uid and pin.system_identifier)
        ctx.recorder.fact(
            "cluster",
            {
                "namespace": found.ref.namespace,
                "name": found.ref.name,
                "uid": found.uid,
                "system_id": found.system_id,
            },
        )
        versions = {
            "postgresql": str(found.server_version),
            "image": found.image,
            "kubernetes": ctx.kube.server_version(),
        }
        versions |= {p["name"]: p.get("version", "") for p in cluster.get("status", {}).get("pluginStatus", [])}
        ctx.recorder.fact("versions", versions)
        allowed = [
            f"{verb} {kind.plural}{'/' + sub if sub else ''}"
            for verb, kind, sub in EXCESS_RIGHTS
            if ctx.kube.can_i(verb, kind, subresource=sub, namespace=ctx.site.cluster.namespace)
        ]
        ctx.recorder.fact("rights", {"missing": [], "more_than_needed": allowed})
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
                    ("more rights than needed", ", ".join(allowed) or "none"),
                ),
            )
        )


@dataclass(frozen=True)
class NothingElseRunning(Rung):
    """Nothing else is under way on this cluster.

    A backup or another drill at the same time would spoil each other's figures.
    """

    cluster: SourceCluster
    name: ClassVar[str] = "nothing else running"
    proves: ClassVar[str] = "no backup and no other drill is under way"

    def observe(self, ctx: Context) -> Sequence[Check]:
        done = {"completed", "failed", "invalid backup definition"}
        busy = [
            f"Backup {item['metadata']['name']} is {item.get('status', {}).get('phase') or 'pending'}"
            for item in ctx.kube.list(k8s.BACKUP, self.cluster.ref.namespace)
            if item["spec"]["cluster"]["name"] == self.cluster.ref.name
            and item.get("status", {}).get("phase", "") not in done
        ]
        busy += [
            f"copy {item['metadata']['name']} of run {item['metadata']['labels'][RUN_LABEL]} is still there"
            for item in ctx.kube.list(k8s.CLUSTER, ctx.site.drill_namespace, labels=RUN_LABEL)
            if item["metadata"]["labels"][RUN_LABEL] != ctx.run_id
        ]
        verdict = Verdict.FAILED if busy else Verdict.VERIFIED
        return [self.result(verdict, expected="nothing under way", observed="; ".join(busy) or "nothing under way")]


@dataclass(frozen=True)
class ChooseBaseBackup(Step[BaseBackup]):
    """Choose the newest usable base backup, and judge its age.

    The catalogue is read from each backup.info in the bucket: a listed directory may be an unfinished backup.
    """

    cluster: SourceCluster

    def do(self, ctx: Context) -> BaseBackup:
        found = objectstore.catalogue(ctx.store, self.cluster.server_name, system_id=self.cluster.system_id)
        usable = found.usable
        if not usable:
            unusable = "; ".join(f"{backup_id}: {reason}" for backup_id, reason in found.unusable)
            raise BaseBackupMissing(
                f"no usable base backup under {self.cluster.location}" + (f" ({unusable})" if unusable else ""),
                todo="Take one with runbooks/backup-manual.ipynb or a Backup object, and find out why none was made.",
            )
        if ctx.target_time:
            asked = parse_instant(ctx.target_time)
            earlier = [backup for backup in usable if backup.end_time <= asked]
            if not earlier:
                raise TargetOutsideWindow(
                    f"{show_instant(asked)} lies before the end of the first usable base backup; the nearest "
                    f"reachable instant is {show_instant(usable[0].end_time)}",
                    todo=f"Give target_time {show_instant(usable[0].end_time)} or later.",
                )
            usable = earlier
        backup = usable[-1]
        age = backup.age_seconds(datetime.now(UTC))
        limit = ctx.site.freshness.backup_age.total_seconds()
        newest_age = found.usable[-1].age_seconds(datetime.now(UTC))
        ctx.recorder.fact("backup", backup.model_dump(mode="json") | {"age_seconds": age, "chosen": "newest usable"})
        ctx.recorder.check(
            Check(
                name="backup age",
                proves="the schedule still makes base backups",
                verdict=Verdict.VERIFIED if newest_age <= limit else Verdict.FAILED,
                expected=f"the newest is at most {limit / 3600:g} h old",
                observed=f"{newest_age / 3600:.2f} h ({found.usable[-1].backup_id})",
                details=tuple(
                    [("candidates", str(len(found.usable)))]
                    + [(f"not used: {backup_id}", reason) for backup_id, reason in found.unusable[:8]]
                ),
            )
        )
        return backup


@dataclass(frozen=True)
class LastArchivingSucceeded(Rung):
    """The last attempt to archive WAL succeeded, by the Cluster's condition and by the server's own statistics."""

    cluster: SourceCluster
    name: ClassVar[str] = "archiving live"
    proves: ClassVar[str] = "the source archives its WAL now"

    def observe(self, ctx: Context) -> Sequence[Check]:
        status = ctx.cluster_object(self.cluster.ref).get("status", {})
        conditions: list[dict[str, str]] = status.get("conditions", [])
        condition = next((c for c in conditions if c["type"] == "ContinuousArchiving"), {})
        with ctx.source() as db:
            archiver = db.ask_one("archiver")
        failing = []
        if condition.get("status") != "True":
            said = f"{condition.get('reason', 'absent')}: {condition.get('message', '')}"
            failing.append(f"ContinuousArchiving is {condition.get('status', 'absent')} ({said})")
        last_ok, last_failed = archiver["last_archived_time"], archiver["last_failed_time"]
        if last_failed is not None and (last_ok is None or last_failed > last_ok):
            failing.append(f"the last attempt failed: {archiver['last_failed_wal']} at {show_instant(last_failed)}")
        if last_ok is None:
            failing.append("no WAL segment has been archived since the statistics were reset")
        observed = "; ".join(failing) or f"{archiver['last_archived_wal']} archived at {show_instant(last_ok)}"
        details = (("archived", str(archiver["archived_count"])), ("failed", str(archiver["failed_count"])))
        verdict = Verdict.FAILED if failing else Verdict.VERIFIED
        return [self.result(verdict, expected="the last attempt succeeded", observed=observed, details=details)]


class ArchivedWal(Frozen):
    """The archive's WAL from the base backup to its newest segment."""

    unbroken: bool
    first_segment: str
    last_segment: str
    segments: int
    end_lsn: Lsn
    timeline: int
    first_missing: str = ""
    newest_commit: ArchivedCommit | None = None
    asked: Instant | None = None  # the target that was asked for; None for this drill's own marker


@dataclass(frozen=True)
class WalChainUnbroken(Step[ArchivedWal]):
    """The WAL from the base backup to now is unbroken, and a target that was asked for lies before its end.

    A gap is otherwise found only at restore, after the base backup has been fetched. Recovery to a time needs a later
    commit in the archive; otherwise PostgreSQL replays everything and then fails.
    """

    cluster: SourceCluster
    backup: BaseBackup

    def do(self, ctx: Context) -> ArchivedWal:
        listing = objectstore.wal_names(ctx.store, self.cluster.server_name, since=self.backup.begin_wal)
        chain = objectstore.archive_chain(ctx.store, self.backup, listing)
        newest: ArchivedCommit | None = None
        if chain.segments:
            newest = objectstore.newest_commit(ctx.store, listing, chain, system_id=self.cluster.system_id)
        expected = f"every segment from {self.backup.begin_wal} to {chain.last_segment or 'the newest'}"
        ctx.recorder.check(
            Check(
                name="WAL chain",
                proves="recovery finds every WAL segment from the base backup to the newest",
                verdict=Verdict.VERIFIED if chain.unbroken else Verdict.FAILED,
                expected=expected,
                observed=f"{chain.segments} segments, unbroken" if chain.unbroken else chain.problem,
                details=tuple(
                    (f"gap {n}", f"{gap.first_missing} to {gap.last_missing}")
                    for n, gap in enumerate(chain.gaps[:8], 1)
                ),
            )
        )
        result = ArchivedWal(
            unbroken=chain.unbroken,
            first_segment=self.backup.begin_wal,
            last_segment=chain.last_segment,
            segments=chain.segments,
            end_lsn=chain.end_lsn,
            timeline=chain.timeline,
            first_missing=chain.first_missing,
            newest_commit=newest,
            asked=self._asked(ctx, newest),
        )
        ctx.recorder.fact("chain", result.model_dump(mode="json"))
        return result

    def _asked(self, ctx: Context, newest: ArchivedCommit | None) -> datetime | None:
        if not ctx.target_time:
            return None
        asked = parse_instant(ctx.target_time)
        if newest is not None and asked < newest.committed_at:
            return asked
        nearest = show_instant(newest.committed_at - timedelta(microseconds=1)) if newest else "not known"
        raise TargetOutsideWindow(
            f"{show_instant(asked)} is not before the newest archived commit; the nearest reachable instant is {nearest}",
            todo=f"Give target_time {nearest} or earlier, or wait until later WAL is archived.",
        )


@dataclass(frozen=True)
class ArchiveLag(Rung):
    """Time since the newest archived commit; nothing is lost if no transaction came after it."""

    cluster: SourceCluster
    archived: ArchivedWal
    name: ClassVar[str] = "archive lag"
    proves: ClassVar[str] = "how much is lost if the source is lost now"

    def observe(self, ctx: Context) -> Sequence[Check]:
        newest = self.archived.newest_commit
        with ctx.source() as db:
            now = db.ask_one("wal_position")
        if newest is None:
            return [self.result(Verdict.UNPROVEN, reason="no commit was found in the newest archived segments")]
        # The server's next XID says whether anything was assigned after the newest archived commit.
        idle = int(now["next_xid"]) & 0xFFFFFFFF == newest.xid + 1
        lag = 0.0 if idle else max(0.0, (now["clock"] - newest.committed_at).total_seconds())
        limit = ctx.site.freshness.archive_lag.total_seconds()
        ctx.recorder.fact(
            "archive_lag", {"seconds": lag, "newest_commit": newest.model_dump(mode="json"), "idle": idle}
        )
        return [
            self.result(
                Verdict.VERIFIED if lag <= limit else Verdict.FAILED,
                expected=f"at most {limit:g} s",
                observed=f"{lag:.1f} s" + (" (nothing committed since)" if idle else ""),
                details=(
                    ("newest archived commit", show_instant(newest.committed_at)),
                    ("in segment", newest.segment),
                    ("source is at", str(now["lsn"])),
                ),
            )
        ]


@dataclass(frozen=True)
class ArchivingLive(Rungs):
    """WAL archiving works now, and keeps up.

    An archive can stop silently. The lag is what a loss right now would cost; it is read before this run switches a
    segment.
    """

    cluster: SourceCluster
    archived: ArchivedWal

    def rungs(self) -> Sequence[Rung]:
        return [LastArchivingSucceeded(self.cluster), ArchiveLag(self.cluster, self.archived)]


__all__ = [
    "ArchivedWal",
    "ArchivingLive",
    "CheckReadiness",
    "ChooseBaseBackup",
    "NothingElseRunning",
    "SourceCluster",
    "WalChainUnbroken",
]
