"""What a Deployment's status says of its rollout: counts and the conditions Available and Progressing."""

from __future__ import annotations

from datetime import UTC, datetime

from drillbook_lab.api.errors import Object
from drillbook_lab.operator.context import Operator, condition, timestamp
from drillbook_lab.operator.replica_sets import moment
from drillbook_lab.operator.revisions import bounds, wanted

_DEADLINE_SECONDS = 600


def report(
    operator: Operator, deployment: Object, sets: list[Object], current: Object | None, *, created: bool = False
) -> float | None:
    """Write the status from the ReplicaSets; the seconds until the progress deadline has to be looked at."""
    counts = _counts(deployment, sets, current)
    conditions = [_available(deployment, counts), _progressing(deployment, counts, current, created)]
    failure = next((found for entry in sets if (found := condition(entry, "ReplicaFailure"))), None)
    if failure is not None:
        known = condition(deployment, "ReplicaFailure") or {}
        about = {key: failure[key] for key in ("type", "status", "reason", "message", "lastTransitionTime")}
        conditions.append({**about, "lastUpdateTime": known.get("lastUpdateTime") or timestamp()})
    generation = deployment["metadata"].get("generation", 1)
    operator.set_status(deployment, {**counts, "observedGeneration": generation, "conditions": conditions})
    progress = conditions[1]
    waits = progress["status"] == "True" and progress["reason"] != "NewReplicaSetAvailable"
    return max(0.5, _left(deployment, progress)) if waits else None


def _counts(deployment: Object, sets: list[Object], current: Object | None) -> Object:
    def total(field: str) -> int:
        return sum(int((entry.get("status") or {}).get(field) or 0) for entry in sets)

    available = total("availableReplicas")
    updated = int(((current or {}).get("status") or {}).get("replicas") or 0)
    asked = sum(wanted(entry) for entry in sets)
    numbers = {
        "replicas": total("replicas"),
        "updatedReplicas": updated,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, asked - available),
    }
    return {key: value or None for key, value in numbers.items()}  # the real one leaves a zero out


def _condition(deployment: Object, kind: str, status: str, reason: str, message: str, *, moved: bool = False) -> Object:
    """A condition with both its times: of the last change of status, and of the last step."""
    known, now = condition(deployment, kind), timestamp()
    changed = known is None or known["status"] != status
    new = moved or changed or known is None or (known["reason"], known["message"]) != (reason, message)
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now if new or known is None else known["lastUpdateTime"],
        "lastTransitionTime": now if changed or known is None else known["lastTransitionTime"],
    }


def _available(deployment: Object, counts: Object) -> Object:
    replicas, (_, unavailable) = int(deployment["spec"]["replicas"]), bounds(deployment)
    if (counts["availableReplicas"] or 0) >= replicas - unavailable:
        message = "Deployment has minimum availability."
        return _condition(deployment, "Available", "True", "MinimumReplicasAvailable", message)
    message = "Deployment does not have minimum availability."
    return _condition(deployment, "Available", "False", "MinimumReplicasUnavailable", message)


def _progressing(deployment: Object, counts: Object, current: Object | None, created: bool) -> Object:
    known, before = condition(deployment, "Progressing"), deployment.get("status") or {}
    if deployment["spec"].get("paused"):
        return _condition(deployment, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
    if known is not None and known["reason"] == "DeploymentPaused":
        return _condition(deployment, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")
    replicas = int(deployment["spec"]["replicas"])
    name = current["metadata"]["name"] if current is not None else deployment["metadata"]["name"]
    kind = "ReplicaSet" if current is not None else "Deployment"
    done = all((counts[key] or 0) == replicas for key in ("updatedReplicas", "replicas", "availableReplicas"))
    if done:
        message = f'{kind} "{name}" has successfully progressed.'
        return _condition(deployment, "Progressing", "True", "NewReplicaSetAvailable", message)
    if created:
        message = f'Created new replica set "{name}"'
        return _condition(deployment, "Progressing", "True", "NewReplicaSetCreated", message, moved=True)
    if known is not None and known["reason"] == "NewReplicaSetAvailable" and name in known["message"]:
        return known  # pods may come and go afterwards; that is no rollout
    old_left = (counts["replicas"] or 0) - (counts["updatedReplicas"] or 0)
    old_before = (before.get("replicas") or 0) - (before.get("updatedReplicas") or 0)
    better = ("updatedReplicas", "readyReplicas", "availableReplicas")
    moved = old_left < old_before or any((counts[key] or 0) > (before.get(key) or 0) for key in better)
    if not moved and known is not None:
        if known["reason"] == "ProgressDeadlineExceeded":
            return known
        if known["status"] == "True" and _left(deployment, known) <= 0:
            message = f'{kind} "{name}" has timed out progressing.'
            return _condition(deployment, "Progressing", "False", "ProgressDeadlineExceeded", message)
    if not moved and known is not None and known["reason"] == "NewReplicaSetCreated" and name in known["message"]:
        return known
    message = f'{kind} "{name}" is progressing.'
    return _condition(deployment, "Progressing", "True", "ReplicaSetUpdated", message, moved=moved)


def _left(deployment: Object, progress: Object) -> float:
    """Seconds until a rollout that doesn't move is called failed."""
    limit = float(deployment["spec"].get("progressDeadlineSeconds") or _DEADLINE_SECONDS)
    return limit - (datetime.now(UTC) - moment(progress["lastUpdateTime"])).total_seconds()
