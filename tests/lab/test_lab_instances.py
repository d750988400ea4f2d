"""A Cluster of three: real standbys, who takes over from whom, restarts, and nothing left at the end.

The tests go on from one another, in order: each leaves the Cluster healthy for the next.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from fix_lab import BATCH, CNPG, CORE, RunningLab, condition, until

from drillbook_lab.node.processes import processes_under

# One story, told in order: long as a whole, so that no part runs without what came before it.
pytestmark = pytest.mark.soak

NAMESPACE = "cnpg-system"
NAME = "trio"
PATH = f"{CNPG}/{NAMESPACE}/clusters/{NAME}"
HEALTHY = "Cluster in healthy state"


class Trio:
    """The Cluster, and what its servers say."""

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self.phases: list[str] = []

    def cluster(self) -> Any:
        found = self.lab.get(PATH)
        if not self.phases or self.phases[-1] != found["status"].get("phase"):
            self.phases.append(found["status"].get("phase"))
        return found

    @property
    def primary(self) -> str:
        return str(self.cluster()["status"]["currentPrimary"])

    def pod(self, instance: str) -> Any:
        return self.lab.get(f"{CORE}/{NAMESPACE}/pods/{instance}")

    def pods(self) -> list[Any]:
        return self.lab.get(f"{CORE}/{NAMESPACE}/pods?labelSelector=cnpg.io/cluster={NAME}")["items"]

    def sql(self, instance: str, query: str, database: str = "app") -> list[tuple[Any, ...]]:
        password = self.lab.secret(NAMESPACE, f"{NAME}-superuser")["password"]
        return self.lab.sql("postgres", password, database, query, pod=self.pod(instance))

    def ask(self, instance: str, query: str) -> Any:
        """One value; None if there isn't one, or while the server doesn't answer."""
        try:
            return self.sql(instance, query)[0][0]
        except (psycopg.OperationalError, AssertionError, IndexError, KeyError):
            return None

    def scale(self, instances: int) -> None:
        self.lab.patch(PATH, {"spec": {"instances": instances}})
        self.healthy(instances)

    def healthy(self, instances: int, also: Callable[[Any], bool] = lambda _: True) -> Any:
        def is_so() -> Any:
            found = self.cluster()
            status = found["status"]
            well = status.get("phase") == HEALTHY and status.get("readyInstances") == instances
            return found if well and also(found) else None

        return until(is_so)

    def switch_over(self, to: str) -> None:
        """As `kubectl cnpg promote` does."""
        status = {
            "targetPrimary": to,
            "targetPrimaryTimestamp": "2026-01-01T00:00:00.000000Z",
            "phase": "Switchover in progress",
            "phaseReason": f"Switching over to {to}",
        }
        self.lab.patch(f"{PATH}/status", {"status": status})

    def events(self, reason: str) -> list[str]:
        found = self.lab.get(f"{CORE}/{NAMESPACE}/events")["items"]
        return [e["message"] for e in found if e["involvedObject"]["name"] == NAME and e["reason"] == reason]

    def roles(self) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["metadata"]["labels"].get("cnpg.io/instanceRole") for pod in self.pods()}

    def postmaster(self, instance: str) -> int:
        (folder,) = self.lab.home.path("volumes").glob(f"{NAMESPACE}_{instance}_*")
        return int((folder / "pgdata" / "postmaster.pid").read_text().split()[0])

    def archived(self) -> list[str]:
        admin = json.loads((self.lab.home.s3 / "admin.json").read_text())
        client = boto3.client(
            "s3",
            endpoint_url=admin["endpoint"],
            aws_access_key_id=admin["access"],
            aws_secret_access_key=admin["secret"],
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )
        prefix = admin["prefix"].rpartition("/")[0] + f"/{NAME}/wals/"
        listed = client.list_objects_v2(Bucket=admin["bucket"], Prefix=prefix)
        return [entry["Key"].rpartition("/")[2] for entry in listed.get("Contents", [])]


class Writer(threading.Thread):
    """Commits numbers at anyone who is primary, and keeps those that were acknowledged."""

    def __init__(self, trio: Trio) -> None:
        super().__init__(daemon=True)
        self._trio = trio
        self._end = threading.Event()
        self.acknowledged: list[int] = []

    def run(self) -> None:
        for number in itertools.count():
            if self._end.wait(0.02):
                return
            try:
                self._trio.sql(self._trio.primary, f"INSERT INTO numbers VALUES ({number})")
                self.acknowledged.append(number)
            except (psycopg.Error, AssertionError, KeyError):
                continue

    def stop(self) -> list[int]:
        self._end.set()
        self.join()
        return self.acknowledged


@pytest.fixture(scope="module")
def trio(lab: RunningLab) -> Iterator[Trio]:
    """One instance, archiving into its own folder."""
    plugin = {
        "name": "barman-cloud.cloudnative-pg.io",
        "isWALArchiver": True,
        "parameters": {"barmanObjectName": "shared-postgres-store"},
    }
    manifest = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": NAME},
        "spec": {
            "instances": 1,
            "storage": {"size": "1Gi"},
            "enableSuperuserAccess": True,
            "plugins": [plugin],
            "postgresql": {"parameters": {"max_connections": "60"}},
        },
    }
    lab.create(f"{CNPG}/{NAMESPACE}/clusters", manifest)
    made = Trio(lab)
    made.healthy(1)
    made.sql(f"{NAME}-1", "CREATE TABLE numbers (number int)")
    yield made
    if lab.find(PATH):
        lab.delete(PATH)


def streams(trio: Trio, instance: str) -> bool:
    query = f"SELECT state FROM pg_stat_replication WHERE application_name = '{instance}'"
    return bool(trio.ask(trio.primary, query) == "streaming")


def test_three_instances_stream_the_same_rows(trio: Trio) -> None:
    trio.scale(3)
    status = trio.cluster()["status"]
    assert status["instanceNames"] == ["trio-1", "trio-2", "trio-3"]
    assert status["instancesStatus"] == {"healthy": ["trio-1", "trio-2", "trio-3"]}
    told = status["instancesReportedState"]
    assert {name: told[name]["isPrimary"] for name in told} == {"trio-1": True, "trio-2": False, "trio-3": False}
    assert "Creating a new replica" in trio.phases
    assert {"Creating instance trio-2", "Creating instance trio-3"} <= set(trio.events("CreatingInstance"))
    assert trio.roles() == {"trio-1": "primary", "trio-2": "replica", "trio-3": "replica"}
    trio.sql("trio-1", "INSERT INTO numbers VALUES (-1)")
    for name in ("trio-2", "trio-3"):
        until(lambda name=name: trio.ask(name, "SELECT count(*) FROM numbers") == 1)
        assert trio.ask(name, "SELECT pg_is_in_recovery()") is True
        assert streams(trio, name)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            trio.sql(name, "INSERT INTO numbers VALUES (0)")
    slots = "SELECT array_agg(slot_name ORDER BY 1) FROM pg_replication_slots WHERE active"
    assert trio.ask("trio-1", slots) == ["_cnpg_trio_2", "_cnpg_trio_3"]
    jobs = trio.lab.get(f"{BATCH}/{NAMESPACE}/jobs?labelSelector=cnpg.io/cluster={NAME}")["items"]
    assert jobs == []  # done, and gone with their logs


def test_a_switchover_loses_nothing_and_archives_on(trio: Trio) -> None:
    writer = Writer(trio)
    writer.start()
    until(lambda: len(writer.acknowledged) > 5)
    for timeline, target in ((2, "trio-2"), (3, "trio-1")):
        trio.switch_over(target)
        found = trio.healthy(3, lambda c, target=target: c["status"]["currentPrimary"] == target)
        assert found["status"]["timelineID"] == timeline
        assert trio.roles()[target] == "primary"
        assert sorted(trio.roles().values()) == ["primary", "replica", "replica"]
        count = len(writer.acknowledged)
        until(lambda count=count: len(writer.acknowledged) > count + 5)
        until(lambda timeline=timeline: any(f"{timeline:08X}.history" in key for key in trio.archived()))
    acknowledged = set(writer.stop())
    for name in ("trio-1", "trio-2", "trio-3"):
        until(lambda name=name: streams(trio, name) or name == "trio-1")
        rows = lambda name=name: {row[0] for row in trio.sql(name, "SELECT number FROM numbers")}  # noqa: E731
        until(lambda rows=rows: acknowledged <= rows())
    assert any(".partial" in key for key in trio.archived())
    assert "Switchover in progress" in trio.phases


@pytest.mark.parametrize("how", ["postmaster", "pod"])
def test_a_primary_that_is_gone_is_succeeded_and_comes_back(trio: Trio, how: str) -> None:
    old = trio.primary
    before = trio.cluster()["status"]["timelineID"]
    trio.sql(old, "INSERT INTO numbers VALUES (-2)")
    trio.phases.clear()
    if how == "postmaster":
        os.kill(trio.postmaster(old), signal.SIGKILL)
    else:
        trio.lab.delete(f"{CORE}/{NAMESPACE}/pods/{old}")
    found = trio.healthy(3, lambda c: c["status"]["currentPrimary"] != old)
    assert found["status"]["timelineID"] == before + 1
    assert any(f"failover from {old}" in message for message in trio.events("FailingOver"))
    assert f"Failing over from {old} to {trio.primary}" in trio.events("FailoverTarget")
    assert "Failing over" in trio.phases
    until(lambda: streams(trio, old))
    assert trio.ask(old, "SELECT count(*) > 0 FROM numbers WHERE number = -2") is True


def test_a_restart_by_annotation_begins_with_the_replicas(trio: Trio) -> None:
    primary = trio.primary
    started = {
        pod["metadata"]["name"]: trio.ask(pod["metadata"]["name"], "SELECT pg_postmaster_start_time()")
        for pod in trio.pods()
    }
    trio.phases.clear()
    at = "2026-08-01T10:00:00Z"
    trio.lab.patch(PATH, {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}})
    asked = "SELECT pg_postmaster_start_time()"
    until(lambda: trio.cluster() and all((trio.ask(name, asked) or since) > since for name, since in started.items()))
    trio.healthy(3)
    assert trio.primary == primary
    assert "Primary instance is being restarted without a switchover" in trio.phases
    assert trio.ask(primary, asked) > max(trio.ask(name, asked) for name in started if name != primary)
    assert [phase for phase in trio.phases if phase][-1] == HEALTHY


def test_the_primary_restarts_in_place_when_its_phase_says_so(trio: Trio) -> None:
    primary, asked = trio.primary, "SELECT pg_postmaster_start_time()"
    before, uid = trio.ask(primary, asked), trio.pod(primary)["metadata"]["uid"]
    status = {"phase": "Primary instance is being restarted in-place", "phaseReason": "Requested by the user"}
    trio.lab.patch(f"{PATH}/status", {"status": status})
    until(lambda: (trio.ask(primary, asked) or before) > before)
    trio.healthy(3)
    assert trio.primary == primary
    assert trio.pod(primary)["metadata"]["uid"] == uid


@pytest.mark.parametrize(
    ("setting", "value"), [("work_mem", "7MB"), ("max_connections", "80"), ("max_connections", "50")]
)
def test_a_parameter_reaches_every_instance(trio: Trio, setting: str, value: str) -> None:
    trio.phases.clear()
    trio.lab.patch(PATH, {"spec": {"postgresql": {"parameters": {setting: value}}}})
    names = [pod["metadata"]["name"] for pod in trio.pods()]
    until(lambda: trio.cluster() and all(trio.ask(name, f"SHOW {setting}") == value for name in names))
    trio.healthy(3)
    for name in names:
        assert trio.ask(name, "SELECT count(*) FROM pg_settings WHERE pending_restart") == 0


def test_one_instance_fewer_takes_its_volume_along(trio: Trio) -> None:
    victim = max(name for name in ("trio-1", "trio-2", "trio-3") if name != trio.primary)
    trio.scale(2)
    left = {"trio-1", "trio-2", "trio-3"} - {victim}
    assert trio.events("ScaleDown") == [f"Scaling down - removing instance: {victim}"]
    until(lambda: not trio.lab.find(f"{CORE}/{NAMESPACE}/persistentvolumeclaims/{victim}"))
    assert trio.lab.find(f"{CORE}/{NAMESPACE}/pods/{victim}") is None
    assert set(trio.cluster()["status"]["instanceNames"]) == left
    (other,) = left - {trio.primary}
    slots = "SELECT array_agg(slot_name) FROM pg_replication_slots"
    until(lambda: trio.ask(trio.primary, slots) == [f"_cnpg_{other.replace('-', '_')}"])
    assert not list(trio.lab.home.path("volumes").glob(f"{NAMESPACE}_{victim}_*"))


def test_a_standby_is_backed_up_first(trio: Trio) -> None:
    backup = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "trio-standby"},
        "spec": {
            "cluster": {"name": NAME},
            "method": "plugin",
            "target": "prefer-standby",
            "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
        },
    }
    trio.lab.create(f"{CNPG}/{NAMESPACE}/backups", backup)
    path = f"{CNPG}/{NAMESPACE}/backups/trio-standby"
    until(lambda: (trio.lab.get(path).get("status") or {}).get("phase") in ("completed", "failed"))
    status = trio.lab.get(path)["status"]
    assert status["phase"] == "completed", status
    assert status["instanceID"]["podName"] != trio.primary
    trio.lab.delete(path)


def test_nothing_is_left_of_a_deleted_cluster(trio: Trio) -> None:
    lab = trio.lab
    folders = list(lab.home.path("volumes").glob(f"{NAMESPACE}_{NAME}-*"))
    assert folders
    lab.delete(PATH)
    for kind in ("pods", "persistentvolumeclaims", "services", "secrets"):
        mine = f"{CORE}/{NAMESPACE}/{kind}?labelSelector=cnpg.io/cluster={NAME}"
        until(lambda mine=mine: not lab.get(mine)["items"])
    assert not any(folder.exists() for folder in folders)
    assert processes_under(folders) == []
    assert condition(lab.source(), "Ready") == "True"
    assert Path(lab.home.path("volumes")).exists()
