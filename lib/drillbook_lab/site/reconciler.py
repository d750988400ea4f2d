"""The site's application under a reconciler: `lab reconciler on` puts its manifests into a folder, and an Application there.

Off by default, as a drill doesn't touch the application. What the folder holds is anybody's to edit.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.operator.applications import INSTANCE, KIND, TRACKING
from drillbook_lab.site import app_manifests
from drillbook_lab.site.site import LabSite

NAMESPACE = "argocd"


def switch_on(registry: Registry, site: LabSite, folder: Path) -> None:
    """Declare the application: the files (those that are there stay as they are), the definition, the Application."""
    home = folder / site.app.name
    home.mkdir(parents=True, exist_ok=True)
    for obj in app_manifests.declared(site):
        path = home / f"{obj['kind'].lower()}.yaml"
        if not path.exists():
            path.write_text(yaml.safe_dump(obj, sort_keys=False), encoding="utf-8")
    definition = resources.files("drillbook_lab") / "crds" / "optional" / "application.yaml"
    registry.register_crd(yaml.safe_load(definition.read_text(encoding="utf-8")))
    for obj in ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, application(site)):
        try:
            registry.create(obj)
        except ApiError as fault:
            if fault.reason != "AlreadyExists":
                raise


def switch_off(registry: Registry, site: LabSite) -> None:
    """Take the Application away and leave what it has made, without its marks."""
    if all(resource.kind != KIND for resource in registry.resources()):
        return
    try:
        registry.delete(KIND, NAMESPACE, site.app.name)
    except ApiError as fault:
        if fault.code != 404:
            raise
    unmarked = {"metadata": {"annotations": {TRACKING: None}, "labels": {INSTANCE: None}}}
    for obj in app_manifests.declared(site):
        for live in registry.list(obj["kind"], site.app.namespace, labels=f"{INSTANCE}={site.app.name}"):
            registry.patch(obj["kind"], site.app.namespace, live["metadata"]["name"], unmarked)


def application(site: LabSite) -> Object:
    """The site's Application: synced by itself, healed, pruned."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": KIND,
        "metadata": {"name": site.app.name, "namespace": NAMESPACE},
        "spec": {
            "project": "default",
            "source": {
                "repoURL": "https://git.lab.internal/platform.git",
                "path": site.app.name,
                "targetRevision": "HEAD",
            },
            "destination": {"server": "https://kubernetes.default.svc", "namespace": site.app.namespace},
            "syncPolicy": {"automated": {"prune": True, "selfHeal": True}},
        },
    }
