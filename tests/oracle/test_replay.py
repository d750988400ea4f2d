"""The recorded scenarios, played again on the lab: every difference is fixed there or stands in the table with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from differences import unexplained
from fix_replay import ReplayLab, Scenario, play
from story import Story, differences

pytestmark = pytest.mark.long

RECORDED_TARGET = "2026-11-28T02:45:00.796199Z"
SWITCH = "SELECT pg_switch_wal()"


def judge(scenario: str, stories: tuple[Story, Story]) -> None:
    """Fails on a difference that the table doesn't explain, and on an explanation without a difference."""
    real, ours = stories
    left = unexplained(scenario, differences(real, ours))
    assert not left, f"{len(left)} differences in {real.facts} facts:\n" + "\n".join(left)


class Archive:
    """What scenario 02 leaves in the bucket: two base backups, and rows from before and after a moment."""

    def __init__(self, lab: ReplayLab, recordings: Path) -> None:
        self._lab = lab
        self.target = ""
        marks = {"$ annotate cluster orders cnpg.io/hibernation=on": self._mark}
        self.stories = play(lab, recordings, Scenario("02-backup", before=marks))

    def _mark(self) -> None:
        def ask(query: str) -> str:
            rows = self._lab.sql("rec-02-backup", "orders-1", query, "orders")
            return str(rows[0][0]) if rows else ""

        ask("CREATE TABLE marks AS SELECT 'first' AS mark")
        ask(SWITCH)
        ask("INSERT INTO marks VALUES ('before')")
        self.target = ask("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        for mark in ("after", "last"):
            ask(SWITCH)
            ask(f"INSERT INTO marks VALUES ('{mark}')")
        last = ask("SELECT pg_walfile_name(pg_current_wal_lsn())")
        ask(SWITCH)
        while not any(last in key for key in self._lab.keys("rec/orders/wals/")):
            ask("SELECT pg_sleep(0.1)")

    def recovery(self, name: str) -> Scenario:
        """A scenario that recovers from this archive, with this archive's target."""
        return Scenario(name, replace={RECORDED_TARGET: self.target})


@pytest.fixture(scope="module")
def archive(replay: ReplayLab, recordings: Path) -> Archive:
    """The archive of scenario 02's cluster, which others recover from."""
    return Archive(replay, recordings)


def test_an_initdb_cluster(replay: ReplayLab, recordings: Path) -> None:
    judge("01-initdb", play(replay, recordings, Scenario("01-initdb")))


def test_plugin_backups_hibernation_and_a_recovery_from_a_plugin_backup(archive: Archive) -> None:
    judge("02-backup", archive.stories)


def test_a_recovery_to_a_point_in_time(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    judge("04-pitr", play(replay, recordings, archive.recovery("04-pitr")))
