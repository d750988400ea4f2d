"""The way of the load to the copy: a Pooler in front of it, where it is reached, and the application's login there."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections.findings import LoadPlan
from drillbook.connections.load import Pods
from drillbook.engine.step import Context, Obligation, Pending, Plan, Step
from drillbook.errors import PostgresError, StepTimeoutError, VerificationError
from drillbook.manifests import pooler as manifests
from drillbook.manifests.recovery import Copy
from drillbook.model import ClusterRef, Effect, Frozen
from drillbook.postgres.client import SQL, Address, Database, Identifier, Literal
from drillbook.postgres.pool import PoolTarget
from drillbook.steps.recovery.copy import Recovered

CONTAINER_PORT = 5432
_KEYS = 100
_REACHED_SECONDS = 2.0


class PooledCopy(Frozen):
    """The Pooler in front of the copy; ``why_not`` is why there is none that serves, "" if there is."""

    ref: ClusterRef
    pooler: str
    pod: str
    pool_size: int
    why_not: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        if self.why_not:
            return [("no pooler", self.why_not), ("then", "the load goes to the copy itself")]
        return [("Pooler", self.pooler), ("pod", self.pod), ("default_pool_size", str(self.pool_size))]


@dataclass(frozen=True)
class PutPoolerInFront(Step[PooledCopy]):
    """Put a Pooler in front of the copy, with the size that is to be tried.

    One real PgBouncer in transaction mode, and a NetworkPolicy that lets it through the copy's quarantine; both are
    removed with the copy. Where no PgBouncer can run, the load goes to the copy itself, and what the pooler would have shown
    stays UNPROVEN.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    planned: LoadPlan
    recovered: Recovered

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if isinstance(self.recovered, Pending) or isinstance(self.planned, Pending):
            return Plan(summary="A Pooler and a NetworkPolicy in front of the copy, removed with it")
        return Plan(
            summary=f"Pooler {self.recovered.ref.name}-load in front of the copy",
            objects=tuple(self._objects(ctx, self.recovered.ref, "")),
        )

    def _objects(self, ctx: Context, ref: ClusterRef, owner_uid: str) -> list[dict[str, Any]]:
        copy, plan = Copy.of(ref, ctx.run_id), self.planned
        clients = 2 * plan.pods * max(plan.baseline_pool, plan.candidate_pool) + 20
        return [
            manifests.load_policy(copy, namespace=ctx.site.drillbook_namespace, owner_uid=owner_uid),
            manifests.pooler(copy, pool_size=plan.pooler_size, clients=clients, owner_uid=owner_uid),
        ]

    def do(self, ctx: Context) -> PooledCopy:
        ref = self.recovered.ref
        owner = ctx.kube.get(k8s.CONFIG_MAP, ref.namespace, Copy.of(ref, ctx.run_id).owner) or {"metadata": {"uid": ""}}
        for item in self._objects(ctx, ref, owner["metadata"]["uid"]):
            metadata = item["metadata"]
            if ctx.kube.get(k8s.kind_of(item), ref.namespace, metadata["name"]) is not None:
                continue  # made before this run was killed
            ctx.recorder.obligation(
                Obligation(item["kind"], metadata["namespace"], metadata["name"], "made by this run")
            )
            ctx.kube.create(item)
        name = f"{ref.name}-load"
        pod, why_not = self._ready(ctx, ref.namespace, name)
        return PooledCopy(ref=ref, pooler=name, pod=pod, pool_size=self.planned.pooler_size, why_not=why_not)

    def _ready(self, ctx: Context, namespace: str, name: str) -> tuple[str, str]:
        """The pooler's pod once it is ready, or why there will be none."""
        limit = ctx.site.limits.step.total_seconds()
        found = {"pod": "", "why": ""}

        def waits() -> str:
            status = (ctx.kube.get(k8s.POOLER, namespace, name) or {}).get("status") or {}
            if status.get("phase") == "failed":
                found["why"] = str(status.get("error") or status.get("phaseReason") or "the Pooler has failed")
                return ""
            pods = ctx.kube.list(k8s.POD, namespace, labels=f"cnpg.io/poolerName={name}")
            found["pod"] = next((item["metadata"]["name"] for item in pods if _is_ready(item)), "")
            return "" if found["pod"] else str(status.get("phase") or "no phase yet")

        ctx.wait_while(
            waits,
            limit,
            lambda phase: f"waiting for the Pooler {name}: {phase}",
            lambda phase: StepTimeoutError(
                f"the Pooler {namespace}/{name} had no ready pod within {limit:.0f} s: {phase}",
                todo=f"kubectl -n {namespace} describe pooler {name}; it is removed by this run's clean-up.",
            ),
        )
        return found["pod"], found["why"]

    def verify(self, ctx: Context, result: PooledCopy) -> None:
        if ctx.kube.get(k8s.POOLER, result.ref.namespace, result.pooler) is None:
            raise VerificationError(
                f"the Pooler {result.pooler} is gone",
                expected="it is there",
                observed="404",
                todo="Somebody deleted it: start a new run.",
            )


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


