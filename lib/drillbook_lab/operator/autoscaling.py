"""The autoscaler: a HorizontalPodAutoscaler sets its target's scale, within its bounds, from what the pods really use.

Metrics of type Resource (cpu, memory) and Pods (a gauge of the pods' own `/metrics`); the tolerance, the stabilisation
and the conditions are Kubernetes'. Left out: scaling policies, Object and External metrics. It looks every two
seconds, not every fifteen. A target at 0 is left alone, as that is how one switches it off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from drillbook_lab.api import scaling
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.operator.context import Operator, timestamp, with_condition
from drillbook_lab.operator.pod_usage import Usage, gauge, requested
from drillbook_lab.operator.replica_sets import is_active, is_ready
from drillbook_lab.quantities import quantity

MANAGER = "kube-controller-manager"
_LOOK_SECONDS = 2.0
_TOLERANCE = 0.1
_DOWN_SECONDS = 300.0
_DEFAULT = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
}


class NotMeasured(Exception):
    """A metric could not be had: why, in the autoscaler's words."""


@dataclass(frozen=True)
class Proposal:
    """What one metric asks for."""

    replicas: int
    name: str
    current: Object


class Autoscalers:
    """Keeps HorizontalPodAutoscalers."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._usage = Usage()
        self._asked: dict[str, list[tuple[float, int]]] = {}  # by uid: when, and for how many
        self._next: dict[str, tuple[float, int]] = {}  # by uid: when to look again, and at which generation it was seen

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Look at one autoscaler's target, and scale it if it should be."""
        found = self._operator.find("HorizontalPodAutoscaler", namespace, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        uid, generation = found["metadata"]["uid"], found["metadata"].get("generation", 1)
        due, seen = self._next.get(uid, (0.0, 0))
        if generation == seen and (left := due - time.monotonic()) > 0:
            return left  # its own status has woken it
        self._next[uid] = time.monotonic() + _LOOK_SECONDS, generation
        reference = found["spec"]["scaleTargetRef"]
        try:
            resource = self._operator.registry.resource(reference["kind"])
            target = self._operator.registry.get(reference["kind"], namespace, reference["name"])
            scale = scaling.scale_of(resource, target)
        except ApiError as fault:
            text = f"the HPA controller was unable to get the target's current scale: {fault}"
            self._tell(found, {}, ("AbleToScale", False, "FailedGetScale", text))
            self._operator.event(found, "FailedGetScale", str(fault), kind="Warning")
            return _LOOK_SECONDS
        await self._judge(found, scale)
        return _LOOK_SECONDS

    async def _judge(self, scaler: Object, scale: Object) -> None:
        spec, current = scaler["spec"], int(scale["spec"].get("replicas", 0))
        least, most = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
        able = (
            "AbleToScale",
            True,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        )
        counts: Object = {"currentReplicas": int(scale["status"].get("replicas", 0)), "desiredReplicas": current}
        if current == 0 and least != 0:
            text = "scaling is disabled since the replica count of the target is zero"
            self._tell(
                scaler, {**counts, "currentMetrics": None}, able, ("ScalingActive", False, "ScalingDisabled", text)
            )
            return
        conditions, why = [able], ""
        if current > most:
            desired, why = most, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            desired, why = least, "Current number of replicas below Spec.MinReplicas"
        else:
            proposals, faults = await self._proposals(scaler, scale, current)
            counts["currentMetrics"] = [entry.current for entry in proposals] or None
            if faults and (not proposals or max(entry.replicas for entry in proposals) < current):
                text = f"the HPA was unable to compute the replica count: {faults[0]}"
                self._tell(scaler, counts, able, ("ScalingActive", False, "FailedGetResourceMetric", text))
                return
            best = max(proposals, key=lambda entry: entry.replicas)
            text = f"the HPA was able to successfully calculate a replica count from {best.name}"
            conditions.append(("ScalingActive", True, "ValidMetricFound", text))
            desired, limited = self._bounded(scaler, current, best.replicas, least, most)
            conditions.append(limited)
            why = f"{best.name} {'above' if desired > current else 'below'} target"
        if desired == current:
            ready = ("AbleToScale", True, "ReadyForNewScale", "recommended size matches current size")
            self._tell(scaler, counts, *conditions[1:], ready)
            return
        self._scale(scaler, scale, desired, why)
        text = f"the HPA controller was able to update the target scale to {desired}"
        rescaled = {**counts, "desiredReplicas": desired, "lastScaleTime": timestamp()}
        self._tell(scaler, rescaled, *conditions[1:], ("AbleToScale", True, "SucceededRescale", text))

    def _scale(self, scaler: Object, scale: Object, desired: int, why: str) -> None:
        kind, meta = scaler["spec"]["scaleTargetRef"]["kind"], scale["metadata"]
        resource = self._operator.registry.resource(kind)
        patch = {"spec": {"replicas": desired}}
        where = resource, meta["namespace"], meta["name"]
        scaling.patch(self._operator.registry, *where, "merge", patch, manager=MANAGER)
        self._operator.event(scaler, "SuccessfulRescale", f"New size: {desired}; reason: {why}")

    def _bounded(
        self, scaler: Object, current: int, wanted: int, least: int, most: int
    ) -> tuple[int, tuple[str, bool, str, str]]:
        """Stabilised against going down too soon, one step at a time, within the bounds; and what has limited it."""
        behaviour, now = scaler["spec"].get("behavior") or {}, time.monotonic()
        down, up = behaviour.get("scaleDown") or {}, behaviour.get("scaleUp") or {}
        seconds = down.get("stabilizationWindowSeconds")
        window = _DOWN_SECONDS if seconds is None else float(seconds)
        uid = scaler["metadata"]["uid"]
        kept = [(at, number) for at, number in self._asked.get(uid, []) if now - at <= window]
        self._asked[uid] = [*kept, (now, wanted)]
        if wanted < current:
            wanted = min(current, max(number for _, number in self._asked[uid]))
        if (wanted < current and down.get("selectPolicy") == "Disabled") or (
            wanted > current and up.get("selectPolicy") == "Disabled"
        ):
            wanted = current
        step = max(2 * current, current + 4)
        if wanted > most:
            text = "the desired replica count is more than the maximum replica count"
            return min(most, step), ("ScalingLimited", True, "TooManyReplicas", text)
        if wanted < least:
            text = "the desired replica count is less than the minimum replica count"
            return least, ("ScalingLimited", True, "TooFewReplicas", text)
        if wanted > step:
            text = "the desired replica count is increasing faster than the maximum scale rate"
            return step, ("ScalingLimited", True, "ScaleUpLimit", text)
        text = "the desired count is within the acceptable range"
        return wanted, ("ScalingLimited", False, "DesiredWithinRange", text)

    # -- metrics -------------------------------------------------------------------------------------------------

    async def _proposals(self, scaler: Object, scale: Object, current: int) -> tuple[list[Proposal], list[str]]:
        namespace = scaler["metadata"]["namespace"]
        pods = self._operator.registry.list("Pod", namespace, labels=scale["status"].get("selector", ""))
        active = [pod for pod in pods if is_active(pod)]
        ready = [pod for pod in active if is_ready(pod)]
        found: list[Proposal] = []
        faults: list[str] = []
        for metric in scaler["spec"].get("metrics") or [_DEFAULT]:
            try:
                found.append(await self._proposal(metric, ready, len(active) - len(ready), current))
            except NotMeasured as fault:
                faults.append(str(fault))
        return found, faults

    async def _proposal(self, metric: Object, ready: list[Object], unready: int, current: int) -> Proposal:
        if metric["type"] == "Resource":
            name, target = metric["resource"]["name"], metric["resource"]["target"]
            values = self._used(name, ready)
            if target["type"] == "Utilization":
                asked = [requested(pod, name) for pod in ready]
                if not values or None in asked or not sum(entry or 0 for entry in asked):
                    raise NotMeasured(f"failed to get {name} utilization: missing request or usage of {name}")
                share = sum(values) / sum(entry or 0 for entry in asked) * len(ready) / len(values) * 100
                told: Object = {"averageUtilization": round(share), "averageValue": _milli(sum(values) / len(values))}
                ratio, what = (
                    share / int(target["averageUtilization"]),
                    f"{name} resource utilization (percentage of request)",
                )
            else:
                ratio, told = _ratio(name, values, target)
                what = f"{name} resource"
            seen: Object = {"type": "Resource", "resource": {"name": name, "current": told}}
        elif metric["type"] == "Pods":
            name, target = metric["pods"]["metric"]["name"], metric["pods"]["target"]
            gauges = [await gauge(pod, name) for pod in ready]
            ratio, told = _ratio(name, [value for value in gauges if value is not None], target)
            what = f"pods metric {name}"
            seen = {"type": "Pods", "pods": {"metric": {"name": name}, "current": told}}
        else:
            raise NotMeasured(f"this autoscaler knows no metrics of type {metric['type']}")
        return Proposal(_replicas(ratio, len(ready), unready, current), what, seen)

    def _used(self, name: str, pods: Iterable[Object]) -> list[float]:
        workers = {(worker.namespace, worker.name): worker.pid for worker in self._operator.kubelet.workers()}
        self._usage.forget({pid for pid in workers.values() if pid is not None})
        pids = (workers.get((pod["metadata"]["namespace"], pod["metadata"]["name"])) for pod in pods)
        values = (self._usage.resource(name, pid) for pid in pids if pid is not None)
        return [value for value in values if value is not None]

    # -- telling -------------------------------------------------------------------------------------------------

    def _tell(self, scaler: Object, changes: dict[str, Any], *conditions: tuple[str, bool, str, str]) -> None:
        known = (scaler.get("status") or {}).get("conditions") or []
        for told in conditions:
            known = with_condition(known, *told)
        generation = scaler["metadata"].get("generation", 1)
        self._operator.set_status(scaler, {**changes, "conditions": known, "observedGeneration": generation})


def _ratio(name: str, values: list[float], target: Object) -> tuple[float, Object]:
    wanted = quantity(str(target.get("averageValue") or ""))
    if not values or not wanted:
        raise NotMeasured(f"unable to get metric {name}: no metrics returned, or no averageValue to compare them with")
    average = sum(values) / len(values)
    return average / float(wanted), {"averageValue": _milli(average)}


def _replicas(ratio: float, ready: int, unready: int, current: int) -> int:
    """How many would bring the ratio to 1. Pods that aren't ready yet count as idle ones before more are made."""
    if abs(ratio - 1) <= _TOLERANCE:
        return current
    if ratio > 1 and unready:
        ratio = ratio * ready / (ready + unready)
        return current if ratio <= 1 + _TOLERANCE else math.ceil(ratio * (ready + unready))
    return max(1, math.ceil(ratio * ready))


def _milli(value: float) -> str:
    number = round(value * 1000)
    return str(number // 1000) if number % 1000 == 0 else f"{number}m"
