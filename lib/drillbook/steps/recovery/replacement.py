"""The replacement: a real cluster recovered from the archive, watched until it is whole, and removed if it isn't wanted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.layout import wal_prefix
from drillbook.archive.location import IN_TREE, PLUGIN
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import Changed, KubernetesError, PreconditionError, VerificationError
from drillbook.evidence.facts import Facts, Reached
from drillbook.manifests import cleanup
from drillbook.manifests import replacement as replacements
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.manifests.replacement import MADE_BY, ReplacementNames
from drillbook.model import BaseBackup, Effect, RecoveryTarget, show_seconds
from drillbook.postgres.recovery_log import given_up
from drillbook.steps.archive.candidates import to_its_timeline
from drillbook.steps.preflight.old_cluster import OldCluster, as_it_was
from drillbook.steps.recovery.copy import RecoveryCopy, Removal, WaitForRecovery


class ReplacementCluster(RecoveryCopy):
    """The replacement as it was created. ``note`` is the ConfigMap that belongs to it; ``secret`` the owner's."""

    server_name: str
    instances: int
    note: str
    secret: str
    in_service: bool = False  # made under the old name: it is production from its first second

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [*super().rows(), ("server name", self.server_name), ("instances", str(self.instances))]


@dataclass(frozen=True)
class CreateReplacementCluster(Step[ReplacementCluster]):
    """Create the replacement next to the old cluster, by recovery from the archive.

    Its own whole cluster, as many instances as the source, with the source's settings and roles. It archives
    under a serverName that was never used: CloudNativePG refuses a folder that holds another history's WAL. Database,
    owner and secret are named so that no password changes.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    stays: ClassVar[bool] = False
    """Whether it is production as soon as it is made, so that no clean-up may remove it."""
    old: OldCluster
    backup: BaseBackup
    target: RecoveryTarget
    server_name: str = ""
    instances: int = 0

    def names(self, ctx: Context) -> ReplacementNames:
        """What this run calls the replacement; the same whenever it is asked."""
        return ReplacementNames.for_new_cluster(self.old.ref, ctx.run_id, self.server_name)

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()
        names = self.names(ctx)
        if not self._mine(ctx, names):
            require_new_server_name(ctx, names.server_name)

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=f"{self.title} (its base backup and target are {self.unknown})")
        names = self.names(ctx)
        secret, made = self._secret(ctx, names)
        cluster, left_out = self._cluster(ctx, names, secret)
        notes = [f"archives to {ctx.archive.configuration['destinationPath']}/{names.server_name}, which is empty"]
        notes += [f"Secret {names.password_secret} keeps the password of {self.old.owner}"] if made else []
        notes += [f"left out: {name} ({reason})" for name, reason in left_out]
        touches = (Action("create", "Cluster", names.ref.namespace, names.ref.name),)
        return Plan(f"Cluster {names.ref}", objects=(*self._store(ctx), cluster), notes=tuple(notes), touches=touches)

    def do(self, ctx: Context) -> ReplacementCluster:
        names = self.names(ctx)
        now = datetime.now(UTC)
        expires = None if self.stays else now + ctx.site.limits.copy_expires
        note = replacements.note(names, source=self.old.ref, expires_at=expires)
        secret, credentials = self._secret(ctx, names)
        cluster, left_out = self._cluster(ctx, names, secret)
        before = as_it_was(ctx, self.old)["spec"].get("enableSuperuserAccess")
        note["data"]["superuser"] = json.dumps(bool(before))
        found = self._mine(ctx, names)
        if found is None:
            stores = self._store(ctx)
            if not stores:  # a dry run is refused for want of the ObjectStore that would be made a moment later
                ctx.kube.create(cluster, dry_run=True)
            for item in (*stores, note, *credentials, cluster):
                found = self._ensure(ctx, item, promised=item not in stores)
        assert found is not None  # noqa: S101 - the Cluster is the last of them
        result = ReplacementCluster(
            ref=names.ref,
            uid=found["metadata"]["uid"],
            created_at=found["metadata"]["creationTimestamp"],
            objects=tuple(f"{item['kind']}/{item['metadata']['name']}" for item in (note, *credentials, cluster)),
            left_out=tuple(left_out),
            server_name=names.server_name,
            instances=int(found["spec"]["instances"]),
            note=names.made_by,
            secret=secret,
            in_service=self.stays,
        )
        shown = result.model_dump(mode="json") | {"image": found["spec"].get("imageName", "")}
        ctx.recorder.note(Facts(replacement=shown))
        return result

    def verify(self, ctx: Context, result: ReplacementCluster) -> None:
        spec = ctx.cluster_object(result.ref)["spec"]
        if ctx.archive.method == PLUGIN:
            entries = [entry for entry in spec.get("plugins", []) if entry.get("isWALArchiver")]
            folders = [entry["parameters"].get("serverName", "") for entry in entries]
        else:
            folders = [spec.get("backup", {}).get("barmanObjectStore", {}).get("serverName", "")]
        if folders != [result.server_name]:
            raise VerificationError(
                f"Cluster {result.ref} archives elsewhere",
                expected=f"serverName {result.server_name}",
                observed=", ".join(folders) or "no archive at all",
                todo="Delete it before it writes: another admission plugin has changed the object.",
            )

    def _mine(self, ctx: Context, names: ReplacementNames) -> dict[str, Any] | None:
        """The Cluster if an earlier attempt of this step has made it already."""
        found = ctx.kube.get(k8s.CLUSTER, names.ref.namespace, names.ref.name)
        return found if found is not None and made_by(found) == ctx.run_id else None

    def _ensure(self, ctx: Context, item: dict[str, Any], *, promised: bool) -> dict[str, Any]:
        metadata = item["metadata"]
        if promised and not self.stays:
            ctx.recorder.obligation(to_delete(item["kind"], metadata["namespace"], metadata["name"]))
        try:
            return ctx.kube.create(item)
        except KubernetesError as error:
            if error.status != 409:
                raise
        found = ctx.kube.get(k8s.kind_of(item), metadata["namespace"], metadata["name"])
        if found is None or (promised and made_by(found) != ctx.run_id):
            raise PreconditionError(
                f"{item['kind']} {metadata['namespace']}/{metadata['name']} exists and is not this run's",
                changed=Changed.UNKNOWN,
                todo="Find out whose it is; start a new run, which takes other names.",
            )
        return found

    def _cluster(
        self, ctx: Context, names: ReplacementNames, secret: str
    ) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        return replacements.replacement_cluster(
            names,
            as_it_was(ctx, self.old),
            site=ctx.site,
            archive=ctx.archive,
            backup=self.backup,
            target=to_its_timeline(ctx, self.old, self.backup, self.target),
            database=self.old.database,
            owner=self.old.owner,
            secret=secret,
            instances=self.instances,
            stays=self.stays,
        )

    def _store(self, ctx: Context) -> list[dict[str, Any]]:
        """The ObjectStore, where it is gone, too. It stays: without it CloudNativePG reconciles the Cluster no more."""
        if ctx.archive.method == IN_TREE or ctx.archive.object_store:
            return []
        return [replacements.object_store(self.old.ref.namespace, ctx.site, ctx.archive)]

    def _secret(self, ctx: Context, names: ReplacementNames) -> tuple[str, list[dict[str, Any]]]:
        """The Secret with the owner's password, and what has to be made for it."""
        if has_own_secret(ctx, self.old):
            return self.old.secret, []
        known = owner_password(ctx, self.old, kept=names.password_secret)
        made = replacements.password_secret(names, username=self.old.owner, password=known, stays=self.stays)
        return names.password_secret, [made]


