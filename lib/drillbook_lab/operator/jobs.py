"""Jobs: a pod, and after a failure another one, later each time, until the limit is reached."""

from __future__ import annotations

from datetime import UTC, datetime

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.strategies import JOB_UID_LABEL, generated_name
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator, holds, timestamp, with_condition

_REFUSED_SECONDS = 1.0
"""Until a pod that the API server refused is asked for again; Kubernetes waits longer each time."""
_ENDING_SECONDS = 0.5
"""Until it is looked whether the pods of a Job that is stopped are gone."""


class Jobs:
    """The Job controller of the lab: one completion, one pod at a time."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Count the pods of one Job and start the next one when its time has come."""
        job = self._operator.find("Job", namespace, name)
        if job is None or job["metadata"].get("deletionTimestamp") or holds(job, "Complete") or holds(job, "Failed"):
            return None
        pods = self._operator.owned(job, "Pod", f"{JOB_UID_LABEL}={job['metadata']['uid']}")
        phases = [pod.get("status", {}).get("phase", "Pending") for pod in pods]
        failed = phases.count("Failed")
        active = [pod for pod, phase in zip(pods, phases, strict=True) if phase in ("Pending", "Running")]
        counts = {"active": len(active), "failed": failed, "succeeded": phases.count("Succeeded")}
        job = self._operator.set_status(job, {"startTime": (job.get("status") or {}).get("startTime") or timestamp()})
        if counts["succeeded"]:
            self._end(job, counts, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            return None
        left = _seconds_left(job)
        if left is not None and left <= 0:
            return self._stop(job, active, counts)
        limit = job["spec"]["backoffLimit"]
        if failed > limit:
            message = "Job has reached the specified backoff limit"
            self._end(job, counts, "Failed", "BackoffLimitExceeded", message)
            return None
        wait = self._wait(pods, failed)
        if not active and wait <= 0:
            try:
                self._start(job)
            except ApiError as fault:  # a quota, say: it is tried again
                self._operator.event(job, "FailedCreate", f"Error creating: {fault}", kind="Warning")
                self._operator.set_status(job, counts)
                return _REFUSED_SECONDS
            counts["active"] = 1
            wait = 0
        self._operator.set_status(job, counts)
        looks = [wait if wait > 0 and not active else None, left]
        return min((seconds for seconds in looks if seconds is not None), default=None)

    def _stop(self, job: Object, active: list[Object], counts: dict[str, int]) -> float | None:
        """Its time is over: its pods are ended, and once they are gone it has failed."""
        message = "Job was active longer than specified deadline"
        if not active:
            self._end(job, {**counts, "failed": max(counts["failed"], 1)}, "Failed", "DeadlineExceeded", message)
            return None
        self._operator.set_condition(job, "FailureTarget", True, "DeadlineExceeded", message)
        for pod in active:
            if not pod["metadata"].get("deletionTimestamp"):
                self._operator.registry.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        return _ENDING_SECONDS

    def _wait(self, pods: list[Object], failed: int) -> float:
        """Seconds until the next attempt: the delay doubles with each failure, counted from the newest."""
        if not failed:
            return 0.0
        delay = self._operator.settings.job_retry_seconds * 2 ** (failed - 1)
        ends = []
        for pod in pods:
            for status in pod.get("status", {}).get("containerStatuses") or ():
                ended = (status.get("state") or {}).get("terminated")
                if ended:
                    ends.append(datetime.strptime(ended["finishedAt"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC))
        since = (datetime.now(UTC) - max(ends)).total_seconds() if ends else 0.0
        return float(delay - since)

    def _start(self, job: Object) -> None:
        meta, template = job["metadata"], job["spec"]["template"]
        labels = {
            **(template.get("metadata", {}).get("labels") or {}),
            "job-name": meta["name"],
            "batch.kubernetes.io/job-name": meta["name"],
            "controller-uid": meta["uid"],
            JOB_UID_LABEL: meta["uid"],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": generated_name(f"{meta['name']}-"),
                "namespace": meta["namespace"],
                "labels": labels,
                "ownerReferences": [objects.owner_reference(job)],
            },
            "spec": template["spec"],
        }
        made = self._operator.registry.create(pod)
        self._operator.event(job, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")

    def _end(self, job: Object, counts: dict[str, int], kind: str, reason: str, message: str) -> None:
        known = (job.get("status") or {}).get("conditions") or ()
        # First that it is decided, then that all its pods have ended: here they have.
        decided = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        conditions = with_condition(known, decided, True, reason, message)
        conditions = with_condition(conditions, kind, True, reason, message)
        changes: Object = {**counts, "active": 0, "conditions": conditions}
        if kind == "Complete":
            changes["completionTime"] = timestamp()
        self._operator.set_status(job, changes)
        if kind == "Complete":
            self._operator.event(job, "Completed", "Job completed")
        else:
            self._operator.event(job, reason, message, kind="Warning")


def _seconds_left(job: Object) -> float | None:
    """Until the Job's deadline; None where it has none."""
    limit, started = job["spec"].get("activeDeadlineSeconds"), (job.get("status") or {}).get("startTime")
    if limit is None or not started:
        return None
    since = datetime.strptime(started, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return float(limit) - (datetime.now(UTC) - since).total_seconds()
