"""The kubelet of the lab's one node: it runs pods, binds volumes, and serves log, exec and port-forward.

A Pod's object stays (by a finalizer) until its processes are really gone: "deleted" is never a promise here.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from pathlib import Path

from drillbook_lab.apiserver.errors import ApiError, Object
from drillbook_lab.apiserver.registry import Registry
from drillbook_lab.controller.places import PodPlaces, Prepare
from drillbook_lab.errors import LabError
from drillbook_lab.identity import prepare_dir
from drillbook_lab.podworker import PodWorker
from drillbook_lab.volumes import FINALIZER, Volumes

NODE = "lab-node-1"


class Kubelet:
    """Keeps one process a pod, and answers for it. Implements the API server's `PodRuntime`."""

    def __init__(
        self, registry: Registry, *, pods_dir: Path, volumes_dir: Path, socket_dir: Path, bin_dir: Path
    ) -> None:
        self._registry = registry
        self._pods_dir = pods_dir
        self._socket_dir = socket_dir
        self._bin_dir = bin_dir
        self.volumes = Volumes(registry, volumes_dir)
        self.prepare: Prepare = _no_prepare
        self._workers: dict[str, PodWorker] = {}  # by uid
        self._addresses: dict[tuple[str, str], str] = {}
        # Each lab has a /16 of the loopback network, so that several labs stand side by side.
        self._net = f"127.{2 + secrets.randbelow(250)}.{1 + secrets.randbelow(253)}"
        self._hosts = itertools.count(2)
        self._sockets = itertools.count(1)

    # -- reconciling -------------------------------------------------------------------------------------------

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring the processes of one pod in line with its object."""
        try:
            pod = self._registry.get("Pod", namespace, name)
        except ApiError:
            return None
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            await self._remove(pod)
            return None
        if meta["uid"] in self._workers or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return None
        if FINALIZER not in (meta.get("finalizers") or ()):
            finalizers = [*(meta.get("finalizers") or ()), FINALIZER]
            pod = self._registry.patch("Pod", namespace, name, {"metadata": {"finalizers": finalizers}})
        if not pod["spec"].get("nodeName"):
            pod = self._registry.patch("Pod", namespace, name, {"spec": {"nodeName": NODE}})
        volumes = self.volumes.mounted(pod)
        if volumes is None:
            return 0.05
        places = PodPlaces(
            run_dir=self._pods_dir / f"{namespace}_{name}_{meta['uid'][:8]}",
            socket_dir=self._socket_dir / str(next(self._sockets)),
            address=self._address(namespace, name),
            volumes=volumes,
        )
        prepare_dir(places.run_dir)
        prepare_dir(places.socket_dir)
        self._workers[meta["uid"]] = PodWorker(self._registry, pod, places, self.prepare, self._bin_dir)
        return None

    async def close(self, longest_grace: float = 2.0) -> None:
        """Stop every pod, all at once: the lab goes, and its data with it."""
        ends = (worker.end(longest_grace) for worker in self._workers.values())
        await asyncio.gather(*ends, return_exceptions=True)

    async def _remove(self, pod: Object) -> None:
        meta = pod["metadata"]
        worker = self._workers.get(meta["uid"])
        if worker is not None:
            await worker.end()
            worker.remove()
            self._workers.pop(meta["uid"], None)
        finalizers = [entry for entry in meta.get("finalizers") or () if entry != FINALIZER]
        if finalizers != (meta.get("finalizers") or []):
            self._registry.patch("Pod", meta["namespace"], meta["name"], {"metadata": {"finalizers": finalizers}})

    def _address(self, namespace: str, name: str) -> str:
        # A pod that is made anew under the same name keeps its address: forwards and clients find it again.
        key = (namespace, name)
        if not re.search(r"-\d+$", name):  # a Job's pod is never met again
            return self._next_address()
        if key not in self._addresses:
            self._addresses[key] = self._next_address()
        return self._addresses[key]

    def _next_address(self) -> str:
        host = next(self._hosts)
        first, second, third = self._net.split(".")
        return f"{first}.{second}.{(int(third) + host // 250) % 256}.{2 + host % 250}"

    # -- what controllers ask ----------------------------------------------------------------------------------

    def worker(self, namespace: str, pod: str) -> PodWorker:
        """The worker of a pod. `KeyError`: no such pod runs or ran here."""
        found = self._registry_uid(namespace, pod)
        if found is None or found not in self._workers:
            raise KeyError(f"{namespace}/{pod}")
        return self._workers[found]

    def workers(self) -> list[PodWorker]:
        """Every pod that has processes or a log."""
        return list(self._workers.values())

    def _registry_uid(self, namespace: str, pod: str) -> str | None:
        try:
            return str(self._registry.get("Pod", namespace, pod)["metadata"]["uid"])
        except ApiError:
            return None

    # -- PodRuntime --------------------------------------------------------------------------------------------

    def log_path(self, namespace: str, pod: str, container: str | None) -> Path:
        """The file that holds a container's output. `KeyError`: there is no such pod or container."""
        return self.worker(namespace, pod).log_path(container)

    async def exec(
        self, namespace: str, pod: str, container: str | None, command: list[str], *, stdin: bool, tty: bool
    ) -> asyncio.subprocess.Process:
        """Start a command in the pod's environment, as the database's own user."""
        worker = self.worker(namespace, pod)
        worker.log_path(container)  # KeyError for an unknown container
        return await worker.exec(command, stdin=stdin)

    async def connect(self, namespace: str, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a port of the pod. `ConnectionError` when nobody listens."""
        try:
            worker = self.worker(namespace, pod)
        except KeyError as fault:
            raise ConnectionError(f"pod {namespace}/{pod} is not running") from fault
        try:
            return await asyncio.open_connection(worker.places.address, port, limit=2**20)
        except OSError as fault:
            raise ConnectionError(f"dial tcp {worker.places.address}:{port}: connect: connection refused") from fault


def _no_prepare(pod: Object, places: PodPlaces) -> None:
    # The controllers set their own before any pod exists; a pod that came earlier must not start half-prepared.
    raise LabError("a pod was to start before the controllers", places.run_dir.name, "drillbook lab down, then up again")
