"""The limits behind the application: the role's through its Cluster, PgBouncer's through its Pooler; each read back from who enforces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.connections.change import CLUSTER, POOLER, ConnectionChange, Setting
from drillbook.connections.path import UNLIMITED
from drillbook.engine.step import Action, CheckStep, Context, Plan, Step
from drillbook.errors import VerificationError
from drillbook.model import Check, Effect, Frozen, Verdict
from drillbook.postgres.client import SQL
from drillbook.steps.connections.change import note_begin, set_values
from drillbook.steps.connections.path import FoundPath
from drillbook.steps.preflight.readiness import SourceCluster

_RELOAD_SECONDS = 60.0
"""How long a Secret may take to reach a pod's files, and PgBouncer to be reloaded."""
_DEFAULT = {"connectionLimit": UNLIMITED}


class ChangedLimits(Frozen):
    """What was changed behind the application, as who enforces it says."""

    done: tuple[tuple[str, str], ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return list(self.done) or [("limits", "they stay as they are")]


@dataclass(frozen=True)
class ChangeLimits(Step[ChangedLimits]):
    """Change the role's limit and PgBouncer's sizes through their own objects, and read them back.

    CloudNativePG sets the role's limit by what the Cluster says, and reloads PgBouncer by what the Pooler says; no session is
    ended by either.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    found: FoundPath
    change: ConnectionChange

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        limits = self.change.of_limits
        if not limits:
            return Plan(summary="The limits behind the application stay as they are", harmless=True)
        uids = {item.kind: item.uid for item in self.change.objects}
        return Plan(
            summary=f"{len(limits)} limits behind the application of {self.change.database}",
            touches=tuple(
                Action(
                    f"{item.place} {item.key} {item.old} → {item.new}: set in".strip(),
                    item.kind,
                    item.namespace,
                    item.name,
                    uids.get(item.kind, ""),
                )
                for item in limits
            ),
            notes=("no session is ended: a lower limit holds for the next connection",),
        )

    def do(self, ctx: Context) -> ChangedLimits:
        limits = self.change.of_limits
        if not limits:
            return ChangedLimits()
        note_begin(ctx, self.change, limits)
        for kind in (CLUSTER, POOLER):
            if any(item.kind == kind for item in limits):
                set_values(ctx, self.change, kind)
        done = [self._role(ctx, item) for item in limits if item.kind == CLUSTER]
        done += [("set", item.words) for item in limits if item.kind == POOLER]
        return ChangedLimits(done=tuple(done))

    def _role(self, ctx: Context, item: Setting) -> tuple[str, str]:
        """Wait until the server itself has the role's limit."""
        wanted = _limit(item)
        seen = {"limit": UNLIMITED - 1}

        def differs() -> str:
            seen["limit"] = role_limit(ctx, item.place)
            if seen["limit"] == wanted:
                return ""
            status = (ctx.cluster_object(self.cluster.ref).get("status") or {}).get("managedRolesStatus") or {}
            return "; ".join((status.get("cannotReconcile") or {}).get(item.place) or ["not reconciled yet"])

        limit = ctx.site.limits.step.total_seconds()
        ctx.wait_while(
            differs,
            limit,
            lambda why: f"role {item.place} has limit {seen['limit']} on the server: {why}",
            lambda why: VerificationError(
                "the server did not get the role's limit",
                expected=f"rolconnlimit {wanted} within {limit:.0f} s",
                observed=f"{seen['limit']}: {why}",
                todo="The change is put back. Look at the Cluster's status.managedRolesStatus.",
            ),
        )
        return "set", f"{item.words}; pg_roles.rolconnlimit {seen['limit']}"


def _limit(item: Setting) -> int:
    return UNLIMITED if item.after is None else int(item.after)


def role_limit(ctx: Context, role: str) -> int:
    """The role's connection limit as the server has it; -1: none."""
    with ctx.source() as db:
        row = db.ask_one(SQL("select rolconnlimit from pg_catalog.pg_roles where rolname = %(role)s"), role=role)
    return int(row["rolconnlimit"])


@dataclass(frozen=True)
class PoolersFollow(CheckStep):
    """Every instance of PgBouncer says that it has the new sizes, and what they may open together fits behind them.

    Asked on its own console (SHOW CONFIG, SHOW DATABASES), by psql in each of the Pooler's pods: what the object says is
    not yet what a process does.
    """

    cluster: SourceCluster
    found: FoundPath
    change: ConnectionChange
    limits: ChangedLimits
    name: ClassVar[str] = "PgBouncer's own word"
    proves: ClassVar[str] = "each instance of PgBouncer has been reloaded, and their sum fits"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        wanted = {item.key: item for item in self.change.settings if item.kind == POOLER}
        if not wanted:
            return [self.result(Verdict.NOT_APPLICABLE, reason="PgBouncer's sizes stay as they are")]
        first = next(iter(wanted.values()))
        pooler = ctx.kube.get(k8s.POOLER, first.namespace, first.name) or {}
        status = pooler.get("status") or {}
        pods = ctx.kube.list(k8s.POD, first.namespace, labels=f"cnpg.io/poolerName={first.name}")
        names = [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        if status.get("phase", "active") not in ("active", "paused") or not names:
            why = status.get("error") or status.get("phaseReason") or "it has no pod"
            return [self.result(Verdict.UNPROVEN, reason=f"Pooler {first.name} runs no PgBouncer: {why}")]
        if not ctx.kube.can_i("create", k8s.POD, subresource="exec", namespace=first.namespace):
            reason = "missing right: create on pods/exec (deploy/change/pooler-console.yaml); SHOW CONFIG was not asked"
            return [self.result(Verdict.UNPROVEN, reason=reason)]
        return [self._compared(ctx, first, wanted, names)]

    def _compared(self, ctx: Context, first: Setting, wanted: dict[str, Setting], names: list[str]) -> Check:
        said = {name: self._settled(ctx, first.namespace, name, wanted) for name in names}
        wrong = [
            f"{pod}: {key} is {values.get(key, 'not there')}, not {item.after}"
            for pod, values in said.items()
            for key, item in wanted.items()
            if item.after is not None and values.get(key) != str(item.after)
        ]
        each = [_most(values) for values in said.values()]
        open_ended = any(value is None for value in each)
        total = sum(value or 0 for value in each)
        room, limit = self._room(ctx)
        fits = f"{' + '.join('no limit' if value is None else str(value) for value in each)} = {'no limit' if open_ended else total} server connections of one pair, {room} by {limit}"
        if not open_ended and total > room:
            wrong.append(f"together they may open {fits}")
        return self.result(
            Verdict.FAILED if wrong else Verdict.VERIFIED,
            expected=", ".join(f"{key} {item.new}" for key, item in wanted.items()),
            observed="; ".join(wrong) or f"{len(names)} instances have them; {fits}",
            details=tuple(
                (pod, ", ".join(f"{key} {values.get(key, 'not there')}" for key in wanted))
                for pod, values in said.items()
            ),
        )

    def _settled(self, ctx: Context, namespace: str, pod: str, wanted: dict[str, Setting]) -> dict[str, str]:
        """The instance's configuration, once it has the sizes or the time for it is over."""
        found: dict[str, dict[str, str]] = {"now": {}}

        def differs() -> list[str]:
            found["now"] = console(ctx, namespace, pod)
            return [
                key
                for key, item in wanted.items()
                if item.after is not None and found["now"].get(key) != str(item.after)
            ]

        late = VerificationError(
            "not reloaded", expected="the new sizes", observed="the old ones", todo="Look at the pod."
        )
        try:
            ctx.wait_while(
                differs, _RELOAD_SECONDS, lambda keys: f"{pod} has not been reloaded: {', '.join(keys)}", lambda _: late
            )
        except VerificationError:
            pass  # what it says then is judged
        return found["now"]

    def _room(self, ctx: Context) -> tuple[int, str]:
        with ctx.source() as db:
            limits = db.ask_one("connection_limits", role=self.found.role, database=self.found.database)
        slots = limits["max_connections"] - limits["superuser_reserved"] - limits["reserved"]
        rooms = [(slots, "max_connections")]
        rooms += [(limits["role_limit"], "the role's limit")] if (limits["role_limit"] or -1) >= 0 else []
        rooms += [(limits["database_limit"], "the database's limit")] if (limits["database_limit"] or -1) >= 0 else []
        return min(rooms)


def console(ctx: Context, namespace: str, pod: str) -> dict[str, str]:
    """PgBouncer's SHOW CONFIG as it says it in this pod. RunbookError if it can't be asked."""
    done = ctx.kube.exec(
        namespace,
        pod,
        "pgbouncer",
        ["psql", "-X", "-A", "-t", "-F", "\t", "-U", "pgbouncer", "-d", "pgbouncer", "-c", "SHOW CONFIG"],
        timeout_seconds=30.0,
        repeatable=True,
    )
    if done.exit_code:
        raise VerificationError(
            f"PgBouncer's console in pod {namespace}/{pod} did not answer",
            expected="the rows of SHOW CONFIG",
            observed=done.error_text.strip()[:200] or f"exit status {done.exit_code}",
            todo="Ask it by hand.",
        )
    rows = [line.split("\t") for line in done.text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _most(values: dict[str, str]) -> int | None:
    """How many server connections an instance opens for one pair at most; None: no limit."""
    pool = int(values.get("default_pool_size") or 0)
    sizes = [
        pool + int(values.get("reserve_pool_size") or 0) if pool else 0,
        int(values.get("max_db_connections") or 0),
        int(values.get("max_user_connections") or 0),
    ]
    return min((size for size in sizes if size), default=None)


__all__ = ["ChangeLimits", "ChangedLimits", "PoolersFollow", "console", "role_limit"]
