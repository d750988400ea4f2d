"""Which instance a Backup is taken from: with `prefer-standby` the first ready replica by name, else the primary."""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import replication
from drillbook_lab.operator.context import Operator, holds


def choose(operator: Operator, cluster: Object, backup: Object) -> tuple[str, Object | None]:
    """The name of the instance, and its pod if there is one; nobody's before the Cluster has its first primary."""
    primary = replication.current_primary(cluster)
    default = (cluster["spec"].get("backup") or {}).get("target") or "prefer-standby"
    if primary and (backup["spec"].get("target") or default) == "prefer-standby":
        labels = f"cnpg.io/cluster={cluster['metadata']['name']},cnpg.io/podRole=instance"
        pods = operator.owned(cluster, "Pod", labels)
        for pod in sorted(pods, key=lambda entry: str(entry["metadata"]["name"])):
            name = str(pod["metadata"]["name"])
            if name != primary and holds(pod, "Ready") and not pod["metadata"].get("deletionTimestamp"):
                return name, pod
    if not primary:
        return replication.target_primary(cluster), None
    return primary, operator.find("Pod", cluster["metadata"]["namespace"], primary)
