"""What contains the damage, before anybody thinks about a target: nothing more is lost while people think.

Each measure is promised to be undone before it is taken. Retention is held by taking the policy away, not by barman's
keep annotation: that needs a write to the archive (docs/adr/0010).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.archive.location import IN_TREE
from drillbook.engine import undo as restoring
from drillbook.engine.step import Action, Context, Obligation, Plan, Step
from drillbook.errors import VerificationError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.model import BaseBackup, Effect, Frozen
from drillbook.postgres.client import SQL, Composed, Identifier, Literal, as_text
from drillbook.steps.backup.manual_backup import ArchiveTheEnd
from drillbook.steps.cutover.drain import BLOCKED
from drillbook.steps.cutover.swap_check import tenant_of
from drillbook.steps.cutover.transfer import superuser_of
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.readiness import CheckReadiness, Rights, SourceCluster
from drillbook.swap.superuser import MAINTENANCE

_READ_ONLY = "default_transaction_read_only"
_ROLES_TOO = (
    "declare role name; begin for role in select distinct pg_catalog.pg_get_userbyid(s.setrole) from pg_catalog.pg_db_role_setting s, "
    "pg_catalog.unnest(s.setconfig) setting where s.setrole <> 0 and pg_catalog.starts_with(setting, 'default_transaction_read_only=') "
    "and s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = {name})) loop "
    "execute pg_catalog.format('alter role %I in database %I set default_transaction_read_only = on', role, {name}); end loop; end"
)
_NO_RETENTION: dict[str, Any] = {"spec": {"retentionPolicy": None}}
_NO_RETENTION_IN_TREE: dict[str, Any] = {"spec": {"backup": {"retentionPolicy": None}}}
_NO_SCHEDULE: dict[str, Any] = {"spec": {"suspend": True}}
_HELD: dict[k8s.Kind, dict[str, Any]] = {
    k8s.CLUSTER: _NO_RETENTION_IN_TREE,
    k8s.OBJECT_STORE: _NO_RETENTION,
    k8s.SCHEDULED_BACKUP: _NO_SCHEDULE,
}


@dataclass(frozen=True)
class CheckRecoveryReadiness(CheckReadiness):
    """The right cluster, and the rights to recover it.

    Cluster, identity pin, rights, storage class and the role's grants are checked together, so that all faults are
    reported at once while nothing has been touched. A recovery needs more rights than a drill
    (deploy/recover/rbac.yaml). ParameterError if the database is no tenant of the profile.
    """

    source_rights: ClassVar[Rights] = (
        *CheckReadiness.source_rights,
        ("create", k8s.BACKUP, ""),
        ("create", k8s.POD, "exec"),
        ("patch", k8s.SCHEDULED_BACKUP, ""),
        ("patch", k8s.OBJECT_STORE, ""),
    )

    granted_by: ClassVar[str] = "deploy/rbac/, deploy/recover/"
    compares_rows: ClassVar[bool] = False
    in_an_emergency: ClassVar[bool] = True

    database: str

    def do(self, ctx: Context) -> SourceCluster:
        tenant_of(ctx, self.database)
        ctx.recorder.note(Facts(test=TestKind(type="recovery to a point in time, put into service")))
        return super().do(ctx)


@dataclass(frozen=True)
class _Measure:
    """One object that is changed: ``patch`` as a merge patch, ``what`` in words."""

    kind: k8s.Kind
    namespace: str
    name: str
    patch: dict[str, Any]
    what: str
    uid: str
    obj: dict[str, Any]


class SuspendedBackups(Frozen):
    """What was switched off, each in words."""

    changed: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return [("changed", one) for one in self.changed] or [("changed", "nothing was in force")]


@dataclass(frozen=True)
class SuspendBackups(Step[SuspendedBackups]):
    """Hold every backup: no retention, no scheduled backup, until this run has ended.

    Retention acts on a timer and would take the base backup away that this recovery relies on; a scheduled backup would
    back up the damage, and can't run while the cluster is cut over.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    backup: BaseBackup  # the one that this recovery relies on: without it nobody is asked

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=f"{self.title} (its base backup is {self.unknown})")
        measures = list(self._measures(ctx))
        return Plan(
            summary="; ".join(one.what for one in measures)
            or "Nothing: no retention policy and no schedule is in force",
            objects=tuple(
                {"kind": one.kind.kind, "metadata": {"namespace": one.namespace, "name": one.name}, **one.patch}
                for one in measures
            ),
            touches=(
                *pausing.touches(ctx, [one.obj for one in measures]),
                *(Action("patch", one.kind.kind, one.namespace, one.name, one.uid) for one in measures),
            ),
            notes=(
                *(f"WARNING: {words}" for words in pausing.faults(ctx, [one.obj for one in measures])),
                f"this recovery relies on base backup {self.backup.backup_id}",
                "each old value is noted first and put back when the run ends, is abandoned or is cleaned up",
            ),
        )

    def do(self, ctx: Context) -> SuspendedBackups:
        measures = list(self._measures(ctx))
        pausing.pause(ctx, [one.obj for one in measures])  # or it is put back seconds later
        for one in measures:
            restoring.change(ctx, one.kind, one.namespace, one.name, one.patch, one.what)
        return SuspendedBackups(changed=tuple(one.what for one in measures))

    def verify(self, ctx: Context, result: SuspendedBackups) -> None:
        # Asked again when a run is resumed: a cut may have let schedules go on since, or removed the Cluster.
        undone = []
        for promise in ctx.recorder.promises():
            kind = next((kind for kind, patch in _HELD.items() if _holds(promise, kind, patch)), None)
            found = ctx.kube.get(kind, promise.namespace, promise.name) if kind else None
            if kind and found is not None and not restoring.matches(found, _HELD[kind]):
                undone.append(kind.where(promise.namespace, promise.name))
        if undone:
            raise VerificationError(
                "somebody puts back what this step has changed",
                expected="no retention policy, no schedule in force",
                observed=f"as before: {', '.join(undone)}",
                todo="Find its owner (Argo CD, Flux, Helm) and pause it, then resume this run.",
            )

    def _measures(self, ctx: Context) -> Iterator[_Measure]:
        """Every measure, also one that this run has taken already: the plan must not change by its own doing."""
        namespace = self.cluster.ref.namespace
        cluster = ctx.cluster_object(self.cluster.ref)
        if ctx.archive.method == IN_TREE:
            if (cluster["spec"].get("backup") or {}).get("retentionPolicy") or self._promised(ctx, "Cluster"):
                yield self._measure(k8s.CLUSTER, cluster, _NO_RETENTION_IN_TREE, "remove the retention policy")
        else:
            for store in self._stores(ctx, cluster, namespace):
                if store["spec"].get("retentionPolicy") or self._promised(ctx, "ObjectStore"):
                    yield self._measure(k8s.OBJECT_STORE, store, _NO_RETENTION, "remove the retention policy")
        for schedule in ctx.kube.list(k8s.SCHEDULED_BACKUP, namespace):
            name = schedule["metadata"]["name"]
            if schedule["spec"]["cluster"]["name"] != self.cluster.ref.name:
                continue
            if not schedule["spec"].get("suspend") or self._promised(ctx, "ScheduledBackup", name):
                yield self._measure(k8s.SCHEDULED_BACKUP, schedule, _NO_SCHEDULE, "suspend")

    def _stores(self, ctx: Context, cluster: dict[str, Any], namespace: str) -> Iterator[dict[str, Any]]:
        for entry in cluster["spec"].get("plugins", []):
            name = (entry.get("parameters") or {}).get("barmanObjectName", "")
            found = ctx.kube.get(k8s.OBJECT_STORE, namespace, name) if name else None
            if found is not None:
                yield found

    def _promised(self, ctx: Context, kind: str, name: str = "") -> bool:
        return any(item.kind == kind and name in ("", item.name) for item in ctx.recorder.promises())

    def _measure(self, kind: k8s.Kind, obj: dict[str, Any], patch: dict[str, Any], verb: str) -> _Measure:
        metadata = obj["metadata"]
        where = kind.where(metadata["namespace"], metadata["name"])
        return _Measure(
            kind,
            metadata["namespace"],
            metadata["name"],
            patch,
            f"{verb} of {where}" if " " in verb else f"{verb} {where}",
            metadata["uid"],
            obj,
        )


