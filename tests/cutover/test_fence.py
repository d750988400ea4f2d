"""The old cluster is fenced and let go, with a kubelet that takes as long to notice as a real one."""

from __future__ import annotations

import json

import pytest
from fix_cutover import CutLab, confirmed

from drillbook import kube as k8s
from drillbook.engine import Run
from drillbook.errors import VerificationError
from drillbook.steps.cutover.fence import FenceOldCluster, lift_fence
from drillbook.steps.preflight.instances import FENCED
from drillbook.steps.preflight.old_cluster import ReadOldCluster

pytestmark = pytest.mark.long


def ready(lab: CutLab) -> bool:
    pod = lab.admin.get(k8s.POD, lab.namespace, f"{lab.name}-1") or {}
    return {item["type"]: item["status"] for item in pod["status"]["conditions"]}["Ready"] == "True"


def annotated(lab: CutLab, instances: list[str]) -> None:
    patch = {"metadata": {"annotations": {FENCED: json.dumps(instances)}}}
    lab.admin.patch(k8s.CLUSTER, lab.namespace, lab.name, patch)


def test_f13_a_fence_holds_when_no_server_runs_though_the_pod_still_counts_as_ready(cut_lab: CutLab) -> None:
    """The kubelet's probe notices after 20 to 30 s, and a short fence never shows: neither is waited for."""
    lab = cut_lab

    def procedure(run: Run) -> tuple[bool, str]:
        old = run.do(ReadOldCluster())
        step = FenceOldCluster(old)
        (fenced,) = confirmed(run, "Stop the old cluster", step)
        seen_ready = ready(lab)
        annotated(lab, [])  # another controller puts back what Git declares
        with pytest.raises(VerificationError, match="the annotation is gone"):
            step.verify(run.context, fenced)
        annotated(lab, ["*"])
        step.do(run.context)
        assert lift_fence(run.context, old)
        return seen_ready, lab.sql(lab.name, "select 'served at once'")

    _, (seen_ready, served) = lab.run(procedure)
    assert seen_ready, "the lab's kubelet noticed at once, so that this shows nothing"
    assert served == "served at once"
