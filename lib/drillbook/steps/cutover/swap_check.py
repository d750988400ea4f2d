"""Whether one database can be swapped: asked before any gate, every fault at once, nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive import ResolvedTarget
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import NotReady, ParameterError, RunbookError
from drillbook.evidence.facts import Facts
from drillbook.forecast import Forecast
from drillbook.kube import workloads
from drillbook.kube.reconcilers import Reconciler, reconcilers_on
from drillbook.model import Check, Frozen, Verdict, show_seconds
from drillbook.profile.schema import Tenant
from drillbook.report.cards import show_bytes
from drillbook.steps.archive.forecast import forecast_recovery
from drillbook.steps.preflight.limits import limit_faults
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.copy import Recovered
from drillbook.swap.disk_space import DEFAULT_TABLESPACES, FACTOR, FreeSpace, Needs, rooms_on, tablespaces_of
from drillbook.swap.names import Before, Names

# What transferring takes is not known before it was done here: dump, transfer and indexes at this rate are an assumption.
ASSUMED_BYTES_A_SECOND = 20 * 2**20


class AppFits(Frozen):
    """What every cut-over must know of the application: its database's names, its role, and who else holds it."""

    names: Names
    app_role: str
    reconcilers: tuple[Reconciler, ...]
    deployment_uid: str = ""
    oid: int = 0  # of the database that is in service before the cut; 0: not needed
    before: Before | None = None  # an undo: how service was before the cut, as that noted it


class SwapFits(AppFits):
    """A swap that fits: what it needs, and what holds the database now."""

    size_bytes: int
    unarchived_bytes: int
    needed_bytes: int
    assumed_carry_seconds: float
    room: tuple[FreeSpace, ...]
    sessions: tuple[tuple[str, int], ...]  # of the application's role, by application name
    ended: tuple[tuple[str, int], ...] = ()  # of others, who are ended by the cut


def tenant_of(ctx: Context, database: str) -> Tenant:
    """The profile's tenant of that database; ParameterError names those that there are."""
    try:
        return ctx.site.tenant(database)
    except KeyError:
        known = ", ".join(tenant.database for tenant in ctx.site.tenants)
        raise ParameterError(
            [f"database: {database!r} is no tenant of the profile (it has {known})"], where="recover-point-in-time"
        ) from None