def has_own_secret(ctx: Context, old: OldCluster) -> bool:
    """Whether the owner's password is in a Secret of the user's own, which no Cluster takes with it."""
    return bool(old.secret) and ctx.kube.get(k8s.SECRET, old.ref.namespace, old.secret) is not None


def owner_password(ctx: Context, old: OldCluster, *, kept: str = "") -> str:
    """The owner's password: CloudNativePG's own Secret while it is there, else the application's, which the profile names.

    ``kept`` is the Secret in which this run keeps it, and may have already. PreconditionError: nobody knows it.
    """
    generated = f"{old.ref.name}-app"
    tenant = next((tenant for tenant in ctx.site.tenants if tenant.app_role == old.owner), None)
    places = [(old.ref.namespace, name) for name in (kept, generated) if name]
    places += [(tenant.app_login.namespace, tenant.app_login.name)] if tenant and tenant.app_login else []
    for namespace, name in places:
        if ctx.kube.get(k8s.SECRET, namespace, name) is None:
            continue
        values = ctx.kube.secret(namespace, name)
        if values.get("username") == old.owner and values.get("password"):
            return values["password"]
    raise PreconditionError(
        f"no Secret holds the password of {old.owner} (looked for {', '.join('/'.join(place) for place in places)})",
        todo="Name the application's Secret as app_login in the profile: without it CloudNativePG would draw a new one.",
    )


