"""Where a recovery is to stop: the runbook's target parameters, resolved from the archive before anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drillbook import archive
from drillbook.archive import ResolvedTarget
from drillbook.engine.step import Context, Step
from drillbook.errors import BaseBackupMissing, TargetOutsideWindow
from drillbook.evidence.facts import Facts, RequestedTarget
from drillbook.model import AskedTarget, Check, RecoveryTarget, Verdict
from drillbook.steps.archive.candidates import candidates_of, holdings
from drillbook.steps.archive.damage import Candidate, DamageCandidates
from drillbook.steps.preflight.readiness import SourceCluster


@dataclass(frozen=True)
class ResolveTarget(Step[ResolvedTarget]):
    """Resolve the target: base backup, timeline, WAL, and the commits on both sides.

    Read from the archived WAL itself. A target that it does not reach would fail only after the base backup was
    fetched and all WAL replayed; it is refused here, with the nearest that can be reached. After a cut-over a time is
    under the serverName of its period; anything else is looked for under the newest first.
    """

    cluster: SourceCluster
    asked: AskedTarget
    damage: DamageCandidates | None = None  # what was found before: whether this target leaves it out is said

    def do(self, ctx: Context) -> ResolvedTarget:
        found = resolve_target(ctx, self.cluster, self.asked)
        if self.damage is not None and self.damage.found and self.damage.found[0].weight:
            ctx.recorder.check(damage_left_out(self.damage.found[0], found))
        return found


def damage_left_out(worst: Candidate, target: ResolvedTarget) -> Check:
    """Whether the likeliest transaction that was found is left out at this target: a warning if it is recovered too."""
    first = target.first_after
    out = first is not None and worst.lsn >= first.lsn
    what = f"XID {worst.xid} ({worst.database}: {worst.what})"
    return Check(
        name="damage left out",
        proves="the target does not bring the damage back",
        verdict=Verdict.VERIFIED if out else Verdict.FAILED,
        required=False,
        expected=f"{what} is not recovered",
        observed="it is left out" if out else f"WARNING: this target brings {what} back",
        reason="" if out else "if that is the damage, choose a target before it",
    )


def resolve_target(ctx: Context, cluster: SourceCluster, asked: AskedTarget) -> ResolvedTarget:
    """The target, resolved in the archive and recorded. Raises TargetOutsideWindow, BaseBackupMissing."""
    ctx.recorder.progress(f"looking for {asked.target} in the archive")
    found = _resolve(ctx, cluster, asked.target, asked.backup_id)
    ctx.recorder.note(Facts(target=RequestedTarget.of(found)))
    return found


def _resolve(ctx: Context, cluster: SourceCluster, wanted: RecoveryTarget, backup_id: str) -> ResolvedTarget:
    refused: list[TargetOutsideWindow | BaseBackupMissing] = []
    servers = _servers(ctx, wanted)
    for server in servers:
        try:
            chosen = candidates_of(ctx, cluster, server)
            held = holdings(ctx, cluster, server, chosen.usable)
            return _pinned(held, archive.resolve(held, wanted, backup_id=backup_id), wanted, backup_id)
        except (TargetOutsideWindow, BaseBackupMissing) as error:
            refused.append(error)
    first = refused[0]
    if len(servers) > 1:
        raise TargetOutsideWindow(
            f"under {servers[0]}: {first.what}; it is not under {', '.join(servers[1:])} either", todo=first.todo
        ) from first
    raise first


def _pinned(
    held: archive.ArchiveSnapshot, found: ResolvedTarget, wanted: RecoveryTarget, backup_id: str
) -> ResolvedTarget:
    """The end of the archive as the LSN of its newest commit now.

    The archive goes on growing while people confirm, and what this run writes itself (the database set read only)
    must not be recovered with the rest.
    """
    if wanted != RecoveryTarget() or found.last_before is None:
        return found
    try:
        return archive.resolve(
            held, RecoveryTarget(target_lsn=found.last_before.lsn), backup_id=backup_id or found.backup.backup_id
        )
    except TargetOutsideWindow:
        return found  # nothing but its base backup: there is no record to stop at


def _servers(ctx: Context, wanted: RecoveryTarget) -> Sequence[str]:
    """The folders in which the target may lie, in the order in which they are searched."""
    if wanted.target_time is not None:
        return [ctx.archive.server_at(wanted.target_time)]
    if wanted == RecoveryTarget():
        return [ctx.archive.server_name]
    return [period.name for period in reversed(ctx.archive.folders)]


__all__ = ["ResolveTarget", "ResolvedTarget", "resolve_target"]
