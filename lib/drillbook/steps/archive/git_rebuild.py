"""If Git made the cluster again now, what would come up: the declared manifest held against the live objects and the archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from drillbook import archive
from drillbook import kube as k8s
from drillbook.archive import ArchiveSnapshot, ObjectStore
from drillbook.archive.layout import wal_prefix
from drillbook.archive.location import open_store
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import BaseBackupMissing, ParameterError, RunbookError, TargetOutsideWindow
from drillbook.evidence.facts import Facts, TestKind
from drillbook.manifests.declared import Declared, StoreUse, Wanted, declared_in, load_declared, wanted
from drillbook.manifests.rebuild import Archiving, Folder, Outcome, Reached, Rebuild, World, judge
from drillbook.model import ArchivedCommit, BaseBackup, Check, Frozen, Verdict
from drillbook.steps.archive.committed import committed_between
from drillbook.steps.preflight.old_cluster import application
from drillbook.steps.preflight.readiness import SourceCluster

_LIVE = ("storage", "walStorage", "tablespaces", "managed")


@dataclass(frozen=True)
class ReadDeclared(Step[Declared]):
    """Read the Cluster as Git declares it.

    A file of manifests as they would be applied, in which the ObjectStore may be as well. Without one it is the Cluster
    as it stands now: what comes up if its own manifest is applied again.
    """

    manifest: str = ""

    def do(self, ctx: Context) -> Declared:
        if self.manifest:
            return load_declared(self.manifest, ctx.source_ref)
        live = ctx.kube.get(k8s.CLUSTER, ctx.source_ref.namespace, ctx.source_ref.name)
        if live is None:
            fault = f"manifest: none is given, and Cluster {ctx.source_ref} does not exist"
            raise ParameterError([fault], where="declared manifest", todo="Give the path of the declared manifest.")
        return declared_in([live], ctx.source_ref, origin="the Cluster as it stands now")


class Found(Frozen):
    """What the manifest asks for, what there is of it, and which ``secrets`` could not be looked for."""

    asks: Wanted
    world: World
    secrets: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        asks, world = self.asks, self.world
        rows = [("method", asks.method)]
        rows += [("recovers from", f"serverName {asks.source.server_name}, {asks.target}")] if asks.source else []
        rows += [("archives to", f"serverName {asks.destination.server_name}")] if asks.destination else []
        rows += [("archived to now", f"serverName {world.server_name}")] if world.server_name else []
        return rows + [("missing", one) for one in (*world.missing, *asks.faults)]


@dataclass(frozen=True)
class ReadWhatIsThere(Step[Found]):
    """Look for all that the declared Cluster needs: objects, the folder that it archives to, and what its recovery would reach.

    By get and list alone; the archive is read with Drillbook's own key.
    """

    cluster: SourceCluster
    declared: Declared

    def do(self, ctx: Context) -> Found:
        ctx.recorder.note(
            Facts(test=TestKind(type="comparison of a declared manifest with the archive; nothing was made"))
        )
        asks = wanted(self.declared)
        live = ctx.kube.get(k8s.CLUSTER, self.cluster.ref.namespace, self.cluster.ref.name) or {}
        missing, unread = self._secrets(ctx)
        missing += self._stores(ctx, asks)
        asks, fault, without = self._backup(ctx, asks)
        missing += without
        blocked = bool(missing or asks.faults or fault)
        reached = Reached(fault=fault) if fault else None
        if not blocked and asks.method == "recovery" and asks.source is not None:
            reached = self._reached(ctx, asks, asks.source)
        world = World(
            live={key: live["spec"][key] for key in _LIVE if key in live["spec"]} if live else {},
            application=application(ctx, live) if live else ("", "", ""),
            databases=tuple(tenant.database for tenant in ctx.site.tenants),
            missing=tuple(missing),
            server_name=self.cluster.server_name,
            folder=self._folder(ctx, asks.destination) if asks.destination is not None and not missing else None,
            reached=reached,
        )
        return Found(asks=asks, world=world, secrets=tuple(unread))

    # -- objects -------------------------------------------------------------------------------

    def _stores(self, ctx: Context, asks: Wanted) -> list[str]:
        """ObjectStores that neither exist nor are declared: CloudNativePG then does nothing, and says nothing."""
        named = dict.fromkeys(use.object_store for use in (asks.source, asks.destination) if use and use.object_store)
        return [
            f"ObjectStore {self.cluster.ref.namespace}/{name} does not exist, and {self.declared.origin} does not declare it"
            for name in named
            if self._store_spec(ctx, name) is None
        ]

    def _store_spec(self, ctx: Context, name: str) -> dict[str, Any] | None:
        if name in self.declared.object_stores:
            return self.declared.object_stores[name]
        found = ctx.kube.get(k8s.OBJECT_STORE, self.cluster.ref.namespace, name)
        return None if found is None else dict(found["spec"])

    def _secrets(self, ctx: Context) -> tuple[list[str], list[str]]:
        """The Secrets that are missing, and those that may not be looked for: a drill's account reads none of the source's."""
        bootstrap, namespace = self.declared.spec.get("bootstrap") or {}, self.cluster.ref.namespace
        section = bootstrap.get("recovery") or bootstrap.get("initdb") or {}
        name = str((section.get("secret") or {}).get("name", ""))
        if not name or f"Secret/{name}" in self.declared.names:
            return [], []
        if not ctx.kube.can_i("get", k8s.SECRET, namespace=namespace, name=name):
            return [], [name]
        there = ctx.kube.get(k8s.SECRET, namespace, name) is not None
        return ([] if there else [f"Secret {namespace}/{name} does not exist, and is not declared"]), []

    def _backup(self, ctx: Context, asks: Wanted) -> tuple[Wanted, str, list[str]]:
        """A recovery from a Backup object: where that says that it lies, why the recovery fails, and what is missing."""
        if not asks.backup or asks.source is not None:
            return asks, "", []
        namespace = self.cluster.ref.namespace
        backup = ctx.kube.get(k8s.BACKUP, namespace, asks.backup)
        status = (backup or {}).get("status") or {}
        if backup is None:
            return asks, "", [f"Backup {namespace}/{asks.backup} does not exist"]
        if status.get("phase") != "completed":
            return asks, "", [f"Backup {namespace}/{asks.backup} is {status.get('phase') or 'pending'}, not completed"]
        if not status.get("destinationPath"):
            return asks, f"Backup {asks.backup} does not say where it lies (method {status.get('method')})", []
        source = StoreUse(server_name=str(status.get("serverName") or self.cluster.ref.name), section=dict(status))
        pinned = asks.backup_id or str(status.get("backupId") or "")
        return asks.model_copy(update={"source": source, "backup_id": pinned}), "", []

    # -- the archive ---------------------------------------------------------------------------

    @contextmanager
    def _store(self, ctx: Context, use: StoreUse) -> Iterator[ObjectStore]:
        """The store of a folder: the source's own, or another that is opened with the same key for as long as it is read."""
        configuration = use.section or (self._store_spec(ctx, use.object_store) or {}).get("configuration") or {}
        if configuration.get("destinationPath") == ctx.archive.configuration.get("destinationPath"):
            yield ctx.store
            return
        other = replace(ctx.archive, configuration=dict(configuration), server_name=use.server_name, periods=())
        with closing(open_store(ctx.kube, ctx.site, other)) as store:
            yield store

    def _folder(self, ctx: Context, use: StoreUse) -> Folder:
        """Whether there is WAL: what barman-cloud-check-wal-archive looks at, and base backups it does not."""
        try:
            with self._store(ctx, use) as store:
                level = store.level(wal_prefix(use.server_name))
        except RunbookError as error:
            return Folder(wal=None, why=error.what)
        return Folder(wal=bool(level.folders or level.objects))

    def _reached(self, ctx: Context, asks: Wanted, use: StoreUse) -> Reached:
        ctx.recorder.progress(f"looking for what {use.server_name} would bring")
        try:
            with self._store(ctx, use) as store:
                current = store is ctx.store and use.server_name == ctx.archive.server_name
                usable = archive.catalogue(store, use.server_name).usable
                systems = {backup.system_id for backup in usable}
                if self.cluster.system_id and systems and self.cluster.system_id not in systems:
                    return Reached(foreign=", ".join(sorted(systems)))
                return self._resolved(ctx, asks, self._held(ctx, store, use.server_name), current)
        except (TargetOutsideWindow, BaseBackupMissing) as error:
            return Reached(fault=error.what)
        except RunbookError as error:
            return Reached(unread=error.what)

    def _held(self, ctx: Context, store: ObjectStore, server_name: str) -> ArchiveSnapshot:
        timeline = ctx.archive.timeline_in(server_name, self.cluster.timeline) if store is ctx.store else 0
        return archive.kept(store, server_name, system_id=self.cluster.system_id, timeline=timeline)

    def _resolved(self, ctx: Context, asks: Wanted, held: ArchiveSnapshot, current: bool) -> Reached:
        newest = _end(held if current else self._held(ctx, ctx.store, ctx.archive.server_name))
        first: ArchivedCommit | None = None  # that is lost
        if asks.stops_early:
            found = archive.resolve(held, asks.target, backup_id=asks.backup_id)
            last, backup, first = found.last_before, found.backup, found.first_after
        else:
            backup = _chosen(held, asks.backup_id)
            last = _end(held, backup)
        return Reached(
            current=current,
            backup_id=backup.backup_id,
            major=backup.pg_version // 10000,
            last=last.committed_at if last else None,
            first_lost=first.committed_at if first else None,
            newest=newest.committed_at if newest else None,
            lost_commits=self._lost(ctx, held.listing.server_name, last, first, newest) if current else None,
        )

    def _lost(
        self,
        ctx: Context,
        server_name: str,
        last: ArchivedCommit | None,
        first: ArchivedCommit | None,
        newest: ArchivedCommit | None,
    ) -> int | None:
        """How many commits the archive has from ``first`` on, or after ``last``: those that do not come back."""
        known = first or last
        if known is None or newest is None:
            return None
        if first is None and newest.lsn <= known.lsn:
            return 0
        seen = committed_between(ctx, self.cluster, known.committed_at, newest.committed_at, first_folder=server_name)
        begin = known.lsn.value if first else known.lsn.value + 1
        return sum(1 for one, _, kept in seen if kept and one.lsn >= begin)


