"""What retention deletes and when, and which folder holds an instant."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from drillbook.archive import BackupState, Entry, deleted_at, deleted_during, retention_period
from drillbook.archive.location import SourceArchive
from drillbook.errors import TargetOutsideWindow
from drillbook.model import BaseBackup, parse_instant
from drillbook.profile import ServerPeriod

NOW = parse_instant("2026-11-27T00:00:00Z")


def entry(days_ago: float, *, kept: bool = False, done: bool = True) -> Entry:
    """A base backup that ended so long ago."""
    end = NOW - timedelta(days=days_ago)
    backup_id = end.strftime("%Y%m%dT%H%M%S")
    backup = BaseBackup(
        backup_id=backup_id,
        server_name="pg",
        status="DONE",
        begin_time=end,
        end_time=end,
        begin_wal="000000010000000000000001",
        end_wal="000000010000000000000001",
        begin_lsn="0/1000000",
        end_lsn="0/1000100",
        timeline=1,
        system_id="1",
        pg_version=180000,
        segment_bytes=1 << 24,
        size_bytes=1,
        cluster_size_bytes=1,
        compression="",
        location="s3://b/pg",
    )
    state = BackupState.COMPLETE if done else BackupState.FAILED
    return Entry(backup_id, "pg", state, backup=backup if done else None, kept=kept)


@pytest.mark.parametrize(("policy", "days"), [("30d", 30), ("4w", 28), ("3m", 93)])
def test_a_month_has_31_days(policy: str, days: int) -> None:
    assert retention_period(policy) == timedelta(days=days)
    assert retention_period("") is None
    with pytest.raises(ValueError, match="such as 30d"):
        retention_period(f"0{policy}")


def test_the_newest_outside_the_period_stays_and_older_ones_go() -> None:
    entries = [entry(50), entry(40), entry(35), entry(10), entry(1)]
    at = deleted_at(entries, "30d")
    gone = [one.backup_id for one in entries if at.get(one.backup_id, NOW + timedelta(days=1)) <= NOW]
    assert gone == [entries[0].backup_id, entries[1].backup_id]
    # The one that bridges the period's begin goes when the next newer one leaves it.
    assert at[entries[2].backup_id] == NOW + timedelta(days=20)
    assert entries[-1].backup_id not in at, "while nothing newer is complete it stays"


def test_what_goes_during_a_restore_is_told_with_its_time() -> None:
    entries = [entry(60), entry(31), entry(29.99), entry(1)]
    found = deleted_during(entries, "30d", now=NOW, seconds=3600)
    assert list(found) == [entries[0].backup_id, entries[1].backup_id]
    assert "retention (30d) may delete it at any moment" in found[entries[0].backup_id]
    assert "from 2026-11-27T00:14" in found[entries[1].backup_id]
    assert deleted_during(entries, "", now=NOW, seconds=3600) == {}


def test_a_kept_backup_and_a_failed_one_change_nothing() -> None:
    assert deleted_at([entry(60, kept=True), entry(40), entry(35)], "30d").keys() == {entry(40).backup_id}
    assert deleted_at([entry(60), entry(40, done=False)], "30d") == {}


def test_an_instant_before_a_cut_over_lies_in_the_older_folder() -> None:
    cut, again = NOW - timedelta(days=10), NOW - timedelta(days=9)
    periods = (ServerPeriod(name="orders", until=cut), ServerPeriod(name="orders-v2", since=again))
    archive = SourceArchive("plugin", {"destinationPath": "s3://b/p"}, "orders-v2", "30d", periods)

    def at(instant: datetime | None) -> str:
        return archive.server_at(instant)

    assert (at(None), at(NOW), at(again)) == ("orders-v2",) * 3
    assert at(cut - timedelta(microseconds=1)) == "orders"
    with pytest.raises(TargetOutsideWindow, match="none of the periods") as between:
        at(cut)
    assert "just before 2026-11-17T00:00:00Z" in between.value.todo
    assert SourceArchive("plugin", {}, "orders").server_at(cut) == "orders"