def _holds(promise: Obligation, kind: k8s.Kind, patch: dict[str, Any]) -> bool:
    """Whether it is the promise to put back what `SuspendBackups` has changed on an object of this kind."""
    return promise.kind == kind.kind and (promise.undo or {}).get("set") == patch


class Blocked(Frozen):
    """The database takes no writes from new sessions; ``ended`` old ones are gone."""

    database: str
    ended: int
    oid: int = 0  # by which it is known when a cut has given it another name


@dataclass(frozen=True)
class BlockWrites(Step[Blocked]):
    """Make the damaged database read-only, until the cut.

    In the database itself, not by the application's replicas: pods come back, and others write too. Its sessions are
    ended, because a setting of the database counts for new sessions only; readers come back at once.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    database: str

    def _statements(self) -> tuple[SQL | Composed, ...]:
        name = Identifier(self.database)
        return (
            SQL("alter database {} set default_transaction_read_only = on").format(name),
            # A role's own setting outranks the database's; its own in this database outranks all.
            SQL("do {}").format(Literal(as_text(SQL(_ROLES_TOO).format(name=Literal(self.database))))),
            SQL(
                "select pg_catalog.json_build_object('ended', pg_catalog.count(pg_catalog.pg_terminate_backend(pid)))::text "
                "from pg_catalog.pg_stat_activity where datname = {} and backend_type = 'client backend'"
            ).format(self.database),
        )

    def plan(self, ctx: Context) -> Plan:
        ref = self.cluster.ref
        return Plan(
            summary=f"Database {self.database} of {ref} is read-only from now on, for roles with their own setting too; its sessions are ended",
            sql=tuple(as_text(one) for one in self._statements()),
            touches=(Action("block writes to", "Database", ref.namespace, f"{ref.name}.{self.database}"),),
            lost=(f"transactions that are open in {self.database} now, and every write until this is undone",),
            notes=("as superuser on the source, by pods/exec: the record says so", "other tenants are not touched"),
        )

    def do(self, ctx: Context) -> Blocked:
        ctx.require_lease()
        promise = writes_promise(ctx, self.cluster, self.database)
        if all(
            kept.id != promise.id for kept in ctx.recorder.promises()
        ):  # done again, the first one knows the old value
            ctx.recorder.obligation(promise)
        rows = superuser_of(ctx, self.cluster.ref).run(MAINTENANCE, *self._statements(), repeatable=True)
        ended = int(rows[-1]["ended"]) if rows else 0
        return Blocked(database=self.database, ended=ended, oid=oid_of(ctx, self.database))

    def verify(self, ctx: Context, result: Blocked) -> None:
        with ctx.source() as db:
            names = {int(row["id"]): str(row["name"]) for row in db.ask("database_ids")}
            found = db.ask("database_setting", database=names.get(result.oid, self.database), name=_READ_ONLY)
            roles = db.ask("database_setting_roles", database=names.get(result.oid, self.database), name=_READ_ONLY)
        strongest = {row["role"]: row for row in roles}  # in a database comes after everywhere: it counts
        others = [f"role {role}: {row['value']}" for role, row in strongest.items() if row["value"] != "on"]
        if [row["value"] for row in found] != ["on"] or others:
            raise VerificationError(
                f"{self.database} still takes writes",
                expected=f"{_READ_ONLY} on, for every role",
                observed=", ".join([*(str(row["value"]) for row in found), *others]) or "not set",
                todo="Look at ALTER DATABASE … SET on the source; a managed Database object may have put it back.",
            )


def put_back_body(oid: int, before: Mapping[str, str]) -> str:
    """The body of a DO that gives the database (by its id) its own setting back, and each role its own in it.

    ``before`` has the old values by role, "" being the database's own; an empty value means that there was none. A role
    that is gone has nothing to be given back.
    """
    loop = SQL(
        "declare name text; begin for name in select datname from pg_catalog.pg_database where oid = {} loop "
    ).format(Literal(oid))
    done = [as_text(loop)]
    for role, value in {"": "", **before}.items():
        change = f"set {_READ_ONLY} = %L" if value else f"reset {_READ_ONLY}"
        who = "alter role %I in database %I" if role else "alter database %I"
        given = [
            Literal(f"{who} {change}"),
            *([Literal(role)] if role else []),
            SQL("name"),
            *([Literal(value)] if value else []),
        ]
        one = SQL("execute pg_catalog.format({}); ").format(SQL(", ").join(given))
        if role:
            one = SQL("if exists (select from pg_catalog.pg_roles where rolname = {}) then {}end if; ").format(
                Literal(role), one
            )
        done.append(one.as_string(None))
    return f"{' '.join(done)}end loop; end"


def writes_again(oid: int, before: Mapping[str, str]) -> list[Composed]:
    """The statements that let the database (by its id) take writes again, and end the sessions that can't yet."""
    ended = SQL(
        "select pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity "
        "where datid = {} and backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid()"
    ).format(Literal(oid))
    return [SQL("do {}").format(Literal(put_back_body(oid, before))), ended]


