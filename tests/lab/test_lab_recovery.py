"""A recovery in the lab: the Job, its failures, what it leaves, and that a deleted copy is really gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fix_lab import BARMAN, BATCH, CNPG, CORE, RunningLab, condition, until

from drillbook_lab.processes import processes_under

DRILLS = "drillbook-drills"
PLUGIN = "barman-cloud.cloudnative-pg.io"


def copy(lab: RunningLab, name: str, store: str = "source", target: dict[str, Any] | None = None, **spec: Any) -> Any:
    """A quarantined copy's manifest: no plugins, no backup, the owner's password kept."""
    backup = lab.get(f"{CNPG}/cnpg-system/backups")["items"][0]["status"]["backupId"]
    recovery = {
        "source": "origin",
        "database": "synergyflow",
        "owner": "synergyflow_app",
        "secret": {"name": "copy-login"},
        "recoveryTarget": target or {"backupID": backup, "targetImmediate": True},
    }
    parameters = {"barmanObjectName": store, "serverName": "shared-postgres"}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "instances": 1,
            "storage": {"size": "1Gi"},
            "bootstrap": {"recovery": recovery},
            "externalClusters": [{"name": "origin", "plugin": {"name": PLUGIN, "parameters": parameters}}],
            **spec,
        },
    }


def reference(key: str) -> dict[str, str]:
    return {"name": "drillbook-archive-reader", "key": key}


def store(lab: RunningLab, name: str) -> Any:
    credentials = {
        "accessKeyId": reference("AWS_ACCESS_KEY_ID"), "secretAccessKey": reference("AWS_SECRET_ACCESS_KEY")
    }  # fmt: skip
    return {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {"name": name},
        "spec": {
            "configuration": {
                "destinationPath": "s3://synergyflow-backups/postgres",
                "endpointURL": lab.state["endpoint"],
                "s3Credentials": credentials,
                "wal": {"maxParallel": 2},
            }
        },
    }


@pytest.fixture
def origin(lab: RunningLab) -> Iterator[RunningLab]:
    """The lab with an ObjectStore and a login Secret for copies in the drill namespace."""
    login = lab.secret("drillbook", "app-login-synergyflow")
    lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, "source"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "copy-login"}, "stringData": login,
              "type": "kubernetes.io/basic-auth"}  # fmt: skip
    lab.create(f"{CORE}/{DRILLS}/secrets", secret)
    yield lab
    for cluster in lab.get(f"{CNPG}/{DRILLS}/clusters")["items"]:
        lab.delete(f"{CNPG}/{DRILLS}/clusters/{cluster['metadata']['name']}")
    until(lambda: not lab.get(f"{CORE}/{DRILLS}/persistentvolumeclaims")["items"])
    lab.delete(f"{BARMAN}/{DRILLS}/objectstores/source")
    lab.delete(f"{CORE}/{DRILLS}/secrets/copy-login")


def cluster(lab: RunningLab, name: str) -> Any:
    return lab.get(f"{CNPG}/{DRILLS}/clusters/{name}")


def phase(lab: RunningLab, name: str) -> str:
    return str((cluster(lab, name).get("status") or {}).get("phase", ""))


def test_a_copy_is_restored_promoted_and_then_gone_without_a_trace(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "once"))
    job = until(lambda: lab.find(f"{BATCH}/{DRILLS}/jobs/once-1-full-recovery"))
    assert job["metadata"]["labels"]["cnpg.io/jobRole"] == "full-recovery"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    until(lambda: phase(lab, "once") == "Cluster in healthy state")
    status = cluster(lab, "once")["status"]
    assert status["timelineID"] == 2
    assert status["systemID"] == lab.source()["status"]["systemID"]
    assert lab.get(f"{BATCH}/{DRILLS}/jobs")["items"] == []
    pod = lab.get(f"{CORE}/{DRILLS}/pods/once-1")
    login = lab.secret("drillbook", "app-login-synergyflow")
    query = "SELECT count(*) > 100 FROM synergyflow_incidents.incidents"
    assert lab.sql(login["username"], login["password"], "synergyflow", query, pod=pod) == [(True,)]
    # The quarantined copy archives into nothing.
    until(lambda: condition(cluster(lab, "once"), "ContinuousArchiving") == "True")
    (folder,) = lab.home.path("volumes").glob(f"{DRILLS}_once-1_*")
    assert processes_under([folder])
    lab.delete(f"{CNPG}/{DRILLS}/clusters/once")
    until(lambda: lab.find(f"{CORE}/{DRILLS}/persistentvolumeclaims/once-1") is None)
    assert not folder.exists()
    assert processes_under([folder]) == []
    for path in (f"{CORE}/{DRILLS}/pods", f"{CORE}/{DRILLS}/services", f"{CORE}/{DRILLS}/persistentvolumeclaims"):
        assert lab.get(path)["items"] == []
    names = {secret["metadata"]["name"] for secret in lab.get(f"{CORE}/{DRILLS}/secrets")["items"]}
    assert names == {"drillbook-archive-reader", "copy-login"}


def test_a_recovery_that_cant_work_fails_at_once_and_ends_unrecoverable(origin: RunningLab) -> None:
    lab = origin
    target = {"backupID": "20200101T000000", "targetImmediate": True}
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "never", target=target))
    path = f"{BATCH}/{DRILLS}/jobs/never-1-full-recovery"
    until(lambda: lab.find(path))
    lab.patch(path, {"spec": {"backoffLimit": 1}})
    job = until(lambda: _failed(lab, path))
    selector = f"job-name={job['metadata']['name']}"
    pods = lab.get(f"{CORE}/{DRILLS}/pods?labelSelector={selector}")["items"]
    ended = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
    assert ended[0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1
    (log,) = lab.home.path("pods").glob(f"{DRILLS}_{ended[0]['metadata']['name']}_*/logs/full-recovery.log")
    assert "no backup found with ID 20200101T000000" in log.read_text()
    until(lambda: phase(lab, "never") == "Cluster is unrecoverable and needs manual intervention")
    assert "never-1-full-recovery" in cluster(lab, "never")["status"]["phaseReason"]
    assert lab.get(path)["status"]["failed"] == 2


def _failed(lab: RunningLab, path: str) -> Any:
    job = lab.get(path)
    return job if (job.get("status") or {}).get("failed", 0) >= 1 else None


def test_a_missing_object_store_stalls_without_a_word(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "stalled", store="later"))
    until(lambda: lab.find(f"{CORE}/{DRILLS}/services/stalled-rw"))
    assert phase(lab, "stalled") == ""
    assert lab.get(f"{BATCH}/{DRILLS}/jobs")["items"] == []
    lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, "later"))
    until(lambda: phase(lab, "stalled") == "Setting up primary")
    lab.delete(f"{CNPG}/{DRILLS}/clusters/stalled")
    lab.delete(f"{BARMAN}/{DRILLS}/objectstores/later")


def test_an_unknown_plugin_is_said(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "foreign", plugins=[{"name": "tape.example"}]))
    wanted = "Cluster cannot proceed to reconciliation due to an unknown plugin being required"
    until(lambda: phase(lab, "foreign") == wanted)


def test_a_backup_of_an_unknown_cluster_waits_and_one_without_plugin_fails(lab: RunningLab) -> None:
    backups = f"{CNPG}/cnpg-system/backups"
    for name, spec in (
        ("waits", {"cluster": {"name": "nobody"}, "method": "plugin", "pluginConfiguration": {"name": PLUGIN}}),
        ("wrong", {"cluster": {"name": "shared-postgres"}}),
    ):
        body = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": {"name": name}, "spec": spec}
        lab.create(backups, body)
    until(lambda: (lab.get(f"{backups}/waits").get("status") or {}).get("phase") == "pending")
    failed = until(lambda: _phase_is(lab.get(f"{backups}/wrong"), "failed"))
    assert "backup" in failed["status"]["error"].lower() or "barman" in failed["status"]["error"].lower()
    for name in ("waits", "wrong"):
        lab.delete(f"{backups}/{name}")


def _phase_is(backup: Any, wanted: str) -> Any:
    return backup if (backup.get("status") or {}).get("phase") == wanted else None
