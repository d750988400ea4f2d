"""PersistentVolumeClaims are directories. A claim's object goes only after its directory has really gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from drillbook_lab.apiserver.errors import ApiError, Object
from drillbook_lab.apiserver.registry import Registry
from drillbook_lab.identity import prepare_dir
from drillbook_lab.processes import end_processes_under

FINALIZER = "lab.drillbook/processes"


class Volumes:
    """Binds claims to directories, and removes the directory when the claim is deleted."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry = registry
        self._root = root

    def path(self, claim: Object) -> Path:
        """The directory of a claim; a later claim of the same name has another one."""
        meta = claim["metadata"]
        return self._root / f"{meta['namespace']}_{meta['name']}_{meta['uid'][:8]}"

    def mounted(self, pod: Object) -> dict[str, Path] | None:
        """The directories of a pod's claims by volume name; None while one of them isn't bound."""
        found: dict[str, Path] = {}
        for volume in pod["spec"].get("volumes") or ():
            source = volume.get("persistentVolumeClaim")
            if source is None:
                continue
            try:
                claim = self._registry.get("PersistentVolumeClaim", pod["metadata"]["namespace"], source["claimName"])
            except ApiError:
                return None
            if claim.get("status", {}).get("phase") != "Bound" or claim["metadata"].get("deletionTimestamp"):
                return None
            found[volume["name"]] = self.path(claim)
        return found

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring one claim's directory in line with the claim."""
        try:
            claim = self._registry.get("PersistentVolumeClaim", namespace, name)
        except ApiError:
            return None
        meta = claim["metadata"]
        if meta.get("deletionTimestamp"):
            return await self._remove(claim)
        if FINALIZER not in (meta.get("finalizers") or ()):
            finalizers = [*(meta.get("finalizers") or ()), FINALIZER]
            claim = self._registry.patch(
                "PersistentVolumeClaim", namespace, name, {"metadata": {"finalizers": finalizers}}
            )
        if claim.get("status", {}).get("phase") != "Bound":
            prepare_dir(self.path(claim))
            self._bind(claim)
        return None

    def _bind(self, claim: Object) -> None:
        meta, spec = claim["metadata"], claim["spec"]
        volume = f"pvc-{meta['uid']}"
        capacity = spec.get("resources", {}).get("requests") or {}
        persistent: Object = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": capacity,
                "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": spec.get("storageClassName", ""),
                "hostPath": {"path": str(self.path(claim))},
                "claimRef": {
                    "kind": "PersistentVolumeClaim",
                    "namespace": meta["namespace"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                },
            },
        }
        try:
            self._registry.create(persistent)
        except ApiError as fault:
            if fault.reason != "AlreadyExists":
                raise
        if not spec.get("volumeName"):
            self._registry.patch(
                "PersistentVolumeClaim", meta["namespace"], meta["name"], {"spec": {"volumeName": volume}}
            )
        status = {"phase": "Bound", "capacity": capacity, "accessModes": persistent["spec"]["accessModes"]}
        self._registry.patch(
            "PersistentVolumeClaim", meta["namespace"], meta["name"], {"status": status}, subresource="status"
        )

    async def _remove(self, claim: Object) -> float | None:
        meta = claim["metadata"]
        if FINALIZER not in (meta.get("finalizers") or ()):
            return None
        for pod in self._registry.list("Pod", meta["namespace"]):
            for volume in pod["spec"].get("volumes") or ():
                phase = pod.get("status", {}).get("phase")
                claimed = (volume.get("persistentVolumeClaim") or {}).get("claimName") == meta["name"]
                if claimed and phase not in ("Succeeded", "Failed"):
                    return 0.05  # in use: like Kubernetes' own protection of claims
        path = self.path(claim)
        await end_processes_under([path])
        if path.exists():
            await asyncio.to_thread(shutil.rmtree, path)
        try:
            self._registry.delete("PersistentVolume", None, f"pvc-{meta['uid']}")
        except ApiError as fault:
            if fault.code != 404:
                raise
        finalizers = [entry for entry in meta["finalizers"] if entry != FINALIZER]
        self._registry.patch(
            "PersistentVolumeClaim", meta["namespace"], meta["name"], {"metadata": {"finalizers": finalizers}}
        )
        return None
