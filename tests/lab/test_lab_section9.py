"""How a recovery fails, row by row, as an engineer sees it: the Job's log, its retries, the Cluster's phase, the volume.

Every cause is a real one, in the lab's own bucket, objects or volume. What a PostgreSQL-less agent test shows as well
(a missing begin WAL, a gap, a torn base backup) is in test_agent_recovery.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.config import Config
from fix_copies import DRILLS, PLUGIN, cluster, copy, job_failed, job_pods, log_lines, origin, phase, said, store
from fix_lab import BARMAN, BATCH, CNPG, CORE, RunningLab, until
from kubernetes import client, config, watch

from drillbook_lab.home import LabHome

__all__ = ["origin"]

RPC = "rpc error: code = Unknown desc = "
UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"
HEALTHY = "Cluster in healthy state"
WAITING = "Waiting for the instances to become active"
NO_DISK = "Not enough disk space"


def bucket(home: LabHome) -> Any:
    """The lab's bucket with its administrator's key."""
    admin = json.loads((home.s3 / "admin.json").read_text())
    return boto3.client(
        "s3",
        endpoint_url=admin["endpoint"],
        aws_access_key_id=admin["access"],
        region_name="us-east-1",
        aws_secret_access_key=admin["secret"],
        config=Config(s3={"addressing_style": "path"}),
    )


def incomplete(lab: RunningLab, name: str) -> None:
    """A server's folder whose one base backup never got an end time, as a killed barman leaves it."""
    client, prefix = bucket(lab.home), "postgres/shared-postgres/base/"
    listed = client.list_objects_v2(Bucket="synergyflow-backups", Prefix=prefix)["Contents"]
    (key, *_) = [entry["Key"] for entry in listed if entry["Key"].endswith("/backup.info")]
    info = client.get_object(Bucket="synergyflow-backups", Key=key)["Body"].read().decode()
    lines = ["end_time=None" if line.startswith("end_time=") else line for line in info.splitlines()]
    lines = ["status=STARTED" if line.startswith("status=") else line for line in lines]
    client.put_object(
        Bucket="synergyflow-backups", Key=key.replace("/shared-postgres/", f"/{name}/"), Body="\n".join(lines).encode()
    )


def from_server(lab: RunningLab, name: str, server: str, **more: Any) -> Any:
    made = copy(lab, name, target={"targetTLI": "latest"}, **more)
    made["spec"]["externalClusters"][0]["plugin"]["parameters"]["serverName"] = server
    return made


def archiver(server: str) -> list[Any]:
    return [{"name": PLUGIN, "isWALArchiver": True, "parameters": {"barmanObjectName": "source", "serverName": server}}]


@pytest.fixture
def wrong_stores(origin: RunningLab) -> Iterator[RunningLab]:
    """ObjectStores whose path, bucket, key or address is wrong."""
    lab = origin
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong-key"},
        "stringData": {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"},
    }
    lab.create(f"{CORE}/{DRILLS}/secrets", secret)
    keys = {
        field: {"name": "wrong-key", "key": key}
        for field, key in (("accessKeyId", "AWS_ACCESS_KEY_ID"), ("secretAccessKey", "AWS_SECRET_ACCESS_KEY"))
    }
    stores: dict[str, dict[str, Any]] = {
        "elsewhere": {"destinationPath": "s3://synergyflow-backups/postgres/elsewhere"},
        # A reader whose policy names one bucket isn't told whether another one exists.
        "no-bucket": {"destinationPath": "s3://synergyflow-backup/postgres"},
        "refused": {"s3Credentials": keys},
        "nobody-there": {"endpointURL": "http://127.0.0.1:9"},
    }
    for name, configuration in stores.items():
        lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, name, **configuration))
    yield lab
    for name in stores:
        lab.delete(f"{BARMAN}/{DRILLS}/objectstores/{name}")
    lab.delete(f"{CORE}/{DRILLS}/secrets/wrong-key")


