"""The recorded scenarios, played again on the lab: every difference is fixed there or is in the table with its reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from differences import unexplained
from fix_replay import RECORDED_ENDPOINT, ReplayLab, Scenario, act, play
from recorded import actions, watched
from story import Story, differences, told

from drillbook.postgres.recovery_log import sidecar_cause
from drillbook_lab.agent.log import SIDECAR

pytestmark = pytest.mark.long

UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"
RECORDED_NOBODY = "http://10.99.0.2:9999"
RECORDED_TARGET = "2026-11-28T02:45:00.796199Z"
SWITCH = "SELECT pg_switch_wal()"
_PLACES = re.compile(r"s3://\S+|https?://[^\s\"]+")


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

    def applied() -> None:
        """Wait until both Databases have been tried: their states are not among those that an action waits for."""
        for name, how in (("ha-extra", "true"), ("ha-noowner", "false")):
            replay.kubectl(
                "-n",
                "rec-09-ha",
                "wait",
                f"database/{name}",
                f"--for=jsonpath={{.status.applied}}={how}",
                "--timeout=60s",
            )

    before = {"$ delete pod": level, "promote": level, "$ annotate cluster ha kubectl": applied}
    judge("09-ha", play(replay, recordings, Scenario("09-ha", before=before)))


def test_a_target_that_the_archive_does_not_reach(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    judge("05-unreachable", play(replay, recordings, archive.recovery("05-unreachable")))


def test_an_archive_with_a_gap(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    replay.copy("rec/orders/", "rec-gap/orders/", leave_out=archive.early)
    judge("06-gap", play(replay, recordings, archive.recovery("06-gap")))


BROKEN = ("nosecret", "wrongkey", "cut", "nobucket", "s3down")  # a sixth, nostore, has no Job
REPAIRED = "nosecret"
ATTEMPTS = 7


class Broken:
    """Scenario 07, whose watch stops at the first attempts; what was done later is in its actions, and seen in its logs."""

    def __init__(self, lab: ReplayLab, recordings: Path, archive: Archive) -> None:
        def halved(key: str, body: bytes) -> bytes:
            return body[: len(body) // 2] if key.endswith("data.tar.gz") else body

        lab.copy("rec/orders/", "rec-cut/orders/", change=halved)
        # The watch stops while the Jobs are at different attempts: until then only their first ones are compared.
        aside = [name for cluster in BROKEN for name in (f"Cluster {cluster}", f"Job {cluster}-1-full-recovery")]
        chance = (
            r".*full-recovery#[2-9].*|Job .*: (failed|condition .*): .*|.*(BackoffLimitExceeded|is unrecoverable).*"
        )
        scenario = replace(archive.recovery("07-broken"), not_awaited=tuple(aside), chance=chance)
        scenario.replace[RECORDED_NOBODY] = "http://127.0.0.1:9"  # nobody listens on the discard port
        self.stories = play(lab, recordings, scenario)
        namespace = ("-n", scenario.namespace)

        def wait(for_what: str, *clusters: str) -> None:
            lab.kubectl(
                *namespace, "wait", *(f"cluster/{name}" for name in clusters), f"--for={for_what}", "--timeout=180s"
            )

        wait("jsonpath={.status.phase}=" + UNRECOVERABLE, *BROKEN)
        pods = json.loads(lab.kubectl(*namespace, "get", "pods", "-o", "json"))["items"]
        self.attempts: dict[str, list[str]] = {name: [] for name in BROKEN}  # its pods, in their order
        self.logs: dict[tuple[str, str], str] = {}  # by pod and container
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            name = pod["metadata"]["name"]
            self.attempts[pod["metadata"]["labels"]["cnpg.io/cluster"]].append(name)
            for container in ("full-recovery", SIDECAR):
                self.logs[name, container] = lab.kubectl(*namespace, "logs", name, "-c", container)
        for action in actions(recordings / "07-broken"):
            if action.at <= max(entry.at for entry in watched(recordings / "07-broken")):
                continue
            if action.verb == "$" and action.words[:2] == ("create", "secret"):
                # The recorded store took any key; the lab's wants its own.
                lab.kubectl(*namespace, "create", "secret", "generic", "absent-creds", *lab.credentials)
            elif action.what == "$ delete cluster nosecret --wait=false":
                wait("condition=Ready", REPAIRED, "nostore")
                self.repaired = told(lab.of(scenario.namespace))
                act(lab, recordings / "07-broken", scenario.namespace, action, {RECORDED_ENDPOINT: lab.endpoint})
            else:
                act(lab, recordings / "07-broken", scenario.namespace, action, {RECORDED_ENDPOINT: lab.endpoint})
        lab.settle(scenario.namespace)
        self.whole = told(lab.of(scenario.namespace))


@pytest.fixture(scope="module")
def broken(replay: ReplayLab, recordings: Path, archive: Archive) -> Broken:
    """The broken sources from their beginning to their deletion."""
    return Broken(replay, recordings, archive)


def test_broken_sources(broken: Broken) -> None:
    judge("07-broken", broken.stories)


def about(story: Story, cluster: str) -> Story:
    """What a story says of one Cluster and all that was made for it, whatever its name."""
    own = re.compile(rf"\b{cluster}\b")
    mine = {
        track: entries
        for track, entries in story.tracks.items()
        if own.search(track) and not track.startswith("ObjectStore")
    }
    tracks = {own.sub("it", track): entries for track, entries in mine.items()}
    return Story({track: [own.sub("it", entry) for entry in entries] for track, entries in tracks.items()})


@pytest.mark.parametrize("cluster", [name for name in BROKEN if name != REPAIRED])
def test_a_source_that_stays_broken_ends_as_the_unreachable_target_did(
    broken: Broken, recordings: Path, cluster: str
) -> None:
    """Scenario 05 was watched to the end: seven attempts, the Job's failure, the phase, and what its deletion takes along."""
    real, ours = about(told(watched(recordings / "05-unreachable")), "late"), about(broken.whole, cluster)
    left = [
        how
        for how in unexplained("05-unreachable", differences(real, ours))
        if not how.startswith("no longer different")
    ]
    assert not left, f"{len(left)} differences in {real.facts} facts:\n" + "\n".join(left)


