"""Recoveries that hang or fail for a cause that the test has made: each is named; what is well is nobody's problem here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook import kube as k8s
from drillbook.manifests.recovery import RUN_LABEL
from drillbook_lab.faults.store import Bucket, bucket
from drillbook_lab.home import LabHome
from drillbook_lab.view import Client

NOTEBOOK = ROOT / "runbooks" / "troubleshoot-recovery-slow.ipynb"
PLUGIN = "barman-cloud.cloudnative-pg.io"
KEYS = {"accessKeyId": "AWS_ACCESS_KEY_ID", "secretAccessKey": "AWS_SECRET_ACCESS_KEY"}
NAME = "t17-recovery"


class Recovery:
    """A recovery cluster as a run makes one, with whatever the test wants to be wrong."""

    def __init__(self, lab: DrillLab) -> None:
        self.lab, self.space = lab, lab.site.drill_namespace
        self.made: list[tuple[k8s.Kind, dict[str, Any]]] = []

    def create(self, kind: k8s.Kind, name: str, body: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": self.space, "labels": {RUN_LABEL: "t17"}}
        made = self.lab.admin.create({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata} | body)
        self.made.append((kind, made))
        return made

    def begin(self, target: dict[str, Any] | None = None, size: str = "1Gi", class_: str = "", **store: Any) -> None:
        """ObjectStore (``store`` changes its configuration; ``missing``: without it) and Cluster."""
        if not store.pop("missing", False):
            self.create(k8s.OBJECT_STORE, "t17-store", {"spec": {"configuration": self.configuration() | store}})
        parameters = {"barmanObjectName": "t17-store", "serverName": self.lab.site.cluster.name}
        storage = {"size": size} | ({"storageClass": class_} if class_ else {})
        spec = {
            "instances": 1,
            "storage": storage,
            "bootstrap": {"recovery": {"source": "origin", "recoveryTarget": target or {"targetTLI": "latest"}}},
            "externalClusters": [{"name": "origin", "plugin": {"name": PLUGIN, "parameters": parameters}}],
        }
        self.create(k8s.CLUSTER, NAME, {"spec": spec})

    def configuration(self) -> dict[str, Any]:
        (store,) = self.lab.admin.list(k8s.OBJECT_STORE, self.lab.site.cluster.namespace)
        found = dict(store["spec"]["configuration"])
        found["s3Credentials"] = {
            field: {"name": "drillbook-archive-reader", "key": key} for field, key in KEYS.items()
        }
        return found

    @property
    def phase(self) -> str:
        found = self.lab.admin.get(k8s.CLUSTER, self.space, NAME) or {}
        return str((found.get("status") or {}).get("phase", ""))

    @property
    def job(self) -> dict[str, Any]:
        return self.lab.admin.get(k8s.JOB, self.space, f"{NAME}-1-full-recovery") or {}

    def failed(self) -> None:
        until(lambda: (self.job.get("status") or {}).get("failed"), "an attempt has failed")

    def pods(self) -> list[dict[str, Any]]:
        return self.lab.admin.list(k8s.POD, self.space, labels=f"job-name={NAME}-1-full-recovery")

    def log(self) -> str:
        return "".join(
            self.lab.admin.log(self.space, pod["metadata"]["name"], "full-recovery") for pod in self.running()
        )

    def running(self) -> list[dict[str, Any]]:
        return [pod for pod in self.pods() if pod["status"].get("phase") == "Running"]

    def remove(self) -> None:
        for kind, made in reversed(self.made):
            self.lab.admin.delete(kind, self.space, made["metadata"]["name"], uid=made["metadata"]["uid"])
        until(lambda: self.lab.left() == [], "the recovery is gone, with its volume")


@pytest.fixture
def recovery(drill_lab: DrillLab) -> Iterator[Recovery]:
    made = Recovery(drill_lab)
    yield made
    made.remove()


def answer(run: Drill) -> str:
    assert run.verdict == "VERIFIED", run.said
    return str(run.record["facts"]["answer"])


def broken(run: Drill) -> list[str]:
    return [name.removeprefix("cause: ") for name, verdict in run.verdicts("cause: ").items() if verdict == "FAILED"]


@pytest.mark.long
def test_i17_a_recovery_from_a_backup_that_is_not_there_is_explained_and_none_at_all_is_no_problem(
    drill_lab: DrillLab, recovery: Recovery
) -> None:
    none = drill_lab.run(NOTEBOOK)
    assert answer(none).startswith("NOT YOUR PROBLEM: no run of Drillbook has a recovery cluster here")
    recovery.begin({"backupID": "20200101T000000"})
    recovery.failed()
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("NO BASE BACKUP FITS. ") and "20200101T000000" in answer(run)
    assert broken(run) == ["backup in the catalogue", "attempts"]
    assert run.check("symptom")["verdict"] == "VERIFIED" and run.check("after the fix")["verdict"] == "UNPROVEN"


@pytest.mark.soak
def test_i17_a_recovery_that_is_well_is_not_the_problem(drill_lab: DrillLab, recovery: Recovery) -> None:
    recovery.begin()
    until(lambda: recovery.job, "the recovery has begun")
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("NOT YOUR PROBLEM: it is under way since "), run.said
    until(lambda: recovery.phase == "Cluster in healthy state", "it is healthy")
    run = drill_lab.run(NOTEBOOK, recovery_cluster=NAME)
    assert answer(run).endswith("is healthy, its recovery is finished.")
    assert broken(run) == []


@pytest.mark.soak
def test_i17_a_key_that_is_refused_is_named_and_the_fix_that_is_printed_works(
    drill_lab: DrillLab, recovery: Recovery
) -> None:
    wrong = {"stringData": {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}}
    recovery.create(k8s.SECRET, "t17-key", wrong)
    recovery.begin(s3Credentials={field: {"name": "t17-key", "key": key} for field, key in KEYS.items()})
    recovery.failed()
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE OBJECT STORE REFUSES THE RECOVERY'S KEY. "), run.said
    right = drill_lab.admin.secret(recovery.space, "drillbook-archive-reader")
    drill_lab.admin.patch(k8s.SECRET, recovery.space, "t17-key", {"stringData": right})
    fix = f"kubectl delete job -n {recovery.space} {NAME}-1-full-recovery"
    assert any(fix in str(event["result"]) for event in run.of("step_finished")), "the command is printed"
    job = recovery.job
    drill_lab.admin.delete(k8s.JOB, recovery.space, job["metadata"]["name"], uid=job["metadata"]["uid"])
    until(lambda: recovery.phase == "Cluster in healthy state", "the recovery has ended after the fix")
    assert answer(drill_lab.run(NOTEBOOK)).startswith("NOT YOUR PROBLEM")


@pytest.mark.soak
@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"endpointURL": "http://127.0.0.1:9"}, "THE OBJECT STORE CAN'T BE REACHED FROM THE RECOVERY"),
        ({"destinationPath": "s3://synergyflow-backups/postgres/elsewhere"}, "NO BASE BACKUP FITS"),
        (
            {"s3Credentials": {f: {"name": "t17-none", "key": k} for f, k in KEYS.items()}},
            "THE SECRET WITH THE STORE'S KEY",
        ),
        ({"size": "24Mi"}, "THE VOLUME IS FULL"),
        (
            {"target": {"targetTime": (datetime.now(UTC) + timedelta(days=1)).isoformat()}},
            "THE ARCHIVE DOES NOT REACH THE TARGET",
        ),
    ],
    ids=["address", "path", "secret", "volume", "target"],
)
def test_i17_an_attempt_that_fails_is_explained(
    drill_lab: DrillLab, recovery: Recovery, wrong: dict[str, Any], name: str
) -> None:
    recovery.begin(**wrong)
    recovery.failed()
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith(name), run.said


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("wal-removed", "A WAL SEGMENT IS MISSING"),
        ("backup-torn", "THE BASE BACKUP IS DAMAGED"),
        ("backup-cold", "THE BASE BACKUP IS IN A COLD STORAGE CLASS"),
        ("wal-begin-removed", "THE WAL IN WHICH THE BASE BACKUP BEGINS IS MISSING"),
        ("plugin-missing", ""),
    ],
)
def test_i17_damage_in_the_archive_is_what_a_failing_recovery_is_explained_by(
    drill_lab: DrillLab, recovery: Recovery, fault: str, name: str
) -> None:
    drill_lab.back_up()
    drill_lab.archive_segments(6)
    later = drill_lab.sql("postgres", "select pg_switch_wal()")
    with drill_lab.fault(fault):
        recovery.begin({"targetLSN": later} if fault == "wal-removed" else None)
        if not name:  # the source's trouble is not the recovery's
            until(lambda: recovery.job, "the recovery has begun")
            assert answer(drill_lab.run(NOTEBOOK)).startswith("NOT YOUR PROBLEM")
            return
        recovery.failed()
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith(name), run.said


@pytest.mark.soak
def test_i17_a_base_backup_that_is_back_from_the_archive_class_is_recovered(
    drill_lab: DrillLab, recovery: Recovery
) -> None:
    drill_lab.back_up()
    with drill_lab.fault("backup-cold"):
        recovery.begin()
        recovery.failed()
        run = drill_lab.run(NOTEBOOK)
        assert answer(run).startswith("THE BASE BACKUP IS IN A COLD STORAGE CLASS. "), run.said
        store = bucket(LabHome(drill_lab.home))
        wanted = {"Days": 1, "GlacierJobParameters": {"Tier": "Expedited"}}
        cold = [key for key in store.keys("base/") if storage_class(store, key) == "GLACIER"]
        for key in cold:
            store.client.restore_object(Bucket=store.name, Key=key, RestoreRequest=wanted)
        is_back = 'ongoing-request="false"'
        until(lambda: is_back in store.client.head_object(Bucket=store.name, Key=cold[-1])["Restore"], "it is back")
        job = recovery.job
        drill_lab.admin.delete(k8s.JOB, recovery.space, job["metadata"]["name"], uid=job["metadata"]["uid"])
        until(lambda: recovery.phase == "Cluster in healthy state", "the recovery has ended after the fix")


def storage_class(store: Bucket, key: str) -> str:
    return str(store.client.head_object(Bucket=store.name, Key=key).get("StorageClass", "STANDARD"))


@pytest.mark.soak
def test_i17_an_object_store_that_is_not_there_and_reconciliation_that_is_off(
    drill_lab: DrillLab, recovery: Recovery
) -> None:
    recovery.begin(missing=True)
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE OBJECTSTORE IS NOT THERE. "), run.said
    off = {"metadata": {"annotations": {"cnpg.io/reconciliationLoop": "disabled"}}}
    drill_lab.admin.patch(k8s.CLUSTER, recovery.space, NAME, off)
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("RECONCILIATION OF THE CLUSTER IS SWITCHED OFF. "), run.said
    assert broken(run) == ["reconciliation", "object store object"]


@pytest.mark.soak
def test_i17_a_storage_class_that_is_not_there(drill_lab: DrillLab, recovery: Recovery) -> None:
    recovery.begin(class_="no-such-class")
    claims = lambda: drill_lab.admin.list(k8s.PVC, recovery.space)  # noqa: E731
    until(claims, "the claim is there")
    events = lambda: drill_lab.admin.list(k8s.EVENT, recovery.space, fields="reason=ProvisioningFailed")  # noqa: E731
    until(events, "it is reported")
    run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE VOLUME IS NOT PROVISIONED. ") and "no-such-class" in answer(run), run.said


@pytest.mark.soak
def test_i17_a_quota_that_refuses_the_jobs_pod(drill_lab: DrillLab, recovery: Recovery) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "t17", "namespace": recovery.space}}
    with quota_of(drill_lab, quota | {"spec": {"hard": {"pods": "0"}}}):
        recovery.begin()
        until(lambda: recovery.job, "the Job is there")
        events = lambda: drill_lab.admin.list(k8s.EVENT, recovery.space, fields="reason=FailedCreate")  # noqa: E731
        until(events, "the refusal is reported")
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("A QUOTA OR POLICY OF THE NAMESPACE REFUSES IT. "), run.said
    until(recovery.pods, "the pod comes once the quota is gone")


@contextmanager
def quota_of(lab: DrillLab, quota: dict[str, Any]) -> Iterator[None]:
    client = Client(LabHome(lab.home))
    api = f"/api/v1/namespaces/{quota['metadata']['namespace']}/resourcequotas"
    client.post(api, quota)
    try:
        yield
    finally:
        client.delete(f"{api}/{quota['metadata']['name']}")


@pytest.mark.soak
def test_i17_a_replay_that_is_paused_or_slow_says_where_it_is(drill_lab: DrillLab, recovery: Recovery) -> None:
    drill_lab.back_up()
    drill_lab.archive_segments(90)
    with drill_lab.fault("store-slow"):
        begun = time.monotonic()
        recovery.begin(size="4Gi")  # 90 segments take more than the usual one
        until(lambda: recovery.running() and "restored log file" in recovery.log(), "replay moves")
        # Paused first: at the end of the minute there may be little left to pause.
        in_pod(drill_lab, recovery, "select pg_wal_replay_pause()")
        until(lambda: "recovery has paused" in recovery.log(), "it is paused")
        run = drill_lab.run(NOTEBOOK)
        assert answer(run).startswith("REPLAY IS PAUSED. "), run.said
        in_pod(drill_lab, recovery, "select pg_wal_replay_resume()")
        time.sleep(max(0.0, 61 - (time.monotonic() - begun)))
        run = drill_lab.run(NOTEBOOK, expected_minutes="1")
        assert answer(run).startswith("REPLAY IS SLOW, AND MOVES. "), run.said
        assert " left, " in answer(run) and "at this rate" in answer(run)


def in_pod(lab: DrillLab, recovery: Recovery, statement: str) -> None:
    """As its superuser, in the pod that recovers; it takes connections once it is consistent."""
    (pod,) = recovery.running()
    psql = ["psql", "-XAtq", "-U", "postgres", "-d", "postgres", "-c", statement]

    def done() -> bool:
        return (
            lab.admin.exec(recovery.space, pod["metadata"]["name"], "full-recovery", psql, timeout_seconds=30).exit_code
            == 0
        )

    until(done, f"it takes {statement}")
