"""PersistentVolumeClaims and PersistentVolumes: a volume is a directory, and its object says whose it is.

A claim is bound to a volume that is free, or a new one is provisioned as its StorageClass says. A claim's object goes
only after its volume has really been given up: removed, or, where it is to be retained, released with its data.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.identity import prepare_dir
from drillbook_lab.node import volume_capacity
from drillbook_lab.node.processes import end_processes_under
from drillbook_lab.operator import events
from drillbook_lab.quantities import quantity

FINALIZER = "lab.drillbook/processes"
_PROTECTION = "kubernetes.io/pv-protection"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_CLAIM, _VOLUME = "PersistentVolumeClaim", "PersistentVolume"
_LOOK_AGAIN_SECONDS = 0.5


class Volumes:
    """Binds claims to directories, and gives the directories up when the claims are deleted."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry = registry
        self._root = root

    def path(self, claim: Object) -> Path:
        """The directory of a claim: that of its volume."""
        volume = self._find(_VOLUME, None, claim["spec"].get("volumeName") or "")
        if volume is not None:
            return Path(volume["spec"]["hostPath"]["path"])
        meta = claim["metadata"]
        return self._root / f"{meta['namespace']}_{meta['name']}_{meta['uid'][:8]}"

    def mounted(self, pod: Object) -> dict[str, Path] | None:
        """The directories of a pod's claims by volume name; None while one of them isn't bound."""
        found: dict[str, Path] = {}
        for volume in pod["spec"].get("volumes") or ():
            source = volume.get("persistentVolumeClaim")
            if source is None:
                continue
            claim = self._find(_CLAIM, pod["metadata"]["namespace"], source["claimName"])
            if claim is None or not _is_bound(claim) or claim["metadata"].get("deletionTimestamp"):
                return None
            found[volume["name"]] = self.path(claim)
        return found

    # -- claims ------------------------------------------------------------------------------------------------

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring one claim's volume in line with the claim."""
        claim = self._find(_CLAIM, namespace, name)
        if claim is None:
            return None
        meta = claim["metadata"]
        if meta.get("deletionTimestamp"):
            return await self._give_up(claim)
        if FINALIZER not in (meta.get("finalizers") or ()):
            claim = self._finalizers(claim, [*(meta.get("finalizers") or ()), FINALIZER])
        if not _is_bound(claim):
            volume = self._volume_for(claim)
            if volume is None:
                return _LOOK_AGAIN_SECONDS
            claim = self._bind(claim, volume)
        claim = self._grow(claim)
        volume_capacity.set_capacity(self.path(claim), claim)
        return None

    def _volume_for(self, claim: Object) -> Object | None:
        """A volume that may be the claim's; None while there isn't one."""
        spec = claim["spec"]
        if spec.get("storageClassName") is None and not spec.get("volumeName"):
            default = self._default_class()
            if default is not None:
                claim = self._patch(claim, {"spec": {"storageClassName": default}})
                spec = claim["spec"]
        fitting = [volume for volume in self._registry.list(_VOLUME) if _fits(volume, claim)]
        if fitting:
            return min(fitting, key=lambda volume: quantity(_size(volume["spec"].get("capacity"))) or 0)
        if spec.get("volumeName") or spec.get("storageClassName") == "":
            return None  # a volume that somebody has to make
        wanted = spec.get("storageClassName")
        class_ = self._find("StorageClass", None, wanted or "")
        # Where there are no classes at all, there is only one way to make a volume.
        if class_ is None and (wanted or self._registry.peek("StorageClass")):
            why = (
                f'storageclass.storage.k8s.io "{wanted}" not found'
                if wanted
                else ("no persistent volumes available for this claim and no storage class is set")
            )
            self._tell(claim, "ProvisioningFailed" if wanted else "FailedBinding", why, kind="Warning")
            return None
        if (class_ or {}).get("volumeBindingMode") == "WaitForFirstConsumer" and not self._users(claim):
            self._tell(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
            return None
        return self._provision(claim, class_ or {})

    def _provision(self, claim: Object, class_: Object) -> Object:
        meta, spec = claim["metadata"], claim["spec"]
        path = prepare_dir(self.path(claim))
        volume: Object = {
            "apiVersion": "v1",
            "kind": _VOLUME,
            "metadata": {
                "name": f"pvc-{meta['uid']}",
                "annotations": {
                    "pv.kubernetes.io/provisioned-by": class_.get("provisioner", "drillbook.lab/directory")
                },
                "finalizers": [_PROTECTION],
            },
            "spec": {
                "capacity": (spec.get("resources") or {}).get("requests") or {},
                "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": class_.get("reclaimPolicy", "Delete"),
                "storageClassName": spec.get("storageClassName") or "",
                "volumeMode": spec.get("volumeMode", "Filesystem"),
                "hostPath": {"path": str(path)},
                "claimRef": _reference(claim),
            },
        }
        try:
            made = self._registry.create(volume)
        except ApiError as fault:
            if fault.reason != "AlreadyExists":
                raise
            return self._registry.get(_VOLUME, None, volume["metadata"]["name"])
        self._tell(claim, "ProvisioningSucceeded", f"Successfully provisioned volume {volume['metadata']['name']}")
        return made

    def _bind(self, claim: Object, volume: Object) -> Object:
        """Each names the other; the volume first, so that nobody else takes it."""
        if (volume["spec"].get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
            volume = self._patch(volume, {"spec": {"claimRef": _reference(claim)}})
        self._phase(volume, "Bound")
        if claim["spec"].get("volumeName") != volume["metadata"]["name"]:
            claim = self._patch(claim, {"spec": {"volumeName": volume["metadata"]["name"]}})
        capacity, modes = volume["spec"].get("capacity") or {}, volume["spec"].get("accessModes") or ["ReadWriteOnce"]
        return self._patch(claim, {"status": {"phase": "Bound", "capacity": capacity, "accessModes": modes}}, "status")

    def _grow(self, claim: Object) -> Object:
        """A claim that asks for more than it has gets it, where its class allows that."""
        asked = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
        has = _size((claim.get("status") or {}).get("capacity"))
        if not asked or (quantity(str(asked)) or 0) <= (quantity(has) or 0):
            return claim
        class_ = self._find("StorageClass", None, claim["spec"].get("storageClassName") or "")
        if class_ is not None and not class_.get("allowVolumeExpansion"):
            return claim
        volume = self._find(_VOLUME, None, claim["spec"]["volumeName"])
        if volume is not None:
            self._patch(volume, {"spec": {"capacity": {"storage": asked}}})
        return self._patch(claim, {"status": {"capacity": {"storage": asked}}}, "status")

    async def _give_up(self, claim: Object) -> float | None:
        finalizers = claim["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return None
        if self._users(claim):
            return 0.05  # in use: like Kubernetes' own protection of claims
        path = self.path(claim)
        await end_processes_under([path])
        volume = self._find(_VOLUME, None, claim["spec"].get("volumeName") or f"pvc-{claim['metadata']['uid']}")
        if volume is None:
            if path.exists():  # a claim that had got its directory and not yet its volume
                await asyncio.to_thread(shutil.rmtree, path)
        elif volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete" and self._root in path.parents:
            if path.exists():
                await asyncio.to_thread(shutil.rmtree, path)
            volume = self._finalizers(volume, [])
            if not volume["metadata"].get("deletionTimestamp"):
                self._registry.delete(_VOLUME, None, volume["metadata"]["name"])
        else:
            self._phase(volume, "Released")
        self._finalizers(claim, [entry for entry in finalizers if entry != FINALIZER])
        return None

    # -- volumes -----------------------------------------------------------------------------------------------

    async def reconcile_volume(self, namespace: str, name: str) -> float | None:
        """A volume's phase, by whether the claim that it names is still there."""
        volume = self._find(_VOLUME, None, name)
        if volume is None:
            return None
        owner = volume["spec"].get("claimRef")
        claim = self._find(_CLAIM, owner["namespace"], owner["name"]) if owner else None
        is_theirs = claim is not None and owner is not None and owner.get("uid") == claim["metadata"]["uid"]
        if volume["metadata"].get("deletionTimestamp"):
            if not is_theirs:
                self._finalizers(volume, [])
            return None
        if owner is None or not owner.get("uid"):
            self._phase(volume, "Available")
        elif not is_theirs and (volume.get("status") or {}).get("phase") == "Bound":
            self._phase(volume, "Released")
        return None

    # -- the registry ------------------------------------------------------------------------------------------

    def _find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        try:
            return self._registry.get(kind, namespace, name)
        except ApiError:
            return None

    def _patch(self, obj: Object, patch: Object, subresource: str = "") -> Object:
        meta = obj["metadata"]
        return self._registry.patch(obj["kind"], meta.get("namespace"), meta["name"], patch, subresource=subresource)

    def _finalizers(self, obj: Object, wanted: list[str]) -> Object:
        if wanted == (obj["metadata"].get("finalizers") or []):
            return obj
        return self._patch(obj, {"metadata": {"finalizers": wanted}})

    def _phase(self, volume: Object, phase: str) -> None:
        if (volume.get("status") or {}).get("phase") != phase:
            self._patch(volume, {"status": {"phase": phase}}, "status")

    def _default_class(self) -> str | None:
        for class_ in self._registry.peek("StorageClass"):
            if (class_["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true":
                return str(class_["metadata"]["name"])
        return None

    def _users(self, claim: Object) -> list[Object]:
        """The pods that have the claim mounted, or are going to."""
        meta = claim["metadata"]
        return [
            pod
            for pod in self._registry.peek("Pod", meta["namespace"])
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
            and any(
                (volume.get("persistentVolumeClaim") or {}).get("claimName") == meta["name"]
                for volume in pod["spec"].get("volumes") or ()
            )
        ]

    def _tell(self, claim: Object, reason: str, message: str, *, kind: str = "Normal") -> None:
        known = self._registry.peek("Event", claim["metadata"]["namespace"])
        uid = claim["metadata"]["uid"]
        if not any(event["involvedObject"].get("uid") == uid and event["reason"] == reason for event in known):
            events.record(self._registry, claim, reason, message, kind=kind)


def _is_bound(claim: Object) -> bool:
    return bool((claim.get("status") or {}).get("phase") == "Bound")


def _reference(claim: Object) -> Object:
    meta = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": _CLAIM,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }


def _size(capacity: Object | None) -> str:
    return str((capacity or {}).get("storage") or "")


def _fits(volume: Object, claim: Object) -> bool:
    """Whether a volume is free for the claim, or has been kept for it, and is all that it asks for."""
    spec, wanted, meta = volume["spec"], claim["spec"], claim["metadata"]
    owner = spec.get("claimRef") or {}
    if volume["metadata"].get("deletionTimestamp") or not (spec.get("hostPath") or {}).get("path"):
        return False
    if owner.get("uid") == meta["uid"]:
        return True
    if wanted.get("volumeName") and wanted["volumeName"] != volume["metadata"]["name"]:
        return False
    if owner and (owner.get("uid") or (owner.get("namespace"), owner.get("name")) != (meta["namespace"], meta["name"])):
        return False
    if (wanted.get("storageClassName") or "") != (spec.get("storageClassName") or ""):
        return False
    asked = _size((wanted.get("resources") or {}).get("requests"))
    modes = set(wanted.get("accessModes") or ())
    return (quantity(_size(spec.get("capacity"))) or 0) >= (quantity(asked) or 0) and modes <= set(
        spec.get("accessModes") or ()
    )
