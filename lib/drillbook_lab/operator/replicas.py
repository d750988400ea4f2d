"""How many instances there are: one more or one fewer at a time, while all the others are well."""

from __future__ import annotations

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.operator import bootstrap, objects, phases, replication, status
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Halt, Members, serial


def scale(operator: Operator, cluster: Object, members: Members) -> None:
    """One step towards `spec.instances`; `Halt` when one was made."""
    wanted = int(cluster["spec"].get("instances", 1))
    if len(members.claims) > wanted:
        _remove_one(operator, cluster, members)
        raise Halt(0.1)
    if members.leaving:
        raise Halt(0.1)
    if len(members.claims) < wanted:
        number = bootstrap.lowest_free_serial(members)
        instance = f"{cluster['metadata']['name']}-{number}"
        if operator.find("PersistentVolumeClaim", cluster["metadata"]["namespace"], instance) is not None:
            reason = f'Waiting for PVC "{instance}" to be removed before recreating instance "{instance}"'
            status.phase(operator, cluster, phases.CREATING_REPLICA, reason)
            raise Halt(1.0)
        operator.registry.create(objects.claim(cluster, instance, number))
        raise Halt(0.05)


def _remove_one(operator: Operator, cluster: Object, members: Members) -> None:
    """The replica with the highest number goes, with its volume."""
    primary = replication.current_primary(cluster)
    able = [claim for name, claim in members.claims.items() if name != primary]
    if not able:
        return
    victim = max(able, key=serial)["metadata"]["name"]
    operator.event(cluster, "ScaleDown", f"Scaling down - removing instance: {victim}")
    jobs = [job["metadata"]["name"] for job in members.jobs if job["metadata"]["name"].startswith(f"{victim}-")]
    namespace = cluster["metadata"]["namespace"]
    for kind, name in (("PersistentVolumeClaim", victim), ("Pod", victim), *(("Job", job) for job in jobs)):
        try:
            operator.registry.delete(kind, namespace, name)
        except ApiError as fault:
            if fault.code != 404:
                raise
