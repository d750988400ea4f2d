"""In-tree `barmanObjectStore`: its own phases and fields, its archive check, its retention, and a Backup as a source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fix_bucket import Bucket
from fix_lab import CNPG, CORE, RunningLab, condition, until

# One story, told in order: long as a whole, so that no part runs without what came before it.
pytestmark = pytest.mark.soak

NS = "cnpg-system"
CLUSTERS, BACKUPS = f"{CNPG}/{NS}/clusters", f"{CNPG}/{NS}/backups"
SERVER = "shared-postgres-native"  # the first site's folder is a prefix of it
Object = dict[str, Any]


def section(lab: RunningLab) -> Object:
    return {
        "destinationPath": "s3://synergyflow-backups/postgres",
        "endpointURL": lab.state["endpoint"],
        "serverName": SERVER,
        "s3Credentials": {
            "accessKeyId": {"name": "native-key", "key": "AWS_ACCESS_KEY_ID"},
            "secretAccessKey": {"name": "native-key", "key": "AWS_SECRET_ACCESS_KEY"},
        },
        "wal": {"maxParallel": 4},
        "data": {"immediateCheckpoint": True},
    }


def cluster(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"instances": 1, "storage": {"size": "1Gi"}, **spec},
    }


def back_up(lab: RunningLab, name: str, cluster_name: str = "native", **spec: Any) -> None:
    """Ask for a Backup; in-tree is what the API server makes of a method that isn't named."""
    lab.create(
        BACKUPS,
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name},
            "spec": {"cluster": {"name": cluster_name}, **spec},
        },
    )


def status(lab: RunningLab, name: str) -> Object:
    return lab.get(f"{BACKUPS}/{name}").get("status") or {}


def ended(lab: RunningLab, name: str, phase: str = "completed") -> Object:
    until(lambda: status(lab, name).get("phase") in ("completed", "failed"))
    found = status(lab, name)
    assert found["phase"] == phase, found
    return found


def reasons(lab: RunningLab, name: str) -> list[str]:
    events = lab.get(f"{CORE}/{NS}/events")["items"]
    return [event["reason"] for event in events if event["involvedObject"]["name"] == name]


@pytest.fixture(scope="module")
def native(lab: RunningLab) -> Iterator[RunningLab]:
    """A Cluster that archives in-tree, next to the first site's and in the same bucket."""
    key = lab.secret(NS, "aws-backup-credentials")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "native-key"}, "stringData": key}
    lab.create(f"{CORE}/{NS}/secrets", secret)
    backup = {"barmanObjectStore": section(lab), "retentionPolicy": "1d"}
    lab.create(CLUSTERS, cluster("native", backup=backup, enableSuperuserAccess=True))
    until(lambda: phase(lab, "native") == "Cluster in healthy state")
    yield lab
    for item in lab.get(CLUSTERS)["items"]:
        if item["metadata"]["name"] != "shared-postgres":
            lab.delete(f"{CLUSTERS}/{item['metadata']['name']}")
    until(lambda: len(lab.get(f"{CORE}/{NS}/persistentvolumeclaims")["items"]) == 1)
    lab.delete(f"{CORE}/{NS}/secrets/native-key")
    for item in lab.get(BACKUPS)["items"]:
        if item["spec"]["cluster"]["name"] != "shared-postgres" or item["metadata"]["name"] == "sectionless":
            lab.delete(f"{BACKUPS}/{item['metadata']['name']}")


def phase(lab: RunningLab, name: str) -> str:
    return str((lab.get(f"{CLUSTERS}/{name}").get("status") or {}).get("phase", ""))


def switch_wal(lab: RunningLab) -> None:
    pod = lab.get(f"{CORE}/{NS}/pods/native-1")
    password = lab.secret(NS, "native-superuser")["password"]
    lab.sql("postgres", password, "app", "CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)", pod=pod)
    lab.sql("postgres", password, "app", "SELECT pg_switch_wal()", pod=pod)


def test_a_backup_says_where_it_lies_and_the_cluster_what_it_has(native: RunningLab) -> None:
    lab = native
    back_up(lab, "native-first")
    seen: list[str] = []

    def watch() -> bool:
        now = status(lab, "native-first").get("phase", "")
        seen.extend([now] if now and now not in seen else [])
        return now in ("completed", "failed")

    until(watch)
    assert seen[-2:] == ["running", "completed"]
    found = status(lab, "native-first")
    expected = section(lab)
    for field in ("destinationPath", "endpointURL", "serverName", "s3Credentials"):
        assert found[field] == expected[field]
    assert found["method"] == "barmanObjectStore"
    assert "pluginMetadata" not in found
    told = lab.get(f"{CLUSTERS}/native")["status"]
    assert told["lastSuccessfulBackup"] == told["lastSuccessfulBackupByMethod"]["barmanObjectStore"]
    assert told["firstRecoverabilityPoint"] == told["firstRecoverabilityPointByMethod"]["barmanObjectStore"]
    assert told["firstRecoverabilityPoint"] == found["stoppedAt"]
    assert condition(lab.get(f"{CLUSTERS}/native"), "ContinuousArchiving") == "True"
    bucket = Bucket(lab)
    assert bucket.backups(SERVER) == [found["backupId"]]
    assert found["backupId"] not in bucket.backups("shared-postgres")
    assert "Completed" in reasons(lab, "native-first")


