"""A Cluster whose storage has grown: its claims ask for as much. They never ask for less."""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Members, serial
from drillbook_lab.quantities import quantity


def grow(operator: Operator, cluster: Object, members: Members) -> None:
    """Raise the request of every claim that is smaller than the spec says."""
    if not (cluster["spec"].get("storage") or {}).get("resizeInUseVolumes", True):
        return
    for name, claim in members.claims.items():
        wanted = objects.claim(cluster, name, serial(claim))["spec"]["resources"]["requests"]["storage"]
        has = claim["spec"]["resources"]["requests"]["storage"]
        if (quantity(str(wanted)) or 0) > (quantity(str(has)) or 0):
            patch = {"spec": {"resources": {"requests": {"storage": wanted}}}}
            members.claims[name] = operator.registry.patch(
                "PersistentVolumeClaim", claim["metadata"]["namespace"], name, patch
            )
