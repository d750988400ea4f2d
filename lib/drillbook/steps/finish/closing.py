"""The end of a recovery: what was achieved, what is lost, how to go back, and what to commit to Git; and the announcement of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drillbook.archive import ResolvedTarget
from drillbook.engine.step import Context
from drillbook.evidence.facts import Achieved, Facts
from drillbook.model import Check, causes, show_seconds
from drillbook.steps.archive.losses import to_tell
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.copy import Recovered

NOTHING_IN_GIT = (
    "# Nothing in Git has to change: the Cluster, its Services and the connection strings are what they were.\n"
    "# Retention and schedules are as declared again. If a manifest names the database's owner or comment, leave it.\n"
)


@dataclass(frozen=True)
class AnnounceRecovery(Announcement):
    """Say what was recovered, what is lost, how to go back, and what to change in Git; and inform people.

    From what this run has seen and nothing else. The text and the patch lie with the run's logs; the text goes to the
    site's webhook, if the profile names one.
    """

    cluster: SourceCluster
    target: ResolvedTarget
    recovered: Recovered
    database: str

    def observe(self, ctx: Context) -> Sequence[Check]:
        unmet = ctx.recorder.unmet()
        state = "recovered" if not unmet else "NOT PROVEN TO BE RECOVERED"
        why = causes(unmet)
        self._achieved(ctx)
        outage = ctx.recorder.facts.outage
        lines = [
            f"{self.cluster.ref}, database {self.database}: {state} to {self.target.target}."
            + (f" {why}." if why else ""),
            *self._losses(ctx),
        ]
        if outage:
            lines.append(f"The application did not serve for {show_seconds(outage.seconds)}.")
        lines += [*self._cut(ctx), f"Run {ctx.run_id}."]
        claim = f"Database {self.database} of {self.cluster.ref.name} is in service again, recovered to {self.target.target}"
        return self.publish(ctx, lines, claim=claim)

    def _cut(self, ctx: Context) -> list[str]:
        """How to go back, and what keeps the way open; nothing in Git has to change."""
        ctx.recorder.log("git.patch.yaml", NOTHING_IN_GIT)
        cut = ctx.recorder.facts.cut
        if not cut:
            return []
        return [
            f"The damaged database is kept as {cut.kept}.",
            f"The way back: drillbook undo {ctx.run_id}; it shows first what was written since, and keeps that.",
            f"When nobody needs it any more: drillbook drop-kept {ctx.run_id}.",
        ]

    def _achieved(self, ctx: Context) -> None:
        """The technical recovery time of the copy, and what the target costs this database."""
        own = next((item for item in ctx.recorder.facts.losses or () if item.database == self.database), None)
        point = own.seconds if own else None
        achieved = Achieved(recovery_seconds=self.recovered.recovery_seconds, recovery_point_seconds=point)
        ctx.recorder.note(Facts(achieved=achieved))

    def _losses(self, ctx: Context) -> list[str]:
        found = to_tell(ctx.site, ctx.recorder.facts.losses or ())
        own = next((item for item in found if item.database == self.database), None)
        if own is None:
            return ["What is lost was not read."]
        others = [item for item in found if item.commits and item is not own]
        names = ", ".join(item.database for item in others)
        cut = ctx.recorder.facts.cut
        if not cut:
            return [
                f"Nothing was cut: the database is in service as it was, with all {own.commits} commits after the target."
            ]
        lost = f"{own.commits} commits of it come after the target and are not in service any more."
        return [lost + (f" Not touched: {names}, which would have lost commits too." if others else "")]


__all__ = ["AnnounceRecovery"]
