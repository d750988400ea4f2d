"""Scenario 03's retention, played again: which backups, WAL and Backup objects go, when, in which order, and who says so."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fix_replay import PATIENCE_SECONDS, RECORDED_ENDPOINT, ReplayLab
from recorded import Object, Seen, instant, watched

from drillbook_lab.agent.log import SIDECAR
from drillbook_lab.operator.retention import AFTER_ERROR_SECONDS

SCENARIO, NAMESPACE, SERVER = "03-schedule", "rec-03-schedule", "rec-sched/sched"
AGED = {0: 3, 1: 2}  # backup, in the order of their ids: by how many days its `backup.info` was made older
COMPARED = 3  # backups: the recording goes on with more of them, which nothing happens to
FIRST, SECOND = "immediate-20261128031019", "every-minute-20261128031100"
_TIMES = re.compile(r"^(begin_time|end_time)=(.*)$", re.MULTILINE)


def completed(entries: Iterable[Seen]) -> list[Object]:
    """The first Backups, each as it was when it was completed, in the order of their ids."""
    found = {}
    for entry in entries:
        if entry.kind == "Backup" and (entry.obj.get("status") or {}).get("phase") == "completed":
            found.setdefault(entry.obj["metadata"]["name"], entry.obj)
    return sorted(found.values(), key=lambda obj: str(obj["status"]["backupId"]))[:COMPARED]


def course(entries: list[Seen]) -> list[str]:
    """What became of Backup objects and of the window, in order; a time in it is given by the backup that ended then."""
    backups = completed(entries)
    names = {obj["metadata"]["name"]: f"#{number + 1}" for number, obj in enumerate(backups)}
    ended = {}
    for number, obj in enumerate(backups):
        end = instant(obj["status"]["stoppedAt"])
        ended[end] = f"#{number + 1}"
        ended[end - timedelta(days=AGED.get(number, 0))] = f"#{number + 1}" + (" aged" if number in AGED else "")
    told: list[str] = []
    for entry in entries:
        said = ""
        if entry.kind == "Backup" and entry.what == "DELETED":
            said = f"Backup {names.get(entry.obj['metadata']['name'], 'of another')} gone"
        for window in ((entry.obj.get("status") or {}).get("serverRecoveryWindow") or {}).values():
            ends = [
                ended.get(instant(window[key]), "later")
                for key in ("firstRecoverabilityPoint", "lastSuccessfulBackupTime")
            ]
            said = f"window from {ends[0]} to {ends[1]}"
        if said.endswith("later"):
            break
        if said and said not in told[-1:]:
            told.append(said)
    return told


def contents(keys: Iterable[str], backups: list[Object]) -> set[tuple[str, str]]:
    """What is in the bucket: files of which base backup, and WAL of before or after where the second one begins."""
    ids = {obj["status"]["backupId"]: f"base of #{number + 1}" for number, obj in enumerate(backups)}
    begin, found = backups[1]["status"]["beginWal"], set()
    for key in keys:
        _, _, folder, *_, name = key.removeprefix("rec-").split("/")
        if folder == "base":
            found.add((ids.get(key.split("/")[3], "a later base"), name))
        else:
            found.add(
                (
                    "WAL before #2" if name[:24] < begin else "WAL from #2 on",
                    "history" if ".backup" in name else "segment",
                )
            )
    return found


def listed(recordings: Path, when: str) -> list[str]:
    text = (recordings / SCENARIO / f"listing-{when}-retention.txt").read_text(encoding="utf-8")
    return [line.split()[2] for line in text.splitlines()]


def said(log: str) -> list[tuple[str, str]]:
    """What a sidecar says of retention: the message, and the policy or the Backup that it is about; repetitions once."""
    told: list[tuple[str, str]] = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("msg") in ("Applying backup retention policy", "Deleting backup not in the catalog"):
            what = entry["msg"], str(entry.get("retentionPolicy") or re.sub(r"\d{14}$", "<time>", entry["backup"]))
            if what not in told[-1:]:
                told.append(what)
    return told


class Played:
    """The scenario up to the cycle that removes something, on the lab."""

    def __init__(self, lab: ReplayLab, recordings: Path) -> None:
        self._lab = lab
        self._folder = recordings / SCENARIO
        lab.kubectl("create", "namespace", NAMESPACE)
        lab.kubectl("-n", NAMESPACE, "create", "secret", "generic", "s3-creds", *lab.credentials)
        self._apply("store.yaml")
        self._apply("cluster.yaml")
        lab.kubectl("-n", NAMESPACE, "wait", "cluster/sched", "--for=condition=Ready", "--timeout=180s")
        self._apply("sb-immediate.yaml")
        self._until(lambda: len(completed(self.seen)) == 1, "the immediate backup is completed")
        real = {entry.obj["metadata"]["name"]: entry.obj for entry in watched(self._folder) if entry.kind == "Backup"}
        third = next(name for name in real if name not in (FIRST, SECOND))
        # The schedules are played in test_schedules; here their Backups are made as they made them.
        self._backup(real[SECOND], 2)
        cycles = self._cycles()
        self._until(lambda: self._cycles() > cycles, "a cycle of the retention has begun")
        self._until(lambda: not self._busy(), "it has ended")
        for number, days in AGED.items():
            self._age(completed(self.seen)[number]["status"]["backupId"], days)
        self._backup(real[third], 3)
        self.before = lab.keys(f"{SERVER}/")
        self._until(lambda: course(self.seen)[-1] == "window from #2 aged to #3", "the window has moved")
        self.after = lab.keys(f"{SERVER}/")
        self.log = self._log()
        lab.kubectl("-n", NAMESPACE, "delete", "scheduledbackup", "immediate")
        lab.kubectl("-n", NAMESPACE, "delete", "cluster", "sched")
        self._until(
            lambda: not json.loads(lab.kubectl("-n", NAMESPACE, "get", "pods", "-o", "json"))["items"], "no pod"
        )

    @property
    def seen(self) -> list[Seen]:
        return self._lab.of(NAMESPACE)

    def _apply(self, name: str) -> None:
        text = (self._folder / name).read_text(encoding="utf-8").replace(RECORDED_ENDPOINT, self._lab.endpoint)
        self._lab.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=text)

    def _backup(self, as_recorded: Object, count: int) -> None:
        meta = {key: as_recorded["metadata"][key] for key in ("name", "labels")}
        body = {key: as_recorded[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": meta}
        self._lab.kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=json.dumps(body))
        self._until(lambda: len(completed(self.seen)) == count, f"{meta['name']} is completed")

    def _age(self, backup_id: str, days: int) -> None:
        def older(found: re.Match[str]) -> str:
            return f"{found[1]}={datetime.fromisoformat(found[2]) - timedelta(days=days)}"

        key, client = f"{SERVER}/base/{backup_id}/backup.info", self._lab.bucket()
        body = client.get_object(Bucket="rec-bucket", Key=key)["Body"].read().decode()
        client.put_object(Bucket="rec-bucket", Key=key, Body=_TIMES.sub(older, body).encode())

    def _log(self) -> str:
        return self._lab.kubelet.worker(NAMESPACE, "sched-1").log_path(SIDECAR).read_text(encoding="utf-8")

    def _cycles(self) -> int:
        return self._log().count('"Applying backup retention policy"')

    def _busy(self) -> bool:
        return any(task.get_name() == "retention sched-1" for task in self._lab.tasks())

    def _until(self, holds: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what}; so far {course(self.seen)}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def played(replay: ReplayLab, recordings: Path) -> Played:
    return Played(replay, recordings)


@pytest.mark.long
def test_what_goes_when_and_in_which_order(played: Played, recordings: Path) -> None:
    """The window takes older times with the next backup; a cycle removes the Backup object, and then moves the window."""
    real = course(list(watched(recordings / SCENARIO)))
    assert real[-3:] == ["window from #1 aged to #3", "Backup #1 gone", "window from #2 aged to #3"]
    assert course(played.seen) == real


@pytest.mark.long
def test_which_files_go_and_which_stay(played: Played, recordings: Path) -> None:
    """The oldest backup and all WAL from before the next one; that one stays though it is too old: it opens the window."""
    theirs, ours = completed(watched(recordings / SCENARIO)), completed(played.seen)
    for when, keys in (("before", played.before), ("after", played.after)):
        later = ("a later base", "data.tar.gz"), ("a later base", "backup.info")
        assert contents(keys, ours) == contents(listed(recordings, when), theirs) - {*later}, when
    gone = contents(played.before, ours) - contents(played.after, ours)
    assert gone == {
        ("base of #1", "backup.info"),
        ("base of #1", "data.tar.gz"),
        ("WAL before #2", "segment"),
        ("WAL before #2", "history"),
    }


@pytest.mark.long
def test_the_sidecar_says_what_it_does(played: Played, recordings: Path) -> None:
    (log,) = (recordings / SCENARIO / "logs").glob(f"sched-1.*.{SIDECAR}.log")
    assert said(played.log) == said(log.read_text(encoding="utf-8"))[: len(said(played.log))]
    assert said(played.log)[-1][0] == "Deleting backup not in the catalog"


@pytest.mark.long
def test_backups_and_the_store_outlive_their_cluster(played: Played, recordings: Path) -> None:
    def left(entries: Iterable[Seen]) -> set[str]:
        there = {(entry.kind, entry.obj["metadata"]["name"]): entry.what for entry in entries}
        return {
            kind
            for (kind, _), what in there.items()
            if what != "DELETED" and kind in ("Backup", "ObjectStore", "Cluster", "Pod")
        }

    assert left(played.seen) == left(watched(recordings / SCENARIO)) == {"Backup", "ObjectStore"}


def test_after_an_error_the_next_cycle_waits_as_long_as_there(recordings: Path) -> None:
    (log,) = (recordings / SCENARIO / "logs").glob(f"sched-1.*.{SIDECAR}.log")
    cycles = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if "etention policy" in line]
    failed = next(
        number for number, entry in enumerate(cycles) if entry["msg"] == "Retention policy enforcement failed"
    )
    apart = instant(cycles[failed + 1]["ts"][:26] + "Z") - instant(cycles[failed]["ts"][:26] + "Z")
    assert round(apart.total_seconds()) == AFTER_ERROR_SECONDS
