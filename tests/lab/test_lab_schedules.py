"""ScheduledBackups: which Backups come when, by a clock that the test sets; and one that a real second hand drives."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from fix_lab import CNPG, RunningLab, until

from drillbook_lab.api import cnpg_registry
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.operator.context import Operator, Settings
from drillbook_lab.operator.scheduled_backup import ScheduledBackups

PLUGIN = "barman-cloud.cloudnative-pg.io"
Object = dict[str, Any]


class Wall:
    """A clock on the wall, and a controller that looks when told to."""

    def __init__(self, now: str = "2026-03-01T12:00:00") -> None:
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC)
        self.registry = cnpg_registry()
        settings = Settings(Path("/bin"), "18.0", clock=lambda: self.now)
        self.operator = Operator(self.registry, cast(Kubelet, None), settings)
        self._controller = ScheduledBackups(self.operator)

    def schedule(self, schedule: str, **spec: Any) -> Object:
        warnings: list[str] = []
        body: Object = {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "ScheduledBackup",
            "metadata": {"name": "nightly", "namespace": "default"},
            "spec": {
                "schedule": schedule,
                "cluster": {"name": "orders"},
                "method": "plugin",
                "pluginConfiguration": {"name": PLUGIN},
                **spec,
            },
        }
        body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
        return self.registry.create(body, warnings=warnings) | {"warned": warnings}

    def look(self, **later: float) -> float | None:
        """Move the hands on, and have a look."""
        self.now += timedelta(**later)
        return asyncio.run(self._controller.reconcile("default", "nightly"))

    def backups(self) -> list[str]:
        return sorted(backup["metadata"]["name"] for backup in self.registry.list("Backup", "default"))

    def finish(self, phase: str = "completed") -> None:
        for backup in self.registry.list("Backup", "default"):
            self.operator.set_status(backup, {"phase": phase})

    def status(self) -> Object:
        return self.registry.get("ScheduledBackup", "default", "nightly").get("status") or {}

    def change(self, **spec: Any) -> None:
        self.registry.patch("ScheduledBackup", "default", "nightly", {"spec": spec})

    def events(self) -> list[tuple[str, str]]:
        return [(event["reason"], event["message"]) for event in self.registry.list("Event", "default")]


def test_the_first_backup_waits_for_its_slot_and_is_named_for_it() -> None:
    wall = Wall()
    wall.schedule("0 0 2 * * *")
    assert wall.look() == 14 * 3600
    assert wall.status() == {"lastCheckTime": "2026-03-01T12:00:00Z"}
    assert wall.events() == [("BackupSchedule", "Scheduled first backup by 2026-03-02 02:00:00 +0000 UTC")]
    assert wall.look(hours=13, minutes=59) == 60
    assert wall.backups() == []
    assert wall.look(seconds=61.5) == 24 * 3600 - 1.5
    (backup,) = wall.registry.list("Backup", "default")
    assert backup["metadata"]["name"] == "nightly-20260302020000"
    assert backup["metadata"]["labels"] == {
        "cnpg.io/cluster": "orders",
        "cnpg.io/scheduled-backup": "nightly",
        "cnpg.io/immediateBackup": "false",
    }
    assert backup["spec"]["method"] == "plugin"
    assert backup["spec"]["pluginConfiguration"] == {"name": PLUGIN}
    assert "ownerReferences" not in backup["metadata"]
    assert wall.status() == {
        "lastCheckTime": "2026-03-02T02:00:01Z",
        "lastScheduleTime": "2026-03-02T02:00:00Z",
        "nextScheduleTime": "2026-03-03T02:00:00Z",
    }
    assert ("BackupSchedule", "Next backup scheduled by 2026-03-03 02:00:00 +0000 UTC") in wall.events()


def test_five_fields_are_taken_with_a_warning_and_mean_every_hour() -> None:
    wall = Wall()
    assert "usually six arguments are needed" in wall.schedule("0 2 * * *")["warned"][0]
    for _ in range(4):
        wait = wall.look()
        assert wait is not None
        wall.look(seconds=wait)
        wall.finish()
    names = [f"nightly-202603011{hour}0200" for hour in (2, 3, 4, 5)]
    assert wall.backups() == names


def test_an_immediate_one_runs_now_and_once() -> None:
    wall = Wall()
    wall.schedule("0 0 2 * * *", immediate=True)
    wall.look()
    assert wall.backups() == ["nightly-20260301120000"]
    (backup,) = wall.registry.list("Backup", "default")
    assert backup["metadata"]["labels"]["cnpg.io/immediateBackup"] == "true"
    assert wall.status()["nextScheduleTime"] == "2026-03-02T02:00:00Z"
    wall.finish()
    wall.look(hours=1)
    assert len(wall.backups()) == 1


def test_after_a_downtime_or_a_suspension_one_missed_slot_is_made_up_for() -> None:
    wall = Wall()
    wall.schedule("0 0 * * * *")
    wall.look()
    wall.look(hours=5, minutes=30)
    assert wall.backups() == ["nightly-20260301130000"]
    assert wall.status()["nextScheduleTime"] == "2026-03-01T18:00:00Z"
    wall.finish()
    wall.change(suspend=True)
    assert wall.look(hours=10) is None
    assert len(wall.backups()) == 1
    wall.change(suspend=False)
    wall.look()
    wall.finish()
    wall.look()
    assert wall.backups() == ["nightly-20260301130000", "nightly-20260301180000"]


@pytest.mark.parametrize("phase", ["", "pending", "started", "running", "walArchivingFailing"])
def test_no_new_one_while_a_child_has_not_ended(phase: str) -> None:
    wall = Wall()
    wall.schedule("*/30 * * * * *")
    wall.look()
    wall.look(seconds=30)
    wall.finish(phase)
    assert wall.look(seconds=300) == 60.0
    assert len(wall.backups()) == 1
    wall.finish("failed")
    wall.look()
    assert wall.backups() == ["nightly-20260301120030", "nightly-20260301120100"]


def test_a_backup_of_its_schedules_own_goes_with_it() -> None:
    wall = Wall()
    wall.schedule("@every 1h", backupOwnerReference="self")
    assert wall.look() == 3600
    wall.look(hours=1)
    (backup,) = wall.registry.list("Backup", "default")
    (owner,) = backup["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ScheduledBackup", "nightly")
    wall.registry.delete("ScheduledBackup", "default", "nightly")
    assert wall.backups() == [], "an owned Backup goes with its schedule"


def test_a_schedule_can_be_changed_and_the_cluster_not() -> None:
    wall = Wall()
    wall.schedule("0 0 2 * * *")
    wall.look()
    wall.change(schedule="0 30 12 * * *")
    assert wall.look() == 1800


def test_a_method_that_cant_be_is_told_by_an_event_only() -> None:
    wall = Wall()
    wall.schedule("@hourly", pluginConfiguration=None)
    wall.look()
    wall.look(hours=1)
    assert wall.backups() == []
    assert "BackupCreation" in [reason for reason, _ in wall.events()]
    assert "error" not in wall.status()


@pytest.mark.soak
def test_a_backup_for_a_cluster_of_the_past_waits_for_one_of_that_name(lab: RunningLab) -> None:
    """With a real clock: a second hand every two seconds, for a Cluster that isn't there."""
    path = f"{CNPG}/cnpg-system"
    body = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ScheduledBackup",
        "metadata": {"name": "ghost"},
        "spec": {
            "schedule": "*/2 * * * * *",
            "cluster": {"name": "gone"},
            "method": "plugin",
            "pluginConfiguration": {"name": PLUGIN},
        },
    }
    lab.create(f"{path}/scheduledbackups", body)
    children = f"{path}/backups?labelSelector=cnpg.io/scheduled-backup=ghost"
    (waiting,) = until(lambda: lab.get(children)["items"])
    name = waiting["metadata"]["name"]
    until(lambda: (lab.get(f"{path}/backups/{name}").get("status") or {}).get("phase") == "pending")
    slot = lab.get(f"{path}/scheduledbackups/ghost")["status"]["lastScheduleTime"]
    assert name == "ghost-" + slot.replace("-", "").replace(":", "").replace("T", "").rstrip("Z")
    lab.delete(f"{path}/scheduledbackups/ghost")
    cluster = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "gone"},
        "spec": {
            "instances": 1,
            "storage": {"size": "1Gi"},
            "plugins": [
                {
                    "name": PLUGIN,
                    "isWALArchiver": True,
                    "parameters": {"barmanObjectName": "shared-postgres-store", "serverName": "shared-postgres-gone"},
                }
            ],
        },
    }
    lab.create(f"{path}/clusters", cluster)
    until(lambda: (lab.get(f"{path}/backups/{name}").get("status") or {}).get("phase") == "completed")
    assert "shared-postgres-gone" in _windows(lab)
    lab.delete(f"{path}/clusters/gone")
    until(lambda: lab.find("/api/v1/namespaces/cnpg-system/persistentvolumeclaims/gone-1") is None)
    assert lab.get(f"{path}/backups/{name}")["status"]["phase"] == "completed", "a Backup outlives its Cluster"
    lab.delete(f"{path}/backups/{name}")


def _windows(lab: RunningLab) -> Object:
    store = lab.get("/apis/barmancloud.cnpg.io/v1/namespaces/cnpg-system/objectstores/shared-postgres-store")
    found: Object = store["status"]["serverRecoveryWindow"]
    return found
