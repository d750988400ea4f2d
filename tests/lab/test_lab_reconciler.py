"""What acts as Argo CD: it holds the application to its declared manifests, until it is paused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_lab import CORE, until
from fix_workloads import Workload

from drillbook_lab.faults import catalogue as faults

pytestmark = pytest.mark.soak

Object = dict[str, Any]
APP = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/synergyflow-backend"
TRACKING = "argocd.argoproj.io/tracking-id"


@pytest.fixture
def declared(backend: Workload) -> Iterator[Path]:
    """The reconciler is on for a test; the folder of what is declared."""
    home = backend.lab.home
    folder = home.declared / backend.name
    faults.control(home, {"op": "reconciler", "run": True})
    try:
        until(lambda: synced(backend))
        yield folder
    finally:
        faults.control(home, {"op": "reconciler", "run": False})
        for path in folder.glob("*.yaml"):
            path.unlink()


def synced(backend: Workload) -> bool:
    return str((status(backend).get("sync") or {}).get("status")) == "Synced"


def status(backend: Workload) -> Object:
    return dict(backend.lab.get(APP).get("status") or {})


def automated(backend: Workload, value: Object | None) -> None:
    backend.lab.patch(APP, {"spec": {"syncPolicy": {"automated": value}}})


def test_it_marks_what_it_holds_and_changes_nothing(backend: Workload, declared: Path) -> None:
    meta = backend.object["metadata"]
    assert meta["annotations"][TRACKING] == "synergyflow-backend:apps/Deployment:synergyflow/synergyflow-backend"
    assert meta["labels"]["app.kubernetes.io/instance"] == "synergyflow-backend"
    assert ("argocd-controller", "Apply") in {(entry["manager"], entry["operation"]) for entry in meta["managedFields"]}
    assert meta["generation"] == backend.object["status"]["observedGeneration"]
    assert backend.settled(3)  # no pod was recreated for it
    assert {entry["kind"] for entry in status(backend)["resources"]} == {"Deployment", "Service", "ConfigMap"}
    until(lambda: status(backend)["health"]["status"] == "Healthy")


def test_what_somebody_else_changes_is_undone_until_it_is_paused(backend: Workload, declared: Path) -> None:
    backend.scale(0)
    until(lambda: backend.object["spec"]["replicas"] == 3)
    until(lambda: backend.settled(3))
    automated(backend, None)  # how Argo CD is paused
    until(lambda: "automated" not in backend.lab.get(APP)["spec"]["syncPolicy"])
    backend.scale(0)
    until(lambda: not synced(backend))
    until(lambda: not backend.pods())
    assert backend.object["spec"]["replicas"] == 0
    automated(backend, {"selfHeal": True, "prune": True})
    until(lambda: backend.settled(3) and synced(backend))


def test_the_folder_is_what_counts(backend: Workload, declared: Path) -> None:
    path = declared / "deployment.yaml"
    wanted = yaml.safe_load(path.read_text())
    wanted["spec"]["replicas"] = 1
    path.write_text(yaml.safe_dump(wanted))
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"a": "1"}}
    (declared / "extra.yaml").write_text(yaml.safe_dump(extra))
    until(lambda: backend.settled(1))
    until(lambda: backend.lab.find(f"{CORE}/{backend.namespace}/configmaps/extra"))
    (declared / "extra.yaml").unlink()
    until(lambda: backend.lab.find(f"{CORE}/{backend.namespace}/configmaps/extra") is None)
    path.write_text("{ no yaml")
    until(lambda: [entry["type"] for entry in status(backend).get("conditions") or ()] == ["ComparisonError"])
    assert backend.settled(1)  # what can't be read deletes nothing
    wanted["spec"]["replicas"] = 3
    path.write_text(yaml.safe_dump(wanted))
    until(lambda: backend.settled(3))


def test_by_hand_it_syncs_once(backend: Workload, declared: Path) -> None:
    automated(backend, None)
    until(lambda: "automated" not in backend.lab.get(APP)["spec"]["syncPolicy"])
    backend.scale(2)
    until(lambda: not synced(backend))
    backend.lab.patch(APP, {"operation": {"sync": {}}})
    until(lambda: backend.object["spec"]["replicas"] == 3)
    until(lambda: "operation" not in backend.lab.get(APP))


def test_off_it_leaves_what_it_made_without_its_marks(backend: Workload, declared: Path) -> None:
    faults.control(backend.lab.home, {"op": "reconciler", "run": False})
    assert backend.lab.find(APP) is None
    assert TRACKING not in backend.object["metadata"].get("annotations", {})
    assert backend.settled(3)
    backend.scale(2)
    until(lambda: backend.settled(2))