@dataclass(frozen=True)
class CheckSwapFits(Step[SwapFits]):
    """One database can be swapped: room on every instance, an archiver that keeps up, nothing in the way.

    Space, archiver, forecast, what depends on the database, whose sessions hold it and who else scales its application
    are asked together, so that all faults are reported together while nothing has been touched.
    """

    cluster: SourceCluster
    database: str
    target: ResolvedTarget | None = None  # what is going to be recovered: without it no recovery time is predicted

    def do(self, ctx: Context) -> SwapFits:
        tenant = tenant_of(ctx, self.database)
        names = Names.of(self.database, ctx.run_id)
        faults: list[str] = []
        with ctx.source() as db:
            known = {row["name"]: row for row in db.ask("databases")}
            there = {row["name"]: row for row in db.ask("cutover_names", names=names.all)}
            obstacles = db.ask("cutover_obstacles", database=self.database)
            archiver = db.ask_one("archiver")
            between = int(db.ask_one("cutover_wal")["max_wal_bytes"])
            sessions = db.ask("sessions", database=self.database)
        own = known.get(self.database, {})
        size = int(own.get("size_bytes") or 0)
        if self.database not in there:
            faults.append(f"database {self.database} does not exist on the source")
        elif not size:
            faults.append(
                f"role {ctx.site.sql.role} may not connect to {self.database}: its size can't be read (deploy/sql/)"
            )
        faults += [f"{row['what']} {row['name']} depends on {self.database}: remove it first" for row in obstacles]
        if self.database in ("postgres", "template1", "template0"):
            faults.append(f"{self.database} is a database that maintenance itself relies on: it can't be swapped")
        faults += archiver_faults(ctx, archiver)
        unarchived = max(0, int(archiver["waiting_segments"] or 0)) * int(archiver["segment_bytes"])
        # What is recovered may be larger than what is left here: that is measured on the copy (CheckCanBeCarried).
        needs = Needs(tablespaces=(("", size),), wal_bytes=unarchived + min(between, size))
        rooms, faults_of_rooms = rooms_of(ctx, self.cluster)
        faults += faults_of_rooms + needs.faults(rooms)
        seconds = size / ASSUMED_BYTES_A_SECOND
        forecast = self._forecast(ctx)
        faults += self._forecast_faults(ctx, forecast, seconds)
        faults += limit_faults(ctx, self.cluster, forecast, carry_seconds=seconds) if forecast is not None else []
        expected, others = self._sessions(ctx, tenant, sessions)
        faults += workloads.workers(ctx.kube, tenant, self.cluster.ref.namespace, sessions)
        reconcilers, uid, more = app_faults(ctx, self.cluster, tenant)
        faults += more
        if faults:
            raise NotReady(faults, where=f"a swap of {self.database} on {self.cluster.ref}")
        found = SwapFits(
            names=names,
            oid=int(there[self.database]["oid"]),
            app_role=tenant.app_role,
            size_bytes=size,
            unarchived_bytes=unarchived,
            needed_bytes=int(size * FACTOR) + needs.wal_bytes,
            assumed_carry_seconds=round(seconds, 1),
            room=tuple(rooms),
            reconcilers=tuple(reconcilers),
            sessions=tuple(expected),
            ended=tuple(others),
            deployment_uid=uid,
        )
        ctx.recorder.note(Facts(swap_fits=found.model_dump(mode="json")))
        ctx.recorder.check(_fits(found, forecast))
        return found

    def _forecast(self, ctx: Context) -> Forecast | None:
        if self.target is None:
            return None
        return forecast_recovery(ctx, self.cluster, self.target.backup, self.target.wal)

    def _forecast_faults(self, ctx: Context, forecast: Forecast | None, carry_seconds: float) -> list[str]:
        if forecast is None or forecast.seconds is None:
            return []
        limit = ctx.site.objectives.recovery_time.total_seconds()
        seconds = forecast.seconds + carry_seconds
        if seconds <= limit:
            return []
        return [
            f"the forecast is {show_seconds(seconds)} with {show_seconds(carry_seconds)} to transfer the database (assumed at "
            f"{ASSUMED_BYTES_A_SECOND // 2**20} MiB/s): over the recovery time objective of {show_seconds(limit)}"
        ]

    def _sessions(
        self, ctx: Context, tenant: Tenant, rows: Sequence[dict[str, Any]]
    ) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        expected: dict[str, int] = {}
        others: dict[str, int] = {}
        for row in rows:
            if row["role"] == ctx.site.sql.role or row["application"].startswith("cnpg_"):
                continue  # ours, and the instance manager's own short looks
            if row["role"] == tenant.app_role and tenant.application is not None:
                name = row["application"] or "no name"
                expected[name] = expected.get(name, 0) + int(row["sessions"])
            else:
                who = f"role {row['role']} ({row['application'] or 'no application name'})"
                others[who] = others.get(who, 0) + int(row["sessions"])
        return sorted(expected.items()), sorted(others.items())


def archiver_faults(ctx: Context, archiver: dict[str, Any]) -> list[str]:
    """Why WAL would pile up, in words."""
    failed, archived = archiver["last_failed_time"], archiver["last_archived_time"]
    if failed and (not archived or failed > archived):
        return [
            f"WAL archiving fails (last {archiver['last_failed_wal']}): a swap writes as much WAL as the database is large"
        ]
    waiting = int(archiver["waiting_segments"] or 0)
    limit = ctx.site.freshness.archive_lag.total_seconds()
    if waiting > 0 and float(archiver["seconds_since_archived"] or 0.0) > limit:
        return [
            f"WAL archiving doesn't keep up: {waiting} segments wait, the last was archived over {show_seconds(limit)} ago"
        ]
    return []


def rooms_of(ctx: Context, cluster: SourceCluster) -> tuple[list[FreeSpace], list[str]]:
    """Every volume of every instance, and what can't be looked into."""
    found = ctx.cluster_object(cluster.ref)
    rooms: list[FreeSpace] = []
    faults = []
    for pod in found.get("status", {}).get("instanceNames") or [cluster.primary]:
        try:
            rooms += rooms_on(ctx.kube, cluster.ref.namespace, found, pod)
        except RunbookError as error:
            faults.append(f"space of instance {pod} can't be read: {error.what}")
    return rooms, faults


