"""Commits in the archive, and the recovery window that they bound.

Recovery to a time stops before the first commit *after* it; without such a commit PostgreSQL says "recovery ended
before configured recovery target was reached". So the last time that can be reached is just before the newest archived
commit, and this commit itself is reached by its LSN or transaction id. Aborts end a recovery to a time as well; they
are not counted, so the window errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from drillbook.archive.layout import WalListing
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.scan import commits_in
from drillbook.archive.snapshot import archive_chain
from drillbook.errors import BaseBackupMissing, ObjectStoreError, PreconditionError, WalGap
from drillbook.model import ArchivedCommit, BaseBackup, Lsn, RecoveryWindow
from drillbook.postgres.wal import Chain, SegmentName

LOOK_BACK = 256
"""How many segments are read at most in search of a commit, unless given."""

_XID_MASK = 0xFFFFFFFF


def newest_commit(
    store: ObjectStore, listing: WalListing, reach: Chain, *, system_id: str = "", look_back: int = LOOK_BACK
) -> ArchivedCommit:
    """The last commit that recovery along ``reach`` can reach, by position in the WAL.

    Reads segments from the newest backwards until one holds a commit (an idle server leaves segments without), at most
    ``look_back``. PreconditionError: the whole chain holds none. ObjectStoreError with the reason "NoCommitSeen": the
    last ``look_back`` segments hold none. WalGap: a segment on the way is damaged. All say how far they looked.
    """
    read = 0
    name = ""
    for name in _latest(reach, look_back):
        read += 1
        found = commits_in(store, listing, reach, name, system_id)
        if found:
            return found[-1]
    what = f"no commit in the newest {read} archived segments, back to {name}" if read else "no WAL can be reached"
    if name == reach.begin_wal or not read:
        raise PreconditionError(
            f"{what}, where the base backup begins" if read else f"{what}: {reach.problem}",
            todo="Commit something on the source, switch the WAL segment, and wait until it is archived.",
        )
    raise ObjectStoreError(what, reason="NoCommitSeen", todo="Look back further, or commit something on the source.")


def commit_of(
    store: ObjectStore,
    listing: WalListing,
    reach: Chain,
    xid: int,
    *,
    since: Lsn | None = None,
    system_id: str = "",
    look_back: int = LOOK_BACK,
) -> ArchivedCommit | None:
    """The archived commit of transaction ``xid``, ``None`` if it isn't in what was read.

    Reads backwards from the newest segment to the one that holds ``since`` (None: the chain's begin), at most
    ``look_back`` segments. Of a 64-bit transaction id (``pg_current_xact_id``) the lower 32 bits are compared: that is
    all that a commit record has. Raises what `newest_commit` raises of damaged segments.
    """
    first = since.value // reach.segment_bytes if since is not None else -1
    for name in _latest(reach, look_back):
        commit = commits_in(store, listing, reach, name, system_id).last_of(xid & _XID_MASK)
        if commit is not None:
            return commit
        if SegmentName.parse(name, reach.segment_bytes).number <= first:
            return None
    return None


def window(
    store: ObjectStore,
    listing: WalListing,
    backups: Sequence[BaseBackup],
    *,
    timeline: int = 0,
    look_back: int = LOOK_BACK,
) -> RecoveryWindow:
    """The first and last instant that recovery to the cluster's ``timeline`` can reach now, over all usable ``backups``.

    The window begins where the oldest backup ended from which the chain is unbroken to the newest segment and has all
    that this backup needs to be consistent. BaseBackupMissing: there is no backup at all. WalGap: no backup has such a
    chain; the newest backup's gap is named. PreconditionError: nothing was committed and archived since.
    """
    if not backups:
        raise BaseBackupMissing(
            f"{store.location} holds no usable base backup of {listing.server_name}", todo="Take a base backup."
        )
    chains = [(backup, archive_chain(store, backup, listing, timeline=timeline)) for backup in backups]
    sound = [(backup, reach) for backup, reach in chains if reach.unbroken and reach.end_lsn >= backup.end_lsn]
    if not sound:
        backup, reach = max(chains, key=lambda pair: pair[0].end_time)
        short = f"the WAL up to the backup's end at {backup.end_lsn} is not archived yet"
        raise WalGap(
            f"from base backup {backup.backup_id}: {reach.problem or short}",
            todo="Bring the missing segments back (pg_wal of an instance may still have them), or take a new backup.",
        )
    backup, reach = min(sound, key=lambda pair: pair[0].end_time)
    newest = newest_commit(store, listing, reach, system_id=backup.system_id, look_back=look_back)
    last = newest.committed_at - timedelta(microseconds=1)
    if last < backup.end_time:
        raise PreconditionError(
            f"nothing was committed and archived since base backup {backup.backup_id} ended",
            todo="Commit something on the source, switch the WAL segment, and wait until it is archived.",
        )
    return RecoveryWindow(first_time=backup.end_time, last_time=last, newest_commit=newest)


def _latest(reach: Chain, look_back: int) -> Iterator[str]:
    for count, name in enumerate(reach.backwards()):
        if count == look_back:
            return
        yield name
