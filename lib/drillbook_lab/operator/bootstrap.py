"""Volumes and what fills them: the first instance's by initdb or recovery, the others' as copies of the primary.

Driven by the state of the claims: one that isn't `ready` gets the Job that makes it so, no matter who made the claim.
"""

from __future__ import annotations

import logging

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import in_tree, object_store, objects, phases, status
from drillbook_lab.operator.context import Operator, holds, is_owned_by, micro_timestamp
from drillbook_lab.operator.members import Halt, Members, serial, status_of

log = logging.getLogger(__name__)

_LOST = (
    "One or more instances were previously created, but no PersistentVolumeClaims (PVCs) exist. "
    "The cluster is in an unrecoverable state. To resolve this, restore the cluster from a recent backup."
)
_LOOK_AT_THE_LOGS = "Check the job logs to investigate the cause of the failure."


def first_volume(operator: Operator, cluster: Object, members: Members) -> None:
    """See to it that there is a volume at all."""
    if members.claims:
        return
    meta = cluster["metadata"]
    instance = f"{meta['name']}-1"
    if operator.find("PersistentVolumeClaim", meta["namespace"], instance) is not None or members.leaving:
        raise Halt(0.1)  # an earlier Cluster's volume: it must be gone first
    if holds(cluster, "Initialized"):
        status.phase(operator, cluster, phases.UNRECOVERABLE, _LOST)
        raise Halt
    if not _can_bootstrap(operator, cluster):
        raise Halt
    members.claims[instance] = operator.registry.create(objects.claim(cluster, instance, 1))


def fill(operator: Operator, cluster: Object, members: Members) -> None:
    """Run the Jobs of claims that aren't ready; a claim whose Job has succeeded becomes ready."""
    for instance, claim in members.claims.items():
        if status_of(claim) == "initializing":
            members.claims[instance] = _fill_one(operator, cluster, members, instance, claim)


def adopt(operator: Operator, cluster: Object) -> None:
    """Ownerless volumes of these names are taken over with the data that they hold, as CNPG does."""
    meta = cluster["metadata"]
    for claim in operator.registry.list("PersistentVolumeClaim", meta["namespace"]):
        mine = claim["metadata"]
        labels, annotations = mine.get("labels") or {}, mine.get("annotations") or {}
        if mine.get("ownerReferences") or mine.get("deletionTimestamp") or "cnpg.io/nodeSerial" not in annotations:
            continue
        if labels.get("cnpg.io/cluster") == meta["name"]:
            patch = {"metadata": {"ownerReferences": [objects.owner_reference(cluster)]}}
            operator.registry.patch("PersistentVolumeClaim", mine["namespace"], mine["name"], patch)


def remove_done_jobs(operator: Operator, members: Members) -> None:
    """Completed Jobs go once all is well, with their pods and logs, as on a real cluster."""
    for job in members.jobs:
        if holds(job, "Complete") and not job["metadata"].get("deletionTimestamp"):
            meta = job["metadata"]
            operator.registry.delete("Job", meta["namespace"], meta["name"], propagation="Foreground")


def _fill_one(operator: Operator, cluster: Object, members: Members, instance: str, claim: Object) -> Object:
    namespace = cluster["metadata"]["namespace"]
    first = not (cluster.get("status") or {}).get("currentPrimary")
    role = _first_role(cluster) if first else "join"
    job = operator.find("Job", namespace, f"{instance}-{role}")
    if job is None:
        members.jobs.append(_start(operator, cluster, instance, role))
        return claim
    if not is_owned_by(job, cluster["metadata"]["uid"]):
        raise Halt(0.1)  # an earlier Cluster's Job, on its way out
    if holds(job, "Failed"):
        reason = f"Instance creation failed for the following jobs: {job['metadata']['name']}. {_LOOK_AT_THE_LOGS}"
        status.phase(operator, cluster, phases.UNRECOVERABLE, reason)
        if first:
            status.count(operator, cluster, members)
            raise Halt
    if not holds(job, "Complete"):
        return claim
    patch = {"metadata": {"annotations": {"cnpg.io/pvcStatus": "ready"}}}
    return operator.registry.patch("PersistentVolumeClaim", namespace, instance, patch)


def _start(operator: Operator, cluster: Object, instance: str, role: str) -> Object:
    version = operator.settings.pg_version
    if role == "join":
        operator.event(cluster, "CreatingInstance", f"Creating instance {instance}")
        status.phase(operator, cluster, phases.CREATING_REPLICA, f"Creating replica {instance}-join")
        return operator.registry.create(objects.bootstrap_job(cluster, instance, role, version))
    bootstrap = "from backup" if role == "full-recovery" else "initdb"
    operator.event(cluster, "CreatingInstance", f"Primary instance ({bootstrap})")
    target = {"targetPrimary": instance, "targetPrimaryTimestamp": micro_timestamp()}
    status.phase(operator, cluster, phases.SETTING_UP_PRIMARY, f"Creating primary instance {instance}", **target)
    job = operator.registry.create(objects.bootstrap_job(cluster, instance, role, version))
    # CNPG's word for "a first Job was made": it stays true of a Cluster whose recovery fails.
    operator.set_condition(cluster, "Initialized", True, "BootstrapCompleted", status.BOOTSTRAPPED)
    return job


def _first_role(cluster: Object) -> str:
    method, _ = objects.bootstrap(cluster)
    return "full-recovery" if method == "recovery" else "initdb"


def _can_bootstrap(operator: Operator, cluster: Object) -> bool:
    method, section = objects.bootstrap(cluster)
    if method == "initdb":
        return True
    if method == "recovery" and object_store.source_use(cluster) is not None:
        return True
    if method == "recovery" and section.get("backup"):
        return in_tree.recovery_backup(operator, cluster) is not None
    # Other ways to bootstrap are accepted by the API and not done by this lab: nothing is pretended.
    log.warning("%s: this lab bootstraps by initdb or by recovery from an object store", cluster["metadata"]["name"])
    return False


def lowest_free_serial(members: Members) -> int:
    """The number of the next instance: those of removed ones are used again."""
    taken = {serial(claim) for claim in members.claims.values()}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
