"""Restarts: by annotation, by a phase that somebody has set, or because a setting needs one.

Replicas' pods are replaced one at a time, the primary comes last: its pod is replaced when a person asked for a
restart, and its server is restarted in place when only a setting did. A decrease of what a standby must have at least
as much of as its primary goes the other way round.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import phases, replication, status
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Halt, Members
from drillbook_lab.operator.objects import RESTARTED_AT
from drillbook_lab.operator.places import PodPlaces

_EXPLICIT = "cluster has been explicitly restarted via annotation"
_SETTINGS = "Postgres needs a restart to apply some configuration changes"


def reconcile(operator: Operator, cluster: Object, members: Members) -> None:
    """One step of a restart that is wanted; `Halt` while one is under way."""
    primary = replication.current_primary(cluster)
    if (cluster.get("status") or {}).get("phase") == phases.RESTARTING_IN_PLACE:
        _restart_in_place(operator, cluster, members, primary)
        return
    reply = members.replies[primary]
    if reply.pending_restart and _is_decrease(members, primary):
        _begin(operator, cluster, members, primary, "Decrease of hot standby sensitive parameters")
    for name in members.names:
        if name != primary and (why := _reason(cluster, members, name, primary)):
            if why == _SETTINGS and (cluster["status"].get("phase") != phases.UPGRADING):
                status.phase(operator, cluster, phases.APPLYING_CONFIGURATION, "PostgreSQL configuration changed")
            told = f"Restarting instance {name}, because: {why}"
            status.phase(operator, cluster, phases.UPGRADING, told)
            _replace(operator, cluster, name)
    if why := _reason(cluster, members, primary, primary):
        if cluster["spec"].get("primaryUpdateStrategy") == "supervised":
            status.phase(operator, cluster, phases.WAITING_FOR_USER, "User must issue a supervised switchover")
            raise Halt(1.0)
        if cluster["spec"].get("primaryUpdateMethod") == "switchover" and (able := _streaming(members)):
            operator.event(cluster, "Switchover", f"Initiating switchover to {able[0]} to upgrade {primary}")
            status.phase(operator, cluster, phases.UPGRADING, why, targetPrimary=able[0])
            raise Halt(0.05)
        if why == _EXPLICIT:
            status.phase(operator, cluster, phases.RESTARTING, why)
            _replace(operator, cluster, primary)
        _begin(operator, cluster, members, primary, why)


def _replace(operator: Operator, cluster: Object, instance: str) -> None:
    """Delete an instance's pod: the next look makes it again."""
    operator.event(cluster, "UpgradingInstance", f"Upgrading instance {instance}")
    operator.registry.delete("Pod", cluster["metadata"]["namespace"], instance)
    raise Halt(0.1)


def _streaming(members: Members) -> list[str]:
    return [name for name, reply in members.replicas().items() if reply.receiving]


def _reason(cluster: Object, members: Members, name: str, primary: str) -> str:
    """Why this instance is to be restarted; empty if it isn't."""
    wanted = (cluster["metadata"].get("annotations") or {}).get(RESTARTED_AT)
    if wanted and (members.pods[name]["metadata"].get("annotations") or {}).get(RESTARTED_AT) != wanted:
        return _EXPLICIT
    reply = members.replies[name]
    behind = name != primary and any(
        value > members.replies[primary].sensitive[setting] for setting, value in reply.sensitive.items()
    )
    # A standby takes the primary's larger sizes for the spec's, so only a primary that has shrunk frees it.
    return _SETTINGS if reply.pending_restart or (behind and not members.replies[primary].pending_restart) else ""


def _is_decrease(members: Members, primary: str) -> bool:
    reply = members.replies[primary]
    return any(wanted < reply.sensitive[setting] for setting, wanted in reply.wanted.items())


def _begin(operator: Operator, cluster: Object, members: Members, primary: str, reason: str) -> None:
    wanted = (cluster["metadata"].get("annotations") or {}).get(RESTARTED_AT)
    if wanted:
        patch = {"metadata": {"annotations": {RESTARTED_AT: wanted}}}
        operator.registry.patch("Pod", cluster["metadata"]["namespace"], primary, patch)
    status.phase(operator, cluster, phases.RESTARTING_IN_PLACE, reason)
    raise Halt(0.05)


def _restart_in_place(operator: Operator, cluster: Object, members: Members, primary: str) -> None:
    """Ask the instance, and go on when it says that it has done so: two files in the pod's own directory."""
    places: PodPlaces = operator.kubelet.worker(cluster["metadata"]["namespace"], primary).places
    asked, done = places.run_dir / "restart", places.run_dir / "restarted"
    if done.exists():
        done.unlink()
        status.phase(operator, cluster, phases.HEALTHY, "Primary instance restarted in-place")
        raise Halt(0.05)
    if not asked.exists():
        asked.touch()
    raise Halt(0.2)
