"""Whether the replacement holds all that there was: healthy does not mean complete.

Without a target CloudNativePG promotes at the first WAL segment that it can't fetch, also after a passing fault of the
network, and calls the cluster healthy. So what recovery reached is held against what the archive has, and against what
the old cluster still has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drillbook import archive
from drillbook import kube as k8s
from drillbook.engine.step import CheckGroup, CheckStep, Context
from drillbook.errors import RunbookError
from drillbook.model import Check, Lsn, Verdict, show_instant
from drillbook.postgres.wal import Chain
from drillbook.steps.archive.base_backup import ArchivedWal, newest_in
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.archive.salvage import given_up, wal_on_volume
from drillbook.steps.checks.at_target import CommitsAroundTarget, ReachedPoint, commits_around
from drillbook.steps.checks.recovered_copy import CopyQuarantined, IntegrityChecks, SiteQuestionsAndLogins
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.recovery.copy import Recovered
from drillbook.steps.recovery.replacement import ReplacementCluster


@dataclass(frozen=True)
class CompleteToTheArchive(CheckStep):
    """The replacement holds every commit that the archive had, up to the target."""

    old: OldCluster
    point: RestoreStart
    archived: ArchivedWal
    recovered: Recovered
    server_name: str = ""
    """Where what was recovered archives to; "": nowhere, so that only its log or its own history file says where it ended."""
    name: ClassVar[str] = "complete"
    proves: ClassVar[str] = (
        "recovery replayed every archived commit up to the target, not only to the first missing segment"
    )

    def observe(self, ctx: Context) -> Sequence[Check]:
        reached, how = reached_lsn(ctx, self.old, self.server_name, self.recovered)
        if reached is None:
            return [
                self.result(
                    Verdict.UNPROVEN, reason="neither a history file nor the recovery's log says where it ended"
                )
            ]
        if self.point.resolved is not None:
            return [self._at_target(ctx, reached, how)]
        backup = self.point.backup
        listing = archive.wal_names(ctx.store, backup.server_name, since=backup.begin_wal)
        chain = archive.archive_chain(ctx.store, backup, listing, timeline=self.old.timeline)
        newest = self.archived.newest_commit
        if chain.unbroken:
            now = newest_in(ctx, self.old, listing, chain)
            newest = max((one for one in (now, newest) if one is not None), key=lambda one: one.lsn, default=None)
        short = newest is not None and newest.lsn >= reached
        expected = f"at least {newest.end_lsn}, the end of the newest archived commit" if newest else "unbroken WAL"
        details = (
            ("reached", f"{reached} ({how})"),
            (
                "newest archived commit",
                f"XID {newest.xid} at {show_instant(newest.committed_at)}" if newest else "none",
            ),
            ("archived", f"{chain.segments} segments, newest {chain.newest_segment or 'none'}"),
        )
        if chain.unbroken and not short:
            return [self.result(Verdict.VERIFIED, expected=expected, observed=f"{reached}", details=details)]
        missing = chain.first_missing or first_not_replayed(chain, reached)
        lost = (
            f"; commits up to XID {newest.xid} at {show_instant(newest.committed_at)} are not in it"
            if short and newest
            else ""
        )
        observed = f"recovery ended at {reached}: the first segment that it did not have is {missing}{lost}"
        return [self.result(Verdict.FAILED, expected=expected, observed=observed, details=details)]

    def _at_target(self, ctx: Context, reached: Lsn, how: str) -> Check:
        """PostgreSQL does not promote before a target that it hasn't reached; that it stopped there is in its log.

        Where the log was lost, the commits on both sides of the target say it.
        """
        target = self.point.target
        exact = target.target_time is None and target.target_xid is None
        there = bool(self.recovered.stopped) or (exact and reached >= (target.target_lsn or self.point.backup.end_lsn))
        if not there and not self.recovered.timeline and self.point.resolved is not None:
            before, after = commits_around(ctx, self.point.resolved, self.recovered)
            there = (before, after) != (None, None) and before is not False and not after
        return self.result(
            Verdict.VERIFIED if there else Verdict.UNPROVEN,
            expected=f"stopped at the target ({target})",
            observed=f"ended at {reached} ({how})",
            reason="" if there else "the recovery's log does not say that it stopped at the target",
        )


def reached_lsn(ctx: Context, old: OldCluster, server_name: str, recovered: Recovered) -> tuple[Lsn | None, str]:
    """Where recovery ended, and by what that is known: the new timeline's history file in the bucket, else the log or its own.

    CloudNativePG archives the history file first of all; it is waited for as long as a step may take.
    """
    how = "the recovery's log" if recovered.timeline else "its own history file"
    if not server_name:
        return (Lsn(recovered.redo_end), how) if recovered.redo_end else (None, "")
    deadline = time.monotonic() + ctx.site.limits.step.total_seconds()
    while True:
        listing = archive.wal_names(ctx.store, server_name)
        own = [number for number in listing.histories if number > old.timeline or number == recovered.timeline]
        if own:
            switches = archive.histories(ctx.store, listing)[max(own)]
            return switches[-1].lsn, f"{max(own):08X}.history"
        if recovered.redo_end and time.monotonic() > deadline - ctx.site.limits.step.total_seconds() / 2:
            return Lsn(recovered.redo_end), how
        if time.monotonic() > deadline:
            return None, ""
        ctx.recorder.progress("waiting for the new line's history file in the archive")
        ctx.pause(0.5)


def first_not_replayed(chain: Chain, reached: Lsn) -> str:
    """The segment in which recovery ended before its end; at a boundary the one after it."""
    return chain.name_at(reached.value // chain.segment_bytes)


@dataclass(frozen=True)
class CompleteToTheSource(CheckStep):
    """Nothing is left on the old cluster that the replacement lacks."""

    old: OldCluster
    point: RestoreStart
    archived: ArchivedWal
    name: ClassVar[str] = "complete: old cluster"
    proves: ClassVar[str] = "no commit is left on the old cluster's volume that was never archived"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if self.point.resolved is not None:
            return [self.result(Verdict.NOT_APPLICABLE, reason="a target before the end was chosen")]
        if not self.old.gone and self._removed(ctx):
            return [self._before_it_was_removed(ctx)]
        because = given_up(ctx)
        found = wal_on_volume(ctx, self.old, self.point.backup, patient=not because)
        if found.runs:
            return [self._running(ctx)]
        if not found.primary and because:
            return [self.result(Verdict.NOT_APPLICABLE, reason=f"the old volume is given up, because: {because}")]
        if not found.primary:
            return [
                self.result(
                    Verdict.UNPROVEN,
                    required=not self.old.gone,
                    expected="the old primary's volume, read",
                    reason=f"the old primary's volume can't be read: {found.problem}",
                )
            ]
        return [
            self.result(
                Verdict.FAILED if found.unarchived else Verdict.VERIFIED,
                expected=f"the archive has every segment on the volume of {found.pod}",
                observed=f"the first that it lacks is {found.unarchived[0]}, of {len(found.unarchived)}"
                if found.unarchived
                else f"all of them, to {found.newest or 'none'}",
            )
        ]

    def _removed(self, ctx: Context) -> bool:
        """Whether the old Cluster is no longer there; one of its name may be another."""
        found = ctx.kube.get(k8s.CLUSTER, self.old.ref.namespace, self.old.ref.name)
        return found is None or found["metadata"]["uid"] != self.old.uid

    def _before_it_was_removed(self, ctx: Context) -> Check:
        """The volume is gone: what counts is what was read on it, with no server running, and archived from it."""
        seen, salvaged = ctx.recorder.facts.wal_on_volume, ctx.recorder.facts.salvaged
        because = given_up(ctx)
        if because and not (seen and seen.primary):
            return self.result(Verdict.NOT_APPLICABLE, reason=f"the old volume was given up, because: {because}")
        if not seen or not seen.primary or seen.runs:
            return self.result(
                Verdict.UNPROVEN,
                expected="the old primary's volume, read before it was removed",
                reason="the old cluster is gone, and its volume was not read with no server running",
            )
        left = sorted(set(seen.unarchived) - set(salvaged.segments if salvaged else ()))
        return self.result(
            Verdict.FAILED if left else Verdict.VERIFIED,
            expected=f"every segment that was on the volume of {seen.pod} was archived before it was removed",
            observed=f"{left[0]} was not" if left else f"all of them, to {seen.newest or 'none'}",
        )

    def _running(self, ctx: Context) -> Check:
        """The old primary runs: its next transaction id says whether it has gone on."""
        newest = self.archived.newest_commit
        try:
            with ctx.source() as db:
                now = db.ask_one("wal_position")
        except RunbookError as error:
            return self.from_error(error)
        same = newest is not None and int(now["next_xid"]) & 0xFFFFFFFF == newest.xid + 1
        return self.result(
            Verdict.VERIFIED if same else Verdict.FAILED,
            expected="the old primary has committed nothing since the newest archived commit",
            observed=f"its next transaction is {now['next_xid']}, the newest archived {newest.xid if newest else 'none'}",
        )


@dataclass(frozen=True)
class ReplacementComplete(CheckGroup):
    """The replacement is complete, not only healthy.

    What recovery reached, held against the archive's newest commit and against what the old cluster still has. A
    shortfall names the first segment that was missing.
    """

    old: OldCluster
    point: RestoreStart
    archived: ArchivedWal
    replacement: ReplacementCluster
    recovered: Recovered

    def checks(self) -> Sequence[CheckStep]:
        server_name = self.replacement.server_name
        return [
            CompleteToTheArchive(self.old, self.point, self.archived, self.recovered, server_name),
            CompleteToTheSource(self.old, self.point, self.archived),
            *at_the_point(self.old, self.point, self.recovered),
        ]


@dataclass(frozen=True)
class CopyVerified(CheckGroup):
    """The copy is what the archive can give: complete, sound, and answering as it should.

    What is going to be removed can be restored from this archive only: so a copy of it is recovered first, in
    quarantine, and looked at. It stays until what replaces the old cluster is verified.
    """

    old: OldCluster
    point: RestoreStart
    archived: ArchivedWal
    recovered: Recovered
    under: ClassVar[str] = "copy"

    def checks(self) -> Sequence[CheckStep]:
        return [
            CompleteToTheArchive(self.old, self.point, self.archived, self.recovered),
            *at_the_point(self.old, self.point, self.recovered),
            *IntegrityChecks(self.recovered).checks(),
            *SiteQuestionsAndLogins(self.recovered).checks(),
            CopyQuarantined(self.recovered),
        ]


def at_the_point(old: OldCluster, point: RestoreStart, recovered: Recovered) -> list[CheckStep]:
    """What shows that recovery stopped at the target; none where it ran to the end of the archive."""
    found = point.resolved
    return [] if found is None else [ReachedPoint(old, found, recovered), CommitsAroundTarget(found, recovered)]


__all__ = ["CompleteToTheArchive", "CompleteToTheSource", "CopyVerified", "ReplacementComplete"]
