"""CronJobs of the lab: which Jobs come when, by a clock that the test sets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from drillbook_lab.api import cnpg_registry
from drillbook_lab.api.errors import ApiError
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.operator.context import Operator, Settings, timestamp
from drillbook_lab.operator.cron_jobs import CronJobs, slots
from drillbook_lab.operator.jobs import Jobs

Object = dict[str, Any]
POD: Object = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x", "command": ["drillbook"]}]}


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-01T{text}").replace(tzinfo=UTC)


def printed(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def cron_job(schedule: str = "17 * * * *", last: str = "", **spec: Any) -> Object:
    found: Object = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "check", "namespace": "default", "creationTimestamp": printed(at("10:00:00"))},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": POD}}}, **spec},
    }
    return found | ({"status": {"lastScheduleTime": printed(at(last))}} if last else {})


@pytest.mark.parametrize(
    ("found", "now", "due", "following"),
    [
        (cron_job(), "10:16:59", None, "10:17:00"),
        (cron_job(), "10:17:00", "10:17:00", "11:17:00"),
        (cron_job(last="10:17:00"), "11:16:00", None, "11:17:00"),
        # Missed: one Job for all of them, for the newest.
        (cron_job(last="10:17:00"), "14:18:30", "14:17:00", "15:17:00"),
        (cron_job(last="10:17:00", startingDeadlineSeconds=1800), "14:46:59", "14:17:00", "15:17:00"),
        (cron_job(last="10:17:00", startingDeadlineSeconds=1800), "14:47:00", None, "15:17:00"),
        (cron_job("*/20 8-12 * * *"), "12:59:00", "12:40:00", None),
        (cron_job("@every 10m"), "10:25:00", "10:20:00", "10:30:00"),
        (cron_job("30 6 * * *", timeZone="America/New_York"), "11:30:00", "11:30:00", None),
        (cron_job("30 6 * * *", timeZone="America/New_York"), "11:29:00", None, "11:30:00"),
    ],
)
def test_i17_a_slot_is_due_from_its_time_to_its_deadline(
    found: Object, now: str, due: str | None, following: str | None
) -> None:
    known = slots(found, at(now))
    assert known.due == (at(due) if due else None)
    assert known.following is not None and known.following > at(now)
    assert following is None or known.following == at(following)


class Wall:
    """A clock on the wall, the two controllers, and the API server's part of a CronJob's life."""

    def __init__(self, **spec: Any) -> None:
        self.registry = cnpg_registry()
        made = self.registry.create(cron_job("* * * * *", **spec))
        self.begin = datetime.fromisoformat(made["metadata"]["creationTimestamp"]).replace(second=0)
        self.now = self.begin
        settings = Settings(Path("/bin"), "18.0", clock=lambda: self.now)
        self.operator = Operator(self.registry, cast(Kubelet, None), settings)
        self._cron_jobs, self._jobs = CronJobs(self.operator), Jobs(self.operator)

    def look(self, minutes: float) -> float | None:
        """Have a look so many minutes after the beginning, at the CronJob and then at its Jobs."""
        self.now = self.begin + timedelta(minutes=minutes)
        found = asyncio.run(self._cron_jobs.reconcile("default", "check"))
        for job in self.jobs():
            asyncio.run(self._jobs.reconcile("default", job))
        return found

    def jobs(self) -> list[str]:
        return sorted(job["metadata"]["name"] for job in self.registry.list("Job", "default"))

    def end(self, phase: str = "Succeeded") -> None:
        """Every pod that is at work ends."""
        for pod in self.registry.list("Pod", "default"):
            if pod["status"]["phase"] == "Pending":
                self.registry.patch(
                    "Pod", "default", pod["metadata"]["name"], {"status": {"phase": phase}}, subresource="status"
                )

    @property
    def status(self) -> Object:
        return self.registry.get("CronJob", "default", "check").get("status") or {}

    def slot(self, minutes: int) -> str:
        return f"check-{int(self.begin.timestamp()) // 60 + minutes}"

    def events(self) -> list[str]:
        return [event["reason"] for event in self.registry.list("Event", "default")]


def test_i17_each_slot_has_one_job_and_the_status_says_what_became_of_it() -> None:
    wall = Wall()
    assert wall.look(0.5) == 30 and wall.jobs() == []
    assert wall.look(1) == 60 and wall.jobs() == [wall.slot(1)]
    assert wall.look(1.2) == pytest.approx(48) and wall.jobs() == [wall.slot(1)], "once"
    (job,) = wall.registry.list("Job", "default")
    assert [entry["uid"] for entry in wall.status["active"]] == [job["metadata"]["uid"]]
    assert wall.status["lastScheduleTime"] == printed(wall.begin + timedelta(minutes=1))
    assert "lastSuccessfulTime" not in wall.status
    wall.end()
    wall.look(1.3)
    wall.look(1.4)
    assert "active" not in wall.status and wall.status["lastSuccessfulTime"]
    assert {"SuccessfulCreate", "SawCompletedJob"} <= set(wall.events())


def test_i17_forbid_waits_for_the_job_that_runs_and_then_takes_the_slot_that_it_left() -> None:
    wall = Wall(concurrencyPolicy="Forbid", startingDeadlineSeconds=90)
    wall.look(1)
    wall.look(3)
    assert wall.jobs() == [wall.slot(1)] and "JobAlreadyActive" in wall.events()
    wall.end("Failed")
    wall.look(3.2)  # the Job is found to have ended
    wall.look(3.3)
    assert wall.jobs() == [wall.slot(1), wall.slot(3)]
    late = Wall(concurrencyPolicy="Forbid", startingDeadlineSeconds=20)
    late.look(1)
    late.look(2)
    late.end()
    late.look(2.5)
    late.look(2.5)
    assert late.jobs() == [late.slot(1)], "its deadline was over"


def test_i17_allow_starts_another_and_replace_ends_the_one_that_runs() -> None:
    wall = Wall()
    wall.look(1)
    wall.look(2)
    assert wall.jobs() == [wall.slot(1), wall.slot(2)] and len(wall.status["active"]) == 2
    other = Wall(concurrencyPolicy="Replace")
    other.look(1)
    other.look(2)
    assert other.jobs() == [other.slot(2)] and len(other.status["active"]) == 1


def test_i17_suspended_nothing_starts_and_the_history_is_kept_short() -> None:
    wall = Wall(successfulJobsHistoryLimit=2, failedJobsHistoryLimit=0)
    for minute in (1, 2, 3):
        wall.look(minute)
        wall.end()
        wall.look(minute + 0.1)
    wall.look(4)
    wall.end("Failed")
    wall.look(4.1)
    wall.registry.patch("CronJob", "default", "check", {"spec": {"suspend": True}})
    assert wall.look(6) is None
    assert wall.jobs() == [wall.slot(2), wall.slot(3)]
    wall.registry.patch("CronJob", "default", "check", {"spec": {"suspend": False}})
    wall.look(9.5)
    assert wall.slot(9) in wall.jobs() and wall.slot(8) not in wall.jobs()


def test_i17_a_job_that_takes_too_long_is_ended_before_it_has_failed() -> None:
    wall = Wall()
    wall.look(1)
    (name,) = wall.jobs()
    job = wall.registry.get("Job", "default", name)
    wall.registry.patch("Job", "default", name, {"spec": {"activeDeadlineSeconds": 60}})
    began = datetime.now(UTC) - timedelta(seconds=61)
    (pod,) = wall.registry.list("Pod", "default")
    held = {"metadata": {"finalizers": ["lab.drillbook/processes"]}}  # as the kubelet holds it while it still works
    wall.registry.patch("Pod", "default", pod["metadata"]["name"], held)
    wall.operator.set_status(job, {"startTime": printed(began)})
    assert asyncio.run(Jobs(wall.operator).reconcile("default", name)) == 0.5
    kinds = [entry["type"] for entry in wall.registry.get("Job", "default", name)["status"]["conditions"]]
    assert kinds == ["FailureTarget"] and wall.registry.list("Pod", "default")[0]["metadata"]["deletionTimestamp"]
    wall.registry.patch("Pod", "default", pod["metadata"]["name"], {"metadata": {"finalizers": []}})
    assert asyncio.run(Jobs(wall.operator).reconcile("default", name)) is None
    status = wall.registry.get("Job", "default", name)["status"]
    assert status["conditions"][-1]["reason"] == "DeadlineExceeded" and status["failed"] == 1
    assert timestamp() >= status["startTime"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"schedule": "99 * * * *"}, "spec.schedule"),
        ({"schedule": "0 0 2 * * *"}, "expected exactly 5 fields"),
        ({"timeZone": "Mars/Olympus"}, "unknown time zone"),
        ({"concurrencyPolicy": "Never"}, "spec.concurrencyPolicy"),
    ],
)
def test_i17_what_no_api_server_would_take_is_refused(spec: Object, field: str) -> None:
    with pytest.raises(ApiError, match=field):
        cnpg_registry().create(cron_job(**{"schedule": "0 1 * * *", **spec}))
    long = cron_job()
    long["metadata"]["name"] = "a" * 53
    with pytest.raises(ApiError, match="no more than 52"):
        cnpg_registry().create(long)
