"""The Cluster controller: from an object to a running PostgreSQL, one step a look, in CNPG's order.

Furniture, then the claim, then the Job that fills it, then the pod, then what the running server says of
itself. Each look starts from what is there; nothing is remembered that can't be read again.
"""

from __future__ import annotations

import logging

import psycopg

from drillbook_lab.apiserver.errors import Object
from drillbook_lab.controller import furniture, objects, objectstore, phases
from drillbook_lab.controller.context import Operator, holds, is_owned_by, micro_timestamp
from drillbook_lab.controller.instance import Instances
from drillbook_lab.controller.prepare import Preparation

log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 10.0


class Clusters:
    """Reconciles Cluster objects."""

    def __init__(self, operator: Operator, preparation: Preparation) -> None:
        self._operator = operator
        self._instances = Instances(operator, preparation)

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Move one Cluster on."""
        cluster = self._operator.find("Cluster", namespace, name)
        if cluster is None or cluster["metadata"].get("deletionTimestamp"):
            return None
        if (cluster["metadata"].get("annotations") or {}).get("cnpg.io/reconciliationLoop") == "disabled":
            return None
        unknown = objectstore.unknown_plugins(cluster)
        if unknown:
            self._phase(cluster, phases.UNKNOWN_PLUGIN, f"Unknown plugin(s): {', '.join(unknown)}")
            return None
        try:
            furniture.ensure(self._operator, cluster)
        except furniture.ForeignService as fault:
            self._phase(cluster, phases.CANNOT_CREATE_OBJECTS, str(fault))
            return None
        cluster = self._initialize_status(cluster)
        if objectstore.missing_stores(self._operator, cluster):
            return None  # the plugin asks for a requeue: no phase, no event
        return await self._instance(cluster, f"{name}-1")

    # -- the stages --------------------------------------------------------------------------------------------

    async def _instance(self, cluster: Object, instance: str) -> float | None:
        namespace = cluster["metadata"]["namespace"]
        claim = self._operator.find("PersistentVolumeClaim", namespace, instance)
        if claim is not None and claim["metadata"].get("deletionTimestamp"):
            return 0.1  # an earlier Cluster's volume: it must be gone first
        if claim is None:
            if not self._can_bootstrap(cluster):
                return None
            claim = self._operator.registry.create(objects.claim(cluster, instance, 1))
        elif not is_owned_by(claim, cluster["metadata"]["uid"]):
            claim = self._adopt(cluster, claim)
        if claim["metadata"]["annotations"].get("cnpg.io/pvcStatus") != "ready":
            done, again = self._bootstrap(cluster, claim, instance)
            if not done:
                return again
        pod = self._operator.find("Pod", namespace, instance)
        if pod is None:
            version = self._operator.settings.pg_version
            pod = self._operator.registry.create(objects.instance_pod(cluster, instance, version))
        self._count(cluster, instance)
        if pod["metadata"].get("deletionTimestamp") or not holds(pod, "Ready"):
            waiting = f"Some instances are not yet active: {instance}"
            self._phase(cluster, phases.WAITING_FOR_INSTANCES, waiting, readyInstances=0)
            return None
        return await self._running(cluster, pod)

    def _can_bootstrap(self, cluster: Object) -> bool:
        method, section = objects.bootstrap(cluster)
        if method == "initdb":
            return True
        if method == "recovery" and objectstore.source_use(cluster) is not None:
            return True
        backup = (section.get("backup") or {}).get("name")
        if backup and self._operator.find("Backup", cluster["metadata"]["namespace"], backup) is None:
            self._operator.event(cluster, "ErrorNoBackup", f'Backup object "{backup}" is missing', kind="Warning")
        # Other ways to bootstrap are accepted by the API and not done by this lab: nothing is pretended.
        log.warning(
            "%s: this lab bootstraps by initdb or by recovery from an object store", cluster["metadata"]["name"]
        )
        return False

    def _bootstrap(self, cluster: Object, claim: Object, instance: str) -> tuple[bool, float | None]:
        """Whether PGDATA is complete; if not, the Job that fills it runs or has failed."""
        method, _ = objects.bootstrap(cluster)
        role = "full-recovery" if method == "recovery" else "initdb"
        namespace = cluster["metadata"]["namespace"]
        job = self._operator.find("Job", namespace, f"{instance}-{role}")
        if job is None:
            reason = f"Creating primary instance {instance}"
            self._phase(cluster, phases.SETTING_UP_PRIMARY, reason, targetPrimary=instance)
            self._operator.registry.create(objects.bootstrap_job(cluster, instance, role))
            bootstrap = "recovery from an object store" if role == "full-recovery" else "initdb"
            self._operator.event(cluster, "CreatingInstance", f"Primary instance ({bootstrap})")
            return False, None
        if not is_owned_by(job, cluster["metadata"]["uid"]):
            return False, 0.1  # an earlier Cluster's Job, on its way out
        self._count(cluster, instance, jobs=1)
        if holds(job, "Failed"):
            reason = f"Job {job['metadata']['name']} failed: the data directory of {instance} can't be set up"
            self._phase(cluster, phases.UNRECOVERABLE, reason)
            return False, None
        if not holds(job, "Complete"):
            return False, None
        patch = {"metadata": {"annotations": {"cnpg.io/pvcStatus": "ready"}}}
        self._operator.registry.patch("PersistentVolumeClaim", namespace, instance, patch)
        self._operator.set_condition(
            cluster, "Initialized", True, "BootstrapCompleted", "The cluster bootstrap is complete"
        )
        return True, None

    async def _running(self, cluster: Object, pod: Object) -> float | None:
        try:
            facts = await self._instances.reconcile(cluster, pod)
        except (psycopg.OperationalError, KeyError) as fault:
            log.debug("%s: not answering: %s", pod["metadata"]["name"], fault)
            return 0.2
        name = pod["metadata"]["name"]
        now = micro_timestamp()
        status = cluster.get("status") or {}
        changes: Object = {
            "readyInstances": 1,
            "instancesStatus": {"healthy": [name]},
            "instancesReportedState": {
                name: {"isPrimary": True, "timeLineID": facts.timeline, "ip": pod["status"]["podIP"]}
            },
            "currentPrimary": name,
            "targetPrimary": name,
            "currentPrimaryTimestamp": status.get("currentPrimaryTimestamp") or now,
            "targetPrimaryTimestamp": status.get("targetPrimaryTimestamp") or now,
            "timelineID": facts.timeline,
            "systemID": facts.system_id,
            "managedRolesStatus": facts.roles,
            "secretsResourceVersion": facts.secrets,
            "initializingPVC": [],
            "healthyPVC": [name],
        }
        cluster = self._operator.set_status(cluster, changes)
        self._operator.set_condition(
            cluster,
            "ConsistentSystemID",
            True,
            "Unique",
            "A single, unique system ID was found across reporting instances.",
        )
        if facts.archives_nothing:
            self._operator.set_condition(
                cluster, "ContinuousArchiving", True, "ContinuousArchivingSuccess", "Continuous archiving is working"
            )
        if cluster["spec"].get("instances", 1) > 1:
            self._phase(cluster, phases.CREATING_REPLICA, "this lab runs the primary only: no replica will be created")
            return _LOOK_AGAIN_SECONDS
        self._phase(cluster, phases.HEALTHY, "")
        for job in self._operator.owned(cluster, "Job"):
            if holds(job, "Complete"):  # with its pods and their logs, as on a real cluster
                self._operator.registry.delete("Job", cluster["metadata"]["namespace"], job["metadata"]["name"])
        self._count(cluster, name)
        return facts.look_again_seconds or _LOOK_AGAIN_SECONDS

    # -- bookkeeping -------------------------------------------------------------------------------------------

    def _adopt(self, cluster: Object, claim: Object) -> Object:
        """An ownerless volume of this name is taken over with the data that it holds, as CNPG does."""
        meta = claim["metadata"]
        patch = {"metadata": {"ownerReferences": [objects.owner_reference(cluster)]}}
        return self._operator.registry.patch("PersistentVolumeClaim", meta["namespace"], meta["name"], patch)

    def _initialize_status(self, cluster: Object) -> Object:
        name = cluster["metadata"]["name"]
        version = self._operator.settings.pg_version
        image = objects.image(cluster)
        entry = objectstore.plugin_entry(cluster)
        changes: Object = {
            "writeService": f"{name}-rw",
            "readService": f"{name}-r",
            "image": image,
            "pgDataImageInfo": {"image": image, "majorVersion": int(version.split(".")[0])},
            "certificates": furniture.certificate_status(self._operator, cluster),
            "pluginStatus": [{"name": objects.PLUGIN, "version": "0.14.0"}] if entry is not None else None,
        }
        cluster = self._operator.set_status(cluster, changes)
        if not (cluster.get("status") or {}).get("conditions"):
            cluster = self._operator.set_condition(
                cluster, "Initialized", False, "BootstrapPending", "The cluster bootstrap is pending"
            )
            cluster = self._operator.set_condition(cluster, "Ready", False, "ClusterIsNotReady", "Cluster Is Not Ready")
        return cluster

    def _count(self, cluster: Object, instance: str, jobs: int = 0) -> None:
        changes = {"instances": 1, "instanceNames": [instance], "pvcCount": 1, "jobCount": jobs}
        self._operator.set_status(cluster, changes)

    def _phase(self, cluster: Object, phase: str, reason: str, **more: object) -> None:
        """Set the phase, its reason, and the Ready condition that mirrors it."""
        cluster = self._operator.set_status(cluster, {"phase": phase, "phaseReason": reason or None, **more})
        if phase == phases.HEALTHY:
            self._operator.set_condition(cluster, "Ready", True, "ClusterIsReady", "Cluster is Ready")
        else:
            self._operator.set_condition(cluster, "Ready", False, "ClusterIsNotReady", "Cluster Is Not Ready")
