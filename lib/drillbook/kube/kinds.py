"""The kinds of Kubernetes objects that runbooks deal with, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

BARMAN_GROUP = "barmancloud.cnpg.io"
CNPG_GROUP = "postgresql.cnpg.io"


@dataclass(frozen=True)
class Kind:
    """A kind: API group (``""`` is the core group), version, kind and its plural in URLs."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``group/version`` as an object's ``apiVersion`` has it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of a collection, an object or its subresource; ``namespace=""`` means all namespaces."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, *filter(None, (name, subresource))]
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def where(self, namespace: str = "", name: str = "") -> str:
        """The object as a message names it: ``Pod cnpg-system/shared-postgres-1``."""
        place = "/".join(filter(None, (namespace if self.namespaced else "", name)))
        return f"{self.kind} {place}" if place else self.kind

    def __str__(self) -> str:
        return self.kind


CLUSTER = Kind(CNPG_GROUP, "v1", "Cluster", "clusters")
BACKUP = Kind(CNPG_GROUP, "v1", "Backup", "backups")
SCHEDULED_BACKUP = Kind(CNPG_GROUP, "v1", "ScheduledBackup", "scheduledbackups")
POOLER = Kind(CNPG_GROUP, "v1", "Pooler", "poolers")
OBJECT_STORE = Kind(BARMAN_GROUP, "v1", "ObjectStore", "objectstores")
POD = Kind("", "v1", "Pod", "pods")
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
PVC = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SERVICE = Kind("", "v1", "Service", "services")
VOLUME_SNAPSHOT = Kind("snapshot.storage.k8s.io", "v1", "VolumeSnapshot", "volumesnapshots")
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
EVENT = Kind("", "v1", "Event", "events")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
AUTOSCALER = Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
JOB = Kind("batch", "v1", "Job", "jobs")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
NODE = Kind("", "v1", "Node", "nodes", namespaced=False)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False)
APPLICATION = Kind("argoproj.io", "v1alpha1", "Application", "applications")
SELF_SUBJECT_REVIEW = Kind("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False)
SELF_SUBJECT_ACCESS_REVIEW = Kind(
    "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
)

KINDS: tuple[Kind, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Kind))


def kind_of(obj: dict[str, Any]) -> Kind:
    """The kind of an object by its ``apiVersion`` and ``kind``; LookupError for one that no runbook uses."""
    found = (str(obj.get("apiVersion", "")), str(obj.get("kind", "")))
    for kind in KINDS:
        if (kind.api_version, kind.kind) == found:
            return kind
    raise LookupError(f"no runbook deals with {found[0]} {found[1]}; add it to drillbook.kube.kinds")
