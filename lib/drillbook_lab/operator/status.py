"""What a Cluster's status says of its phase and of its instances, written from what a look has found."""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import fencing, furniture, object_store, objects, phases
from drillbook_lab.operator.context import Operator, condition, holds, with_condition
from drillbook_lab.operator.members import Members, status_of

BOOTSTRAPPED = "Cluster has been bootstrapped"


def phase(operator: Operator, cluster: Object, phase_: str, reason: str, **more: object) -> Object:
    """Set the phase, its reason, and the Ready condition that mirrors it: in one update, as no watch may see them differ."""
    meta = cluster["metadata"]
    told = operator.find("Cluster", meta["namespace"], meta["name"]) or cluster
    ready = phase_ == phases.HEALTHY
    why = ("ClusterIsReady", "Cluster is Ready") if ready else ("ClusterIsNotReady", "Cluster Is Not Ready")
    conditions = with_condition((told.get("status") or {}).get("conditions") or (), "Ready", ready, *why)
    return operator.set_status(
        cluster, {"phase": phase_, "phaseReason": reason or None, **more, "conditions": conditions}
    )


def initialize(operator: Operator, cluster: Object) -> Object:
    """What is known before the first instance is there."""
    name = cluster["metadata"]["name"]
    version = operator.settings.pg_version
    image = objects.image(cluster)
    entry = object_store.plugin_entry(cluster)
    changes: Object = {
        "writeService": f"{name}-rw",
        "readService": f"{name}-r",
        "image": image,
        "pgDataImageInfo": {"image": image, "majorVersion": int(version.split(".")[0])},
        "certificates": furniture.certificate_status(operator, cluster),
        "pluginStatus": [{"name": objects.PLUGIN, "version": objects.PLUGIN_VERSION}] if entry is not None else None,
        "selector": f"cnpg.io/cluster={name},cnpg.io/podRole=instance",
    }
    cluster = operator.set_status(cluster, changes)
    if not (cluster.get("status") or {}).get("conditions"):
        cluster = operator.set_condition(
            cluster, "Initialized", False, "BootstrapPending", "Cluster has not been bootstrapped yet"
        )
    return cluster


def count(operator: Operator, cluster: Object, members: Members) -> Object:
    """Which instances there are, and how each of them is."""
    by_state: dict[str, list[str]] = {}
    for name in members.complete():
        pod = members.pods.get(name)
        if pod is not None:
            by_state.setdefault(_state(members, name, pod), []).append(name)
    ready = by_state.get("healthy", [])
    running = sum(1 for job in members.jobs if not holds(job, "Complete"))
    changes: Object = {
        "instances": len(members.claims),
        "instanceNames": members.names,
        "pvcCount": len(members.claims),
        "jobCount": running,
        "readyInstances": len(ready),
        "instancesStatus": by_state or None,
        "healthyPVC": [name for name in members.complete() if name in members.pods],
        "danglingPVC": [name for name in members.complete() if name not in members.pods] or None,
        "initializingPVC": [name for name, claim in members.claims.items() if status_of(claim) == "initializing"],
    }
    if members.replies:
        changes["instancesReportedState"] = {
            name: {
                "isPrimary": not reply.in_recovery,
                "timeLineID": reply.timeline,
                "ip": members.pods[name]["status"]["podIP"],
            }
            for name, reply in members.replies.items()
        }
    return _system_ids(operator, operator.set_status(cluster, changes), members)


def _system_ids(operator: Operator, cluster: Object, members: Members) -> Object:
    """`ConsistentSystemID`: what the servers say of themselves, taken together."""
    ids = {reply.system_id for reply in members.replies.values()}
    if len(ids) == 1:
        found, reason = "A single, unique system ID was found across reporting instances.", "Unique"
    elif ids:
        found, reason = f"Multiple differing system IDs reported by instances: {sorted(ids)}", "Mismatch"
    elif any(map(members.is_ready, members.complete())):
        return cluster  # they are about to answer, or to be found not ready
    elif members.pods and fencing.explain(cluster, members.pods):
        found, reason = "Instances are present, but none have reported a system ID.", "NotFound"
    elif (condition(cluster, "ConsistentSystemID") or {}).get("reason") == "NotFound":
        return cluster
    else:
        found, reason = "No instances are present in the cluster to report a system ID.", "NotFound"
    return operator.set_condition(cluster, "ConsistentSystemID", len(ids) == 1, reason, found)


def _state(members: Members, name: str, pod: Object) -> str:
    """CNPG's three: ready, running without being ready, and the rest."""
    if members.is_ready(name):
        return "healthy"
    phase_ = (pod.get("status") or {}).get("phase")
    return "replicating" if phase_ == "Running" and not pod["metadata"].get("deletionTimestamp") else "failed"