def require_new_server_name(ctx: Context, server_name: str) -> None:
    """Raise unless no WAL is where the new cluster is to archive."""
    level = ctx.store.level(wal_prefix(server_name))
    first = (*level.folders, *(item.key for item in level.objects))
    if first:
        raise PreconditionError(
            f"serverName {server_name} is used: {ctx.store.location}/{first[0]} holds WAL of another history",
            todo="Choose a serverName that was never used. Never switch the check off with "
            "cnpg.io/skipEmptyWalArchiveCheck: two histories in one folder overwrite each other.",
        )


def to_delete(kind: str, namespace: str, name: str) -> Obligation:
    """The promise to delete what a run makes under its own name, unless it is put into service."""
    undo = {"verb": "delete", "kind": kind, "namespace": namespace, "name": name, "uid": ""}
    return Obligation(kind, namespace, name, "made by this run; kept once it is in service", undo=undo)


def made_by(item: dict[str, Any]) -> str:
    """The run that made the object, "" if none did."""
    labels: dict[str, str] = item["metadata"].get("labels") or {}
    return labels.get(MADE_BY) or labels.get(RUN_LABEL, "")


@dataclass(frozen=True)
class WaitForReplacement(WaitForRecovery):
    """Wait until the replacement is whole: recovered, promoted, every instance ready.

    CloudNativePG deletes the recovery job, and its log with it, once the cluster is healthy: the log is kept. A pod
    of it that fails is tried again by Kubernetes, and waited for: a node may have gone, or the object store not
    answered.
    """

    about: ClassVar[str] = "replacement-"
    copy: ReplacementCluster

    def noted(self, reached: Reached) -> Facts:
        return Facts(replacement_reached=reached)

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"Wait at most {show_seconds(ctx.site.limits.recovery.total_seconds())} for every instance; keep the recovery's log"
        )

    def _failed(self, job: dict[str, Any] | None, first: dict[str, Any] | None) -> bool:
        return given_up(job)


@dataclass(frozen=True)
class RemoveReplacement(Step[Removal]):
    """Remove a replacement that is not wanted, and prove it gone with its volumes.

    Only what this run made and did not put into service: found by this run's label and UID, so it needs no gate. What
    the replacement has archived under its own serverName stays in the bucket.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    settles: ClassVar[bool] = True
    old: OldCluster
    replacement: ReplacementCluster

    def check(self, ctx: Context) -> None:
        found = ctx.kube.get(k8s.CLUSTER, self.replacement.ref.namespace, self.replacement.ref.name)
        if found is not None and (found["metadata"].get("labels") or {}).get(MADE_BY):
            raise PreconditionError(
                f"Cluster {self.replacement.ref} was put into service",
                todo="Go back first (undo-full-restore). Then delete it by hand when nobody needs what was written to it.",
            )

    def do(self, ctx: Context) -> Removal:
        started, at = time.monotonic(), datetime.now(UTC)
        namespace = self.old.ref.namespace
        for number in range(1, self.replacement.instances + 1):
            ctx.forget_pod(namespace, f"{self.replacement.ref.name}-{number}")
        limit = ctx.site.limits.step.total_seconds()
        removed = cleanup.remove_run(ctx.kube, namespace, ctx.run_id, timeout_seconds=limit, say=ctx.recorder.progress)
        for item in removed:
            ctx.recorder.settled(Obligation(item.kind, item.namespace, item.name, ""), "removed", item.proof)
        seconds = time.monotonic() - started
        ctx.recorder.phase("remove replacement", at, seconds, "until every object of it was gone")
        return Removal(removed=tuple((item.id, item.proof) for item in removed), seconds=seconds)


__all__ = [
    "CreateReplacementCluster",
    "RemoveReplacement",
    "ReplacementCluster",
    "WaitForReplacement",
    "has_own_secret",
    "made_by",
    "owner_password",
    "require_new_server_name",
    "to_delete",
]