def app_faults(ctx: Context, cluster: SourceCluster, tenant: Tenant) -> tuple[list[Reconciler], str, list[str]]:
    """Who else holds the tenant's application and its Pooler, its Deployment's UID, and what is in the way of a cut."""
    missing = _rights_missing(ctx, cluster, tenant)
    if tenant.application is None:
        return [], "", [f"the profile names no application of {tenant.database}: nobody could drain it", *missing]
    try:
        found = workloads.deployment(ctx.kube, tenant.application)
    except RunbookError as error:
        return [], "", [error.what, *missing]
    reconcilers = reconcilers_on(ctx.kube, found)
    if tenant.application.pooler:
        pooler = ctx.kube.get(k8s.POOLER, cluster.ref.namespace, tenant.application.pooler)
        if pooler is None:
            return (
                reconcilers,
                "",
                [f"Pooler {cluster.ref.namespace}/{tenant.application.pooler} does not exist", *missing],
            )
        reconcilers += reconcilers_on(ctx.kube, pooler)
    faults = [f"another controller would revert this change: {hand}" for hand in reconcilers if hand.in_the_way]
    if not missing:
        faults += workloads.unreachable(ctx.kube, tenant.application)
    return reconcilers, found["metadata"]["uid"], faults + missing


def _rights_missing(ctx: Context, cluster: SourceCluster, tenant: Tenant) -> list[str]:
    source = cluster.ref.namespace
    needed: list[tuple[str, k8s.Kind, str, str]] = [("create", k8s.POD, "exec", source)]
    if (app := tenant.application) is not None:
        needed += [("patch", k8s.DEPLOYMENT, "", app.namespace), ("create", k8s.POD, "portforward", app.namespace)]
        needed += [("patch", k8s.POOLER, "", source)] if app.pooler else []
    return [
        f"missing right: {verb} {kind.plural}{'/' + sub if sub else ''} in {namespace} (deploy/recover/rbac.yaml)"
        for verb, kind, sub, namespace in needed
        if not ctx.kube.can_i(verb, kind, subresource=sub, namespace=namespace)
    ]


def _fits(found: SwapFits, forecast: Forecast | None) -> Check:
    least = min(found.room, key=lambda room: room.free_bytes)
    known = forecast is not None and forecast.seconds is not None
    return Check(
        name="swap fits",
        proves="the database can be transferred and swapped, and nothing would undo it",
        verdict=Verdict.VERIFIED,
        expected=f"{show_bytes(found.needed_bytes)} free on every instance, nothing in the way",
        observed=f"{show_bytes(least.free_bytes)} free on {least.pod}",
        details=(
            ("forecast", "within the objective" if known else "not known: the objective was not compared"),
            *((hand.who, hand.how) for hand in found.reconcilers),
            *((f"sessions of {name}", str(count)) for name, count in found.sessions),
            *((f"sessions of {name}", f"{count}: ended by the cut") for name, count in found.ended),
        )[:12],
    )


