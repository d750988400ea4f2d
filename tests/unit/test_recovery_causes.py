"""The cause of a recovery that hangs, fails or is slow: each alone, the one that hides others, and none where all is well."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drillbook.postgres.recovery_log import RecoveryLog, asked_in_vain, sidecar_cause
from drillbook.steps.troubleshoot.answer import name_cause
from drillbook.steps.troubleshoot.recovery_causes import Progress, RecoverySeen, checked, symptoms

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
SETTING_UP = "Setting up primary"
HEALTHY = "Cluster in healthy state"
UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"
RPC = "rpc error: code = Unknown desc = "


def at(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def cluster(phase: str = SETTING_UP, minutes: float = 5, reason: str = "", **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "c", "namespace": "drills", "creationTimestamp": at(minutes), "annotations": annotations},
        "spec": {},
        "status": {"phase": phase, "phaseReason": reason},
    }


def job(failed: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": "c-1-full-recovery"}, "status": {"failed": failed}}


def pod(
    phase: str = "Pending", minutes: float = 3, reason: str = "", message: str = "", unschedulable: str = ""
) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase}
    if reason:
        status["containerStatuses"] = [{"state": {"waiting": {"reason": reason, "message": message}}}]
    if unschedulable:
        status["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable}
        ]
    return {"metadata": {"name": "c-1-full-recovery-abcde", "creationTimestamp": at(minutes)}, "status": status}


def claim(minutes: float = 3, class_: str = "fast") -> dict[str, Any]:
    return {
        "metadata": {"name": "c-1", "creationTimestamp": at(minutes)},
        "spec": {"storageClassName": class_},
        "status": {"phase": "Pending"},
    }


def warning(kind: str, name: str, reason: str, message: str) -> dict[str, Any]:
    return {"involvedObject": {"kind": kind, "name": name}, "reason": reason, "message": message}


def seen(**changes: Any) -> RecoverySeen:
    known: dict[str, Any] = {"now": NOW, "cluster": cluster(), "job": job(), "expected": timedelta(minutes=10)}
    return RecoverySeen(**known | changes)


def failed(words: str, attempts: int = 1, **changes: Any) -> RecoverySeen:
    return seen(job=job(attempts), words=words, **changes)


def late(**changes: Any) -> RecoverySeen:
    return seen(cluster=cluster(minutes=20), **changes)


REPLAYING = Progress(
    doing="replaying WAL",
    begun=ago(15),
    server=True,
    segments=61,
    last_segment="000000010000000000000040",
    last_at=ago(0.1),
    seconds=600,
    left=120,
)
QUOTA = 'Error creating: pods "c-1-full-recovery-x" is forbidden: exceeded quota: drills, requested: pods=1, used: pods=5, limited: pods=5'
NO_CLASS = 'storageclass.storage.k8s.io "fast" not found'
GAP = REPLAYING.model_copy(update={"redo_done": True, "missing": "000000010000000000000041"})
ENDED = "recovery ended before configured recovery target was reached"
CONNECT = (
    'Barman cloud backup list exception: Could not connect to the endpoint URL: "http://minio:9000/"; exit status 4'
)
CAUSES: dict[str, tuple[RecoverySeen, str]] = {
    "reconciliation": (seen(cluster=cluster(**{"cnpg.io/reconciliationLoop": "disabled"})), "switched off"),
    "hibernated": (seen(cluster=cluster(**{"cnpg.io/hibernation": "on"})), "hibernated"),
    "definition": (seen(cluster=cluster("Invalid cluster definition", reason="spec.bootstrap: no")), "definition"),
    "plugin": (
        seen(cluster=cluster("Cluster cannot proceed to reconciliation due to an unknown plugin being required")),
        "a plugin is not there",
    ),
    "store": (seen(object_store="s", object_store_there=False, job=None), "the ObjectStore is not there"),
    "Backup": (seen(backup="Backup b: not found", job=None), "the Backup that is named"),
    "quota": (seen(events=(warning("Job", "c-1-full-recovery", "FailedCreate", QUOTA),)), "a quota"),
    "storage class": (
        seen(claims=(claim(0.1),), events=(warning("PersistentVolumeClaim", "c-1", "ProvisioningFailed", NO_CLASS),)),
        "the volume is not provisioned",
    ),
    "a claim without a word": (seen(claims=(claim(3),)), "the volume is not provisioned"),
    "node": (
        seen(pods=(pod(unschedulable="0/3 nodes are available: 3 Insufficient memory."),)),
        "no node takes the pod",
    ),
    "image": (
        seen(pods=(pod(reason="ImagePullBackOff", message="Back-off pulling image"),)),
        "the image can't be pulled",
    ),
    "mount": (
        seen(pods=(pod(),), events=(warning("Pod", "c-1-full-recovery-abcde", "FailedMount", "volume in use"),)),
        "the pod can't start",
    ),
    "configuration": (
        seen(pods=(pod(reason="CreateContainerConfigError", message='secret "x" not found'),)),
        "the pod can't start",
    ),
    "disk, by phase": (seen(cluster=cluster("Not enough disk space")), "the volume is full"),
    "disk, by barman": (failed("OSError: [Errno 28] No space left on device", 3), "the volume is full"),
    "Secret": (failed(RPC + 'while getting secret creds: secrets "creds" not found'), "the Secret"),
    "entry": (failed(RPC + "missing key NO_SUCH_KEY, inside secret s3-creds"), "the Secret"),
    "folder": (failed("WAL archive check failed for server o: Expected empty archive"), "a folder that is in use"),
    "bucket": (failed("An error occurred (NoSuchBucket) when calling the ListObjectsV2 operation"), "the bucket"),
    "cold": (
        failed("Barman cloud restore exception: An error occurred (InvalidObjectState) when calling GetObject"),
        "cold storage class",
    ),
    "key": (failed("Barman cloud backup list exception: An error occurred (InvalidAccessKeyId)"), "refuses"),
    "address": (failed(CONNECT), "can't be reached"),
    "backup id": (failed(RPC + "no backup found with ID 20200101T000000"), "no base backup fits"),
    "no backup": (failed(RPC + "no target backup found"), "no base backup fits"),
    "first WAL": (
        failed("encountered an error while checking the presence of first needed WAL in the archive"),
        "the WAL in which",
    ),
    "damaged": (failed("Barman cloud restore exception: unexpected end of data"), "the base backup is damaged"),
    "gap": (failed(ENDED, progress=GAP), "a WAL segment is missing"),
    "target": (failed(ENDED), "does not reach the target"),
    "too early": (failed("requested recovery stop point is before consistent recovery point"), "does not reach"),
    "settings": (failed("recovery aborted because of insufficient parameter settings"), "smaller than the source's"),
    "again": (failed("the moon is full", 3), "again and again"),
    "given up": (seen(cluster=cluster(UNRECOVERABLE), job=None), "again and again"),
    "not begun": (late(job=None), "the operator has not begun"),
    "paused": (seen(progress=REPLAYING.model_copy(update={"paused": "recovery has paused"})), "replay is paused"),
    "paused for settings": (
        seen(
            progress=REPLAYING.model_copy(
                update={"paused": "hot standby is not possible because of insufficient parameter settings"}
            )
        ),
        "replay waits: settings",
    ),
    "fetch": (late(progress=Progress(doing="fetching", begun=ago(18))), "still being fetched"),
    "stands still": (late(progress=REPLAYING.model_copy(update={"last_at": ago(9)})), "replay stands still"),
    "slow": (late(progress=REPLAYING), "replay is slow, and moves"),
    "promotion": (
        late(progress=REPLAYING.model_copy(update={"redo_done": True, "doing": "promoting"})),
        "replay has ended",
    ),
    "replica": (seen(cluster=cluster("Creating a new replica", 20)), "a replica is being made"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_i17_each_cause_of_a_recovery_is_named_with_evidence_and_fix(case: str) -> None:
    state, name = CAUSES[case]
    found = [cause for _, cause in checked(state) if cause]
    assert found and name in found[0].name, found
    assert found[0].seen and found[0].fix and symptoms(state)


def test_i17_a_recovery_that_is_merely_slow_says_how_much_is_left_and_how_long_that_takes() -> None:
    (cause,) = [cause for _, cause in checked(late(progress=REPLAYING)) if cause]
    assert "0.1 a second; at most 120 left, 20 min at this rate" in cause.seen


def test_i17_a_recovery_within_its_forecast_or_finished_is_not_the_problem() -> None:
    for state in (
        seen(),
        seen(progress=REPLAYING),
        seen(claims=(claim(0.1),), pods=(pod(minutes=0.1, unschedulable="0/3 nodes are available"),)),
        seen(cluster=cluster(HEALTHY, 2000), words="Forbidden", job=job(2)),
        # A quota that refused it once, before the pod that runs now.
        seen(pods=(pod("Running"),), events=(warning("Job", "c-1-full-recovery", "FailedCreate", QUOTA),)),
    ):
        assert symptoms(state) == [] and not [cause for _, cause in checked(state) if cause]
    assert name_cause([], [], well="it is").answer == "NOT YOUR PROBLEM: it is."


def test_i17_one_that_is_broken_higher_up_hides_what_is_below_it() -> None:
    state = failed(CONNECT, object_store="s", object_store_there=False)
    assert [name for name, cause in checked(state) if cause] == ["object store object", "address", "attempts"]


RECORDED = {
    "05-unreachable/late": "the archive does not reach the target",
    "06-gap/gaptarget": "the archive does not reach the target",  # alone; a gap is known from the archive's listing
    "07-broken/cut": "the base backup is damaged",
    "07-broken/nosecret": "the Secret",
    "07-broken/wrongkey": "the Secret",
    "07-broken/nobucket": "the bucket is not there",
    "07-broken/s3down": "can't be reached",
    "08-used/used": "a folder that is in use",
    "02-backup/frombackup": "the Secret",
}


@pytest.mark.parametrize("case", RECORDED)
def test_i17_what_the_real_operator_said_is_explained(case: str) -> None:
    folder = Path(os.environ.get("DRILLBOOK_RECORDINGS", ""))
    if not (folder / "07-broken").is_dir():
        pytest.skip("DRILLBOOK_RECORDINGS names no folder with recordings of the real operator")
    own = sorted((folder / case).parent.glob(f"logs/{Path(case).name}-1-full-recovery-*.full-recovery.log"))
    assert own
    log = RecoveryLog()
    for text in own[-1].read_text().split("\n"):
        log.feed(text)
    sidecar = own[-1].with_name(own[-1].name.replace(".full-recovery.log", ".plugin-barman-cloud.log"))
    said = sidecar_cause(sidecar.read_text()) if sidecar.exists() else ""
    found = [cause for _, cause in checked(failed("; ".join(filter(None, (said, log.cause))))) if cause]
    assert RECORDED[case] in found[0].name, found


def line(message: str, second: int, severity: str = "LOG") -> str:
    record = {"error_severity": severity, "message": message}
    return json.dumps({"ts": f"2026-11-02T11:00:{second:02}Z", "logger": "postgres", "msg": "record", "record": record})


def test_i17_the_log_says_how_fast_replay_moves_and_whether_it_is_paused() -> None:
    log = RecoveryLog()
    for second in (1, 5):
        log.feed(line(f'restored log file "00000001000000000000000{second}" from archive', second))
    assert log.first_segment_at and log.last_segment_at
    assert (log.last_segment_at - log.first_segment_at).total_seconds() == 4
    log.feed(line("hot standby is not possible because of insufficient parameter settings", 6, "WARNING"))
    log.feed(line("recovery has paused", 7))
    assert "insufficient" in log.paused
    log.feed(line('restored log file "000000010000000000000006" from archive', 8))
    assert log.paused == ""


def test_i17_a_segment_that_was_asked_for_in_vain_is_known_from_the_sidecars_log() -> None:
    def barman(name: str) -> str:
        words = f"2026-11-28 02:57:29,493 [32] ERROR: WAL file {name} for server orders does not exist"
        return json.dumps({"level": "info", "msg": words, "pipe": "stderr"})

    text = "\n".join(
        [barman("00000002.history"), barman("00000001000000000000000D"), barman("00000002.history"), "torn {"]
    )
    assert asked_in_vain(text) == "00000001000000000000000D"
    assert asked_in_vain(barman("00000002.history")) == ""
