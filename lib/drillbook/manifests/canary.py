"""A Deployment of one pod alongside the application's own: the same template, the same Services, another setting. Pure.

Two Deployments whose pods carry the same labels do not take each other's: a ReplicaSet's selector holds the hash of its
own template, and a pod that has a controller is adopted by no other. What is left is the canary's own selector, which must
not match the pods of the Deployment that it runs alongside: it is a label that only the canary's pod has.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from drillbook.manifests.recovery import RUN_LABEL

CANARY = "drillbook.io/canary"
_MOST_NAME = 40  # what a ReplicaSet and a pod add to it has room in 63 characters

Object = Mapping[str, Any]


def name_of(deployment: str, run_id: str) -> str:
    """The canary's name: the run is in it, so that a run which goes on finds its own."""
    tail = run_id.lower().replace("_", "-")[-13:].strip("-")
    return f"{deployment[: _MOST_NAME - len(tail) - 8].rstrip('-')}-canary-{tail}"


def canary(deployment: Object, changed: Object, run_id: str) -> dict[str, Any]:
    """The canary's Deployment. ``changed`` is the merge patch that the whole Deployment would get.

    No label or annotation of the Deployment itself is taken over: another controller would know it as its own.
    """
    meta, spec = deployment["metadata"], deployment["spec"]
    template = deepcopy(dict(spec["template"]))
    template["spec"] = {**template["spec"], **deepcopy(dict(changed["spec"]["template"]["spec"]))}
    about = dict(template.get("metadata") or {})
    about.pop("creationTimestamp", None)
    about["labels"] = {**(about.get("labels") or {}), CANARY: run_id}
    template["metadata"] = about
    kept = {key: spec[key] for key in ("minReadySeconds", "progressDeadlineSeconds") if key in spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name_of(meta["name"], run_id),
            "namespace": meta["namespace"],
            "labels": {RUN_LABEL: run_id, CANARY: run_id},
        },
        "spec": {**kept, "replicas": 1, "selector": {"matchLabels": {CANARY: run_id}}, "template": template},
    }


def faults(deployment: Object) -> list[str]:
    """Why a second Deployment of this template can't run alongside it."""
    spec = deployment["spec"]
    inside = spec["template"]["spec"]
    found = [
        f"its pods mount PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']}: a canary would write to it too"
        for volume in inside.get("volumes") or ()
        if "persistentVolumeClaim" in volume
    ]
    found += [
        f"container {container['name']} has hostPort {port['hostPort']}: no second pod fits on a node"
        for container in inside.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
    if (spec.get("strategy") or {}).get("type") == "Recreate":
        found.append("its strategy is Recreate: its pods do not run alongside others of their kind")
    if spec.get("paused"):
        found.append("it is paused (spec.paused): nothing that is changed would be rolled out")
    if not int(spec.get("replicas", 1)):
        found.append("it is scaled to 0: there is no pod to compare a canary with")
    return found


def services(deployment: Object, found: list[dict[str, Any]]) -> list[str]:
    """The Services that send to the Deployment's pods, and so to the canary's."""
    labels = deployment["spec"]["template"].get("metadata", {}).get("labels") or {}
    selectors = {item["metadata"]["name"]: item["spec"].get("selector") or {} for item in found}
    return sorted(name for name, want in selectors.items() if want and want.items() <= labels.items())


__all__ = ["CANARY", "canary", "faults", "name_of", "services"]
