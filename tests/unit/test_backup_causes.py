"""The cause of failing backups from what CloudNativePG, the plugin and barman say: each alone, and the one that hides others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drillbook.steps.troubleshoot.backup_causes import Seen, checked, symptoms

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


def at(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


def backup(name: str, phase: str, hours: float, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": at(hours)},
        "spec": {"cluster": {"name": "c"}},
        "status": {"phase": phase, "startedAt": at(hours), "stoppedAt": at(hours) if phase == "completed" else None}
        | status,
    }


def cluster(phase: str = "Cluster in healthy state", archiving: str = "", **annotations: str) -> dict[str, Any]:
    condition = {
        "type": "ContinuousArchiving",
        "status": "False" if archiving else "True",
        "message": archiving or "Continuous archiving is working",
    }
    return {
        "metadata": {"name": "c", "annotations": annotations},
        "spec": {"plugins": [{"name": "barman-cloud.cloudnative-pg.io"}]},
        "status": {"phase": phase, "conditions": [condition], "currentPrimary": "c-1"},
    }


def seen(**changes: Any) -> Seen:
    known: dict[str, Any] = {
        "now": NOW,
        "cluster": cluster(),
        "backups": (backup("old", "completed", 5),),
        "schedules": ({"metadata": {"name": "daily"}, "spec": {"schedule": "0 0 2 * * *", "cluster": {"name": "c"}}},),
        "object_store": "store",
        "object_store_there": True,
    }
    return Seen(**known | changes)


EXIT = "rpc error: code = Unknown desc = unexpected failure invoking barman-cloud-wal-archive: exit status 1"
CAUSES: dict[str, tuple[Seen, str]] = {
    "hibernated": (seen(cluster=cluster(**{"cnpg.io/hibernation": "on"})), "hibernated"),
    "plugin": (
        seen(cluster=cluster("Cluster cannot proceed to reconciliation due to an unknown plugin being required")),
        "a plugin is not there",
    ),
    "store": (seen(object_store_there=False), "the ObjectStore is not there"),
    "disk": (seen(cluster=cluster("Not enough disk space")), "the volume is full"),
    "disk, by barman": (
        seen(cluster=cluster(archiving=EXIT), words="OSError: [Errno 28] No space left on device"),
        "the volume is full",
    ),
    "method": (
        seen(
            backups=(
                backup("b", "failed", 1, error="cannot proceed with the backup as the cluster has no backup section"),
            )
        ),
        "the Backup's method is not the Cluster's",
    ),
    "folder": (
        seen(
            cluster=cluster(archiving=EXIT), words="WAL archive check failed for server orders: Expected empty archive"
        ),
        "another cluster's WAL",
    ),
    "programs": (
        seen(cluster=cluster(archiving='exec: "barman-cloud-check-wal-archive": executable file not found in $PATH')),
        "no barman-cloud programs",
    ),
    "bucket": (
        seen(cluster=cluster(archiving=EXIT), words="An error occurred (NoSuchBucket) when calling ListObjectsV2"),
        "the bucket",
    ),
    "key": (
        seen(cluster=cluster(archiving=EXIT), words="An error occurred (403) when calling HeadBucket: Forbidden"),
        "refuses",
    ),
    "expired": (
        seen(cluster=cluster(archiving=EXIT), words="botocore: (ExpiredToken) The provided token has expired"),
        "refuses",
    ),
    "address": (
        seen(cluster=cluster(archiving=EXIT), words='Could not connect to the endpoint URL: "http://minio:9000/"'),
        "can't be reached",
    ),
    "address, by the Backup": (
        seen(
            backups=(backup("old", "completed", 5), backup("b", "failed", 1, error="dial tcp: lookup s3: no such host"))
        ),
        "can't be reached",
    ),
    "archiving": (seen(cluster=cluster(archiving=EXIT)), "WAL archiving fails"),
    "waits for WAL": (
        seen(
            cluster=cluster(archiving=EXIT),
            backups=(backup("old", "completed", 5), backup("b", "walArchivingFailing", 2), backup("n", "pending", 1)),
        ),
        "WAL archiving fails",
    ),
    "queue": (
        seen(backups=(backup("old", "completed", 5), backup("b", "walArchivingFailing", 2), backup("n", "pending", 1))),
        "blocks those after it",
    ),
    "suspended": (
        seen(
            schedules=(
                {
                    "metadata": {"name": "daily"},
                    "spec": {"schedule": "0 0 2 * * *", "suspend": True, "cluster": {"name": "c"}},
                },
            )
        ),
        "the schedule makes none",
    ),
    "five fields": (
        seen(schedules=({"metadata": {"name": "daily"}, "spec": {"schedule": "0 2 * * *", "cluster": {"name": "c"}}},)),
        "the schedule makes none",
    ),
    "no schedule": (seen(schedules=()), "nothing schedules backups"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_i17_each_cause_is_named_with_its_evidence_and_its_fix(case: str) -> None:
    state, name = CAUSES[case]
    found = [cause for _, cause in checked(state) if cause]
    assert found and name in found[0].name, found
    assert found[0].seen and found[0].fix and symptoms(state)


@pytest.mark.parametrize("case", CAUSES)
def test_c17_a_command_names_the_namespace(case: str) -> None:
    state, _ = CAUSES[case]
    known = state.model_copy(
        update={"cluster": state.cluster | {"metadata": state.cluster["metadata"] | {"namespace": "db"}}}
    )
    for fix in (cause.fix for _, cause in checked(known) if cause):
        assert "kubectl" not in fix or " -n db" in fix, fix


def test_i17_only_what_is_one_change_of_one_object_can_be_fixed_by_a_run() -> None:
    found = [next(cause for _, cause in checked(state) if cause) for state, _ in CAUSES.values()]
    merges = [cause.patch.merge for cause in found if cause.patch]
    assert {"metadata": {"annotations": {"cnpg.io/hibernation": "off"}}} in merges
    assert {"spec": {"suspend": False}} in merges and len(merges) == 2, "when backups are to be made is a decision"


def test_i17_nothing_is_found_where_nothing_is_wrong() -> None:
    assert symptoms(seen()) == [] and not [cause for _, cause in checked(seen()) if cause]
    again = seen(
        backups=(backup("b", "failed", 9, error="the cluster has no backup section"), backup("old", "completed", 5))
    )
    assert not [cause for _, cause in checked(again) if cause]
    # What failed once and is over is no cause: a newer Backup has completed.
    past = seen(backups=(backup("b", "failed", 9, error="Forbidden"), backup("old", "completed", 5)))
    assert symptoms(past) == [] and not [cause for _, cause in checked(past) if cause]


def test_i17_a_backup_that_is_merely_under_way_is_not_stuck() -> None:
    under_way = seen(backups=(backup("old", "completed", 5), backup("b", "started", 0.05)))
    assert symptoms(under_way) == []
    assert symptoms(seen(backups=(backup("old", "completed", 30),))) == ["the newest Backup completed 1 d 6 h ago"]


def test_i17_what_can_not_be_explained_is_said_to_be_so() -> None:
    strange = seen(backups=(backup("old", "completed", 5), backup("b", "failed", 1, error="the moon is full")))
    assert symptoms(strange) == ["Backup b failed: the moon is full"]
    assert not [cause for _, cause in checked(strange) if cause]
