"""Hibernation: the pods of a healthy Cluster go, the primary's first, and its volumes stay until it is called back."""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import phases, replication, status
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Halt, survey

ANNOTATION = "cnpg.io/hibernation"
REFUSAL = "cannot backup a hibernated cluster"
"""Why a Backup of such a Cluster fails at once."""

_STEP_SECONDS = 0.2


def is_on(cluster: Object) -> bool:
    """Whether the Cluster is to sleep."""
    return bool((cluster["metadata"].get("annotations") or {}).get(ANNOTATION) == "on")


def reconcile(operator: Operator, cluster: Object) -> Object:
    """One step to sleep; `Halt` as long as nothing else may be done to the Cluster. Awake, the condition goes."""
    if not is_on(cluster):
        return _forget(operator, cluster)
    if (cluster.get("status") or {}).get("phase") != phases.HEALTHY:
        # Half-made or broken volumes are not a thing to lay aside: first it has to be well.
        waits = "Waiting for the cluster to be healthy"
        return operator.set_condition(cluster, ANNOTATION, False, "WaitingForHealthy", waits)
    members = survey(operator, cluster)
    leaving = [pod for pod in members.pods.values() if pod["metadata"].get("deletionTimestamp")]
    going = "Hibernation is in progress"
    if leaving:
        waits = f"Waiting for {leaving[0]['metadata']['name']} to be deleted"
        operator.set_condition(cluster, ANNOTATION, False, "WaitingPodsDeletion", waits)
    elif members.pods:
        operator.set_condition(cluster, ANNOTATION, False, "DeletingPods", going)
        primary = replication.current_primary(cluster)
        # The primary first: its standbys then have all that it wrote, and none of them takes over.
        for name in [primary] if primary in members.pods else list(members.pods):
            operator.registry.delete("Pod", cluster["metadata"]["namespace"], name)
    else:
        operator.set_condition(cluster, ANNOTATION, True, "Hibernated", "Cluster has been hibernated")
    cluster = status.count(operator, cluster, survey(operator, cluster))
    operator.set_status(cluster, {"instancesReportedState": None} if not members.pods else {})
    raise Halt(_STEP_SECONDS if members.pods else None)


def _forget(operator: Operator, cluster: Object) -> Object:
    conditions = list((cluster.get("status") or {}).get("conditions") or ())
    kept = [entry for entry in conditions if entry["type"] != ANNOTATION]
    return cluster if kept == conditions else operator.set_status(cluster, {"conditions": kept})
