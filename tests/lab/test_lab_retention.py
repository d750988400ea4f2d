"""Retention with the plugin: a timer that lets barman remove, then prunes Backup objects and refreshes the window."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fix_bucket import Bucket
from fix_lab import BARMAN, CNPG, RunningLab, until

from drillbook_lab.agent.retention import barman_policy, window

NS = "cnpg-system"
STORE = f"{BARMAN}/{NS}/objectstores/shared-postgres-store"


def done_backup(lab: RunningLab, name: str, backup_id: str, cluster_uid: str) -> str:
    """A real Backup whose status then names another backup or Cluster; where its WAL begins."""
    path = f"{CNPG}/{NS}/backups"
    spec = {
        "cluster": {"name": "shared-postgres"},
        "method": "plugin",
        "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
    }
    body = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": {"name": name}, "spec": spec}
    lab.create(path, body)
    until(lambda: (lab.get(f"{path}/{name}").get("status") or {}).get("phase") == "completed")
    status = {"backupId": backup_id, "pluginMetadata": {"clusterUID": cluster_uid}}
    return str(lab.patch(f"{path}/{name}/status", {"status": status})["status"]["beginWal"])


@pytest.mark.soak
def test_what_the_policy_lets_go_goes_with_its_objects_and_nothing_else_does(lab: RunningLab) -> None:
    bucket = Bucket(lab)
    (first, *_) = bucket.backups("shared-postgres")
    old = bucket.antedate("shared-postgres", first, datetime(2020, 1, 1, tzinfo=UTC))
    kept = bucket.antedate("shared-postgres", first, datetime(2020, 1, 2, tzinfo=UTC))
    bucket.antedate("shared-postgres", first, datetime(2020, 1, 1, tzinfo=UTC), into="shared-postgres-too")
    bucket.antedate("shared-postgres", first, datetime(2020, 1, 2, tzinfo=UTC), into="shared-postgres-too")
    uid = lab.source()["metadata"]["uid"]
    done_backup(lab, "expired", old, uid)
    done_backup(lab, "of-an-earlier-cluster", old, "another-uid")
    told = [backup["status"] for backup in lab.get(f"{CNPG}/{NS}/backups")["items"]]
    (begin,) = [status["beginWal"] for status in told if status["backupId"] == first]

    lab.patch(STORE, {"spec": {"instanceSidecarConfiguration": {"retentionPolicyIntervalSeconds": 1}}})

    backups = f"{CNPG}/{NS}/backups"
    until(lambda: lab.find(f"{backups}/expired") is None)
    assert old not in bucket.backups("shared-postgres")
    assert {first, kept} <= set(bucket.backups("shared-postgres")), "the newest outside the window opens it"
    assert bucket.backups("shared-postgres-too") == ["20200101T000000", "20200102T000000"]
    segments = {name.rpartition("/")[2][:24] for name in bucket.names("shared-postgres/wals/")}
    assert begin in segments, "the WAL of what is kept is kept"
    assert min(segments) >= begin, "older WAL goes with the backup that needed it"
    assert lab.find(f"{backups}/of-an-earlier-cluster") is not None
    named = [backup for backup in lab.get(backups)["items"] if backup["status"].get("backupId") == first]
    assert named, "the object of a backup that is there stays"
    until(lambda: _window(lab)["firstRecoverabilityPoint"] == "2020-01-02T00:00:00Z")

    # Without a policy nothing goes, and the window still follows the catalogue.
    lab.patch(STORE, {"spec": {"retentionPolicy": None}})
    bucket.antedate("shared-postgres", first, datetime(2019, 1, 1, tzinfo=UTC))
    until(lambda: _window(lab)["firstRecoverabilityPoint"] == "2019-01-01T00:00:00Z")
    lab.patch(STORE, {"spec": {"retentionPolicy": "30d"}})
    until(lambda: bucket.backups("shared-postgres")[0] == kept)
    lab.patch(STORE, {"spec": {"instanceSidecarConfiguration": None}})
    lab.delete(f"{backups}/of-an-earlier-cluster")


def _window(lab: RunningLab) -> dict[str, Any]:
    found: dict[str, Any] = lab.get(STORE)["status"]["serverRecoveryWindow"]["shared-postgres"]
    return found


def test_a_policy_in_barmans_words() -> None:
    assert [barman_policy(text) for text in ("30d", "4w", "3m")] == [
        "RECOVERY WINDOW OF 30 DAYS",
        "RECOVERY WINDOW OF 4 WEEKS",
        "RECOVERY WINDOW OF 3 MONTHS",
    ]


def test_an_empty_catalogue_opens_no_window() -> None:
    assert window({"backups_list": []}) == {
        "backupIds": [],
        "firstRecoverabilityPoint": None,
        "lastSuccessfulBackupTime": None,
    }