def test_each_method_wants_its_own_section(native: RunningLab) -> None:
    lab = native
    back_up(lab, "sectionless", "shared-postgres")
    assert "no backup section" in ended(lab, "sectionless", "failed")["error"]
    plugin = {"method": "plugin", "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"}}
    back_up(lab, "native-by-plugin", **plugin)
    assert "requested plugin is not available" in ended(lab, "native-by-plugin", "failed")["error"]
    assert "ClusterHasNoBackupExecutorPlugin" in reasons(lab, "native-by-plugin")


def test_retention_comes_after_each_backup(native: RunningLab) -> None:
    lab, bucket = native, Bucket(native)
    first = bucket.backups(SERVER)[-1]
    old = bucket.antedate(SERVER, first, datetime(2020, 1, 1, tzinfo=UTC))
    kept = bucket.antedate(SERVER, first, datetime(2020, 1, 2, tzinfo=UTC))
    others = bucket.backups("shared-postgres")
    back_up(lab, "native-expired")
    ended(lab, "native-expired")
    until(lambda: old not in bucket.backups(SERVER))
    assert kept in bucket.backups(SERVER)
    until(lambda: lab.get(f"{CLUSTERS}/native")["status"]["firstRecoverabilityPoint"] == "2020-01-02T00:00:00Z")
    lab.patch(f"{BACKUPS}/native-expired/status", {"status": {"backupId": old}})
    back_up(lab, "native-second")
    ended(lab, "native-second")
    until(lambda: lab.find(f"{BACKUPS}/native-expired") is None)
    assert lab.find(f"{BACKUPS}/native-first") is not None
    assert bucket.backups("shared-postgres") == others, "another server's folder is not looked into"


def test_without_working_archiving_it_does_not_begin_and_is_in_the_way(native: RunningLab) -> None:
    lab = native
    right = lab.secret(NS, "native-key")
    wrong = {**right, "AWS_SECRET_ACCESS_KEY": "wrong"}
    lab.patch(f"{CORE}/{NS}/secrets/native-key", {"stringData": wrong})
    switch_wal(lab)
    until(lambda: condition(lab.get(f"{CLUSTERS}/native"), "ContinuousArchiving") == "False")
    back_up(lab, "native-stuck")
    until(lambda: status(lab, "native-stuck").get("phase") == "walArchivingFailing")
    back_up(lab, "native-younger")
    until(lambda: status(lab, "native-younger").get("phase") == "pending")
    lab.patch(f"{CORE}/{NS}/secrets/native-key", {"stringData": right})
    until(lambda: condition(lab.get(f"{CLUSTERS}/native"), "ContinuousArchiving") == "True")
    assert status(lab, "native-stuck")["phase"] == "walArchivingFailing", "nobody goes on with it"
    assert status(lab, "native-younger")["phase"] == "pending"
    lab.delete(f"{BACKUPS}/native-stuck")
    ended(lab, "native-younger")


def test_a_backup_is_a_source_by_itself_once_it_is_completed(native: RunningLab) -> None:
    lab = native
    recovery = {"backup": {"name": "native-source"}}
    lab.create(CLUSTERS, cluster("native-again", bootstrap={"recovery": recovery}))
    until(lambda: "ErrorNoBackup" in reasons(lab, "native-again"))
    assert phase(lab, "native-again") == ""
    back_up(lab, "native-source")
    (job,) = until(lambda: _jobs(lab, "native-again"))
    assert status(lab, "native-source")["phase"] == "completed"
    assert job["metadata"]["name"] == "native-again-1-full-recovery"
    (spec,) = until(lambda: list(lab.home.path("pods").glob(f"{NS}_native-again-1-full-recovery*/spec.json")))
    told = json.loads(spec.read_text())
    assert told["source"]["wal_max_parallel"] == 1
    assert told["target"]["backup_id"] == status(lab, "native-source")["backupId"]
    until(lambda: phase(lab, "native-again") == "Cluster in healthy state")
    assert lab.get(f"{CLUSTERS}/native-again")["status"]["timelineID"] == 2


def test_an_entry_of_external_clusters_gives_the_folder_its_name(native: RunningLab) -> None:
    """The in-tree default; and its `wal.maxParallel` is ignored."""
    lab = native
    store = {key: value for key, value in section(lab).items() if key != "serverName"}
    entry = {"name": SERVER, "barmanObjectStore": store}
    bootstrap = {"recovery": {"source": SERVER}}
    lab.create(CLUSTERS, cluster("native-by-name", bootstrap=bootstrap, externalClusters=[entry]))
    (spec,) = until(lambda: list(lab.home.path("pods").glob(f"{NS}_native-by-name-1-full-recovery*/spec.json")))
    source = json.loads(spec.read_text())["source"]
    assert (source["server_name"], source["wal_max_parallel"]) == (SERVER, 1)
    until(lambda: phase(lab, "native-by-name") == "Cluster in healthy state")


def _jobs(lab: RunningLab, name: str) -> list[Any]:
    found: list[Any] = lab.get(f"/apis/batch/v1/namespaces/{NS}/jobs?labelSelector=cnpg.io/cluster={name}")["items"]
    return found
