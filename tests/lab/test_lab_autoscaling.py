"""The autoscaler on a real lab: bounds, a metric of real pods, and a target at nothing."""

from __future__ import annotations

from typing import Any

import pytest
from fix_lab import CORE, RunningLab, condition, until
from fix_workloads import Workload

Object = dict[str, Any]
pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("backend")]


class Autoscaler:
    """One HorizontalPodAutoscaler of the application."""

    def __init__(self, backend: Workload) -> None:
        self.lab: RunningLab = backend.lab
        self.base = f"/apis/autoscaling/v2/namespaces/{backend.namespace}/horizontalpodautoscalers"
        self.name = backend.name

    @property
    def path(self) -> str:
        return f"{self.base}/{self.name}"

    def status(self) -> Object:
        return dict(self.lab.get(self.path).get("status") or {})

    def reason(self, kind: str) -> str:
        return next((str(e["reason"]) for e in self.status().get("conditions") or () if e["type"] == kind), "")

    def create(self, metric: Object, **spec: Any) -> None:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        self.lab.create(
            self.base,
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": self.name},
                "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric], **spec},
            },
        )


def pool(value: str) -> Object:
    """A metric of the pods' own: connections that each keeps open."""
    target = {"type": "AverageValue", "averageValue": value}
    return {"type": "Pods", "pods": {"metric": {"name": "hikaricp_connections"}, "target": target}}


def test_kubectl_autoscale_and_its_bounds(backend: Workload) -> None:
    scaler = Autoscaler(backend)
    said = backend.kubectl("autoscale", "deployment", backend.name, "--min=4", "--max=5", "--cpu-percent=1000")
    assert "autoscaled" in said
    try:
        until(lambda: backend.object["spec"]["replicas"] == 4)
        managers = {entry["manager"] for entry in backend.object["metadata"]["managedFields"]}
        assert "kube-controller-manager" in managers
        events = backend.lab.get(f"{CORE}/{backend.namespace}/events")["items"]
        told = [event["message"] for event in events if event["reason"] == "SuccessfulRescale"]
        assert "New size: 4; reason: Current number of replicas below Spec.MinReplicas" in told
        until(lambda: condition(backend.lab.get(scaler.path), "ScalingActive") == "True")  # measured, after two looks
        assert scaler.status()["currentMetrics"][0]["resource"]["name"] == "cpu"
        shown = backend.kubectl("get", "hpa")
        assert f"Deployment/{backend.name}" in shown and "/1000%" in shown
        backend.scale(0)
        until(lambda: scaler.reason("ScalingActive") == "ScalingDisabled")
        until(lambda: not backend.pods())
        assert backend.object["spec"]["replicas"] == 0  # a target at nothing is left alone
    finally:
        backend.lab.delete(scaler.path)


def test_a_metric_of_the_pods_scales_up_to_the_limit_and_down_again(backend: Workload) -> None:
    scaler = Autoscaler(backend)
    scaler.create(pool("1"), behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
    try:
        until(lambda: backend.object["spec"]["replicas"] == 4)  # two connections a pod, one wanted
        until(lambda: scaler.reason("ScalingLimited") == "TooManyReplicas")
        backend.lab.patch(scaler.path, {"spec": {"metrics": [pool("100")]}})
        until(lambda: backend.object["spec"]["replicas"] == 1)
        until(lambda: backend.settled(1))
        assert scaler.reason("ScalingActive") == "ValidMetricFound"
        backend.lab.patch(
            scaler.path, {"spec": {"metrics": [{**pool("1"), "pods": {**pool("1")["pods"], "metric": {"name": "x"}}}]}}
        )
        until(lambda: scaler.reason("ScalingActive") == "FailedGetResourceMetric")
        assert backend.object["spec"]["replicas"] == 1
    finally:
        backend.lab.delete(scaler.path)


def test_a_target_that_is_not_there_is_told(backend: Workload) -> None:
    scaler = Autoscaler(backend)
    scaler.name = "nobody"
    scaler.create(pool("1"))
    until(lambda: scaler.reason("AbleToScale") == "FailedGetScale")
    backend.lab.delete(scaler.path)
