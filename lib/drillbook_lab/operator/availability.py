"""What keeps a Cluster's instances from being taken away together, and says which of them is primary.

PodDisruptionBudgets for the primary and, with three instances or more, for the replicas; the Lease of the primary.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator, micro_timestamp

_LEASE_SECONDS = 15


def ensure_budgets(operator: Operator, cluster: Object) -> None:
    """Make the budgets that the Cluster is to have, and remove those that it is not."""
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    instances, wanted = int(cluster["spec"].get("instances", 1)), {}
    if cluster["spec"].get("enablePDB", True):
        wanted[f"{name}-primary"] = (1, "primary")
        if instances > 2:
            wanted[name] = (instances - 2, "replica")
    for budget in (f"{name}-primary", name):
        found = operator.find("PodDisruptionBudget", namespace, budget)
        if budget not in wanted:
            if found is not None:
                operator.registry.delete("PodDisruptionBudget", namespace, budget)
            continue
        least, role = wanted[budget]
        if found is None:
            operator.event(cluster, "CreatingPodDisruptionBudget", f"Creating PodDisruptionBudget {budget}")
            operator.registry.create(_budget(operator, cluster, budget, least, role))
        elif found["spec"]["minAvailable"] != least:
            found["spec"]["minAvailable"] = least
            operator.registry.update(found)


def _budget(operator: Operator, cluster: Object, name: str, least: int, role: str) -> Object:
    labels = objects.component_labels(cluster, operator.settings.pg_version)
    made = objects.owned(cluster, "PodDisruptionBudget", name, "policy/v1", **labels)
    selector = {"cnpg.io/cluster": cluster["metadata"]["name"], "cnpg.io/instanceRole": role}
    made["spec"] = {"minAvailable": least, "selector": {"matchLabels": selector}}
    return made


def ensure_lease(operator: Operator, cluster: Object) -> None:
    """The Lease, which nobody holds before there is a primary; one that an orphaned Cluster left is taken over."""
    made = objects.owned(cluster, "Lease", cluster["metadata"]["name"], "coordination.k8s.io/v1")
    found = operator.ensure({**made, "spec": {}})
    if not found["metadata"].get("ownerReferences"):
        owners = {"metadata": {"ownerReferences": made["metadata"]["ownerReferences"]}}
        operator.registry.patch("Lease", found["metadata"]["namespace"], found["metadata"]["name"], owners)


def hold(operator: Operator, cluster: Object, instance: str) -> None:
    """Note that this instance is primary; "" when the primary has ended in good order."""
    lease = operator.find("Lease", cluster["metadata"]["namespace"], cluster["metadata"]["name"])
    if lease is None or lease["spec"].get("holderIdentity", "") == instance:
        return
    now, transitions = micro_timestamp(), int(lease["spec"].get("leaseTransitions") or 0)
    lease["spec"] = {
        "holderIdentity": instance,
        "leaseDurationSeconds": _LEASE_SECONDS if instance else 1,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": transitions + bool(instance),
    }
    operator.registry.update(lease)
