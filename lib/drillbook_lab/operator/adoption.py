"""A new Cluster that finds an earlier one's ownerless volumes takes them over, and returns the data that they hold.

What a deletion with `--cascade=orphan` leaves: CNPG knows such volumes by `cnpg.io/nodeSerial`, and bootstraps nothing.
Ownerless pods and services of that name go first; secrets are used as they are.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects, status
from drillbook_lab.operator.context import Operator, micro_timestamp
from drillbook_lab.operator.members import Halt, serial

_SERIAL = "cnpg.io/nodeSerial"
_ROLE = "cnpg.io/instanceRole"
_STEP_SECONDS = 0.1


def restore(operator: Operator, cluster: Object) -> Object:
    """Take over what is there for a Cluster that has just been created; `Halt` until the way is free."""
    known = cluster.get("status") or {}
    if known.get("currentPrimary") or known.get("targetPrimary"):
        return cluster
    meta = cluster["metadata"]
    claims = _of(operator, cluster, "PersistentVolumeClaim")
    if any(claim["metadata"].get("deletionTimestamp") for claim in claims):
        raise Halt(_STEP_SECONDS)  # an earlier Cluster's volumes: they must be gone first
    orphans = [
        claim for claim in claims if _is_orphan(claim) and _SERIAL in (claim["metadata"].get("annotations") or {})
    ]
    if not orphans:
        return cluster
    for service in _of(operator, cluster, "Service"):
        if _is_orphan(service):
            operator.registry.delete("Service", meta["namespace"], service["metadata"]["name"])
    left = [pod for pod in _of(operator, cluster, "Pod") if _is_orphan(pod)]
    for pod in left:
        if not pod["metadata"].get("deletionTimestamp"):
            operator.registry.delete("Pod", meta["namespace"], pod["metadata"]["name"])
    if left:
        raise Halt(_STEP_SECONDS)
    # The status first: should the rest be interrupted, the volumes are still ownerless, and are taken over then.
    primary = _primary(orphans)
    now = micro_timestamp()
    changes = {
        "targetPrimary": primary,
        "targetPrimaryTimestamp": now,
        "currentPrimary": primary,
        "currentPrimaryTimestamp": now,
    }
    cluster = operator.set_status(cluster, changes)
    for claim in orphans:
        patch = {
            "metadata": {
                "ownerReferences": [objects.owner_reference(cluster)],
                "annotations": {"cnpg.io/pvcStatus": "ready"},
            }
        }
        operator.registry.patch("PersistentVolumeClaim", meta["namespace"], claim["metadata"]["name"], patch)
    return operator.set_condition(cluster, "Initialized", True, "BootstrapCompleted", status.BOOTSTRAPPED)


def mark(operator: Operator, pod: Object, role: str) -> None:
    """Note an instance's role at its claim: a later Cluster finds there who was primary."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    claim = operator.find("PersistentVolumeClaim", namespace, name)
    if claim is not None and (claim["metadata"].get("labels") or {}).get(_ROLE) != role:
        patch = {"metadata": {"labels": {_ROLE: role, "role": role}}}
        operator.registry.patch("PersistentVolumeClaim", namespace, name, patch)


def _of(operator: Operator, cluster: Object, kind: str) -> list[Object]:
    meta = cluster["metadata"]
    return operator.registry.list(kind, meta["namespace"], labels=f"cnpg.io/cluster={meta['name']}")


def _is_orphan(obj: Object) -> bool:
    return not obj["metadata"].get("ownerReferences")


def _primary(claims: list[Object]) -> str:
    """Who was primary by its label, else the newest instance: CNPG's rule."""
    data = [claim for claim in claims if (claim["metadata"].get("labels") or {}).get("cnpg.io/pvcRole") == "PG_DATA"]
    data = sorted(data or claims, key=serial)
    labelled = [claim for claim in data if claim["metadata"]["labels"].get(_ROLE) == "primary"]
    return str((labelled or data)[-1]["metadata"]["name"])
