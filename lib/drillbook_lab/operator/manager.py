"""Puts the controllers together: who is woken by which event."""

from __future__ import annotations

import asyncio

from drillbook_lab.api.errors import Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.operator.applications import Applications
from drillbook_lab.operator.archiving import ArchiveWatch
from drillbook_lab.operator.autoscaling import Autoscalers
from drillbook_lab.operator.backup import Backups
from drillbook_lab.operator.cluster import Clusters
from drillbook_lab.operator.context import Operator, Settings
from drillbook_lab.operator.cron_jobs import CronJobs
from drillbook_lab.operator.databases import Databases
from drillbook_lab.operator.deployments import Deployments
from drillbook_lab.operator.jobs import Jobs
from drillbook_lab.operator.metrics import Metrics
from drillbook_lab.operator.pooler import Poolers
from drillbook_lab.operator.prepare import Preparation
from drillbook_lab.operator.queue import Handler, WorkQueue
from drillbook_lab.operator.replica_sets import ReplicaSets
from drillbook_lab.operator.retention import Maintenance
from drillbook_lab.operator.scheduled_backup import ScheduledBackups
from drillbook_lab.operator.services import Services

# What a Cluster is made from, besides itself: any change of these in its namespace has it looked at.
_WAKES_CLUSTERS = ("Secret", "ObjectStore", "Backup")
# What nobody does while the operator is gone. Jobs, Deployments, Services and pods are Kubernetes' own.
_OPERATORS_OWN = ("Cluster", "Backup", "ScheduledBackup", "Pooler", "Database")
_WAKES_POOLERS = ("Cluster", "Secret")


class Manager:
    """The operator, its plugin and the Job controller, and the kubelet's loop."""

    def __init__(self, registry: Registry, kubelet: Kubelet, settings: Settings) -> None:
        self._registry = registry
        self._kubelet = kubelet
        self.operator = Operator(registry, kubelet, settings)
        preparation = Preparation(self.operator)
        kubelet.preparers["instance"] = preparation
        poolers = Poolers(self.operator)
        kubelet.preparers["pooler"] = poolers.prepare
        kubelet.attendants["instance"] = Metrics(self.operator).attend
        self._backups = Backups(self.operator)
        self._services = Services(self.operator)
        # In the order of a first look: what others stand on comes first.
        self._handlers: dict[str, Handler] = {
            "PersistentVolume": kubelet.volumes.reconcile_volume,
            "PersistentVolumeClaim": kubelet.volumes.reconcile,
            "Service": self._services.reconcile,
            "Pod": kubelet.reconcile,
            "CronJob": CronJobs(self.operator).reconcile,
            "Job": Jobs(self.operator).reconcile,
            "Cluster": Clusters(self.operator, preparation).reconcile,
            "Backup": self._backups.reconcile,
            "ScheduledBackup": ScheduledBackups(self.operator).reconcile,
            "Database": Databases(self.operator).reconcile,
            "ReplicaSet": ReplicaSets(self.operator).reconcile,
            "Deployment": Deployments(self.operator).reconcile,
            "HorizontalPodAutoscaler": Autoscalers(self.operator).reconcile,
            "Pooler": poolers.reconcile,
        }
        self._queue = WorkQueue(self._handlers)
        self._archiving = ArchiveWatch(self.operator)
        self._maintenance = Maintenance(self.operator)
        self._applications = Applications(self.operator)
        self._watches: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look; objects that are there already are looked at first."""
        self._registry.subscribe(self._route)
        loops = {
            "archive watch": self._archiving.run,
            "retention": self._maintenance.run,
            "reconciler": self._applications.run,
        }
        for name, loop in loops.items():
            self._watches.append(asyncio.get_running_loop().create_task(loop(), name=name))
        for kind in self._handlers:
            for obj in self._registry.list(kind):
                self._queue.add(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])

    def operate(self, run: bool) -> None:
        """Have the operator there, or gone: its controllers stand still and its webhooks don't answer."""
        self._queue.hold(() if run else _OPERATORS_OWN)
        self._registry.operator_answers = run

    async def close(self) -> None:
        """Stop the loops, then every pod."""
        await self._queue.close()
        await self._backups.close()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._services.close()
        await self._kubelet.close()

    def _route(self, event: str, obj: Object) -> None:
        kind, meta = obj["kind"], obj["metadata"]
        namespace = meta.get("namespace", "")
        if kind == "Event":
            return
        self._queue.add(kind, namespace, meta["name"])
        if kind == "PersistentVolume" and event == "MODIFIED":
            for claim in self._registry.list("PersistentVolumeClaim"):
                self._queue.add("PersistentVolumeClaim", claim["metadata"]["namespace"], claim["metadata"]["name"])
        if not namespace:
            return
        self._services.route(obj, self._queue.add)
        for owner in meta.get("ownerReferences") or ():
            self._queue.add(owner["kind"], namespace, owner["name"])
        # A store that is made or removed wakes nobody: who misses one asks again by itself, later each time.
        if kind in _WAKES_CLUSTERS and (kind != "ObjectStore" or event == "MODIFIED"):
            for cluster in self._registry.list("Cluster", namespace):
                self._queue.add("Cluster", namespace, cluster["metadata"]["name"])
        if kind in _WAKES_POOLERS:
            for pooler in self._registry.peek("Pooler", namespace):
                self._queue.add("Pooler", namespace, pooler["metadata"]["name"])
        if kind == "Cluster" and (event == "DELETED" or meta.get("deletionTimestamp")):
            for declared in self._registry.peek("Database", namespace):
                self._queue.add("Database", namespace, declared["metadata"]["name"])
        if kind == "PersistentVolumeClaim" and event != "ADDED":
            name = (meta.get("labels") or {}).get("cnpg.io/cluster")
            if name:
                self._queue.add("Cluster", namespace, name)
