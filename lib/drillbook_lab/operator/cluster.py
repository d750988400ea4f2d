"""The Cluster controller: from an object to its running PostgreSQL instances, one step a look, in CNPG's order.

A look goes through the stages below; each starts from what is there, and nothing is remembered that can't be
read again. A stage that has to wait for something raises `Halt`, so that no later one acts too early.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import (
    adoption,
    availability,
    bootstrap,
    fencing,
    furniture,
    guard,
    hibernation,
    object_store,
    objects,
    permissions,
    phases,
    replicas,
    resizing,
    restarts,
    status,
)
from drillbook_lab.operator.context import Operator, condition, micro_timestamp
from drillbook_lab.operator.instance import Instances
from drillbook_lab.operator.members import Halt, Members, survey
from drillbook_lab.operator.prepare import Preparation
from drillbook_lab.operator.reply import ask_all
from drillbook_lab.operator.succession import Succession

_LOOK_AGAIN_SECONDS = 10.0
_NOT_YET_ACTIVE = "Some instances are not yet active. Please wait."


class Clusters:
    """Reconciles Cluster objects."""

    def __init__(self, operator: Operator, preparation: Preparation) -> None:
        self._operator = operator
        self._instances = Instances(operator, preparation)
        self._succession = Succession(operator, self._instances)
        self._misses: dict[str, int] = {}  # by uid: looks in succession that found an ObjectStore missing

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Move one Cluster on."""
        cluster = self._operator.find("Cluster", namespace, name)
        if cluster is None or cluster["metadata"].get("deletionTimestamp"):
            return None
        fencing.apply(self._operator, cluster)
        if (cluster["metadata"].get("annotations") or {}).get("cnpg.io/reconciliationLoop") == "disabled":
            return None
        try:
            return await self._look(cluster)
        except Halt as halt:
            return halt.seconds

    async def _look(self, cluster: Object) -> float | None:
        cluster = self._foundation(cluster)
        members = self._volumes(cluster)
        await self._ask(members)
        guard.room_for_wal(self._operator, cluster, members)
        cluster = await self._succession.reconcile(cluster, members)
        self._pods(cluster, members)
        look_again = await self._duties(cluster, members)
        cluster = (
            self._operator.find("Cluster", cluster["metadata"]["namespace"], cluster["metadata"]["name"]) or cluster
        )
        cluster = status.count(self._operator, cluster, members)
        self._everyone_is_there(cluster, members)
        restarts.reconcile(self._operator, cluster, members)
        replicas.scale(self._operator, cluster, members)
        bootstrap.remove_done_jobs(self._operator, members)
        status.phase(self._operator, cluster, phases.HEALTHY, "")
        return look_again or _LOOK_AGAIN_SECONDS

    # -- the stages --------------------------------------------------------------------------------------------

    def _foundation(self, cluster: Object) -> Object:
        """Whether the Cluster may be acted on at all, and what stands around its instances."""
        cluster = adoption.restore(self._operator, guard.admitted(self._operator, cluster))
        unknown = object_store.unknown_plugins(cluster)
        if unknown:
            status.phase(self._operator, cluster, phases.UNKNOWN_PLUGIN, f"Unknown plugin(s): {', '.join(unknown)}")
            raise Halt
        try:
            furniture.ensure(self._operator, cluster)
        except furniture.ForeignService as fault:
            status.phase(self._operator, cluster, phases.CANNOT_CREATE_OBJECTS, str(fault))
            raise Halt from fault
        cluster = status.initialize(self._operator, cluster)
        uid = cluster["metadata"]["uid"]
        if object_store.missing_stores(self._operator, cluster):
            self._misses[uid] = self._misses.get(uid, 0) + 1
            raise Halt(self._operator.settings.store_retry(self._misses[uid]))  # no phase, and no event of its own
        self._misses.pop(uid, None)
        permissions.ensure_plugin(self._operator, cluster)
        return hibernation.reconcile(self._operator, cluster)

    def _volumes(self, cluster: Object) -> Members:
        """Volumes, and the Jobs that fill them; what there is of pods."""
        bootstrap.adopt(self._operator, cluster)
        members = survey(self._operator, cluster)
        bootstrap.first_volume(self._operator, cluster, members)
        resizing.grow(self._operator, cluster, members)
        bootstrap.fill(self._operator, cluster, members)
        if not members.complete():
            status.count(self._operator, cluster, members)
            raise Halt
        return members

    async def _ask(self, members: Members) -> None:
        """Every server that is ready says how it is."""
        pods = [members.pods[name] for name in members.complete() if members.is_ready(name)]
        members.replies = await ask_all(self._operator, pods)

    def _pods(self, cluster: Object, members: Members) -> None:
        """Every complete volume has its pod, and every pod knows its part."""
        version = self._operator.settings.pg_version
        for name in members.complete():
            if name not in members.pods:
                pod = self._operator.registry.create(objects.instance_pod(cluster, name, version))
                members.pods[name] = pod
            self._instances.tell(cluster, members.pods[name])
            self._instances.label(cluster, members.pods[name])

    async def _duties(self, cluster: Object, members: Members) -> float | None:
        """What the operator does at the running servers, and what it learns there."""
        told = cluster.get("status") or {}
        primary = told.get("currentPrimary")
        reply = members.replies.get(primary or "")
        if primary is None or reply is None or reply.in_recovery:
            return None
        facts = await self._instances.primary(cluster, members)
        if facts is None:
            raise Halt(0.2)
        now = micro_timestamp()
        changes: Object = {
            "currentPrimaryTimestamp": told.get("currentPrimaryTimestamp") or now,
            "targetPrimaryTimestamp": told.get("targetPrimaryTimestamp") or now,
            "timelineID": reply.timeline,
            "systemID": reply.system_id,
            "managedRolesStatus": facts.roles,
            "secretsResourceVersion": facts.secrets,
        }
        cluster = self._operator.set_status(cluster, changes)
        availability.hold(self._operator, cluster, primary)
        nowhere = object_store.archive_use(cluster) is None
        if nowhere and reply.archived:
            works = "Continuous archiving is working"
            self._operator.set_condition(cluster, "ContinuousArchiving", True, "ContinuousArchivingSuccess", works)
        waits = nowhere and not reply.archived and condition(cluster, "ContinuousArchiving") is None
        await self._instances.replicas(cluster, members)
        return 1.0 if waits or facts.cannot else None

    def _everyone_is_there(self, cluster: Object, members: Members) -> None:
        """Nothing is changed while instances are being made or are away."""
        if set(members.complete()) != set(members.claims) and all(map(members.is_ready, members.complete())):
            raise Halt(5.0)  # a Job is copying; its phase was set when it began
        away = [name for name in members.complete() if not members.is_ready(name)]
        if not away and all(name in members.replies for name in members.complete()):
            return
        if not away:
            raise Halt(1.0)  # ready and silent: the probe will tell, or it answers again
        if fencing.explain(cluster, away):
            raise Halt(1.0)
        # CNPG calls a pod active that runs, ready or not.
        active = all((members.pods[name].get("status") or {}).get("phase") == "Running" for name in away)
        phase = (cluster.get("status") or {}).get("phase")
        if not active and phase not in (phases.RESTARTING, phases.RESTARTING_IN_PLACE):
            status.phase(self._operator, cluster, phases.WAITING_FOR_INSTANCES, _NOT_YET_ACTIVE)
        raise Halt(1.0 if len(members.complete()) > 1 else 0.2)