@pytest.mark.soak
def test_each_cause_is_told_in_the_jobs_log(wrong_stores: RunningLab) -> None:
    """None of them gets as far as PostgreSQL. Each is removed once it has failed: else it is tried six times more."""
    lab = wrong_stores
    incomplete(lab, "torn")
    none = "no target backup found"
    rows = {
        "early": (copy(lab, "early", target={"targetTime": "2020-01-01T00:00:00Z"}), none),
        "nobody": (from_server(lab, "nobody", "nobody"), none),
        "unnamed": (from_server(lab, "unnamed", ""), none),  # the plugin's default is the *new* Cluster's name
        "path": (copy(lab, "path", "elsewhere", target={"targetTLI": "latest"}), none),
        "started": (from_server(lab, "started", "torn"), none),
        "gone": (copy(lab, "gone", target={"backupID": "20200101T000000"}), "no backup found with ID 20200101T000000"),
        "used": (
            copy(lab, "used", plugins=archiver("shared-postgres")),
            "unexpected failure invoking barman-cloud-wal-archive: exit status 1",
        ),
        "key": (copy(lab, "key", "refused"), "exit status 4"),
        "bucket": (copy(lab, "bucket", "no-bucket"), "exit status 4"),
        "network": (copy(lab, "network", "nobody-there"), "exit status 4"),
    }
    logs, own, differ = {}, {}, {}
    for name, (manifest, wanted) in rows.items():
        lab.create(f"{CNPG}/{DRILLS}/clusters", manifest)
        until(partial(job_failed, lab, name))
        pod = job_pods(lab, name)[0]
        lines = logs[name] = log_lines(lab, pod)
        of_job = log_lines(lab, pod, "full-recovery")
        own[name] = said(of_job)
        stays = next(
            entry for entry in pod["status"]["initContainerStatuses"] if entry["name"] == "plugin-barman-cloud"
        )
        assert stays["state"]["terminated"]["exitCode"] == 0, "it is the job that failed"
        last = of_job[-1]
        assert (last["level"], last["msg"]) == ("error", "restore error"), (name, last)
        if not last["error"].startswith("while restoring cluster: " + RPC + wanted):
            differ[name] = last["error"]
        assert {"ts", "logger", "logging_pod"} <= set(last)
        assert phase(lab, name) in ("Setting up primary", UNRECOVERABLE)
        assert not [line for line in lines if line.get("logger") == "postgres"], name
        lab.delete(f"{CNPG}/{DRILLS}/clusters/{name}")
    assert differ == {}
    for name, words in (("key", "InvalidAccessKeyId"), ("bucket", "AccessDenied"), ("network", "Could not connect")):
        (listed,) = [line for line in logs[name] if line["msg"] == "Can't extract backup id"]
        assert words in listed["stderr"]
    texts = said(logs["used"])
    empty = next(i for i, text in enumerate(texts) if "Expected empty archive" in text)
    misleading = next(i for i, text in enumerate(texts) if "unexpected failure invoking" in text)
    assert empty < misleading
    assert any("WAL archive check failed for server shared-postgres" in text for text in texts)
    # Each container says its part: barman's words are the plugin's, the job hears of them by a remote call.
    assert not [text for text in own["used"] if "Expected empty archive" in text]


def test_a_store_that_comes_later_is_waited_for_without_a_word_of_it(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "patient", store="later"))
    until(lambda: lab.find(f"{CORE}/{DRILLS}/services/patient-rw"))
    until(lambda: lab.find(f"/apis/coordination.k8s.io/v1/namespaces/{DRILLS}/leases/patient"))
    events = lab.get(f"{CORE}/{DRILLS}/events")["items"]
    reasons = {event["reason"] for event in events if event["involvedObject"]["name"] == "patient"}
    assert reasons == {"CreatingPodDisruptionBudget", "CreatingServiceAccount", "CreatingRole"}
    assert phase(lab, "patient") == "" and lab.find(f"{BATCH}/{DRILLS}/jobs/patient-1-full-recovery") is None
    lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, "later"))
    until(lambda: lab.find(f"{BATCH}/{DRILLS}/jobs/patient-1-full-recovery"))
    assert cluster(lab, "patient")["status"]["phaseReason"] == "Creating primary instance patient-1"
    lab.delete(f"{CNPG}/{DRILLS}/clusters/patient")
    lab.delete(f"{BARMAN}/{DRILLS}/objectstores/later")


