"""What the cluster has committed, from the archived WAL of every folder that its history is in, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from drillbook import archive
from drillbook.archive import CommitSeen
from drillbook.engine.step import Context
from drillbook.errors import PreconditionError
from drillbook.model import BaseBackup, Lsn
from drillbook.postgres.wal import Changes
from drillbook.profile import ServerPeriod
from drillbook.steps.archive.candidates import holdings, with_histories
from drillbook.steps.preflight.readiness import SourceCluster


class _Committed(NamedTuple):
    """A transaction's changes, or that it was committed, and the folder it was found in.

    ``kept``: production's own line of history has it. A cluster that was recovered to take another's place leaves that
    one's history where its recovery stopped.
    """

    what: Changes | CommitSeen
    server_name: str
    kept: bool


def changes_between(ctx: Context, cluster: SourceCluster, since: datetime, until: datetime) -> Iterator[Changes]:
    """What was deleted or dropped between two instants, folder after folder, each in the order of its WAL.

    Raises what `committed_between` raises.
    """
    for one in _between(ctx, cluster, since, until, "", archive.changes_between):
        assert isinstance(one.what, Changes)  # noqa: S101 - what was asked for
        yield one.what


def committed_between(
    ctx: Context, cluster: SourceCluster, since: datetime, until: datetime, *, first_folder: str = ""
) -> Iterator[tuple[CommitSeen, str, bool]]:
    """Every commit between two instants with its folder and whether it is kept, in the order of the WAL.

    Searched is what is in each folder's own period, from the newest base backup before it (else its oldest) on, and
    ``first_folder`` with all after it ("": all). PreconditionError: a folder on the way has no usable base backup.
    Raises what `objectstore.commits_between` raises.
    """
    for one in _between(ctx, cluster, since, until, first_folder, archive.commits_between):
        assert isinstance(one.what, CommitSeen)  # noqa: S101 - what was asked for
        yield one.what, one.server_name, one.kept


def _between(
    ctx: Context,
    cluster: SourceCluster,
    since: datetime,
    until: datetime,
    first_folder: str,
    search: Callable[..., Iterator[Changes] | Iterator[CommitSeen]],
) -> Iterator[_Committed]:
    folders = ctx.archive.folders
    names = [period.name for period in folders]
    begin = names.index(first_folder) if first_folder in names else 0
    for at, period in enumerate(folders[begin:], begin):
        first = max(since, period.since or since)
        last = min(until, period.until - timedelta(microseconds=1)) if period.until else until
        if first > last:
            continue
        backup = backup_before(ctx, cluster, period.name, first)
        held = holdings(ctx, cluster, period.name, [backup])
        chain = held.chain(backup)
        left = _left_at(ctx, cluster, folders[at + 1], chain.timeline) if at + 1 < len(folders) else None
        found = search(
            ctx.store,
            held.listing,
            chain,
            since=first,
            until=last,
            system_id=cluster.system_id,
            say=ctx.recorder.progress,
        )
        for one in found:
            yield _Committed(one, period.name, left is None or Lsn(one.lsn) < left)


def archived_until(ctx: Context, cluster: SourceCluster) -> datetime | None:
    """When the newest segment of the folder that is archived to now was archived; None: none exists.

    What was committed later is not in the archive; of what was committed shortly before, the last may not be either.
    """
    usable = archive.catalogue(ctx.store, cluster.server_name, system_id=cluster.system_id).usable
    newest = holdings(ctx, cluster, cluster.server_name, usable[-1:]).newest_segment
    return newest.modified if newest is not None else None


def backup_before(ctx: Context, cluster: SourceCluster, server_name: str, at: datetime) -> BaseBackup:
    """The newest usable base backup of the folder that ended before ``at``, else its oldest; PreconditionError: none."""
    found = archive.catalogue(ctx.store, server_name, system_id=cluster.system_id).usable
    held = with_histories(ctx, cluster, server_name, found)
    usable = [backup for backup in found if not held.unreachable(backup)]
    if not usable:
        raise PreconditionError(
            f"no usable base backup under {ctx.store.location}/{server_name}",
            todo="Take one with runbooks/backup-manual.ipynb: there is nothing to recover from.",
        )
    return next((backup for backup in reversed(usable) if backup.end_time <= at), usable[0])


def _left_at(ctx: Context, cluster: SourceCluster, following: ServerPeriod, timeline: int) -> Lsn | None:
    """Where the cluster's way in the following folder left ``timeline``; ``None`` if its history does not tell."""
    held = with_histories(ctx, cluster, following.name, [])
    switches = held.histories.get(held.own, ())
    return next((switch.lsn for switch in switches if switch.timeline == timeline), None)


__all__ = ["archived_until", "backup_before", "changes_between", "committed_between"]
