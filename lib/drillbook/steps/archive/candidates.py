"""The base backups that a recovery may begin with: usable, of the folder that holds the target, and safe from retention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from drillbook import archive
from drillbook.engine.step import Context
from drillbook.errors import BaseBackupMissing, NotReady
from drillbook.model import BaseBackup, RecoveryTarget
from drillbook.steps.preflight.readiness import SourceCluster


class UsableBackups(NamedTuple):
    """``usable`` backups of ``server_name``, oldest first, and why each other one is not among them, by its id."""

    server_name: str
    usable: Sequence[BaseBackup]
    refused: Mapping[str, str]
    refusals: str  # the refused ones in a parenthesis, "" for none


def candidates(ctx: Context, cluster: SourceCluster, asked: datetime | None) -> UsableBackups:
    """Those for a recovery to ``asked`` (``None``: any target that is not a time, in the folder archived to now).

    One that retention may delete while the recovery runs is refused: its data or WAL would go from under it.
    BaseBackupMissing: none is left, with every reason. TargetOutsideWindow: ``asked`` is between two folders.
    """
    return candidates_of(ctx, cluster, ctx.archive.server_at(asked))


def candidates_of(ctx: Context, cluster: SourceCluster, server: str) -> UsableBackups:
    """Those of one folder; raises as `candidates`.

    One that no WAL leads from to the cluster's timeline is refused: a server that archived here by mistake made it, or
    one that lived on after a failover.
    """
    found = archive.catalogue(ctx.store, server, system_id=cluster.system_id)
    held = with_histories(ctx, cluster, server, found.usable)
    # Retention works on the folder that is archived to now; another one's backups stay.
    policy = ctx.archive.retention_policy if server == ctx.archive.server_name else ""
    try:
        going = archive.deleted_during(
            found.entries, policy, now=datetime.now(UTC), seconds=ctx.site.limits.recovery.total_seconds()
        )
    except ValueError as error:
        raise NotReady([str(error)], where=f"Cluster {cluster.ref}") from error
    aside = {backup.backup_id: why for backup in found.usable if (why := held.unreachable(backup))}
    refused = dict(found.unusable) | going | aside
    told = "; ".join(f"{backup_id}: {reason}" for backup_id, reason in refused.items())
    usable = [backup for backup in found.usable if backup.backup_id not in going and backup.backup_id not in aside]
    if not usable:
        raise BaseBackupMissing(
            f"no usable base backup under {ctx.store.location}/{server}" + (f" ({told})" if told else ""),
            todo="Take one with runbooks/backup-manual.ipynb or a Backup object, and find out why none was made.",
        )
    return UsableBackups(server, usable, refused, f" ({told})" if told else "")


def holdings(
    ctx: Context, cluster: SourceCluster, server: str, backups: Sequence[BaseBackup]
) -> archive.ArchiveSnapshot:
    """The archive of one folder as it is now, on the way to the cluster's own timeline; raises what `ArchiveSnapshot.read` raises."""
    return archive.ArchiveSnapshot.read(
        ctx.store,
        backups,
        server,
        system_id=cluster.system_id,
        timeline=ctx.archive.timeline_in(server, cluster.timeline),
    )


def with_histories(
    ctx: Context, cluster: SourceCluster, server: str, backups: Sequence[BaseBackup]
) -> archive.ArchiveSnapshot:
    """As `holdings`, but without the segments where the cluster's timeline is known: ways are reported, and no gaps."""
    timeline = ctx.archive.timeline_in(server, cluster.timeline)
    if not timeline:
        return holdings(ctx, cluster, server, backups)
    listing = archive.wal_histories(ctx.store, server)
    return archive.ArchiveSnapshot(
        ctx.store,
        listing,
        tuple(backups),
        archive.histories(ctx.store, listing, needed=timeline),
        cluster.system_id,
        timeline,
    )


def to_its_timeline(ctx: Context, cluster: SourceCluster, backup: BaseBackup, target: RecoveryTarget) -> RecoveryTarget:
    """The target with the timeline that ``targetTLI`` must name, where it names none; see `objectstore.timelines`."""
    if target.timeline is not None:
        return target
    held = with_histories(ctx, cluster, backup.server_name, [backup])
    return target.model_copy(update={"timeline": held.pinned(backup)})


__all__ = ["UsableBackups", "candidates", "candidates_of", "holdings", "to_its_timeline", "with_histories"]
