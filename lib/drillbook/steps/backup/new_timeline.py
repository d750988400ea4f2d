"""The new line of history after a cut: its first archived WAL and its first base backup, seen in the bucket."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook import archive
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.model import Check, Verdict
from drillbook.steps.backup.manual_backup import FinishedBackup
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.replacement import ReplacementCluster


@dataclass(frozen=True)
class ReadPromotedCluster(Step[SourceCluster]):
    """Read the replacement as the source that it is from now on.

    Its backups are asked for, watched and verified by the same steps as any other's.
    """

    old: OldCluster
    replacement: ReplacementCluster

    def do(self, ctx: Context) -> SourceCluster:
        return new_line(ctx, self.old, self.replacement)


def new_line(ctx: Context, old: OldCluster, replacement: ReplacementCluster) -> SourceCluster:
    """The replacement as a source whose backups are asked for and verified."""
    status = ctx.cluster_object(replacement.ref).get("status", {})
    location = old.location.removesuffix(old.server_name) + replacement.server_name
    return SourceCluster(
        ref=replacement.ref,
        uid=replacement.uid,
        system_id=str(status.get("systemID") or old.system_id),
        timeline=int(status.get("timelineID") or old.timeline + 1),
        primary=str(status.get("currentPrimary", "")),
        server_name=replacement.server_name,
        location=location,
        server_version=old.server_version,
        image=str(status.get("image") or old.image),
        storage_class=old.storage_class,
    )


@dataclass(frozen=True)
class FirstBackupOfNewTimeline(CheckStep):
    """The new line is in the archive: its first WAL, and its own base backup with the WAL that it needs.

    Until then a second loss would go back to the old line's backups, and lose all that came after the cut.
    """

    line: SourceCluster
    finished: FinishedBackup
    name: ClassVar[str] = "new line"
    proves: ClassVar[str] = "a loss from now on is recovered from the new line's own backup"

    def observe(self, ctx: Context) -> Sequence[Check]:
        server, deadline = self.line.server_name, time.monotonic() + ctx.site.limits.step.total_seconds()
        found = archive.catalogue(ctx.store, server, system_id=self.line.system_id)
        backup, end = found.find(self.finished.backup_id), self.finished.end_wal
        while (
            backup
            and not archive.is_archived(ctx.store, server, end, backup.segment_bytes)
            and time.monotonic() < deadline
        ):
            ctx.recorder.progress(f"waiting for {end} in the archive")
            ctx.pause(0.5)
        listing = archive.wal_names(ctx.store, server)
        history = f"{self.line.timeline:08X}.history"
        details = (
            ("history file", history if self.line.timeline in listing.histories else f"{history} is missing"),
            ("segments archived", str(len(listing))),
            ("base backups", str(len(found.usable))),
        )
        if backup is None:
            why = dict(found.unusable).get(self.finished.backup_id, "the bucket has no such backup")
            return [self._told(Verdict.FAILED, why, details)]
        chain = archive.archive_chain(ctx.store, backup, listing, timeline=self.line.timeline)
        whole = chain.unbroken and chain.end_lsn >= backup.end_lsn and self.line.timeline in listing.histories
        said = f"{backup.backup_id}, with {chain.segments} segments to {chain.last_segment or 'none'}"
        return [self._told(Verdict.VERIFIED if whole else Verdict.FAILED, said + f" {chain.problem}".rstrip(), details)]

    def _told(self, verdict: Verdict, observed: str, details: tuple[tuple[str, str], ...]) -> Check:
        expected = f"a whole base backup under {self.line.location}, with its WAL"
        return self.result(verdict, expected=expected, observed=observed, details=details)


__all__ = ["FirstBackupOfNewTimeline", "ReadPromotedCluster", "new_line"]
