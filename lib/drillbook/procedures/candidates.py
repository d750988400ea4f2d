"""The base backups that a recovery may begin with: usable, of the folder that holds the target, and safe from retention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from drillbook import objectstore
from drillbook.errors import BaseBackupMissing, NotReady
from drillbook.model import BaseBackup
from drillbook.procedures.readiness import SourceCluster
from drillbook.step import Context


class Candidates(NamedTuple):
    """``usable`` backups of ``server_name``, oldest first, and why each other one is not among them, by its id."""

    server_name: str
    usable: Sequence[BaseBackup]
    refused: Mapping[str, str]
    told: str  # the refused ones in a parenthesis, "" for none


def candidates(ctx: Context, cluster: SourceCluster, asked: datetime | None) -> Candidates:
    """Those for a recovery to ``asked`` (``None``: any target that is not a time, in the folder archived to now).

    One that retention may delete while the recovery runs is refused: its data or WAL would go from under it.
    BaseBackupMissing: none is left, with every reason. TargetOutsideWindow: ``asked`` lies between two folders.
    """
    return candidates_of(ctx, cluster, ctx.archive.server_at(asked))


def candidates_of(ctx: Context, cluster: SourceCluster, server: str) -> Candidates:
    """Those of one folder; raises as `candidates`."""
    found = objectstore.catalogue(ctx.store, server, system_id=cluster.system_id)
    # Retention works on the folder that is archived to now; another one's backups stay.
    policy = ctx.archive.retention_policy if server == ctx.archive.server_name else ""
    try:
        going = objectstore.deleted_during(
            found.entries, policy, now=datetime.now(UTC), seconds=ctx.site.limits.recovery.total_seconds()
        )
    except ValueError as error:
        raise NotReady([str(error)], where=f"Cluster {cluster.ref}") from error
    refused = dict(found.unusable) | going
    told = "; ".join(f"{backup_id}: {reason}" for backup_id, reason in refused.items())
    usable = [backup for backup in found.usable if backup.backup_id not in going]
    if not usable:
        raise BaseBackupMissing(
            f"no usable base backup under {ctx.store.location}/{server}" + (f" ({told})" if told else ""),
            todo="Take one with runbooks/backup-manual.ipynb or a Backup object, and find out why none was made.",
        )
    return Candidates(server, usable, refused, f" ({told})" if told else "")


__all__ = ["Candidates", "candidates", "candidates_of"]
