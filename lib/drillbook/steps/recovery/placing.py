"""Where in the archived WAL the source's snapshots lie: the commit that recovery must stop before, and the target that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drillbook import archive
from drillbook.errors import Changed, PreconditionError
from drillbook.model import ArchivedCommit, BaseBackup, RecoveryTarget
from drillbook.postgres import checks


@dataclass(frozen=True)
class MomentInWal:
    """The place of a moment: the last commit that its snapshots see, and the first that they don't.

    ``unsettled`` are the databases whose snapshot sees something else: it was taken in the middle of a commit.
    """

    last: ArchivedCommit
    first_after: ArchivedCommit
    unsettled: tuple[str, ...] = ()


def place_of(
    stretch: archive.WalRange,
    marker: ArchivedCommit,
    moment: checks.Moment,
    in_snapshot: Mapping[str, Sequence[str]],
    last_segment: str = "",
) -> MomentInWal:
    """The place of the moment after ``marker``, read from the archive up to ``last_segment``.

    Where the databases' snapshots differ, it is the place of those with the most tables that depend on it.
    PreconditionError: no commit after the marker is archived. Raises what `WalRange.scan` raises.
    """
    commits = _from_marker(stretch, marker, moment, last_segment)
    stops = {database: checks.first_unseen(sees, commits, moment.lsn) for database, sees in moment.sees.items()}
    wanted: Counter[int] = Counter()
    for database, stop in stops.items():
        if stop is not None:
            wanted[stop.lsn.value] += 1 + 1000 * len(in_snapshot.get(database, ()))
    # Without a snapshot that has a place only tables at rest are proven: the very next commit bounds them as well.
    chosen = wanted.most_common(1)[0][0] if wanted else commits[1].lsn.value if len(commits) > 1 else 0
    at = next((number for number, commit in enumerate(commits) if commit.lsn.value == chosen), 0)
    if not at:
        raise PreconditionError(
            f"no commit after the marker's (XID {marker.xid}) is in the archived WAL up to {last_segment or 'its end'}",
            changed=Changed.DONE,
            todo="Look whether WAL is archived after the marker; start a new run.",
        )
    unsettled = tuple(database for database, stop in stops.items() if stop is None or stop.lsn.value != chosen)
    return MomentInWal(commits[at - 1], commits[at], unsettled)


def _from_marker(
    stretch: archive.WalRange, marker: ArchivedCommit, moment: checks.Moment, last_segment: str
) -> list[ArchivedCommit]:
    """The marker and the commits after it, up to the first that begins after the moment."""
    found: list[ArchivedCommit] = []
    end = stretch.reach.number(last_segment) + 1 if last_segment else None
    for _, scan in stretch.forwards(stretch.number(marker.lsn), end):
        for commit in scan.commits:
            if commit.lsn >= marker.lsn:
                found.append(commit)
                if commit.lsn >= moment.lsn and len(found) > 1:
                    return found
    return found


def stop_before(held: archive.ArchiveSnapshot, backup: BaseBackup, place: MomentInWal) -> archive.ResolvedTarget:
    """The target that stops before the place's first unseen commit; raises what `resolve` raises.

    A time, which people can read, where it stops there: with thousands of commits a second two may carry the same
    time, or times in another order than the WAL's. Then the transaction itself is named.
    """
    by_time = archive.resolve(held, RecoveryTarget(target_time=place.last.committed_at), backup_id=backup.backup_id)
    if by_time.first_after is not None and by_time.first_after.lsn == place.first_after.lsn:
        return by_time
    wanted = RecoveryTarget(target_xid=place.first_after.xid, exclusive=True)
    return archive.resolve(held, wanted, backup_id=backup.backup_id)


__all__ = ["MomentInWal", "place_of", "stop_before"]
