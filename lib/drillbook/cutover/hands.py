"""Other hands: who else holds an object, whether they would put it back, and how Argo CD is paused and resumed."""

from __future__ import annotations

import json
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import KubernetesError
from drillbook.model import Frozen

TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_NAMESPACE = "argocd"
PAUSED = "drillbook.io/sync-policy-before"  # what `automated` was, while a run has taken it away
PAUSED_BY = "drillbook.io/paused-by"

_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_HELM = "meta.helm.sh/release-name"
_KEDA = "scaledobject.keda.sh/name"
# Managers of fields that nothing else has told of: a reconciler that sets the number of replicas.
_MANAGERS = {
    "kustomize-controller": "Flux (kustomize-controller)",
    "helm-controller": "Flux (helm-controller)",
    "keda-operator": "KEDA (keda-operator)",
}


class Hand(Frozen):
    """Somebody else who holds an object; ``acts``: would put it back; ``pausable``: a run can pause and resume it."""

    who: str
    how: str
    acts: bool
    pausable: bool = False
    namespace: str = ""
    name: str = ""

    @property
    def in_the_way(self) -> bool:
        return self.acts and not self.pausable

    def __str__(self) -> str:
        return f"{self.who}: {self.how}"


def hands_on(kube: k8s.Kube, obj: dict[str, Any]) -> list[Hand]:
    """Everybody who is known by labels, annotations, managed fields or an autoscaler's target to hold ``obj``."""
    meta = obj["metadata"]
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    found = [*_argo(kube, marks), *_autoscalers(kube, obj)]
    found += [
        Hand(who=f"Flux {marks[mark]}", how="would apply again: suspend it first (flux suspend)", acts=True)
        for mark in _FLUX
        if mark in marks
    ]
    if _HELM in marks:
        found.append(
            Hand(who=f"Helm release {marks[_HELM]}", how="acts at an upgrade only: make none meanwhile", acts=False)
        )
    told = " ".join(hand.who for hand in found)
    for entry in meta.get("managedFields") or ():
        who = _MANAGERS.get(str(entry.get("manager")))
        sets = "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        if who and sets and who.partition(" ")[0] not in told:
            found.append(Hand(who=who, how="sets the number of replicas: suspend it first", acts=True))
    return found


def _argo(kube: k8s.Kube, marks: dict[str, str]) -> list[Hand]:
    tracked = marks.get(TRACKING, "").partition(":")[0]
    if not tracked:
        return []
    space, _, name = tracked.rpartition("_")
    namespace = space or ARGO_NAMESPACE
    who = f"Argo CD Application {namespace}/{name}"
    try:
        app = kube.get(k8s.APPLICATION, namespace, name)
    except KubernetesError as error:
        if error.status == 404:
            return [Hand(who=who, how="Argo CD isn't here: only its mark is", acts=False)]
        how = f"can't be read ({error.reason or error.status}): grant deploy/argocd/, or pause it yourself and remove its mark"
        return [Hand(who=who, how=how, acts=True)]
    if app is None:
        return [Hand(who=who, how="doesn't exist: only its mark is there", acts=False)]
    automated = (app["spec"].get("syncPolicy") or {}).get("automated")
    acts = automated is not None and automated.get("enabled", True)
    how = "syncs by itself: spec.syncPolicy.automated is taken away for the cut" if acts else "doesn't sync by itself"
    return [Hand(who=who, how=how, acts=acts, pausable=True, namespace=namespace, name=name)]


def _autoscalers(kube: k8s.Kube, obj: dict[str, Any]) -> list[Hand]:
    meta = obj["metadata"]
    if obj["kind"] != k8s.DEPLOYMENT.kind:
        return []
    found = []
    for scaler in kube.list(k8s.AUTOSCALER, meta["namespace"]):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) != (obj["kind"], meta["name"]):
            continue
        keda = (scaler["metadata"].get("labels") or {}).get(_KEDA)
        if keda:
            how = 'scales from nothing by itself: pause it first (autoscaling.keda.sh/paused-replicas: "0")'
            found.append(Hand(who=f"KEDA ScaledObject {meta['namespace']}/{keda}", how=how, acts=True))
        else:
            how = "rests while its target is at 0 replicas, and goes on afterwards"
            found.append(
                Hand(
                    who=f"HorizontalPodAutoscaler {meta['namespace']}/{scaler['metadata']['name']}", how=how, acts=False
                )
            )
    return found


def pause(kube: k8s.Kube, hand: Hand, run_id: str) -> None:
    """Take the Application's automated sync away and note on it what it was; safe to repeat."""
    app = kube.get(k8s.APPLICATION, hand.namespace, hand.name)
    automated = ((app or {}).get("spec", {}).get("syncPolicy") or {}).get("automated")
    if app is None or automated is None:
        return
    annotations = {PAUSED: json.dumps(automated, sort_keys=True), PAUSED_BY: run_id}
    # As a swap: what somebody else changes meanwhile is not written over.
    merge = {
        "metadata": {"annotations": annotations, "resourceVersion": app["metadata"]["resourceVersion"]},
        "spec": {"syncPolicy": {"automated": None}},
    }
    kube.patch(k8s.APPLICATION, hand.namespace, hand.name, merge)


def resume(kube: k8s.Kube, namespace: str, name: str, run_id: str) -> bool:
    """Give an Application back the automated sync that this run took away; whether there was anything to give back."""
    app = kube.get(k8s.APPLICATION, namespace, name)
    annotations = (app or {}).get("metadata", {}).get("annotations") or {}
    if annotations.get(PAUSED_BY) != run_id:
        return False
    merge = {
        "metadata": {"annotations": {PAUSED: None, PAUSED_BY: None}},
        "spec": {"syncPolicy": {"automated": json.loads(annotations[PAUSED])}},
    }
    kube.patch(k8s.APPLICATION, namespace, name, merge)
    return True