@contextmanager
def load_on(ctx: Context, plan: LoadPlan, pooled: PooledCopy) -> Iterator[tuple[Pods, str]]:
    """Running pods that may log in to the copy as the application's role, and in words how they reach it.

    The role gets a password of this run's own, on the copy only, so that its limits and settings are those that were restored.
    """
    password = secrets.token_urlsafe(24)
    ctx.mask(password)
    with ctx.copy(pooled.ref, plan.database) as db:
        db.set_password(plan.role, password)
        statements = look_ups(db, plan.role)
        began = db.ask_one(SQL("SELECT pg_postmaster_start_time()::text AS at"))["at"]
    address, how = _reached(ctx, pooled)
    target = PoolTarget(address, plan.role, plan.database, password)
    _log_in(ctx, target, began)
    with Pods(plan.pods, target, statements) as pods:
        yield pods, how


def look_ups(db: Database, role: str) -> list[str]:
    """Look-ups of newest rows by primary key, in the largest tables that the role may read; without any, a SELECT of nothing."""
    found = []
    for row in db.ask("load_tables", role=role):
        table, key = Identifier(row["schema_name"], row["table_name"]), Identifier(row["key_column"])
        keys = db.ask_written(
            SQL("SELECT {} FROM {} ORDER BY {} DESC LIMIT {}").format(key, table, key, Literal(_KEYS))
        )
        found += [
            SQL("SELECT * FROM {} WHERE {} = {}").format(table, key, Literal(value)).as_string(None)
            for (value,) in keys
        ]
    return found or ["SELECT 1"]


def _reached(ctx: Context, pooled: PooledCopy) -> tuple[Address, str]:
    """The Service's own address where this machine reaches it, else a forward, through which all times are longer."""
    name = f"{pooled.ref.name}-rw" if pooled.why_not else pooled.pooler
    service = ctx.kube.get(k8s.SERVICE, pooled.ref.namespace, name) or {}
    host = str((service.get("spec") or {}).get("clusterIP") or "")
    if host and host != "None":
        try:
            socket.create_connection((host, CONTAINER_PORT), _REACHED_SECONDS).close()
            return Address(host, CONTAINER_PORT), f"by the Service {name}"
        except OSError:
            pass
    address = ctx.copy_address(pooled.ref) if pooled.why_not else ctx.forward(pooled.ref.namespace, pooled.pod)
    return address, "through a port-forward by the API server, which every time contains"


def _log_in(ctx: Context, target: PoolTarget, began: str) -> None:
    """Wait until the path takes the login: a pooler learns of a new password late. VerificationError at another server."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with Database.connect(
                target.address, user=target.user, password=target.password, dbname=target.dbname
            ) as db:
                found = db.ask_one(SQL("SELECT pg_postmaster_start_time()::text AS at"))["at"]
            break
        except PostgresError:
            if time.monotonic() > deadline:
                raise
            ctx.pause(0.5)
    if found != began:
        raise VerificationError(
            f"{target.address.host}:{target.address.port} is not the copy's server",
            expected=f"a server that began at {began}",
            observed=found,
            todo="Another machine has the address that the Service has in the cluster: run this from a pod of the cluster.",
        )


__all__ = ["PooledCopy", "PutPoolerInFront", "load_on", "look_ups"]
