"""The load of a drill as the runbook's parameters give it, and the rights that it needs beyond those of any drill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.connections import measuring
from drillbook.connections.findings import LoadPlan
from drillbook.engine.step import Context, Step
from drillbook.errors import ParameterError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.steps.preflight.readiness import CheckReadiness, Rights


@dataclass(frozen=True)
class ReadLoadPlan(Step[LoadPlan]):
    """Read the load: the pools as they are and as they might be, the arrivals, and how long it is tried.

    Nothing is asked of a cluster yet. ParameterError names every fault.
    """

    database: str
    baseline_pool: int
    candidate_pool: int
    pods: int
    pooler_size: int
    rate: int
    hold_ms: int
    timeout_seconds: int
    block_seconds: int
    pairs: int
    seed: int

    def do(self, ctx: Context) -> LoadPlan:
        known = {tenant.database: tenant for tenant in ctx.site.tenants}
        tenant = known.get(self.database) if self.database else ctx.site.tenants[0]
        plan = LoadPlan(
            database=tenant.database if tenant else self.database,
            role=tenant.app_role if tenant else "",
            baseline_pool=self.baseline_pool,
            candidate_pool=self.candidate_pool,
            pods=self.pods,
            pooler_size=self.pooler_size,
            rate=float(self.rate),
            hold_seconds=self.hold_ms / 1000,
            block_seconds=float(self.block_seconds),
            pairs=self.pairs,
            timeout_seconds=float(self.timeout_seconds),
            seed=self.seed,
        )
        faults = []
        if tenant is None:
            faults.append(f"database: {self.database!r} is no tenant of the profile (it has {', '.join(known)})")
        seconds, limit = measuring.load_seconds(plan), ctx.site.limits.total.total_seconds()
        if seconds > limit:
            faults.append(
                f"pairs, block_seconds: {seconds:.0f} s of load, and limits.total of the profile is {limit:.0f} s"
            )
        if faults:
            raise ParameterError(faults, where="the load")
        ctx.recorder.note(
            Facts(test=TestKind(type="connection load on a restored copy, with a real pooler and real pools"))
        )
        return plan


@dataclass(frozen=True)
class CheckLoadReadiness(CheckReadiness):
    """The right cluster, and the rights to load a copy of it through a Pooler.

    Cluster, identity pin, rights, storage class and the role's grants are checked together, so that all faults are
    reported together while nothing has been touched.
    """

    drill_rights: ClassVar[Rights] = (
        *CheckReadiness.drill_rights,
        *((verb, k8s.POOLER, "") for verb in ("create", "get", "list", "watch", "delete")),
        ("get", k8s.SERVICE, ""),
    )
    granted_by: ClassVar[str] = "deploy/rbac/"


__all__ = ["CheckLoadReadiness", "ReadLoadPlan"]
