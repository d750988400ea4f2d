"""Services: their own address, Endpoints from the pods that their selectors match, and the relay to those.

What kube-controller-manager and kube-proxy do together on a cluster. Everything follows the objects: labels,
readiness, ports; nothing is remembered that isn't in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator, holds
from drillbook_lab.proxy import Backend, ServiceProxy

Enqueue = Callable[[str, str, str], None]

_MANAGER = "endpointslice-controller.k8s.io"


class Services:
    """Reconciles Service objects."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._proxy = ServiceProxy()

    def route(self, obj: Object, enqueue: Enqueue) -> None:
        """Which Services an object's change may concern."""
        kind, meta = obj["kind"], obj["metadata"]
        if kind == "Pod":
            # All of its namespace: which of them it belonged to before the change is no longer to be seen.
            for service in self._operator.registry.peek("Service", meta["namespace"]):
                enqueue("Service", meta["namespace"], service["metadata"]["name"])
        elif kind == "Endpoints":
            enqueue("Service", meta["namespace"], meta["name"])

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring one Service's address, Endpoints and relay in line with it."""
        service = self._operator.find("Service", namespace, name)
        if service is None:
            await self._gone(namespace, name)
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None
        if not spec.get("clusterIP"):
            address = self._operator.kubelet.addresses.of(_holder(namespace, name))
            changes = {"clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"]}
            patch = {"spec": {**changes, "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"}}
            service = self._operator.registry.patch("Service", namespace, name, patch)
            spec = service["spec"]
        self._operator.kubelet.hosts.write(self._operator.registry.list("Service"))
        pods = [pod for pod in self._operator.registry.peek("Pod", namespace) if _has_address(pod)]
        if spec.get("selector"):
            self._keep(service, [pod for pod in pods if _matches(spec["selector"], pod)])
        if spec["clusterIP"] == "None":
            return None
        endpoints = self._operator.find("Endpoints", namespace, name)
        backends = _backends(service, endpoints)
        known = {pod["status"]["podIP"] for pod in pods}
        if not spec.get("selector"):
            known = {address for found in backends.values() for address, _ in found}
        await self._proxy.put(service["metadata"]["uid"], spec["clusterIP"], backends, frozenset(known))
        return None

    async def close(self) -> None:
        """Close every relay."""
        await self._proxy.close()

    # -- keeping the objects -----------------------------------------------------------------------------------

    async def _gone(self, namespace: str, name: str) -> None:
        there = {service["metadata"]["uid"] for service in self._operator.registry.peek("Service")}
        for uid in self._proxy.services() - there:
            await self._proxy.forget(uid)
        self._operator.kubelet.addresses.release(_holder(namespace, name))
        self._operator.kubelet.hosts.write(self._operator.registry.list("Service"))
        endpoints = self._operator.find("Endpoints", namespace, name)
        if endpoints is not None and "endpoints.kubernetes.io/managed-by" in (
            endpoints["metadata"].get("labels") or {}
        ):
            self._operator.registry.delete("Endpoints", namespace, name)

    def _keep(self, service: Object, pods: list[Object]) -> None:
        """Endpoints and EndpointSlice, as the Service's pods are now."""
        meta = service["metadata"]
        own = dict(meta.get("labels") or {})
        endpoints = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": meta["name"],
                "namespace": meta["namespace"],
                "labels": {**own, "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
            },
            "subsets": _subsets(service, pods),
        }
        self._put(endpoints, "subsets")
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{meta['name']}-{meta['uid'][:5]}",
                "namespace": meta["namespace"],
                "labels": {
                    **own,
                    "kubernetes.io/service-name": meta["name"],
                    "endpointslice.kubernetes.io/managed-by": _MANAGER,
                },
                "ownerReferences": [objects.owner_reference(service)],
            },
            "addressType": "IPv4",
            "endpoints": [_slice_entry(pod) for pod in pods],
            "ports": [
                {"name": port.get("name", ""), "port": _target(port, pods[0]), "protocol": port.get("protocol", "TCP")}
                for port in service["spec"].get("ports") or ()
                if pods
            ],
        }
        self._put(slice_, "endpoints", "ports")

    def _put(self, wanted: Object, *parts: str) -> None:
        meta = wanted["metadata"]
        found = self._operator.find(wanted["kind"], meta["namespace"], meta["name"])
        try:
            if found is None:
                self._operator.registry.create(wanted)
            elif any(found.get(part) != wanted[part] for part in parts):
                self._operator.registry.update({**found, **{part: wanted[part] for part in parts}})
        except ApiError as fault:
            if fault.code not in (403, 404):  # the namespace is on its way out
                raise


def _holder(namespace: str, name: str) -> str:
    return f"service/{namespace}/{name}"


def _has_address(pod: Object) -> bool:
    status = pod.get("status") or {}
    return bool(status.get("podIP")) and status.get("phase") not in ("Succeeded", "Failed")


def _matches(selector: dict[str, str], pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _is_ready(pod: Object) -> bool:
    return not pod["metadata"].get("deletionTimestamp") and holds(pod, "Ready")


def _target(port: Object, pod: Object) -> int:
    """The pod's port; a name is looked up among its containers'. 0: it has none of that name."""
    wanted = port.get("targetPort", port["port"])
    if isinstance(wanted, int):
        return wanted
    for container in pod["spec"]["containers"]:
        for offered in container.get("ports") or ():
            if offered.get("name") == wanted:
                return int(offered["containerPort"])
    return 0


def _reference(pod: Object) -> Object:
    meta = pod["metadata"]
    return {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


def _subsets(service: Object, pods: list[Object]) -> list[Object]:
    """The pods by the ports that they offer; each with its ready and its other addresses."""
    spec = service["spec"]
    by_ports: dict[tuple[tuple[str, int, str], ...], Object] = {}
    for pod in pods:
        ready = _is_ready(pod) or spec.get("publishNotReadyAddresses")
        if not ready and pod["metadata"].get("deletionTimestamp"):
            continue
        found = [
            (port.get("name", ""), _target(port, pod), port.get("protocol", "TCP")) for port in spec.get("ports") or ()
        ]
        subset = by_ports.setdefault(tuple(entry for entry in found if entry[1]), {})
        entry = {"ip": pod["status"]["podIP"], "nodeName": pod["spec"].get("nodeName"), "targetRef": _reference(pod)}
        subset.setdefault("addresses" if ready else "notReadyAddresses", []).append(entry)
    for ports, subset in by_ports.items():
        subset["ports"] = [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in ports]
    return list(by_ports.values())


def _slice_entry(pod: Object) -> Object:
    leaving = bool(pod["metadata"].get("deletionTimestamp"))
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": _is_ready(pod), "serving": holds(pod, "Ready"), "terminating": leaving},
        "nodeName": pod["spec"].get("nodeName"),
        "targetRef": _reference(pod),
    }


def _backends(service: Object, endpoints: Object | None) -> dict[int, list[Backend]]:
    """Who is behind each of the Service's ports, by its Endpoints: also those that somebody wrote by hand."""
    found: dict[int, list[Backend]] = {}
    for port in service["spec"].get("ports") or ():
        if port.get("protocol", "TCP") != "TCP":
            continue
        behind = found.setdefault(int(port["port"]), [])
        for subset in (endpoints or {}).get("subsets") or ():
            offered: list[dict[str, Any]] = subset.get("ports") or []
            target = next((entry["port"] for entry in offered if entry.get("name", "") == port.get("name", "")), None)
            if target is not None:
                behind.extend((entry["ip"], int(target)) for entry in subset.get("addresses") or ())
    return found
