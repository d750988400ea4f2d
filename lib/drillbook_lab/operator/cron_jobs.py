"""CronJobs: a Job for the newest slot that has not had one, unless it is too late for it or another one still runs.

Everything is decided from the object's own status, as Kubernetes does: after a downtime one Job makes up for all the
slots that were missed, if the newest is not longer ago than `startingDeadlineSeconds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.schedules import Every, parse_standard
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator, holds

_SLOT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_REFUSED_SECONDS = 10.0
"""Until a Job that the API server refused is asked for again."""


@dataclass(frozen=True)
class Slots:
    """The newest slot that is due and has had no Job, if there is one, and the first one in the future."""

    due: datetime | None
    following: datetime | None


def slots(cron_job: Object, now: datetime) -> Slots:
    """When a CronJob is due, by its schedule in its time zone, its last Job and its starting deadline. Pure.

    `BadSchedule`, if it can't be read: the API server lets none through.
    """
    spec = cron_job["spec"]
    schedule = parse_standard(spec["schedule"])
    zone = ZoneInfo(spec.get("timeZone") or "Etc/UTC")
    status, meta = cron_job.get("status") or {}, cron_job["metadata"]
    after = _instant(status.get("lastScheduleTime") or meta["creationTimestamp"])
    if (deadline := spec.get("startingDeadlineSeconds")) is not None:
        after = max(after, now - timedelta(seconds=int(deadline)))
    due = None
    if isinstance(schedule, Every):  # counted from the last one, not by the clock
        passed = (now - after) // schedule.delay
        due = after + passed * schedule.delay if passed > 0 else None
        return Slots(due, (due or after) + schedule.delay)
    following = schedule.next(after.astimezone(zone))
    while following is not None and following <= now:
        due, following = following, schedule.next(following)
    return Slots(due, following)


class CronJobs:
    """The CronJob controller of the lab."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Count the Jobs of one CronJob and make the one that is due; the answer is when the next one will be."""
        found = self._operator.find("CronJob", namespace, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        jobs = sorted(self._operator.owned(found, "Job"), key=_created)
        found = self._count(found, jobs)
        self._forget(found, jobs)
        if found["spec"].get("suspend"):
            return None
        now = self._operator.settings.clock()
        known = slots(found, now)
        if known.due is not None and not self._start(found, known.due, [job for job in jobs if not _ended(job)]):
            return _REFUSED_SECONDS
        return None if known.following is None else max((known.following - now).total_seconds(), 0.0)

    def _count(self, cron_job: Object, jobs: list[Object]) -> Object:
        """Bring `active` and `lastSuccessfulTime` in line with the Jobs."""
        before = (cron_job.get("status") or {}).get("active") or ()
        running = {job["metadata"]["uid"] for job in jobs if not _ended(job)}
        for job in jobs:
            if _ended(job) and any(entry["uid"] == job["metadata"]["uid"] for entry in before):
                verdict = "Complete" if holds(job, "Complete") else "Failed"
                message = f"Saw completed job: {job['metadata']['name']}, condition: {verdict}"
                self._operator.event(cron_job, "SawCompletedJob", message)
        ends = [job["status"]["completionTime"] for job in jobs if holds(job, "Complete")]
        changes = {
            "active": [_reference(job) for job in jobs if job["metadata"]["uid"] in running] or None,
            "lastSuccessfulTime": max(ends, default=(cron_job.get("status") or {}).get("lastSuccessfulTime")),
        }
        return self._operator.set_status(cron_job, changes)

    def _forget(self, cron_job: Object, jobs: list[Object]) -> None:
        """The oldest Jobs go, their pods and logs with them."""
        for kind, limit in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
            ended = [job for job in jobs if holds(job, kind)]
            for job in ended[: max(0, len(ended) - int(cron_job["spec"][limit]))]:
                meta = job["metadata"]
                self._operator.registry.delete("Job", meta["namespace"], meta["name"])
                self._operator.event(cron_job, "SuccessfulDelete", f"Deleted job {meta['name']}")

    def _start(self, cron_job: Object, slot: datetime, active: list[Object]) -> bool:
        """Make the slot's Job, where the concurrency policy lets it; False: it is to be tried again."""
        policy = cron_job["spec"]["concurrencyPolicy"]
        if active and policy == "Forbid":
            # The slot stays open: it is looked at again when the Job has ended, until its deadline.
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._operator.event(cron_job, "JobAlreadyActive", message)
            return True
        for job in active if policy == "Replace" else ():
            self._operator.registry.delete("Job", job["metadata"]["namespace"], job["metadata"]["name"])
        wanted = _job(cron_job, slot)
        try:
            made = self._operator.registry.create(wanted)
        except ApiError as fault:
            if fault.code != 409:
                self._operator.event(cron_job, "FailedCreate", f"Error creating job: {fault}", kind="Warning")
                return False
            # Made by an earlier look that came no further: its name says which slot.
        else:
            self._operator.event(cron_job, "SuccessfulCreate", f"Created job {made['metadata']['name']}")
            kept = [] if policy == "Replace" else [_reference(job) for job in active]
            self._operator.set_status(cron_job, {"active": [*kept, _reference(made)]})
        self._operator.set_status(cron_job, {"lastScheduleTime": _stamp(slot)})
        return True


def _job(cron_job: Object, slot: datetime) -> Object:
    meta, template = cron_job["metadata"], copy(cron_job["spec"]["jobTemplate"])
    own = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{meta['name']}-{int(slot.timestamp()) // 60}",
            "namespace": meta["namespace"],
            "labels": own.get("labels") or {},
            "annotations": {**(own.get("annotations") or {}), _SLOT: slot.isoformat().replace("+00:00", "Z")},
            "ownerReferences": [objects.owner_reference(cron_job)],
        },
        "spec": template["spec"],
    }


def _reference(job: Object) -> Object:
    meta = job["metadata"]
    found = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "namespace": meta["namespace"]}
    return {**found, "uid": meta["uid"]}


def _ended(job: Object) -> bool:
    return holds(job, "Complete") or holds(job, "Failed")


def _created(job: Object) -> str:
    return str(job["metadata"]["creationTimestamp"])


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
