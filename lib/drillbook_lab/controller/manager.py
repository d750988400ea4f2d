"""Puts the controllers together: who is woken by which event."""

from __future__ import annotations

import asyncio

from drillbook_lab.apiserver.errors import Object
from drillbook_lab.apiserver.registry import Registry
from drillbook_lab.controller.archiving import ArchiveWatch
from drillbook_lab.controller.backup import Backups
from drillbook_lab.controller.cluster import Clusters
from drillbook_lab.controller.context import Operator, Settings
from drillbook_lab.controller.jobs import Jobs
from drillbook_lab.controller.prepare import Preparation
from drillbook_lab.controller.queue import WorkQueue
from drillbook_lab.kubelet import Kubelet

# What a Cluster is made from, besides itself: any change of these in its namespace has it looked at.
_WAKES_CLUSTERS = ("Secret", "ObjectStore", "Backup")


class Manager:
    """The operator, its plugin and the Job controller, and the kubelet's loop."""

    def __init__(self, registry: Registry, kubelet: Kubelet, settings: Settings) -> None:
        self._registry = registry
        self._kubelet = kubelet
        self.operator = Operator(registry, kubelet, settings)
        preparation = Preparation(self.operator)
        kubelet.prepare = preparation
        self._backups = Backups(self.operator)
        self._queue = WorkQueue(
            {
                "Cluster": Clusters(self.operator, preparation).reconcile,
                "Job": Jobs(self.operator).reconcile,
                "Backup": self._backups.reconcile,
                "Pod": kubelet.reconcile,
                "PersistentVolumeClaim": kubelet.volumes.reconcile,
            }
        )
        self._archiving = ArchiveWatch(self.operator)
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look; objects that are there already are looked at first."""
        self._registry.subscribe(self._route)
        self._watch = asyncio.get_running_loop().create_task(self._archiving.run(), name="archive watch")
        for kind in ("PersistentVolumeClaim", "Pod", "Job", "Cluster", "Backup"):
            for obj in self._registry.list(kind):
                self._queue.add(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

    async def close(self) -> None:
        """Stop the loops, then every pod."""
        await self._queue.close()
        await self._backups.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._kubelet.close()

    def _route(self, event: str, obj: Object) -> None:
        kind, meta = obj["kind"], obj["metadata"]
        namespace = meta.get("namespace")
        if not namespace or kind == "Event":
            return
        self._queue.add(kind, namespace, meta["name"])
        for owner in meta.get("ownerReferences") or ():
            self._queue.add(owner["kind"], namespace, owner["name"])
        if kind in _WAKES_CLUSTERS:
            for cluster in self._registry.list("Cluster", namespace):
                self._queue.add("Cluster", namespace, cluster["metadata"]["name"])
        if kind == "PersistentVolumeClaim" and event != "ADDED":
            name = (meta.get("labels") or {}).get("cnpg.io/cluster")
            if name:
                self._queue.add("Cluster", namespace, name)
