"""What acts as Argo CD: declared manifests are applied again every two seconds, no matter who has changed the objects.

"Git" is a folder of YAML files under the lab's home; an `Application` of argoproj.io says which folder goes where.
As with Argo CD: objects carry `argocd.argoproj.io/tracking-id` and `app.kubernetes.io/instance`; fields belong to the
manager `argocd-controller` by server-side apply; `spec.syncPolicy.automated` syncs what is new in the folder, its
`selfHeal` undoes what somebody else has changed, its `prune` deletes what is declared no more. Without `automated` it
only compares: that is how it is paused. Setting `operation.sync` syncs once. Not here: Helm, Kustomize, hooks, waves.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.operator.context import Operator, condition, holds, timestamp

log = logging.getLogger(__name__)

KIND = "Application"
MANAGER = "argocd-controller"
TRACKING = "argocd.argoproj.io/tracking-id"
INSTANCE = "app.kubernetes.io/instance"
FINALIZER = "resources-finalizer.argocd.argoproj.io"
_OWN_MANAGER = "argocd-application-controller"
# What others stand on comes first.
_ORDER = ("Namespace", "ResourceQuota", "LimitRange", "ServiceAccount", "Secret", "ConfigMap", "Service")


class Unreadable(Exception):
    """The folder doesn't say what is declared: why."""


@dataclass(frozen=True)
class Declared:
    """What a folder says, and the mark of its content, as a commit's."""

    revision: str
    objects: list[Object]


