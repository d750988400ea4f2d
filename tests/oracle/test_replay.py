"""The recorded scenarios, played again on the lab: every difference is fixed there or is in the table with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from differences import unexplained
from fix_replay import RECORDED_ENDPOINT, ReplayLab, Scenario, play
from story import Story, differences

pytestmark = pytest.mark.long

UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"
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
        self.early = ""  # the segment of the first row; the target is in a later one
        marks = {"$ annotate cluster orders cnpg.io/hibernation=on": self._mark}
        self.stories = play(lab, recordings, Scenario("02-backup", before=marks))

    def _mark(self) -> None:
        def ask(query: str) -> str:
            rows = self._lab.sql("rec-02-backup", "orders-1", query, "orders")
            return str(rows[0][0]) if rows else ""

        self.early = ask("SELECT pg_walfile_name(pg_current_wal_lsn())")
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


def test_orphans_a_cluster_of_the_same_name_and_a_store_that_goes(
    replay: ReplayLab, recordings: Path, archive: Archive
) -> None:
    judge("11-deletion", play(replay, recordings, archive.recovery("11-deletion")))


def test_three_instances(replay: ReplayLab, recordings: Path) -> None:
    def level() -> None:
        """Wait until nobody lags: who takes over is then chosen by name, as it was there."""
        cluster = json.loads(replay.kubectl("-n", "rec-09-ha", "get", "cluster", "ha", "-o", "json"))
        primary = cluster["status"]["currentPrimary"]
        replay.sql("rec-09-ha", primary, "CHECKPOINT")
        question = "SELECT count(*) = 2 FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_lsn()"
        while replay.sql("rec-09-ha", primary, question) != [(True,)]:
            replay.sql("rec-09-ha", primary, "SELECT pg_sleep(0.1)")

    before = {"$ delete pod": level, "promote": level}
    judge("09-ha", play(replay, recordings, Scenario("09-ha", before=before, left_out="apply database.yaml")))


def test_a_target_that_the_archive_does_not_reach(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    judge("05-unreachable", play(replay, recordings, archive.recovery("05-unreachable")))


def test_an_archive_with_a_gap(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    replay.copy("rec/orders/", "rec-gap/orders/", leave_out=archive.early)
    judge("06-gap", play(replay, recordings, archive.recovery("06-gap")))


def test_broken_sources(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    def halved(key: str, body: bytes) -> bytes:
        return body[: len(body) // 2] if key.endswith("data.tar.gz") else body

    replay.copy("rec/orders/", "rec-cut/orders/", change=halved)
    # The recording stops while the Jobs are at different attempts: only their first ones are compared.
    broken = ("nosecret", "wrongkey", "cut", "nobucket", "s3down")
    aside = [name for cluster in broken for name in (f"Cluster {cluster}", f"Job {cluster}-1-full-recovery")]
    chance = r".*full-recovery#[2-9].*|Job .*: (failed|condition .*): .*|.*(BackoffLimitExceeded|is unrecoverable).*"
    scenario = replace(archive.recovery("07-broken"), not_awaited=tuple(aside), chance=chance)
    judge("07-broken", play(replay, recordings, scenario))
    # What it says of the repairs: a failed Job that is deleted is made again; a store that comes late is found.
    namespace = ("-n", scenario.namespace)
    replay.kubectl(
        *namespace, "wait", "cluster/nosecret", "--for=jsonpath={.status.phase}=" + UNRECOVERABLE, "--timeout=180s"
    )
    replay.kubectl(*namespace, "create", "secret", "generic", "absent-creds", *replay.credentials)
    replay.kubectl(*namespace, "delete", "job", "nosecret-1-full-recovery")
    store = (
        (recordings / "07-broken" / "store-absent-later.yaml").read_text().replace(RECORDED_ENDPOINT, replay.endpoint)
    )
    replay.kubectl(*namespace, "apply", "-f", "-", stdin=store)
    replay.kubectl(*namespace, "wait", "cluster/nosecret", "cluster/nostore", "--for=condition=Ready", "--timeout=180s")
    replay.kubectl(*namespace, "delete", "cluster", "--all")


def test_an_archive_folder_that_is_in_use(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    # The plugin's timer writes the window of the folder's other owner, sooner or later.
    scenario = replace(archive.recovery("08-used"), chance="ObjectStore orders-store: window of orders: .*")
    judge("08-used", play(replay, recordings, scenario))


def test_the_in_tree_method(replay: ReplayLab, recordings: Path) -> None:
    # Whether the second Backup has to wait for the first, which began late, depends on the moment.
    chance = r"Backup old-one: (phase: pending|status fields: (majorVersion, )?(majorVersion|phase))"
    scenario = Scenario("13-intree", not_awaited=("Backup old-early",), chance=chance)
    judge("13-intree", play(replay, recordings, scenario))
