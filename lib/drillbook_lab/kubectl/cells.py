"""What `kubectl get` shows of the built-in kinds: their columns, as upstream's printers have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.api.errors import Object

Cell = Callable[[Object], Any]


@dataclass(frozen=True)
class Printed:
    """One column: its name, what is in it, and whether only `-o wide` shows it."""

    name: str
    cell: Cell
    type: str = "string"
    wide: bool = False


def age(stamp: str | None) -> str:
    """How long ago, in kubectl's short form: 5s, 3m20s, 12m, 3h, 2d."""
    if not stamp:
        return "<unknown>"
    return span((datetime.now(UTC) - _time(stamp)).total_seconds())


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))


def span(seconds: float) -> str:
    """A duration in kubectl's short form."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"


def _get(obj: Any, path: str, default: Any = None) -> Any:
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
    return default if obj is None else obj


def at(path: str, default: Any = "") -> Cell:
    """A cell that shows one field."""
    return lambda obj: _get(obj, path, default)


def text(path: str, default: str = "") -> Cell:
    """A cell that shows one field as text, numbers too."""
    return lambda obj: str(_get(obj, path, default))


def _joined(values: Iterable[Any], nothing: str = "<none>") -> str:
    return ",".join(str(value) for value in values) or nothing


def _statuses(pod: Object) -> list[Object]:
    return list(_get(pod, "status.containerStatuses", ()))


def _pod_ready(pod: Object) -> str:
    """Sidecars count: init containers that stay."""
    stay = {one["name"] for one in _get(pod, "spec.initContainers", ()) if one.get("restartPolicy") == "Always"}
    sidecars = [status for status in _get(pod, "status.initContainerStatuses", ()) if status["name"] in stay]
    total = len(_get(pod, "spec.containers", ())) + len(stay)
    return f"{sum(1 for status in (*_statuses(pod), *sidecars) if status.get('ready'))}/{total}"


def _pod_status(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for status in _statuses(pod):
        state = status.get("state") or {}
        for kind in ("waiting", "terminated"):
            reason = (state.get(kind) or {}).get("reason")
            if reason:
                return str(reason)
    return str(_get(pod, "status.reason") or _get(pod, "status.phase", "Unknown"))


def _pod_restarts(pod: Object) -> str:
    return str(sum(int(status.get("restartCount", 0)) for status in _statuses(pod)))


def _service_ports(service: Object) -> str:
    return _joined(
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in _get(service, "spec.ports", ())
    )


def _external(service: Object) -> str:
    found = [i.get("ip") or i.get("hostname") for i in _get(service, "status.loadBalancer.ingress", ())]
    found += _get(service, "spec.externalIPs", [])
    if _get(service, "spec.type") == "ExternalName":
        return str(_get(service, "spec.externalName", "<none>"))
    return _joined(found, "<pending>" if _get(service, "spec.type") == "LoadBalancer" else "<none>")


def _endpoints(obj: Object) -> str:
    found = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    return _joined(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "")


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(path: str) -> Cell:
    return lambda obj: ",".join(_MODES.get(mode, mode) for mode in _get(obj, path, ()))


def _claim(volume: Object) -> str:
    claim = _get(volume, "spec.claimRef") or {}
    return f"{claim.get('namespace')}/{claim.get('name')}" if claim else ""


def _involved(event: Object) -> str:
    target = event.get("involvedObject") or {}
    return f"{str(target.get('kind', '')).lower()}/{target.get('name', '')}"


def _job_status(job: Object) -> str:
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for condition in _get(job, "status.conditions", ()):
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed", "Suspended"):
            return str(condition["type"])
    return "Running"


def _job_duration(job: Object) -> str:
    start, end = _get(job, "status.startTime"), _get(job, "status.completionTime")
    if not start:
        return ""
    return span(((_time(end) if end else datetime.now(UTC)) - _time(start)).total_seconds())


def _containers(path: str, part: str) -> Cell:
    return lambda obj: ",".join(str(container.get(part, "")) for container in _get(obj, path, ()))


def _selector(path: str) -> Cell:
    def show(obj: Object) -> str:
        found = _get(obj, path) or {}
        found = found.get("matchLabels", found if "matchExpressions" not in found else {})
        return _joined((f"{key}={value}" for key, value in sorted(found.items())), "<none>")

    return show


def _ready_of(obj: Object) -> str:
    return f"{_get(obj, 'status.readyReplicas', 0)}/{_get(obj, 'spec.replicas', 0)}"


def _targets(scaler: Object) -> str:
    current = _get(scaler, "status.currentMetrics") or []
    shown: list[str] = []
    for index, metric in enumerate(_get(scaler, "spec.metrics") or ()):
        name = str(metric.get("type", "")).lower()
        source = metric.get(name) or {}
        seen = (current[index].get(name) or {}).get("current", {}) if index < len(current) else {}
        wanted = source.get("target") or {}
        label = f"{source['name']}: " if name == "resource" and source.get("name") else ""
        if wanted.get("averageUtilization") is not None:
            now = f"{seen['averageUtilization']}%" if "averageUtilization" in seen else "<unknown>"
            shown.append(f"{label}{now}/{wanted['averageUtilization']}%")
        else:
            now = seen.get("averageValue") or seen.get("value") or "<unknown>"
            shown.append(f"{label}{now}/{wanted.get('averageValue') or wanted.get('value')}")
    return _joined(shown)


def _requested(obj: Object) -> str:
    used = _get(obj, "status.used", {})
    hard = _get(obj, "spec.hard", {})
    return ", ".join(f"{name}: {used.get(name, '0')}/{hard[name]}" for name in sorted(hard))


def _holds(path: str) -> Cell:
    return lambda obj: len(_get(obj, path, ()))


def _subjects(kind: str) -> Cell:
    def show(binding: Object) -> str:
        found = [s for s in binding.get("subjects") or () if s.get("kind") == kind]
        names = (f"{s['namespace']}/{s['name']}" if s.get("namespace") else s.get("name") for s in found)
        return ", ".join(str(name) for name in names)

    return show


def _role(binding: Object) -> str:
    reference = binding.get("roleRef") or {}
    return f"{reference.get('kind')}/{reference.get('name')}"


def _node_status(node: Object) -> str:
    ready: Object = next((c for c in _get(node, "status.conditions", ()) if c.get("type") == "Ready"), {})
    return "Ready" if ready.get("status") == "True" else "NotReady" if ready else "Unknown"


_AGE = Printed("Age", lambda obj: age(obj["metadata"].get("creationTimestamp")))
_CREATED = Printed("Created At", lambda obj: obj["metadata"].get("creationTimestamp", ""))
_POD = "spec.template.spec.containers"


def _wide(**cells: Cell) -> tuple[Printed, ...]:
    return tuple(Printed(name.replace("_", " "), cell, wide=True) for name, cell in cells.items())


_TEMPLATE = _wide(
    Containers=_containers(_POD, "name"), Images=_containers(_POD, "image"), Selector=_selector("spec.selector")
)
_BOUND = (
    Printed("Role", _role),
    _AGE,
    *_wide(Users=_subjects("User"), Groups=_subjects("Group"), ServiceAccounts=_subjects("ServiceAccount")),
)

COLUMNS: dict[str, tuple[Printed, ...]] = {
    "Namespace": (Printed("Status", text("status.phase")), _AGE),
    "Node": (
        Printed("Status", _node_status),
        Printed("Roles", lambda node: "<none>"),
        _AGE,
        Printed("Version", text("status.nodeInfo.kubeletVersion")),
    ),
    "Pod": (
        Printed("Ready", _pod_ready),
        Printed("Status", _pod_status),
        Printed("Restarts", _pod_restarts),
        _AGE,
        *_wide(
            IP=text("status.podIP", "<none>"),
            Node=text("spec.nodeName", "<none>"),
            Nominated_Node=lambda pod: "<none>",
            Readiness_Gates=lambda pod: "<none>",
        ),
    ),
    "Service": (
        Printed("Type", text("spec.type")),
        Printed("Cluster-IP", text("spec.clusterIP", "<none>")),
        Printed("External-IP", _external),
        Printed("Port(s)", _service_ports),
        _AGE,
        *_wide(Selector=_selector("spec.selector")),
    ),
    "Endpoints": (Printed("Endpoints", _endpoints), _AGE),
    "Secret": (Printed("Type", text("type")), Printed("Data", _holds("data"), "integer"), _AGE),
    "ConfigMap": (Printed("Data", _holds("data"), "integer"), _AGE),
    "ServiceAccount": (Printed("Secrets", _holds("secrets"), "integer"), _AGE),
    "PersistentVolumeClaim": (
        Printed(
            "Status", lambda c: "Terminating" if c["metadata"].get("deletionTimestamp") else _get(c, "status.phase", "")
        ),
        Printed("Volume", text("spec.volumeName")),
        Printed("Capacity", text("status.capacity.storage")),
        Printed("Access Modes", _modes("status.accessModes")),
        Printed("StorageClass", text("spec.storageClassName")),
        _AGE,
        *_wide(VolumeMode=text("spec.volumeMode")),
    ),
    "PersistentVolume": (
        Printed("Capacity", text("spec.capacity.storage")),
        Printed("Access Modes", _modes("spec.accessModes")),
        Printed("Reclaim Policy", text("spec.persistentVolumeReclaimPolicy")),
        Printed("Status", text("status.phase")),
        Printed("Claim", _claim),
        Printed("StorageClass", text("spec.storageClassName")),
        Printed("Reason", text("status.reason")),
        _AGE,
        *_wide(VolumeMode=text("spec.volumeMode")),
    ),
    "ResourceQuota": (Printed("Request", _requested), Printed("Limit", lambda quota: ""), _AGE),
    "LimitRange": (_CREATED,),
    "Event": (
        Printed("Last Seen", lambda event: age(_get(event, "lastTimestamp") or _get(event, "eventTime"))),
        Printed("Type", text("type")),
        Printed("Reason", text("reason")),
        Printed("Object", _involved),
        *_wide(Source=text("source.component"), Count=text("count", "1")),
        Printed("Message", text("message")),
    ),
    "Job": (
        Printed("Status", _job_status),
        Printed("Completions", lambda j: f"{_get(j, 'status.succeeded', 0)}/{_get(j, 'spec.completions', 1)}"),
        Printed("Duration", _job_duration),
        _AGE,
        *_TEMPLATE,
    ),
    "CronJob": (
        Printed("Schedule", text("spec.schedule")),
        Printed("Timezone", text("spec.timeZone", "<none>")),
        Printed("Suspend", lambda job: str(_get(job, "spec.suspend", False))),
        Printed("Active", _holds("status.active"), "integer"),
        Printed(
            "Last Schedule",
            lambda job: age(_get(job, "status.lastScheduleTime")) if _get(job, "status.lastScheduleTime") else "<none>",
        ),
        _AGE,
    ),
    "Deployment": (
        Printed("Ready", _ready_of),
        Printed("Up-to-date", at("status.updatedReplicas", 0), "integer"),
        Printed("Available", at("status.availableReplicas", 0), "integer"),
        _AGE,
        *_TEMPLATE,
    ),
    "ReplicaSet": (
        Printed("Desired", at("spec.replicas", 0), "integer"),
        Printed("Current", at("status.replicas", 0), "integer"),
        Printed("Ready", at("status.readyReplicas", 0), "integer"),
        _AGE,
        *_TEMPLATE,
    ),
    "StatefulSet": (Printed("Ready", _ready_of), _AGE, *_TEMPLATE[:2]),
    "HorizontalPodAutoscaler": (
        Printed("Reference", lambda s: f"{_get(s, 'spec.scaleTargetRef.kind')}/{_get(s, 'spec.scaleTargetRef.name')}"),
        Printed("Targets", _targets),
        Printed("MinPods", text("spec.minReplicas", "<unset>")),
        Printed("MaxPods", at("spec.maxReplicas", 0), "integer"),
        Printed("Replicas", at("status.currentReplicas", 0), "integer"),
        _AGE,
    ),
    "Lease": (Printed("Holder", text("spec.holderIdentity")), _AGE),
    "NetworkPolicy": (Printed("Pod-Selector", _selector("spec.podSelector")), _AGE),
    "Role": (_CREATED,),
    "ClusterRole": (_CREATED,),
    "RoleBinding": _BOUND,
    "ClusterRoleBinding": _BOUND,
    "StorageClass": (
        Printed("Provisioner", text("provisioner")),
        Printed("ReclaimPolicy", text("reclaimPolicy")),
        Printed("VolumeBindingMode", text("volumeBindingMode")),
        Printed("AllowVolumeExpansion", at("allowVolumeExpansion", False), "boolean"),
        _AGE,
    ),
    "CustomResourceDefinition": (_CREATED,),
}
