"""Who is primary: the first one, a switchover by `targetPrimary`, and the failover when the primary is gone.

`currentPrimary` differs from `targetPrimary` as long as one is on its way. In that time the old primary is
stopped, the target is promoted once it has everything, and only then does the status name it. All of it is
read from the status and from the servers, so that it goes on after any interruption.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects, phases, replication, status
from drillbook_lab.operator.context import Operator, micro_timestamp
from drillbook_lab.operator.instance import Instances
from drillbook_lab.operator.members import Halt, Members

_STEP_SECONDS = 0.2
# A target that can't get the last of an old primary's WAL takes over without it, as CNPG's would at once.
_PATIENCE_SECONDS = 20.0
_FIRST_RECORD = 0x28  # where the first record of a segment begins


class Succession:
    """Brings `currentPrimary` to `targetPrimary`, and chooses the latter when it has to."""

    def __init__(self, operator: Operator, instances: Instances) -> None:
        self._operator = operator
        self._instances = instances

    async def reconcile(self, cluster: Object, members: Members) -> Object:
        """One step; `Halt` while a change is under way."""
        current, target = replication.current_primary(cluster), replication.target_primary(cluster)
        if not current:
            return self._first(cluster, members)
        if target == current:
            if not self._is_to_fail_over(cluster, members, current):
                return cluster
            cluster = self._initiate(cluster, members, current)
        await self._advance(cluster, members)
        raise Halt(_STEP_SECONDS)

    def _first(self, cluster: Object, members: Members) -> Object:
        """The first instance that runs as a primary is the Cluster's."""
        for name, reply in members.replies.items():
            if not reply.in_recovery:
                return self._name(cluster, name)
        return cluster

    def _name(self, cluster: Object, primary: str) -> Object:
        now = micro_timestamp()
        known = cluster.get("status") or {}
        changes: Object = {"currentPrimary": primary, "currentPrimaryTimestamp": now, "targetPrimary": primary}
        if known.get("targetPrimary") != primary or not known.get("targetPrimaryTimestamp"):
            changes["targetPrimaryTimestamp"] = now
        return self._operator.set_status(cluster, changes)

    def _target(self, cluster: Object, target: str, phase: str, reason: str) -> Object:
        cluster = status.phase(self._operator, cluster, phase, reason)
        changes = {"targetPrimary": target, "targetPrimaryTimestamp": micro_timestamp()}
        return self._operator.set_status(cluster, changes)

    # -- failover ----------------------------------------------------------------------------------------------

    def _is_to_fail_over(self, cluster: Object, members: Members, current: str) -> bool:
        if (cluster.get("status") or {}).get("phase") in (phases.RESTARTING, phases.RESTARTING_IN_PLACE):
            return False
        if self._instances.is_fenced(cluster, current):
            return False
        candidates = [name for name in members.replicas() if not self._instances.is_fenced(cluster, name)]
        return bool(candidates) and self._instances.is_gone(members.pods.get(current))

    def _initiate(self, cluster: Object, members: Members, current: str) -> Object:
        message = f"Current primary isn't healthy, initiating a failover from {current}"
        self._operator.event(cluster, "FailingOver", message)
        reason = f"Initiating a failover from {current}"
        return self._target(cluster, replication.PENDING, phases.FAILING_OVER, reason)

    def _choose(self, cluster: Object, members: Members) -> str | None:
        """The most advanced standby, once nobody receives from the old primary any more."""
        able = {n: reply for n, reply in members.replicas().items() if not self._instances.is_fenced(cluster, n)}
        if not able or any(reply.receiving for reply in able.values()):
            return None
        return max(able, key=lambda name: (able[name].received, able[name].replayed, -members.names.index(name)))

    # -- the way from one to the other ----------------------------------------------------------------------------

    async def _advance(self, cluster: Object, members: Members) -> None:
        current, target = replication.current_primary(cluster), replication.target_primary(cluster)
        if (
            current in members.pods
            and members.pods[current]["metadata"]["labels"].get("cnpg.io/instanceRole") == "primary"
        ):
            self._instances.set_role_label(members.pods[current], "unhealthy")  # nobody is to write there any more
        if not self._instances.is_stopped(members.pods.get(current)):
            if current in members.pods:
                self._instances.tell(cluster, members.pods[current])  # it is to stop, and to wait
            return
        if target == replication.PENDING:
            chosen = self._choose(cluster, members)
            if chosen is not None:
                self._operator.event(cluster, "FailoverTarget", f"Failing over from {current} to {chosen}")
                reason = f"Failing over from {current} to {chosen}"
                self._target(cluster, chosen, phases.FAILING_OVER, reason)
            else:
                self._make_pods(cluster, members)
            return
        reply = members.replies.get(target)
        if reply is None:
            await self._target_is_away(cluster, members, target)
        elif not reply.in_recovery:
            self._promoted(cluster, members, target)
        elif await self._has_everything(cluster, members, current, target):
            self._instances.tell(cluster, members.pods[target], promoted=True)

    async def _target_is_away(self, cluster: Object, members: Members, target: str) -> None:
        others = [name for name in members.replicas() if name != target]
        gone = target not in members.claims or self._instances.is_gone(members.pods.get(target))
        if gone and others:
            message = f"Target primary isn't healthy, switching target from {target} to {others[0]}"
            self._operator.event(cluster, "FailingOver", message)
            self._target(cluster, others[0], phases.SWITCHOVER, f"Switching over to {others[0]}")
        else:
            self._make_pods(cluster, members)

    def _make_pods(self, cluster: Object, members: Members) -> None:
        version = self._operator.settings.pg_version
        for name in members.complete():
            if name not in members.pods:
                self._operator.registry.create(objects.instance_pod(cluster, name, version))

    async def _has_everything(self, cluster: Object, members: Members, current: str, target: str) -> bool:
        """Whether the target has replayed what the old primary wrote last."""
        claim, reply = members.claims.get(current), members.replies[target]
        if claim is None:
            return not reply.receiving and reply.replayed >= reply.received
        pgdata = self._operator.kubelet.volumes.path(claim) / "pgdata"
        facts = await asyncio.to_thread(self._instances.controldata, pgdata)
        if facts.get("Database cluster state") == "shut down" and "Latest checkpoint location" in facts:
            high, _, low = facts["Latest checkpoint location"].partition("/")
            last = (int(high, 16) << 32) + int(low, 16)
            if reply.replayed > last:
                return True
            # An archiving server ends its last segment before it shuts down, so that the checkpoint alone is in the
            # next one: who has the segment from the archive lacks nothing, and the old primary is rewound by a record.
            begin = last - last % int(facts.get("Bytes per WAL segment", 16 * 2**20))
            if not reply.receiving and reply.replayed >= begin and last - begin <= _FIRST_RECORD:
                return True
        elif not reply.receiving and reply.replayed >= reply.received:
            return True  # a crashed server's last words are nowhere else
        return not reply.receiving and _age(pgdata / "global" / "pg_control") > _PATIENCE_SECONDS

    def _promoted(self, cluster: Object, members: Members, target: str) -> None:
        cluster = self._name(cluster, target)
        for name, pod in members.pods.items():
            if name in members.claims and not pod["metadata"].get("deletionTimestamp"):
                self._instances.tell(cluster, pod)
                self._instances.label(cluster, pod)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