class Applications:
    """Compares and applies, until cancelled."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def run(self) -> None:
        """Look at every Application, time and again."""
        while True:
            if any(resource.kind == KIND for resource in self._operator.registry.resources()):
                for app in self._operator.registry.list(KIND):
                    try:
                        self._look(app)
                    except Exception:
                        log.exception("application %s", app["metadata"]["name"])
                    await asyncio.sleep(0)
            await asyncio.sleep(self._operator.settings.reconciler_seconds)

    def _look(self, app: Object) -> None:
        meta, spec = app["metadata"], app["spec"]
        if meta.get("deletionTimestamp"):
            self._remove(app)
            return
        before = app.get("status") or {}
        try:
            declared = self._declared(app)
            differing = [obj for obj in declared.objects if self._differs(obj)]
            surplus = self._surplus(app, declared.objects)
        except (Unreadable, ApiError) as fault:
            self._tell(
                app,
                {
                    "sync": {**(before.get("sync") or {}), "status": "Unknown"},
                    "conditions": [{"type": "ComparisonError", "message": str(fault)}],
                },
            )
            return
        asked = bool((app.get("operation") or {}).get("sync") is not None)
        automated = (spec.get("syncPolicy") or {}).get("automated")
        automatic = automated is not None and automated.get("enabled", True)
        news = declared.revision != ((before.get("operationState") or {}).get("syncResult") or {}).get("revision")
        prunes = bool((automated or {}).get("prune") or ((app.get("operation") or {}).get("sync") or {}).get("prune"))
        outcome: dict[str, Any] = {}
        if asked or (automatic and (news or ((automated or {}).get("selfHeal") and (differing or surplus)))):
            fault_ = self._sync(declared.objects, surplus if prunes else [])
            outcome = {
                "phase": "Failed" if fault_ else "Succeeded",
                "message": fault_ or "successfully synced (all tasks run)",
                "operation": {"initiatedBy": {"automated": not asked}, "sync": {"revision": declared.revision}},
                "syncResult": {"revision": declared.revision},
            }
            differing = [obj for obj in declared.objects if self._differs(obj)]
            surplus = self._surplus(app, declared.objects)
        if asked:
            self._patch(app, {"operation": None})
        self._tell(app, self._status(app, declared, differing, surplus, outcome))

    # -- what is declared ----------------------------------------------------------------------------------------

    def _declared(self, app: Object) -> Declared:
        """The objects of the folder, as this Application's own."""
        source = app["spec"].get("source") or {}
        root = self._operator.settings.declared_dir
        if root is None:
            raise Unreadable("this lab has no folder of declared manifests")
        folder = (root / str(source.get("path") or ".")).resolve()
        if not folder.is_relative_to(root.resolve()) or not folder.is_dir():
            raise Unreadable(f"{source.get('path')}: app path does not exist")
        texts = [path.read_bytes() for path in sorted(folder.glob("*.y*ml"))]
        try:
            found = [obj for text in texts for obj in yaml.safe_load_all(text) if obj is not None]
        except yaml.YAMLError as fault:
            raise Unreadable(f"failed to unmarshal manifest: {fault}") from fault
        for obj in found:
            if (
                not isinstance(obj, dict)
                or not isinstance(obj.get("metadata"), dict)
                or not obj["metadata"].get("name")
            ):
                raise Unreadable("a document of the folder is no object with a name")
            self._track(app, obj)
        rank = {kind: number for number, kind in enumerate(_ORDER)}
        found.sort(key=lambda obj: rank.get(obj["kind"], len(rank)))
        return Declared(hashlib.sha1(b"\0".join(texts), usedforsecurity=False).hexdigest(), found)

    def _track(self, app: Object, obj: Object) -> None:
        meta = obj["metadata"]
        if self._operator.registry.resource(str(obj.get("kind"))).namespaced:
            meta.setdefault("namespace", (app["spec"].get("destination") or {}).get("namespace") or "default")
        name = app["metadata"]["name"]
        meta["annotations"] = {**(meta.get("annotations") or {}), TRACKING: tracking_id(name, obj)}
        meta["labels"] = {**(meta.get("labels") or {}), INSTANCE: name}

    # -- what is there -------------------------------------------------------------------------------------------

    def _live(self, obj: Object) -> Object | None:
        meta = obj["metadata"]
        return self._operator.find(obj["kind"], meta.get("namespace"), meta["name"])

    def _differs(self, obj: Object) -> bool:
        """Whether applying it would change anything."""
        live = self._live(obj)
        if live is None:
            return True
        would, _ = self._operator.registry.apply(obj, manager=MANAGER, force=True, dry_run=True)
        return _bare(would) != _bare(live)

    def _surplus(self, app: Object, declared: Iterable[Object]) -> list[Object]:
        """Tracked objects that are declared no more. The id names its object: copies of an annotation don't count."""
        name = app["metadata"]["name"]
        wanted = {tracking_id(name, obj) for obj in declared}
        found: list[Object] = []
        for resource in self._operator.registry.resources():
            for obj in self._operator.registry.peek(resource.kind):
                told = (obj["metadata"].get("annotations") or {}).get(TRACKING)
                gone = obj["metadata"].get("deletionTimestamp")
                if told is not None and told == tracking_id(name, obj) and told not in wanted and not gone:
                    found.append(obj)
        return found

    # -- acting --------------------------------------------------------------------------------------------------

    def _sync(self, objects: list[Object], surplus: list[Object]) -> str:
        """Apply what is declared and delete what isn't; what was refused."""
        faults: list[str] = []
        for obj in objects:
            try:
                self._operator.registry.apply(obj, manager=MANAGER, force=True)
            except ApiError as fault:
                faults.append(f"{obj['kind']} {obj['metadata']['name']}: {fault}")
        self._delete(surplus)
        return "; ".join(faults)

    def _delete(self, objects: Iterable[Object]) -> None:
        for obj in objects:
            meta = obj["metadata"]
            self._operator.registry.delete(obj["kind"], meta.get("namespace"), meta["name"], propagation="Foreground")

    def _remove(self, app: Object) -> None:
        """A deletion that cascades: the tracked objects first, then the Application."""
        finalizers = app["metadata"].get("finalizers") or []
        if FINALIZER in finalizers:
            self._delete(self._surplus(app, []))
            self._patch(app, {"metadata": {"finalizers": [entry for entry in finalizers if entry != FINALIZER]}})

    # -- telling -------------------------------------------------------------------------------------------------

    def _status(
        self, app: Object, declared: Declared, differing: list[Object], surplus: list[Object], outcome: dict[str, Any]
    ) -> Object:
        out = {tracking_id("", obj) for obj in (*differing, *surplus)}
        resources = [
            {
                **_place(obj),
                "status": "OutOfSync" if tracking_id("", obj) in out else "Synced",
                **({"requiresPruning": True} if obj in surplus else {}),
            }
            for obj in (*declared.objects, *surplus)
        ]
        told: Object = {
            "sync": {"status": "OutOfSync" if out else "Synced", "revision": declared.revision},
            "health": {"status": self._health(declared.objects)},
            "resources": resources,
            "conditions": None,
        }
        before = (app.get("status") or {}).get("operationState") or {}
        if outcome and {**before, "finishedAt": None} != {**outcome, "finishedAt": None}:
            told["operationState"] = {**outcome, "finishedAt": timestamp()}
        return told

    def _health(self, objects: Iterable[Object]) -> str:
        """The worst of the Deployments: a missing one, one that doesn't progress, one on its way."""
        states = ["Healthy"]
        for obj in objects:
            live = self._live(obj)
            if live is None:
                states.append("Missing")
            elif obj["kind"] == "Deployment":
                states.append(_deployment_health(live))
        return min(states, key=("Degraded", "Missing", "Progressing", "Suspended", "Healthy").index)

    def _tell(self, app: Object, status: Object) -> None:
        before = app.get("status") or {}
        changes = {key: value for key, value in status.items() if before.get(key) != value}
        if changes:
            self._patch(app, {"status": {**changes, "reconciledAt": timestamp()}})

    def _patch(self, app: Object, patch: Object) -> None:
        meta = app["metadata"]
        self._operator.registry.patch(KIND, meta["namespace"], meta["name"], patch, manager=_OWN_MANAGER)


def tracking_id(app: str, obj: Object) -> str:
    """An object's id in Argo CD's own form: `app:group/Kind:namespace/name`."""
    group = obj["apiVersion"].rpartition("/")[0]
    return f"{app}:{group}/{obj['kind']}:{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def _place(obj: Object) -> Object:
    group, _, version = obj["apiVersion"].rpartition("/")
    meta = obj["metadata"]
    found = {"group": group, "version": version, "kind": obj["kind"], "namespace": meta.get("namespace", "")}
    return {**{key: value for key, value in found.items() if value}, "name": meta["name"]}


def _bare(obj: Object) -> Object:
    meta = {key: value for key, value in obj["metadata"].items() if key not in ("managedFields", "generation")}
    return {**obj, "metadata": meta}


def _deployment_health(live: Object) -> str:
    spec, status = live["spec"], live.get("status") or {}
    if spec.get("paused"):
        return "Suspended"
    if (condition(live, "Progressing") or {}).get("reason") == "ProgressDeadlineExceeded":
        return "Degraded"
    whole = status.get("updatedReplicas", 0) == spec["replicas"] == status.get("availableReplicas", 0)
    seen = status.get("observedGeneration") == live["metadata"].get("generation")
    return "Healthy" if whole and seen and holds(live, "Available") else "Progressing"
