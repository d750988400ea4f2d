"""autoscaling/v1 of HorizontalPodAutoscaler: what `kubectl autoscale` still sends. Stored is v2; only create and get."""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy

PLURAL = ("autoscaling", "v1", "horizontalpodautoscalers")


def v2_of(sent: Object) -> Object:
    """The stored form."""
    obj: Object = copy(sent)
    spec = obj.get("spec") or {}
    percentage = spec.pop("targetCPUUtilizationPercentage", None)
    if percentage is not None:
        target = {"type": "Utilization", "averageUtilization": percentage}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {**obj, "apiVersion": "autoscaling/v2", "spec": spec}


def v1_of(stored: Object) -> Object:
    """The old form: processor utilisation and counts are all that it can say."""
    spec, status = stored["spec"], stored.get("status") or {}
    old: Object = {key: spec[key] for key in ("scaleTargetRef", "minReplicas", "maxReplicas") if key in spec}
    told: Object = {
        key: status[key]
        for key in ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")
        if key in status
    }
    for metric in spec.get("metrics") or ():
        cpu = metric.get("resource") or {}
        if cpu.get("name") == "cpu" and "averageUtilization" in cpu["target"]:
            old["targetCPUUtilizationPercentage"] = cpu["target"]["averageUtilization"]
    for metric in status.get("currentMetrics") or ():
        cpu = metric.get("resource") or {}
        if cpu.get("name") == "cpu" and "averageUtilization" in cpu["current"]:
            told["currentCPUUtilizationPercentage"] = cpu["current"]["averageUtilization"]
    told.setdefault("currentReplicas", 0)
    told.setdefault("desiredReplicas", 0)
    return {**stored, "apiVersion": "autoscaling/v1", "spec": old, "status": told}