def _chosen(held: ArchiveSnapshot, backup_id: str) -> BaseBackup:
    """The base backup that a recovery to the end begins with; BaseBackupMissing: there is none of that id."""
    backup = held.find(backup_id) if backup_id else next(reversed(held.backups), None)
    if backup is None:
        which = f"no backup found with ID {backup_id}" if backup_id else "no target backup found"
        raise BaseBackupMissing(
            f"{which} under serverName {held.listing.server_name}", todo="Name one that is in the archive."
        )
    return backup


def _end(held: ArchiveSnapshot, begin: BaseBackup | None = None) -> ArchivedCommit | None:
    """The newest commit that recovery without a target reaches from a base backup (None: the newest): at a gap it ends silently."""
    for backup in reversed(held.backups):
        if begin is not None and backup.end_lsn > begin.end_lsn:
            continue
        try:
            return archive.newest_commit(held.store, held.listing, held.chain(backup), system_id=held.system_id)
        except RunbookError:
            continue  # nothing was committed since that backup: an older one's WAL has the commits that it holds
    return None


@dataclass(frozen=True)
class WouldComeUp(CheckStep):
    """Whether the cluster would come up with all its data, and go on archiving.

    Judged in the order in which CloudNativePG goes: the API server's rules, the objects, the check of the archive's
    folder, the base backup, the replay.
    """

    declared: Declared
    found: Found
    name: ClassVar[str] = "what comes up"
    proves: ClassVar[str] = "the declared manifest would bring the cluster back as it is"

    def observe(self, ctx: Context) -> Sequence[Check]:
        said = judge(self.declared, self.found.asks, self.found.world)
        known = said.outcome is not Outcome.UNKNOWN
        right = said.outcome is Outcome.RIGHT
        checks = [
            self.result(
                Verdict.VERIFIED if right else Verdict.FAILED if known else Verdict.UNPROVEN,
                expected="right: all that is archived",
                observed=f"{said.outcome}: {said.why.removesuffix('.')}",
                reason="" if known else said.why.removesuffix("."),
            ),
            self._archiving(said),
        ]
        for number, one in enumerate(said.differences, 1):
            checks.append(
                self.result(Verdict.FAILED, name=f"difference {number}", required=False, expected="none", observed=one)
            )
        for one in self.found.secrets:
            why = f"Secret {one} may not be looked for by this account"
            checks.append(
                self.result(Verdict.UNPROVEN, name=f"Secret {one}", required=False, expected="it exists", reason=why)
            )
        return checks

    def _archiving(self, said: Rebuild) -> Check:
        name, proves = "its archiving", "what comes up goes on archiving, in a folder of its own"
        if said.outcome is Outcome.REFUSED:
            return self.result(
                Verdict.NOT_APPLICABLE, name=name, proves=proves, required=False, reason="nothing comes up"
            )
        unknown = said.archiving is Archiving.UNKNOWN
        works = said.archiving is Archiving.WORKS
        return self.result(
            Verdict.VERIFIED if works else Verdict.UNPROVEN if unknown else Verdict.FAILED,
            name=name,
            proves=proves,
            expected="works, in a folder that is empty",
            observed=f"{said.archiving}: {said.about_archiving.removesuffix('.')}"
            if said.about_archiving
            else str(said.archiving),
            reason=said.about_archiving.removesuffix(".") if unknown else "",
        )


@dataclass(frozen=True)
class NameRebuild(Step[Rebuild]):
    """What would come up: empty, stale, refused or right; and what to declare instead."""

    declared: Declared
    found: Found

    def do(self, ctx: Context) -> Rebuild:
        said = judge(self.declared, self.found.asks, self.found.world)
        claim = f"Git would bring {ctx.source_ref.name} back: {said.outcome}; WAL archiving: {said.archiving}"
        ctx.recorder.note(Facts(answer=said.answer, claim=claim))
        return said


__all__ = ["NameRebuild", "ReadDeclared", "ReadWhatIsThere", "WouldComeUp"]
