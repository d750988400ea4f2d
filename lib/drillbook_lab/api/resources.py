"""Which kinds the server knows, and what a path or a table has to know about each.

Built-in kinds stand in one table; custom ones come out of their CustomResourceDefinition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drillbook_lab.api.errors import Object


@dataclass(frozen=True)
class Column:
    """A printer column: what `kubectl get` shows next to the name."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True)
class Resource:
    """One kind that the server stores."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    has_status: bool = False
    has_generation: bool = False
    scale: dict[str, str] | None = None
    columns: tuple[Column, ...] = ()
    schema: dict[str, Any] | None = field(default=None, repr=False, hash=False, compare=False)
    custom: bool = False

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """The kind in lower case, as discovery gives it."""
        return self.kind.lower()


_AGE = Column("Age", ".metadata.creationTimestamp", "date")


def _columns(*pairs: tuple[str, str]) -> tuple[Column, ...]:
    return (*(Column(name, path) for name, path in pairs), _AGE)


_RBAC = "rbac.authorization.k8s.io"

BUILT_IN: tuple[Resource, ...] = (
    Resource(
        "Namespace",
        "namespaces",
        namespaced=False,
        short_names=("ns",),
        has_status=True,
        columns=_columns(("Status", ".status.phase")),
    ),
    Resource("Node", "nodes", namespaced=False, short_names=("no",), has_status=True),
    Resource(
        "Pod",
        "pods",
        short_names=("po",),
        categories=("all",),
        has_status=True,
        columns=_columns(("Ready", "@pod-ready"), ("Status", "@pod-status"), ("Restarts", "@pod-restarts")),
    ),
    Resource(
        "Service",
        "services",
        short_names=("svc",),
        categories=("all",),
        has_status=True,
        columns=_columns(("Type", ".spec.type"), ("Cluster-IP", ".spec.clusterIP"), ("Port(s)", ".spec.ports[0].port")),
    ),
    Resource("Endpoints", "endpoints", short_names=("ep",)),
    Resource(
        "EndpointSlice",
        "endpointslices",
        "discovery.k8s.io",
        columns=_columns(
            ("AddressType", ".addressType"), ("Ports", ".ports[0].port"), ("Endpoints", ".endpoints[0].addresses[0]")
        ),
    ),
    Resource("Secret", "secrets", columns=_columns(("Type", ".type"), ("Data", "@data-count"))),
    Resource("ConfigMap", "configmaps", short_names=("cm",), columns=_columns(("Data", "@data-count"))),
    Resource("ServiceAccount", "serviceaccounts", short_names=("sa",)),
    Resource(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        short_names=("pvc",),
        has_status=True,
        columns=_columns(
            ("Status", ".status.phase"),
            ("Volume", ".spec.volumeName"),
            ("Capacity", ".status.capacity.storage"),
            ("StorageClass", ".spec.storageClassName"),
        ),
    ),
    Resource("PersistentVolume", "persistentvolumes", namespaced=False, short_names=("pv",), has_status=True),
    Resource("ResourceQuota", "resourcequotas", short_names=("quota",), has_status=True),
    Resource("LimitRange", "limitranges", short_names=("limits",)),
    Resource(
        "Event",
        "events",
        short_names=("ev",),
        columns=(
            Column("Last Seen", ".lastTimestamp", "date"),
            Column("Type", ".type"),
            Column("Reason", ".reason"),
            Column("Object", "@involved"),
            Column("Message", ".message"),
        ),
    ),
    Resource(
        "Job",
        "jobs",
        "batch",
        categories=("all",),
        has_status=True,
        has_generation=True,
        columns=_columns(("Status", "@job-status"), ("Completions", "@job-completions")),
    ),
    Resource(
        "CronJob",
        "cronjobs",
        "batch",
        short_names=("cj",),
        categories=("all",),
        has_status=True,
        has_generation=True,
        columns=_columns(("Schedule", ".spec.schedule")),
    ),
    Resource(
        "Deployment",
        "deployments",
        "apps",
        short_names=("deploy",),
        categories=("all",),
        has_status=True,
        has_generation=True,
        scale={"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        columns=_columns(("Ready", ".status.readyReplicas"), ("Available", ".status.availableReplicas")),
    ),
    Resource(
        "ReplicaSet",
        "replicasets",
        "apps",
        short_names=("rs",),
        categories=("all",),
        has_status=True,
        has_generation=True,
        scale={"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        columns=_columns(
            ("Desired", ".spec.replicas"), ("Current", ".status.replicas"), ("Ready", ".status.readyReplicas")
        ),
    ),
    Resource(
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "autoscaling",
        "v2",
        short_names=("hpa",),
        categories=("all",),
        has_status=True,
        has_generation=True,
        columns=_columns(
            ("MinPods", ".spec.minReplicas"), ("MaxPods", ".spec.maxReplicas"), ("Replicas", ".status.currentReplicas")
        ),
    ),
    Resource(
        "StatefulSet",
        "statefulsets",
        "apps",
        short_names=("sts",),
        categories=("all",),
        has_status=True,
        has_generation=True,
        scale={"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
    ),
    Resource("Lease", "leases", "coordination.k8s.io", columns=_columns(("Holder", ".spec.holderIdentity"))),
    Resource(
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "policy",
        short_names=("pdb",),
        has_status=True,
        has_generation=True,
        columns=_columns(("Min Available", ".spec.minAvailable")),
    ),
    Resource("NetworkPolicy", "networkpolicies", "networking.k8s.io", short_names=("netpol",), has_generation=True),
    Resource("Role", "roles", _RBAC),
    Resource("RoleBinding", "rolebindings", _RBAC, columns=_columns(("Role", ".roleRef.name"))),
    Resource("ClusterRole", "clusterroles", _RBAC, namespaced=False),
    Resource(
        "ClusterRoleBinding",
        "clusterrolebindings",
        _RBAC,
        namespaced=False,
        columns=_columns(("Role", ".roleRef.name")),
    ),
    Resource(
        "StorageClass",
        "storageclasses",
        "storage.k8s.io",
        namespaced=False,
        short_names=("sc",),
        columns=_columns(("Provisioner", ".provisioner")),
    ),
    Resource(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        namespaced=False,
        has_generation=True,
    ),
    Resource(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        namespaced=False,
        has_generation=True,
    ),
    Resource(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "apiextensions.k8s.io",
        namespaced=False,
        short_names=("crd", "crds"),
        has_status=True,
        has_generation=True,
    ),
)


def from_crd(crd: Object) -> Resource:
    """The resource that a CustomResourceDefinition with one served version declares."""
    spec = crd["spec"]
    names = spec["names"]
    version = next(v for v in spec["versions"] if v.get("storage", True))
    subresources = version.get("subresources") or {}
    return Resource(
        kind=names["kind"],
        plural=names["plural"],
        group=spec["group"],
        version=version["name"],
        namespaced=spec.get("scope", "Namespaced") == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        has_status="status" in subresources,
        has_generation=True,
        scale=subresources.get("scale"),
        columns=tuple(
            Column(c["name"], c["jsonPath"], c.get("type", "string"), c.get("priority", 0))
            for c in version.get("additionalPrinterColumns") or ()
        ),
        schema=version["schema"]["openAPIV3Schema"],
        custom=True,
    )