def reasons(log: str) -> list[tuple[str, str]]:
    """The errors that a recovery's container tells, without addresses."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [(entry["msg"], entry.get("error", "")) for entry in entries if entry.get("level") == "error"]


@pytest.mark.parametrize("attempt", [0, -1])
@pytest.mark.parametrize("cluster", BROKEN)
def test_each_attempt_says_the_recorded_reason(broken: Broken, recordings: Path, cluster: str, attempt: int) -> None:
    """Of the real attempts the first and the last are kept: the operator's container and the sidecar say the same in both."""
    pod = broken.attempts[cluster][attempt]
    assert len(broken.attempts[cluster]) == ATTEMPTS
    recorded = sorted((recordings / "07-broken" / "logs").glob(f"{cluster}-1-full-recovery-*.full-recovery.log"))
    failed = [path for path in recorded if reasons(path.read_text(encoding="utf-8"))]
    assert failed
    for path in failed:
        assert reasons(broken.logs[pod, "full-recovery"]) == reasons(path.read_text(encoding="utf-8")), path.name
        theirs = sidecar_cause(
            path.with_name(path.name.replace(".full-recovery.log", f".{SIDECAR}.log")).read_text(encoding="utf-8")
        )
        ours = sidecar_cause(broken.logs[pod, SIDECAR])
        assert _PLACES.sub("<place>", ours) == _PLACES.sub("<place>", theirs)


def test_a_failed_job_that_is_deleted_is_made_again_and_a_late_store_is_found(broken: Broken) -> None:
    """The repairs: one more attempt, which succeeds; without an ObjectStore there was no Job, so there is one only."""
    for cluster, attempts in ((REPAIRED, ATTEMPTS + 1), ("nostore", 1)):
        pods = [
            track
            for track in broken.repaired.tracks
            if track.startswith(f"Pod {cluster}-1-full-recovery#") and track.endswith(": phase")
        ]
        assert len(pods) == attempts
        assert broken.repaired.tracks[f"Pod {cluster}-1-full-recovery#{attempts}: phase"] == ["Succeeded"]
        assert broken.repaired.tracks[f"Cluster {cluster}: phase"][-1] == "Cluster in healthy state"
    assert UNRECOVERABLE in " ".join(broken.repaired.tracks[f"Cluster {REPAIRED}: phase"])


def test_an_archive_folder_that_is_in_use(replay: ReplayLab, recordings: Path, archive: Archive) -> None:
    # The plugin's timer writes the window of the folder's other owner, sooner or later.
    scenario = replace(archive.recovery("08-used"), chance="ObjectStore orders-store: window of orders: .*")
    judge("08-used", play(replay, recordings, scenario))


def test_the_in_tree_method(replay: ReplayLab, recordings: Path) -> None:
    # Whether the second Backup has to wait for the first, which began late, depends on the moment.
    chance = r"Backup old-one: (phase: pending|status fields: (majorVersion, )?(majorVersion|phase))"
    scenario = Scenario("13-intree", not_awaited=("Backup old-early",), chance=chance)
    judge("13-intree", play(replay, recordings, scenario))