def test_what_slipped_past_the_webhook_is_not_acted_on(origin: RunningLab) -> None:
    """With the webhook's configuration deleted an invalid Cluster and Backup are stored; the operator stops at them."""
    lab = origin
    api = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    configuration = lab.get(f"{api}/cnpg-validating-webhook-configuration")
    lab.delete(f"{api}/cnpg-validating-webhook-configuration")
    backup = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "odd"},
        "spec": {"cluster": {"name": "odd"}, "method": "plugin"},
    }
    try:
        manifest = copy(lab, "odd")
        manifest["spec"]["bootstrap"]["recovery"]["source"] = "nowhere"
        lab.create(f"{CNPG}/{DRILLS}/clusters", manifest)
        lab.create(f"{CNPG}/{DRILLS}/backups", backup)
    finally:
        configuration["metadata"] = {"name": configuration["metadata"]["name"]}
        lab.create(api, configuration)
    until(lambda: phase(lab, "odd") == "Invalid cluster definition")
    assert cluster(lab, "odd")["status"]["phaseReason"] == (
        "the resource failed admission validation on: spec.bootstrap.recovery.source, spec.bootstrap.recovery.source "
        "(see the operator logs for details)"
    )
    assert lab.find(f"{CORE}/{DRILLS}/services/odd-rw") is None
    path = f"{CNPG}/{DRILLS}/backups/odd"
    until(lambda: (lab.get(path).get("status") or {}).get("phase") == "invalid backup definition")
    assert "spec.pluginConfiguration" in lab.get(path)["status"]["error"]
    code, _ = lab.call(
        "PATCH", f"{CNPG}/{DRILLS}/clusters/odd", {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json"
    )
    assert code == 422, "the webhook is back, and looks at the whole object"
    right = {"spec": {"bootstrap": {"recovery": {"source": "origin"}}}}
    lab.patch(f"{CNPG}/{DRILLS}/clusters/odd", right)
    until(lambda: lab.find(f"{BATCH}/{DRILLS}/jobs/odd-1-full-recovery"))
    lab.delete(path)


def journey(lab: RunningLab, name: str, since: str) -> list[Any]:
    """Each state of a Cluster that a watch shows, from before it was made until it is healthy."""
    with config.new_client_from_config(str(lab.home.kubeconfig), context="lab-admin") as connection:
        listing = client.CustomObjectsApi(connection).list_namespaced_custom_object
        stream = watch.Watch().stream(
            listing,
            "postgresql.cnpg.io",
            "v1",
            DRILLS,
            "clusters",
            field_selector=f"metadata.name={name}",
            resource_version=since,
            timeout_seconds=300,
        )
        seen = []
        for event in stream:
            seen.append(event["object"])
            if (seen[-1].get("status") or {}).get("phase") == HEALTHY:
                return seen
    raise AssertionError(f"it never was healthy: {seen[-1:]}")


@pytest.mark.soak
def test_a_recovery_goes_its_way_in_order(origin: RunningLab) -> None:
    """From an empty phase to the healthy one, with a standby; each state is consistent in itself."""
    lab = origin
    since = lab.get(f"{CNPG}/{DRILLS}/clusters")["metadata"]["resourceVersion"]
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "ordered", instances=2))
    jobs = f"{BATCH}/{DRILLS}/jobs?labelSelector=cnpg.io/cluster%3Dordered"
    (job,) = until(lambda: lab.get(jobs)["items"])
    claim = lab.get(f"{CORE}/{DRILLS}/persistentvolumeclaims/ordered-1")
    assert claim["metadata"]["annotations"]["cnpg.io/pvcStatus"] == "initializing"
    assert job["metadata"]["labels"]["cnpg.io/jobRole"] == "full-recovery"
    states = [found.get("status") or {} for found in journey(lab, "ordered", since)]
    told: list[tuple[str, str]] = []
    for status in states:
        now = (status.get("phase", ""), status.get("phaseReason", ""))
        told += [now] if told[-1:] != [now] else []
    phases = [entry for number, (entry, _) in enumerate(told) if number == 0 or told[number - 1][0] != entry]
    assert phases in (
        ["", "Setting up primary", WAITING, "Creating a new replica", HEALTHY],
        ["", "Setting up primary", WAITING, "Creating a new replica", WAITING, HEALTHY],
    )
    assert ("Setting up primary", "Creating primary instance ordered-1") in told
    assert ("Creating a new replica", "Creating replica ordered-2-join") in told
    for status in states:
        conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
        if "Ready" in conditions:
            well = status.get("phase") == HEALTHY
            assert (conditions["Ready"]["status"] == "True") == well, status
            assert conditions["Ready"]["reason"] == ("ClusterIsReady" if well else "ClusterIsNotReady")
        if status.get("phase", "") in ("", "Setting up primary") and status.get("currentPrimary"):
            assert conditions["Initialized"]["status"] == "True", "a primary only once the bootstrap is complete"
    began = [
        entry["status"]
        for status in states
        for entry in status.get("conditions") or ()
        if entry["type"] == "Initialized"
    ]
    assert began == sorted(began), "Initialized never goes back"
    events = lab.get(f"{CORE}/{DRILLS}/events")["items"]
    mine = [
        event["message"]
        for event in events
        if event["involvedObject"]["name"] == "ordered" and event["reason"] == "CreatingInstance"
    ]
    assert mine == ["Primary instance (from backup)", "Creating instance ordered-2"]
    until(lambda: lab.get(jobs)["items"] == [])


