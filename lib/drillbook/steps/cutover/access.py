"""A cluster that was created again under its own name, kept shut to its clients until it is verified.

Its Services route to it from the first second, so the server itself has to refuse them: ``pg_hba`` lets in Drillbook's
role and the superuser, who check it, and rejects everybody else. CloudNativePG's own rules (local, replication, its
poolers' lookup) come before the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import Action, Context, Plan, Step
from drillbook.errors import StepTimeoutError
from drillbook.model import Effect, Frozen, Instant, show_seconds
from drillbook.postgres.client import SQL
from drillbook.profile import Site
from drillbook.steps.preflight.old_cluster import OldCluster

REJECT = "host all all all reject"
_LOADED = SQL(
    "select (select count(*) from pg_catalog.pg_hba_file_rules where auth_method = 'reject' and user_name = '{all}')::int as rejecting, "
    "pg_catalog.pg_conf_load_time()::text as loaded"
)


def rules(site: Site) -> list[str]:
    """The lines of pg_hba that let in who checks, and nobody else."""
    return [f'host all "{role}" all scram-sha-256' for role in (site.sql.role, "postgres")] + [REJECT]


def shut(cluster: dict[str, Any], site: Site) -> dict[str, Any]:
    """The Cluster with these rules before its own."""
    spec = cluster["spec"]
    postgresql = spec.get("postgresql") or {}
    own = list(postgresql.get("pg_hba") or [])
    return cluster | {"spec": spec | {"postgresql": postgresql | {"pg_hba": [*rules(site), *own]}}}


class Opened(Frozen):
    """Clients are let in since ``at``; ``rules`` are the lines of pg_hba that are left, the user's own."""

    at: Instant
    rules: tuple[str, ...]


@dataclass(frozen=True)
class OpenToClients(Step[Opened]):
    """Let the clients in.

    The rules that rejected them are taken out of the Cluster's pg_hba, and the server is asked whether it has read the
    new ones. Done only if every required check of this run is VERIFIED.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    old: OldCluster

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        ref = self.old.ref
        return Plan(
            summary=f"The lines of pg_hba that shut Cluster {ref} to its clients are removed",
            notes=tuple(rules(ctx.site)),
            touches=(Action("open to its clients", "Cluster", ref.namespace, ref.name),),
        )

    def do(self, ctx: Context) -> Opened:
        ref = self.old.ref
        spec = ctx.cluster_object(ref)["spec"]
        now = list((spec.get("postgresql") or {}).get("pg_hba") or [])
        own = [line for line in now if line not in rules(ctx.site)]
        before = self._asked(ctx)
        if own != now:
            ctx.require_lease()
            ctx.kube.patch(k8s.CLUSTER, ref.namespace, ref.name, {"spec": {"postgresql": {"pg_hba": own or None}}})
        limit = ctx.site.limits.step.total_seconds()

        def rejects() -> bool:
            asked = self._asked(ctx)
            return asked["rejecting"] > own.count(REJECT) or (own != now and asked["loaded"] == before["loaded"])

        late = StepTimeoutError(
            f"{ref} still rejects its clients {show_seconds(limit)} after its pg_hba was changed",
            todo="Look at the operator's log: it writes pg_hba.conf and reloads. Then resume this run.",
        )
        ctx.wait_while(rejects, limit, lambda _: "waiting for the server to read its new pg_hba", lambda _: late)
        return Opened(at=datetime.now(UTC), rules=tuple(own))

    def _asked(self, ctx: Context) -> dict[str, Any]:
        with ctx.copy(self.old.ref, "postgres", read_only=True) as db:
            return dict(db.ask_one(_LOADED))


__all__ = ["OpenToClients", "Opened", "rules", "shut"]
