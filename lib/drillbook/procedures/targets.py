"""Where a recovery is to stop: the runbook's target parameters, resolved from the archive before anything is created."""

from __future__ import annotations

from dataclasses import dataclass

from drillbook import objectstore
from drillbook.model import RecoveryTarget
from drillbook.objectstore import ResolvedTarget
from drillbook.procedures.candidates import candidates
from drillbook.procedures.readiness import SourceCluster
from drillbook.step import Context, Step


@dataclass(frozen=True)
class ResolveTarget(Step[ResolvedTarget]):
    """Resolve the target: base backup, timeline, WAL, and the commits on both sides.

    Read from the archived WAL itself. A target that it does not reach would fail only after the base backup was fetched and
    all WAL replayed; it is refused here, with the nearest that can be reached.
    """

    cluster: SourceCluster

    def do(self, ctx: Context) -> ResolvedTarget:
        wanted, backup_id = RecoveryTarget.asked(ctx.parameters)
        ctx.recorder.progress(f"looking for {wanted} in the archive")
        chosen = candidates(ctx, self.cluster, wanted.target_time)
        held = objectstore.Holdings.read(ctx.store, chosen.usable, chosen.server_name, system_id=self.cluster.system_id)
        found = objectstore.resolve(held, wanted, backup_id=backup_id)
        ctx.recorder.fact("target", found.model_dump(mode="json"))
        return found


__all__ = ["ResolveTarget", "ResolvedTarget"]