@pytest.mark.soak
def test_a_target_that_never_comes_fills_the_volume_and_ends_unrecoverable(origin: RunningLab) -> None:
    """Each attempt leaves a whole data directory aside, until there is no room for another one."""
    lab = origin
    manifest = copy(lab, "full", target={"targetTime": "2099-01-01T00:00:00Z"})
    manifest["spec"]["storage"]["size"] = "400Mi"
    lab.create(f"{CNPG}/{DRILLS}/clusters", manifest)
    path = f"{BATCH}/{DRILLS}/jobs/full-1-full-recovery"
    until(lambda: phase(lab, "full") == UNRECOVERABLE)
    assert "full-1-full-recovery" in cluster(lab, "full")["status"]["phaseReason"]
    job = lab.get(path)
    assert job["spec"]["backoffLimit"] == 6 and job["status"]["failed"] == 7
    (condition,) = [entry for entry in job["status"]["conditions"] if entry["type"] == "Failed"]
    assert condition["reason"] == "BackoffLimitExceeded"
    pods = job_pods(lab, "full")
    assert [pod["status"]["phase"] for pod in pods] == ["Failed"] * 7, "they are kept, with their logs"
    logs = sorted((log_lines(lab, pod) for pod in pods), key=lambda lines: str(lines[0]["ts"]))
    first, last = said(logs[0]), said(logs[-1])
    fatal = next(
        i for i, text in enumerate(first) if text == "recovery ended before configured recovery target was reached"
    )
    assert "while waiting for PostgreSQL to stop recovery mode: " in first[-1] and fatal < len(first) - 1
    records = [line for line in logs[0] if line.get("logger") == "postgres" and line["msg"] == "record"]
    assert {line["record"]["error_severity"] for line in records} >= {"LOG", "FATAL"}
    assert any("renaming the data directory to pgdata_" in text for text in said(logs[1]))
    assert "no space left on device" in last[-1]
    (volume,) = lab.home.path("volumes").glob(f"{DRILLS}_full-1_*")
    assert list(volume.glob("pgdata_*"))
    begun = [datetime.fromisoformat(str(lines[0]["ts"])) for lines in logs]
    ended = [datetime.fromisoformat(str(lines[-1]["ts"])) for lines in logs]
    waits = [(start - end).total_seconds() for end, start in zip(ended, begun[1:], strict=False)]
    assert waits[-1] >= 2, f"a tenth of a second at first in this lab, twice as long each time: {waits}"
    # What is left: all but the archive's own, which the copy never wrote to.
    for kind in ("persistentvolumeclaims/full-1", "secrets/full-ca", "secrets/full-server", "services/full-rw"):
        assert lab.find(f"{CORE}/{DRILLS}/{kind}"), kind
    assert bucket(lab.home).list_objects_v2(Bucket="synergyflow-backups", Prefix="postgres/full/")["KeyCount"] == 0


@pytest.mark.soak
def test_a_full_volume_stops_postgresql_until_there_is_room(origin: RunningLab) -> None:
    lab = origin
    lab.create(f"{CNPG}/{DRILLS}/clusters", copy(lab, "tight"))
    until(lambda: phase(lab, "tight") == HEALTHY)
    assert lab.get(f"{BATCH}/{DRILLS}/jobs")["items"] == [], "the Job is gone once all is well, and its log with it"
    (volume,) = lab.home.path("volumes").glob(f"{DRILLS}_tight-1_*")
    with (volume / "ballast").open("wb") as out:
        out.truncate(2**30)
    until(lambda: phase(lab, "tight") == NO_DISK)
    pod = lab.get(f"{CORE}/{DRILLS}/pods/tight-1")
    (status,) = [entry for entry in pod["status"]["containerStatuses"] if entry["name"] == "postgres"]
    assert status["lastState"]["terminated"]["exitCode"] == 4
    assert "Insufficient disk space detected" in cluster(lab, "tight")["status"]["phaseReason"]
    (volume / "ballast").unlink()
    until(lambda: phase(lab, "tight") == HEALTHY)
    login = {
        key: base64.b64decode(value).decode()
        for key, value in lab.get(f"{CORE}/{DRILLS}/secrets/copy-login")["data"].items()
    }
    pod = lab.get(f"{CORE}/{DRILLS}/pods/tight-1")
    assert lab.sql(login["username"], login["password"], "synergyflow", "SELECT 1", pod=pod) == [(1,)]
