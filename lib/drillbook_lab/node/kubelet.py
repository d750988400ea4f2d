"""The kubelet of the lab's one node: it runs pods, binds volumes, and serves log, exec and port-forward.

A Pod's object stays (by a finalizer) until its processes are really gone: "deleted" is never a promise here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from drillbook_lab.addresses import AddressBook
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.errors import LabError
from drillbook_lab.identity import prepare_dir
from drillbook_lab.names import HostsFiles
from drillbook_lab.node import pod_view
from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.node.volumes import FINALIZER, Volumes
from drillbook_lab.operator.places import Attend, PodPlaces, Prepare, nothing_to_prepare, pod_role

NODE = "lab-node-1"


class Kubelet:
    """Keeps one process a pod, and answers for it. Implements the API server's `PodRuntime`."""

    def __init__(
        self,
        registry: Registry,
        *,
        pods_dir: Path,
        volumes_dir: Path,
        socket_dir: Path,
        bin_dir: Path,
        addresses: AddressBook | None = None,
    ) -> None:
        self._registry = registry
        self._pods_dir = pods_dir
        self._socket_dir = socket_dir
        self._bin_dir = bin_dir
        self.volumes = Volumes(registry, volumes_dir)
        self.hosts = HostsFiles(pods_dir.parent / "hosts")
        # By the pod's role. The controllers set the instances' own before any pod exists.
        self.preparers: dict[str, Prepare] = {"": nothing_to_prepare, "instance": _no_prepare}
        self.attendants: dict[str, Attend] = {}
        self.access: pod_view.ApiAccess | None = None  # once the API server answers
        self._workers: dict[str, PodWorker] = {}  # by uid
        self.addresses = addresses or AddressBook()
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
            address=(pod.get("status") or {}).get("podIP") or self.addresses.of_pod(namespace, name),
            volumes=volumes,
            hosts=self.hosts.of(namespace),
        )
        prepare_dir(places.run_dir)
        prepare_dir(places.socket_dir)
        self._workers[meta["uid"]] = PodWorker(
            self._registry, pod, places, self._prepare, self._attend, self._view, self._bin_dir
        )
        return None

    def _prepare(self, pod: Object, places: PodPlaces) -> None:
        """Looked up at each start: a role's preparer may come later than its first pod."""
        self.preparers.get(pod_role(pod), nothing_to_prepare)(pod, places)

    def _attend(self, pod: Object, places: PodPlaces) -> AbstractAsyncContextManager[None]:
        attend = self.attendants.get(pod_role(pod))
        return contextlib.nullcontext() if attend is None else attend(pod, places)

    def _view(self, pod: Object, places: PodPlaces) -> pod_view.PodView:
        """Laid out again at each start: what it is made of may have changed."""
        return pod_view.lay_out(self._registry, pod, places, self.access, [self._bin_dir.parent])

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
        if tty:
            command = [sys.executable, "-m", "drillbook_lab.terminal", *command]
        return await worker.exec(command, stdin=stdin)

    async def connect(self, namespace: str, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a port of the pod. `ConnectionError` when nobody listens."""
        try:
            worker = self.worker(namespace, pod)
        except KeyError as fault:
            raise ConnectionError(f"pod {namespace}/{pod} is not running") from fault
        host = worker.reached_at(port)
        try:
            return await asyncio.open_connection(host, port, limit=2**20)
        except OSError as fault:
            raise ConnectionError(f"dial tcp {host}:{port}: connect: connection refused") from fault


def _no_prepare(pod: Object, places: PodPlaces) -> None:
    # The controllers set their own before any pod exists; a pod that came earlier must not start half-prepared.
    raise LabError(
        "a pod was to start before the controllers", places.run_dir.name, "drillbook lab down, then up again"
    )
