"""A rebuild is refused before anything is removed: an orphaned volume, a serverName that was used, other controllers; with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_drills import DrillLab

from drillbook import kube as k8s
from drillbook.engine import open_run
from drillbook.errors import NotReady, PreconditionError
from drillbook.steps.archive.restore_point import ChooseRestorePoint
from drillbook.steps.archive.salvage import wal_on_volume
from drillbook.steps.cutover.rebuild import RemoveOldCluster
from drillbook.steps.cutover.rebuild_check import CheckRebuild
from drillbook.steps.preflight.old_cluster import ReadOldCluster

pytestmark = pytest.mark.long


def unattended(lab: DrillLab, value: str | None) -> None:
    """CloudNativePG leaves the Cluster alone, or looks after it again."""
    patch = {"metadata": {"annotations": {"cnpg.io/reconciliationLoop": value}}}
    lab.admin.patch(k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name, patch)


def held_by_flux(lab: DrillLab, name: str | None) -> None:
    """The Cluster carries the mark of a Flux Kustomization, or none."""
    patch = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": name}}}
    lab.admin.patch(k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name, patch)


def test_an_orphaned_volume_and_a_used_server_name_are_named_with_their_fix(
    drill_lab: DrillLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("DRILLBOOK_NOTEBOOK", str(tmp_path / "none.ipynb"))
    admin, namespace, name = drill_lab.admin, drill_lab.site.cluster.namespace, drill_lab.site.cluster.name
    kubernetes = {"kubeconfig": str(drill_lab.home / "kubeconfig"), "context": "lab-admin"}
    run = open_run("recover-x", site=str(drill_lab.profile_with("rebuild", kubernetes=kubernetes)), mode="apply")
    try:
        old = run.do(ReadOldCluster())
        point = run.do(ChooseRestorePoint(old, run.target))
        checked = run.do(CheckRebuild(old))
        assert checked.volumes[0][0] == f"{name}-1"
        held_by_flux(drill_lab, "databases")
        try:
            with pytest.raises(PreconditionError, match="Flux databases"):
                RemoveOldCluster(old, point, checked).check(run.context)
            with pytest.raises(NotReady, match="Flux databases"):  # before anybody is asked
                CheckRebuild(old).do(run.context)
        finally:
            held_by_flux(drill_lab, None)
        found = wal_on_volume(run.context, old, point.backup)
        assert found.runs and found.newest and found.unarchived[-1] == found.newest
        # A Cluster that is looked after takes such a volume over at once: this is the moment before.
        unattended(drill_lab, "disabled")
        claim = admin.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": f"{name}-9",
                    "namespace": namespace,
                    "labels": {"cnpg.io/cluster": name, "cnpg.io/pvcRole": "PG_DATA"},
                    "annotations": {"cnpg.io/nodeSerial": "9"},
                },
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        )
        try:
            with pytest.raises(NotReady) as refused:
                run.do(CheckRebuild(old, server_name=name))
        finally:
            admin.delete(k8s.PVC, namespace, claim["metadata"]["name"], uid=claim["metadata"]["uid"])
    finally:
        unattended(drill_lab, None)
        run.release()
    said = refused.value.what
    assert f"serverName {name} is used" in said and "skipEmptyWalArchiveCheck" in said
    assert f"kubectl delete pvc -n {namespace} {name}-9" in said
