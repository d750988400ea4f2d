"""What the real server does to built-in kinds on their way in, and the rules of `metadata`.

Only what somebody relies on: a Secret's `stringData`, the first phase of a Pod, the name
rules, the fields that can't change.
"""

from __future__ import annotations

import base64
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.api import cron_rules, volume_rules
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import bad_value

_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_PATH_SEGMENT = re.compile(r"^[^/%]+$")
_LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")

JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"

# Vowels and look-alikes are left out, as upstream does, so that no name spells a word.
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"

_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character"
)


def now() -> str:
    """The present as Kubernetes writes it: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def generated_name(prefix: str) -> str:
    """A name from `generateName`."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))


def metadata_faults(kind: str, meta: dict[str, Any]) -> list[Fault]:
    """What is wrong with an object's name, labels, annotations, owners and finalizers."""
    found: list[Fault] = []
    name = meta.get("name")
    if not name:
        return [Fault("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
    if kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        if not _PATH_SEGMENT.match(name):
            found.append(bad_value("metadata.name", name, "may not contain '/' or '%'"))
    elif kind == "Service" and not (_DNS_1035.match(name) and len(name) <= 63):
        found.append(
            bad_value(
                "metadata.name",
                name,
                "a DNS-1035 label must consist of lower case alphanumeric "
                "characters or '-', start with an alphabetic character, and end with an alphanumeric "
                "character",
            )
        )
    elif kind == "Namespace" and not (_LABEL.match(name) and len(name) <= 63):
        found.append(
            bad_value(
                "metadata.name",
                name,
                "a lowercase RFC 1123 label must consist of lower case "
                "alphanumeric characters or '-', and must start and end with an alphanumeric "
                "character",
            )
        )
    elif not (_SUBDOMAIN.match(name) and len(name) <= 253):
        found.append(bad_value("metadata.name", name, _SUBDOMAIN_MESSAGE))
    for key, value in (meta.get("labels") or {}).items():
        if not _LABEL_KEY.match(key):
            found.append(
                bad_value(
                    "metadata.labels",
                    key,
                    "name part must consist of alphanumeric characters, '-', "
                    "'_' or '.', and must start and end with an alphanumeric character",
                )
            )
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            found.append(
                bad_value(
                    "metadata.labels",
                    value,
                    "a valid label must be an empty string or consist of at "
                    "most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an "
                    "alphanumeric character",
                )
            )
    found.extend(
        bad_value(f"metadata.annotations.{key}", value, "must be a string")
        for key, value in (meta.get("annotations") or {}).items()
        if not isinstance(value, str)
    )
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                path = f"metadata.ownerReferences[{index}].{part}"
                found.append(bad_value(path, owner.get(part) or "", f"{part} must not be empty"))
    return found


def prepare(obj: Object) -> None:
    """Defaults and rewrites of a built-in kind, in place, on create and update alike."""
    match obj["kind"]:
        case "Secret":
            plain = obj.pop("stringData", None) or {}
            if plain:
                data = dict(obj.get("data") or {})
                data.update({key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()})
                obj["data"] = data
            obj.setdefault("type", "Opaque")
        case "Namespace":
            obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        case "Service":
            spec = obj.setdefault("spec", {})
            spec.setdefault("type", "ClusterIP")
            spec.setdefault("sessionAffinity", "None")
            for port in spec.get("ports") or ():
                port.setdefault("protocol", "TCP")
                port.setdefault("targetPort", port.get("port"))
        case "Pod":
            _prepare_pod(obj.setdefault("spec", {}))
        case "PersistentVolumeClaim":
            obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        case "Job":
            spec = obj.setdefault("spec", {})
            spec.setdefault("backoffLimit", 6)
            spec.setdefault("completions", 1)
            spec.setdefault("parallelism", 1)
            spec.setdefault("completionMode", "NonIndexed")
            spec.setdefault("suspend", False)
            _prepare_pod(spec.get("template", {}).setdefault("spec", {}))
            if not spec.get("manualSelector"):
                spec.setdefault("selector", {"matchLabels": {JOB_UID_LABEL: obj["metadata"].get("uid", "")}})
        case "CronJob":
            spec = obj.setdefault("spec", {})
            spec.setdefault("concurrencyPolicy", "Allow")
            spec.setdefault("suspend", False)
            spec.setdefault("successfulJobsHistoryLimit", 3)
            spec.setdefault("failedJobsHistoryLimit", 1)
        case "Deployment":
            spec = obj.setdefault("spec", {})
            spec.setdefault("replicas", 1)
            spec.setdefault("revisionHistoryLimit", 10)
            spec.setdefault("progressDeadlineSeconds", 600)
            strategy = spec.setdefault("strategy", {})
            if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
                rolling = strategy.setdefault("rollingUpdate", {})
                rolling.setdefault("maxSurge", "25%")
                rolling.setdefault("maxUnavailable", "25%")
            _prepare_template(spec)
        case "ReplicaSet" | "StatefulSet":
            spec = obj.setdefault("spec", {})
            spec.setdefault("replicas", 1)
            _prepare_template(spec)
        case "StorageClass":
            obj.setdefault("reclaimPolicy", "Delete")
            obj.setdefault("volumeBindingMode", "Immediate")
        case "RoleBinding" | "ClusterRoleBinding":
            obj.get("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
            for subject in obj.get("subjects") or ():
                if subject.get("kind") in ("User", "Group"):
                    subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _prepare_pod(spec: dict[str, Any]) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("serviceAccountName", "default")


def _prepare_template(spec: dict[str, Any]) -> None:
    """The pods of a workload. Its template is compared with itself later, so it is made whole at once."""
    template = spec.setdefault("template", {})
    pod = template.setdefault("spec", {})
    for part, value in _POD_DEFAULTS.items():
        pod.setdefault(part, dict(value) if isinstance(value, dict) else value)
    for container in [*(pod.get("containers") or ()), *(pod.get("initContainers") or ())]:
        tag = str(container.get("image", "")).rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("resources", {})
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")


_POD_DEFAULTS: dict[str, Any] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
}

_FIRST_STATUS: dict[str, dict[str, Any]] = {
    "Namespace": {"phase": "Active"},
    "Pod": {"phase": "Pending", "qosClass": "BestEffort"},
    "PersistentVolumeClaim": {"phase": "Pending"},
    "Job": {},
    "Service": {"loadBalancer": {}},
}


def first_status(kind: str) -> dict[str, Any] | None:
    """The status that an object of a built-in kind is born with; None: none at all."""
    status = _FIRST_STATUS.get(kind)
    return dict(status) if status is not None else None


def built_in_faults(obj: Object, old: Object | None) -> list[Fault]:
    """The few rules of built-in kinds that a client of ours could break."""
    found: list[Fault] = []
    kind = obj["kind"]
    if kind == "Secret":
        for key, value in (obj.get("data") or {}).items():
            try:
                base64.b64decode(value or "", validate=True)
            except (ValueError, TypeError):
                found.append(Fault(f"data[{key}]", "Invalid value: not base64"))
        if old is not None and obj.get("type") != old.get("type"):
            found.append(bad_value("type", obj.get("type"), "field is immutable"))
    frozen = kind in ("Secret", "ConfigMap") and old is not None and old.get("immutable")
    if frozen and old is not None and obj.get("data") != old.get("data"):
        found.append(Fault("data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden"))
    if kind in ("RoleBinding", "ClusterRoleBinding"):
        if not (obj.get("roleRef") or {}).get("name"):
            found.append(Fault("roleRef.name", "Required value", "FieldValueRequired"))
        if old is not None and obj.get("roleRef") != old.get("roleRef"):
            found.append(bad_value("roleRef", obj.get("roleRef"), "cannot change roleRef"))
    if kind == "PersistentVolumeClaim" and old is not None:
        found.extend(volume_rules.claim_faults(obj, old))
    if kind == "CronJob":
        found.extend(cron_rules.cron_job_faults(obj))
    if kind == "Job" and old is not None:
        before, after = old.get("spec", {}), obj.get("spec", {})
        found.extend(
            bad_value(f"spec.{part}", after.get(part), "field is immutable")
            for part in ("template", "selector", "completionMode")
            if before.get(part) != after.get(part)
        )
    return found
