"""A snapshot's place in archived WAL, the target that stops there, and what is said where it has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from fix_wal import NOON, SYSTEM, Memory, Wal

from drillbook.archive import ArchiveSnapshot, catalogue
from drillbook.errors import PreconditionError
from drillbook.model import ArchivedCommit, Lsn
from drillbook.postgres.checks import Moment
from drillbook.steps.recovery.placing import place_of, stop_before

MARKER = 100


@dataclass
class Written:
    """An archive of the commits after a marker, each with the second that it carries; a new segment where it says so."""

    commits: list[tuple[int, float]]
    switch_after: int = 0
    lsn: dict[int, Lsn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store, wal = Memory(), Wal()
        store.backup(wal, NOON - timedelta(minutes=1))
        wal.commit(99, NOON)
        for xid, second in [(MARKER, 1.0), *self.commits]:
            self.lsn[xid] = wal.commit(xid, NOON + timedelta(seconds=second))
            if xid == self.switch_after:
                store.archive(wal.switch())
        self.last = store.archive(wal.switch())
        self.held = ArchiveSnapshot.read(store, catalogue(store, "pg").usable, "pg", system_id=str(SYSTEM), timeline=1)
        self.stretch = self.held.stretch(self.held.backups[0])

    @property
    def marker(self) -> ArchivedCommit:
        return next(c for _, scan in self.stretch.forwards(0) for c in scan.commits if c.xid == MARKER)


@pytest.mark.parametrize(
    ("commits", "sees", "last", "first_after", "by"),
    [
        pytest.param([(101, 2), (102, 3)], "101:101:", 100, 101, "time", id="just after the marker"),
        pytest.param([(101, 2), (102, 3), (103, 4)], "103:103:", 102, 103, "time", id="two commits later"),
        pytest.param(
            [(101, 3), (102, 2), (103, 4)], "102:102:", 101, 102, "xid", id="the next carries an earlier time"
        ),
        pytest.param([(101, 2), (102, 2), (103, 3)], "102:102:", 101, 102, "xid", id="two carry the same time"),
        pytest.param(
            [(101, 5), (102, 2), (103, 3)], "103:103:", 102, 103, "xid", id="one before it carries a later time"
        ),
    ],
)
@pytest.mark.parametrize("switch_after", [0, MARKER, 101, 102])
def test_g09_recovery_stops_before_what_the_snapshot_does_not_see(
    commits: list[tuple[int, float]], sees: str, last: int, first_after: int, by: str, switch_after: int
) -> None:
    """By time where that names this very commit, else by its transaction; in whatever segment it lies."""
    written = Written(commits, switch_after)
    moment = Moment(sees={"shop": sees}, lsn=written.lsn[first_after])
    place = place_of(written.stretch, written.marker, moment, {"shop": ("public.t",)}, written.last)
    assert (place.last.xid, place.first_after.xid, place.unsettled) == (last, first_after, ())
    resolved = stop_before(written.held, written.held.backups[0], place)
    assert resolved.first_after is not None and resolved.first_after.xid == first_after
    assert resolved.last_before is not None and resolved.last_before.xid == last
    assert (resolved.target.target_xid, resolved.target.exclusive) == (
        (first_after, True) if by == "xid" else (None, False)
    )


def test_g09_a_snapshot_in_the_middle_of_a_commit_has_no_place() -> None:
    """It sees 102 and not 101, which is before it in the WAL: recovery can't give that, and the database is named."""
    written = Written([(101, 2), (102, 3), (103, 4)])
    moment = Moment(sees={"shop": "101:103:101", "quiet": "103:103:"}, lsn=written.lsn[103])
    place = place_of(written.stretch, written.marker, moment, {"shop": ("public.t",)}, written.last)
    assert (place.first_after.xid, place.unsettled) == (103, ("shop",))


def test_g09_of_two_snapshots_the_one_that_tables_depend_on_is_the_target() -> None:
    written = Written([(101, 2), (102, 3), (103, 4)])
    moment = Moment(sees={"quiet": "101:101:", "other": "101:101:", "shop": "103:103:"}, lsn=written.lsn[103])
    place = place_of(written.stretch, written.marker, moment, {"shop": ("public.t",)}, written.last)
    assert (place.first_after.xid, place.unsettled) == (103, ("quiet", "other"))


def test_g09_without_a_snapshot_the_next_commit_bounds_the_tables_at_rest() -> None:
    written = Written([(101, 2)])
    assert place_of(written.stretch, written.marker, Moment(), {}, written.last).first_after.xid == 101


def test_g09_without_a_later_commit_nothing_shows_where_recovery_stops() -> None:
    written = Written([])
    with pytest.raises(PreconditionError, match=r"no commit after the marker's \(XID 100\) is in the archived WAL"):
        place_of(written.stretch, written.marker, Moment(sees={"shop": "101:101:"}), {}, written.last)