def oid_of(ctx: Context, database: str) -> int:
    """The database's id, 0 if there is no such name."""
    with ctx.source() as db:
        return next((int(row["id"]) for row in db.ask("database_ids") if row["name"] == database), 0)


def writes_promise(ctx: Context, cluster: SourceCluster, database: str) -> Obligation:
    """The promise to let the database take writes again: by its id, for a cut gives its name to another.

    A session keeps the settings that its database had when it began, so those that began while writes were blocked are
    ended: after the new setting is committed, or a pool would open the next ones with the old one.
    """
    ref, oid = cluster.ref, oid_of(ctx, database)
    with ctx.source() as db:
        own = db.ask("database_setting", database=database, name=_READ_ONLY)
        roles = db.ask("database_setting_roles", database=database, name=_READ_ONLY)
    before = {"": str(own[0]["value"]) if own else ""}
    before |= {str(row["role"]): "" for row in roles}
    before |= {str(row["role"]): str(row["value"]) for row in roles if row["in_database"]}
    statement = ";\n".join(as_text(one) for one in writes_again(oid, before))
    undo = {
        "verb": "sql",
        "kind": "Cluster",
        "namespace": ref.namespace,
        "name": ref.name,
        "sql": statement,
        BLOCKED: before,
    }
    return Obligation("Writes", ref.namespace, f"{ref.name}.{database}", "let it take writes again", undo=undo)


