"""Other controllers: who else holds an object, whether they would put it back, and who can be paused."""

from __future__ import annotations

from typing import Any

from drillbook import kube as k8s
from drillbook.errors import KubernetesError
from drillbook.model import Frozen

# What keeps Argo CD from syncing by itself, as its own command line sets it.
UNSYNCED: dict[str, Any] = {"spec": {"syncPolicy": {"automated": None}}}
TRACKING = "argocd.argoproj.io/tracking-id"
# How Argo CD marks what it holds where it is configured to go by label; other tools set the first one too.
_INSTANCE = ("app.kubernetes.io/instance", "argocd.argoproj.io/instance")
ARGO_NAMESPACE = "argocd"
_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_HELM = "meta.helm.sh/release-name"
_KEDA = "scaledobject.keda.sh/name"
# Managers of fields that nothing else has reported of: a reconciler that sets the number of replicas.
_MANAGERS = {
    "kustomize-controller": "Flux (kustomize-controller)",
    "helm-controller": "Flux (helm-controller)",
    "keda-operator": "KEDA (keda-operator)",
}
# Marks by which tools that write Secrets know their own, where they are no owner of it.
_SECRET_MARKS = {
    "reconcile.external-secrets.io/managed": "External Secrets",
    "reconcile.external-secrets.io/data-hash": "External Secrets",
    "sealedsecrets.bitnami.com/managed": "Sealed Secrets",
    "sealedsecrets.bitnami.com/patch": "Sealed Secrets",
    "secrets-store.csi.k8s.io/managed": "Secrets Store CSI driver",
    "operator.1password.io/item-path": "1Password",
    "reflector.v1.k8s.emberstack.com/reflects": "Reflector",
    "replicator.v1.mittwald.de/replicated-from-version": "Replicator",
    "secrets.hashicorp.com/last-secret-mac": "Vault Secrets Operator",
}
_OWN_GROUP = "postgresql.cnpg.io"  # what CloudNativePG makes follows its Cluster: that is no other hand


class Reconciler(Frozen):
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


def reconcilers_on(kube: k8s.Kube, obj: dict[str, Any]) -> list[Reconciler]:
    """Everybody who is known by labels, annotations, managed fields or an autoscaler's target to hold ``obj``."""
    meta = obj["metadata"]
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    found = [*_argo(kube, marks, obj), *_owners(obj), *_autoscalers(kube, obj)]
    found += [
        Reconciler(who=f"Flux {marks[mark]}", how="would apply again: suspend it first (flux suspend)", acts=True)
        for mark in _FLUX
        if mark in marks
    ]
    if _HELM in marks:
        found.append(
            Reconciler(
                who=f"Helm release {marks[_HELM]}", how="acts at an upgrade only: make none until then", acts=False
            )
        )
    told = " ".join(hand.who for hand in found)
    for entry in meta.get("managedFields") or ():
        who = _MANAGERS.get(str(entry.get("manager")))
        fields = entry.get("fieldsV1") or {}
        scales = obj.get("kind") == k8s.DEPLOYMENT.kind
        sets = "f:replicas" in fields.get("f:spec", {}) if scales else bool({"f:spec", "f:data"} & fields.keys())
        if who and sets and who.partition(" ")[0] not in told:
            what = "the number of replicas" if scales else "what the cut changes"
            found.append(Reconciler(who=who, how=f"sets {what}: suspend it first", acts=True))
    return found


def _owners(obj: dict[str, Any]) -> list[Reconciler]:
    """Controllers that own the object (External Secrets, Sealed Secrets, Vault, an operator of the application)."""
    meta = obj["metadata"]
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    how = "writes it again at its next refresh: change it where it reads, or pause it first"
    found = [
        Reconciler(who=f"{owner['kind']} {meta.get('namespace', '')}/{owner['name']}", how=how, acts=True)
        for owner in meta.get("ownerReferences") or ()
        if owner.get("controller") and str(owner.get("apiVersion", "")).partition("/")[0] != _OWN_GROUP
    ]
    if obj.get("kind") == k8s.SECRET.kind and not found:
        names = dict.fromkeys(who for mark, who in _SECRET_MARKS.items() if mark in marks)
        found += [Reconciler(who=who, how=how, acts=True) for who in names]
    return found


def _holds(app: dict[str, Any], obj: dict[str, Any]) -> bool:
    """Whether the Application says that the object is one of its own; one that says nothing may hold it."""
    own = (app.get("status") or {}).get("resources") or []
    place = (obj.get("kind"), obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    return not own or any((one.get("kind"), one.get("namespace", ""), one.get("name")) == place for one in own)


def _argo(kube: k8s.Kube, marks: dict[str, str], obj: dict[str, Any]) -> list[Reconciler]:
    tracked = marks.get(TRACKING, "").partition(":")[0]
    by_label = next((marks[mark] for mark in _INSTANCE if marks.get(mark)), "")
    if not tracked and not by_label:
        return []
    known, tracked = bool(tracked), tracked or by_label
    space, _, name = tracked.rpartition("_")
    namespace = space or ARGO_NAMESPACE
    who = f"Argo CD Application {namespace}/{name}"
    try:
        app = kube.get(k8s.APPLICATION, namespace, name)
    except KubernetesError as error:
        if not known:  # a label that Helm and people set too: without Argo CD's word it says nothing
            how = f"if there is one, it can't be read ({error.reason or error.status}): pause it yourself"
            return [] if error.status == 404 else [Reconciler(who=who, how=how, acts=False)]
        if error.status == 404:
            return [Reconciler(who=who, how="Argo CD isn't here: only its mark is", acts=False)]
        how = f"can't be read ({error.reason or error.status}): grant deploy/argocd/, or pause it yourself and remove its mark"
        return [Reconciler(who=who, how=how, acts=True)]
    if not known and (app is None or not _holds(app, obj)):
        return []
    if app is None:
        return [Reconciler(who=who, how="doesn't exist: only its mark is there", acts=False)]
    automated = (app["spec"].get("syncPolicy") or {}).get("automated")
    acts = automated is not None and automated.get("enabled", True)
    how = "syncs by itself: spec.syncPolicy.automated is taken away for the cut" if acts else "doesn't sync by itself"
    return [Reconciler(who=who, how=how, acts=acts, pausable=True, namespace=namespace, name=name)]


def _autoscalers(kube: k8s.Kube, obj: dict[str, Any]) -> list[Reconciler]:
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
            found.append(Reconciler(who=f"KEDA ScaledObject {meta['namespace']}/{keda}", how=how, acts=True))
        else:
            how = "rests while its target is at 0 replicas, and goes on afterwards"
            found.append(
                Reconciler(
                    who=f"HorizontalPodAutoscaler {meta['namespace']}/{scaler['metadata']['name']}", how=how, acts=False
                )
            )
    return found
