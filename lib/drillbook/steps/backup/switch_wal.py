"""The end of what was written, archived: one commit, one WAL switch, and the segment seen in the bucket."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import archive
from drillbook.engine.step import Context, Plan, Step
from drillbook.errors import StepTimeoutError
from drillbook.model import Effect, Frozen, Lsn, show_seconds
from drillbook.postgres.wal import segment_name
from drillbook.steps.preflight.readiness import SourceCluster


class ArchivedEnd(Frozen):
    """The segment with a commit after the backup's end, seen in the archive."""

    segment: str
    waited_seconds: float


@dataclass(frozen=True)
class ArchiveTheEnd(Step[ArchivedEnd]):
    """One commit and one WAL switch, and wait until the archive has it.

    A backup taken on a standby does not switch WAL: its last segment may come as late as archive_timeout. And an
    instant can be recovered only if a later commit is archived: this is that commit, in Drillbook's own database.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    cluster: SourceCluster
    finished: Any = None  # the backup whose end this is; it only comes before

    def plan(self, ctx: Context) -> Plan:
        return Plan(
            summary=f"One row in database {ctx.site.sql.database}, one WAL switch; wait until the segment is in the bucket",
            sql=("INSERT INTO drillbook.marker … 'later'", "SELECT pg_switch_wal()"),
        )

    def do(self, ctx: Context) -> ArchivedEnd:
        return archive_the_end(ctx, self.cluster, ctx.site.limits.step.total_seconds())


def archive_the_end(ctx: Context, cluster: SourceCluster, limit: float) -> ArchivedEnd:
    """One commit and one WAL switch on the cluster, seen in the archive within ``limit`` seconds, else StepTimeoutError."""
    begun = time.monotonic()
    # Of the cluster that was backed up: after a cut it is not the one that the profile names.
    with ctx.source(read_only=False, of=cluster.ref) as own:
        own.run("ensure_scratch")
        own.run_one("write_marker", run_id=ctx.run_id, name="later")
        switched = own.run_one("switch_wal")
        segment_bytes = int(own.ask_one("archiver")["segment_bytes"])
        timeline = int(own.ask_one("server_facts")["timeline"])
    segment = segment_name(timeline, Lsn(Lsn(str(switched["lsn"])).value - 1), segment_bytes)
    late = StepTimeoutError(
        f"segment {segment} was not seen in the archive within {show_seconds(limit)}",
        todo="Look at pg_stat_archiver and the Cluster's ContinuousArchiving condition. The backup can't be relied on "
        "before its WAL is archived.",
    )
    ctx.wait_while(
        lambda: not archive.is_archived(ctx.store, cluster.server_name, segment, segment_bytes),
        limit,
        lambda _: f"waiting for {segment} in the archive",
        lambda _: late,
    )
    return ArchivedEnd(segment=segment, waited_seconds=time.monotonic() - begun)


__all__ = ["ArchiveTheEnd", "ArchivedEnd", "archive_the_end"]