@dataclass(frozen=True)
class CheckTransferable(CheckStep):
    """Everything of the copy's database can be transferred, and there is room for it; what stays behind is named.

    Roles aren't transferred: those that the database needs have to be on the source. So do tablespaces, and extensions in
    the same version. How much is transferred is measured on the copy: the damaged database may be small. Read from the
    copy as its superuser, and from the source as Drillbook's own role.
    """

    cluster: SourceCluster
    fits: SwapFits
    recovered: Recovered
    name: ClassVar[str] = "can be transferred"
    proves: ClassVar[str] = "no object of the database would fail on the source"

    def observe(self, ctx: Context) -> Sequence[Check]:
        with ctx.copy(self.recovered.ref, self.fits.names.database, read_only=True) as db:
            needed = {str(row["name"]) for row in db.ask("cutover_roles")}
            left = [(str(row["what"]), str(row["why"])) for row in db.ask("cutover_uncarried")]
            sizes = tuple((str(row["tablespace"]), int(row["bytes"])) for row in db.ask("cutover_sizes"))
            versions = db.ask("cutover_versions")
        with ctx.source() as db:
            there = {str(row["name"]) for row in db.ask("cutover_known_roles")}
            available = db.ask("cutover_available")
            archiver = db.ask_one("archiver")
            between = int(db.ask_one("cutover_wal")["max_wal_bytes"])
        missing = sorted(needed - there)
        ctx.recorder.note(Facts(not_transferred=tuple(left)))
        unfit = [(f"role {name}", "is on the copy, not on the source: make it first") for name in missing]
        unfit += unfit_extensions(versions, available)
        declared = tablespaces_of(ctx.cluster_object(self.cluster.ref))
        unfit += [
            (f"tablespace {name}", "the source's Cluster declares none of that name: declare it first")
            for name, _ in sizes
            if name not in (*DEFAULT_TABLESPACES, *declared)
        ]
        told = ", ".join(what for what, _ in unfit)
        return [
            self.result(
                Verdict.FAILED if unfit else Verdict.VERIFIED,
                expected=f"{len(needed)} roles and {len(versions)} extensions that the database needs are on the source",
                observed=f"missing: {told}" if unfit else f"all there; {len(left)} things stay behind",
                details=tuple((unfit + left)[:12]),
            ),
            self._room(ctx, sizes, archiver, between),
        ]

    def _room(self, ctx: Context, sizes: tuple[tuple[str, int], ...], archiver: dict[str, Any], between: int) -> Check:
        total = sum(size for _, size in sizes)
        unarchived = max(0, int(archiver["waiting_segments"] or 0)) * int(archiver["segment_bytes"])
        needs = Needs(tablespaces=sizes, wal_bytes=unarchived + min(between, total))
        rooms, faults = rooms_of(ctx, self.cluster)
        faults += archiver_faults(ctx, archiver) + needs.faults(rooms)
        ctx.recorder.note(Facts(to_transfer=needs.model_dump(mode="json")))
        return self.result(
            Verdict.FAILED if faults else Verdict.VERIFIED,
            name="room to transfer",
            proves="what was recovered fits on every volume of every instance, with the WAL that transferring it writes",
            expected=f"room for {total:,} bytes, measured on the copy, and {needs.wal_bytes:,} of WAL",
            observed="; ".join(faults)
            or "; ".join(f"{room.volume}: {show_bytes(room.free_bytes)} free" for room in rooms),
            details=tuple((name, f"{size:,} bytes") for name, size in sizes[:12]),
        )


# What makes an extension of a database that bears another name impossible, though its version is there.
_BOUND: dict[str, str] = {
    "pg_cron": "lives in one database of the server only (cron.database_name): unschedule its jobs and drop it on the copy, then "
    "make it again after the cut",
    "timescaledb": "a plain restore into a running cluster breaks its catalogue: use recover-full-restore",
    "citus": "its metadata are of the whole cluster: use recover-full-restore",
    "pglogical": "its nodes and slots stand on the old database: drop it on the copy, then make it again after the cut",
}


def unfit_extensions(found: Sequence[dict[str, Any]], available: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Extensions of the copy that could not be made on the source, each with what to do."""
    there = {(row["name"], row["version"]): bool(row["is_default"]) for row in available}
    unfit = []
    for row in found:
        name, version = str(row["name"]), str(row["version"])
        if name in _BOUND:
            unfit.append((f"extension {name}", _BOUND[name]))
        elif (name, version) not in there:
            has = ", ".join(known for one, known in there if one == name) or "none"
            unfit.append(
                (
                    f"extension {name} {version}",
                    f"the source's image has {has}: update it on the copy, or change the image",
                )
            )
        elif not there[name, version] and row["schema"] not in ("public", "pg_catalog"):
            unfit.append(
                (
                    f"extension {name} {version}",
                    f"a dump makes it in its default version: ALTER EXTENSION {name} UPDATE on the copy",
                )
            )
    return unfit


__all__ = ["AppFits", "CheckSwapFits", "CheckTransferable", "SwapFits", "app_faults", "tenant_of"]