@dataclass(frozen=True)
class ArchiveNow(ArchiveTheEnd):
    """Archive what was written until now: one marker row, one WAL switch.

    What is in the archive can't be lost with the cluster any more, and a target of a moment ago can be reached.
    """


class PutBackValues(Frozen):
    """What was put back, as (promise, how and the proof)."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PutBack(Step[PutBackValues]):
    """Put back what contained the damage: retention, schedules, and the block of writes.

    A value is put back only while it is still the one that this run set: what another controller has changed since is
    named and left. It settles what this run promised, so there is no gate. Paused controllers resume in its own step.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    settles: ClassVar[bool] = True
    held: SuspendedBackups
    blocked: Blocked

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Put back every value that this run has noted")

    def do(self, ctx: Context) -> PutBackValues:
        done = []
        for promise in reversed(ctx.recorder.promises()):
            if promise.undo is not None and promise.kind != k8s.APPLICATION.kind:
                how, proof = restoring.restore(ctx, promise)
                done.append((promise.id, f"{how}: {proof}"))
        return PutBackValues(values=tuple(done))


__all__ = [
    "ArchiveNow",
    "BlockWrites",
    "Blocked",
    "CheckRecoveryReadiness",
    "PutBack",
    "PutBackValues",
    "SuspendBackups",
    "SuspendedBackups",
    "writes_again",
    "writes_promise",
]
