"""The end of a full restore: what came back, what is lost, the way back, and what others must do; and the announcement of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drillbook.engine.step import Context
from drillbook.evidence.facts import Achieved, Facts
from drillbook.model import ArchivedCommit, Check, causes, show_instant, show_seconds
from drillbook.steps.archive.base_backup import ArchivedWal
from drillbook.steps.archive.losses import to_tell
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.archive.salvage import given_up
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.finish.git_patch import GitPatch, PatchForGit
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.recovery.copy import Recovered
from drillbook.steps.recovery.replacement import ReplacementCluster


@dataclass(frozen=True)
class AnnounceRestore(Announcement):
    """Say what came back, up to which commit, how to go back, and what each tenant must do; and inform people.

    From what this run has seen and nothing else. The text and the patch for Git lie with the run's logs; the text goes
    to the site's webhook, if the profile names one.
    """

    old: OldCluster
    point: RestoreStart
    archived: ArchivedWal
    replacement: ReplacementCluster
    recovered: Recovered
    patch: GitPatch

    def observe(self, ctx: Context) -> Sequence[Check]:
        unmet = ctx.recorder.unmet()
        why = causes(unmet)
        last, new = self._last_commit, self.replacement.ref
        to = f" up to {show_instant(last.committed_at)}" if last else ""
        state = "restored" if not unmet else "NOT PROVEN TO BE RESTORED"
        lines = [
            f"{self.old.ref}: {state}{to}{self._without(ctx)}, now Cluster {new.name}." + (f" {why}." if why else ""),
            f"It took {show_seconds(self.recovered.recovery_seconds)} from its creation until every instance was ready.",
            *self._lost(ctx),
            *self._way_back(ctx),
            *(f"To do: {line}." for line in self.patch.addresses),
            f"Commit to Git what logs/git.patch.yaml says, before anything syncs. Run {ctx.run_id}.",
        ]
        lag = ctx.recorder.facts.archive_lag
        achieved = Achieved(
            recovery_seconds=self.recovered.recovery_seconds,
            recovery_point_seconds=lag.seconds if lag else None,
            pitr_seconds=None,
        )
        ctx.recorder.note(Facts(achieved=achieved))
        claim = f"{self.old.ref.name} was restored{to}{self._without(ctx)}, and is in service as {new.name}"
        return self.publish(ctx, lines, claim=claim)

    @property
    def _last_commit(self) -> ArchivedCommit | None:
        return self.point.resolved.last_before if self.point.resolved else self.archived.newest_commit

    def _without(self, ctx: Context) -> str:
        """What the claim leaves out, as somebody has decided."""
        volume = ctx.recorder.facts.wal_on_volume
        read = volume is not None and volume.primary
        return (
            ""
            if self.point.resolved or read or self.old.gone or not given_up(ctx)
            else " without what was never archived"
        )

    def _lost(self, ctx: Context) -> list[str]:
        if self.point.resolved is not None:
            found = to_tell(ctx.site, ctx.recorder.facts.losses or ())
            lost = [f"{one.database} has lost {one.commits} commits." for one in found if one.commits]
            kept = f"What comes after the target is in the archive under serverName {self.old.server_name}, which must be kept: a recovery from there has it."
            return [*lost, kept] if found else [f"What each tenant has lost after the target is not known. {kept}"]
        volume = ctx.recorder.facts.wal_on_volume
        if volume and volume.primary:
            return ["Nothing that was committed is lost: the old volume was read, and what it alone held was archived."]
        why = f" It was given up, because: {given_up(ctx)}." if given_up(ctx) and not self.old.gone else ""
        return [f"What was committed after that and not archived is lost: the old volume could not be read.{why}"]

    def _way_back(self, ctx: Context) -> list[str]:
        old = self.old
        if old.gone or self.replacement.ref == old.ref:
            return [f"To before the cut: a recovery from serverName {old.server_name}, which must be kept."]
        return [
            f"Cluster {old.ref.name} stays fenced with its volumes, until somebody deletes it.",
            f"The way back to it: drillbook undo {ctx.run_id}; it shows first what was written since, and the replacement keeps that.",
        ]


__all__ = ["AnnounceRestore", "PatchForGit"]
