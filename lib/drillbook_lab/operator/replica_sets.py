"""The ReplicaSet controller: as many pods of one template as asked for, and what they are doing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.selectors import predicate
from drillbook_lab.api.strategies import generated_name
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator, timestamp

_COST = "controller.kubernetes.io/pod-deletion-cost"
_GLANCE_SECONDS = 0.25


class ReplicaSets:
    """Keeps ReplicaSets."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Create or delete what is missing or too many; the status is counted from the pods as they are."""
        found = self._operator.find("ReplicaSet", namespace, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        adopt(self._operator, found, "Pod")
        pods = [pod for pod in self._operator.owned(found, "Pod") if is_active(pod)]
        missing, fault = int(found["spec"].get("replicas", 1)) - len(pods), ""
        if missing > 0:
            fault = self._create(found, missing)
        elif missing < 0:
            self._delete(found, pods, -missing)
        return self._count(found, fault)

    def _create(self, owner: Object, number: int) -> str:
        """Make pods; what the API server said if it didn't want one."""
        meta, template = owner["metadata"], owner["spec"]["template"]
        about = template.get("metadata") or {}
        for _ in range(number):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": generated_name(f"{meta['name']}-"),
                    "namespace": meta["namespace"],
                    "labels": dict(about.get("labels") or {}),
                    "annotations": dict(about.get("annotations") or {}),
                    "ownerReferences": [objects.owner_reference(owner)],
                },
                "spec": template["spec"],
            }
            try:
                made = self._operator.registry.create(pod)
            except ApiError as fault:  # a quota, say: it is tried again, and reported in the meantime
                self._operator.event(owner, "FailedCreate", f"Error creating: {fault}", kind="Warning")
                return str(fault)
            self._operator.event(owner, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
        return ""

    def _delete(self, owner: Object, pods: list[Object], number: int) -> None:
        """Those that serve least go first: not ready, then cheapest, then newest."""

        def worth(pod: Object) -> tuple[bool, int, int]:
            cost = (pod["metadata"].get("annotations") or {}).get(_COST, "0")
            age = -int(moment(pod["metadata"]["creationTimestamp"]).timestamp())
            return is_ready(pod), int(cost), age

        for pod in sorted(pods, key=worth)[:number]:
            name = pod["metadata"]["name"]
            self._operator.registry.delete("Pod", pod["metadata"]["namespace"], name, uid=pod["metadata"]["uid"])
            self._operator.event(owner, "SuccessfulDelete", f"Deleted pod: {name}")

    def _count(self, owner: Object, fault: str) -> float | None:
        pods = [pod for pod in self._operator.owned(owner, "Pod") if is_active(pod)]
        wanted = (owner["spec"]["template"].get("metadata") or {}).get("labels") or {}
        seconds = int(owner["spec"].get("minReadySeconds") or 0)
        ready = [pod for pod in pods if is_ready(pod)]
        available = [pod for pod in ready if ready_for(pod) >= seconds]
        conditions: list[dict[str, Any]] | None = None
        if fault:
            # Each refusal names another pod; the first one is reported until none exists, or the status would never
            # rest.
            conditions = (owner.get("status") or {}).get("conditions") or [
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": fault,
                    "lastTransitionTime": timestamp(),
                }
            ]
        labelled = [pod for pod in pods if wanted.items() <= (pod["metadata"].get("labels") or {}).items()]
        self._operator.set_status(
            owner,
            {
                "replicas": len(pods),
                "fullyLabeledReplicas": len(labelled) or None,
                "readyReplicas": len(ready) or None,
                "availableReplicas": len(available) or None,
                "observedGeneration": owner["metadata"].get("generation", 1),
                "conditions": conditions,
            },
        )
        if fault:
            return 2.0
        return _GLANCE_SECONDS if len(available) < len(ready) else None


def adopt(operator: Operator, owner: Object, kind: str) -> None:
    """Objects that match the selector and belong to nobody become the owner's, as after an orphaning deletion."""
    labels = (owner["spec"].get("selector") or {}).get("matchLabels") or {}
    if not labels:
        return
    meta = owner["metadata"]
    matches = predicate(kind, ",".join(f"{key}={value}" for key, value in labels.items()), "")
    for found in operator.registry.peek(kind, meta["namespace"]):
        about = found["metadata"]
        if about.get("ownerReferences") or about.get("deletionTimestamp") or not matches(found):
            continue
        patch = {"metadata": {"ownerReferences": [objects.owner_reference(owner)]}}
        operator.registry.patch(kind, about["namespace"], about["name"], patch)


def is_active(pod: Object) -> bool:
    """Whether a pod counts: it has not ended and isn't being deleted."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")


def is_ready(pod: Object) -> bool:
    """Whether a pod's condition says so."""
    return any(
        entry["type"] == "Ready" and entry["status"] == "True"
        for entry in (pod.get("status") or {}).get("conditions") or ()
    )


def ready_for(pod: Object) -> float:
    """Seconds that a pod has been ready."""
    for entry in pod["status"]["conditions"]:
        if entry["type"] == "Ready":
            return (datetime.now(UTC) - moment(entry["lastTransitionTime"])).total_seconds()
    return 0.0


def moment(stamp: str) -> datetime:
    """A Kubernetes timestamp."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
