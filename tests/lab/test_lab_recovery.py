"""A recovery in the lab: the Job, its failures, what it leaves, and that a deleted copy is really gone."""

from __future__ import annotations

from typing import Any

import pytest
from fix_copies import DRILLS, PLUGIN, cluster, copy, job_failed, origin, phase, store
from fix_lab import BARMAN, BATCH, CNPG, CORE, RunningLab, condition, until

from drillbook_lab.node.processes import processes_under

__all__ = ["origin"]


@pytest.mark.soak
def test_a_copy_is_restored_promoted_and_then_gone_without_a_trace(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "once"))
    job = until(lambda: lab.find(f"{BATCH}/{DRILLS}/jobs/once-1-full-recovery"))
    assert job is not None
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
    job = until(lambda: job_failed(lab, "never"))
    selector = f"job-name={job['metadata']['name']}"
    pods = lab.get(f"{CORE}/{DRILLS}/pods?labelSelector={selector}")["items"]
    ended = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
    assert ended[0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1
    (log,) = lab.home.path("pods").glob(f"{DRILLS}_{ended[0]['metadata']['name']}_*/logs/full-recovery.log")
    assert "no backup found with ID 20200101T000000" in log.read_text()
    until(lambda: phase(lab, "never") == "Cluster is unrecoverable and needs manual intervention")
    assert "never-1-full-recovery" in cluster(lab, "never")["status"]["phaseReason"]
    assert lab.get(path)["status"]["failed"] == 2


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
