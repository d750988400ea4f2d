"""A container's environment from its pod's spec: values, references to Secrets and ConfigMaps, the pod's own fields."""

from __future__ import annotations

import base64
import re
from typing import Any

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.operator.places import NotReadyYet, PodPlaces

_REFERENCE = re.compile(r"\$(\$|\(([-._A-Za-z0-9]+)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


def declared(registry: Registry, pod: Object, container: Object, places: PodPlaces) -> dict[str, str]:
    """The variables that `envFrom` and `env` give; `NotReadyYet`, in the kubelet's words, when one can't be had."""
    reader = _Reader(registry, pod, places)
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        values = reader.all_of(source)
        found.update({f"{source.get('prefix', '')}{key}": value for key, value in values.items()})
    for entry in container.get("env") or ():
        if entry.get("valueFrom"):
            value = reader.one_of(entry["valueFrom"])
            if value is not None:
                found[entry["name"]] = value
        else:
            found[entry["name"]] = _expanded(str(entry.get("value") or ""), found)
    return found


class _Reader:
    """Looks up what a variable refers to."""

    def __init__(self, registry: Registry, pod: Object, places: PodPlaces) -> None:
        self._registry = registry
        self._pod = pod
        self._places = places

    def all_of(self, source: Object) -> dict[str, str]:
        """Every key of a Secret or ConfigMap."""
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            reference = source.get(field)
            if reference is not None:
                return self._values(kind, reference) or {}
        return {}

    def one_of(self, source: Object) -> str | None:
        """One value; None for an optional one that isn't there."""
        if "fieldRef" in source:
            return self._field(str(source["fieldRef"].get("fieldPath", "")))
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            reference = source.get(field)
            if reference is None:
                continue
            values, key = self._values(kind, reference), reference.get("key", "")
            if values is not None and key in values:
                return values[key]
            if reference.get("optional"):
                return None
            raise NotReadyYet(f"couldn't find key {key} in {kind} {self._namespace}/{reference.get('name', '')}")
        return None

    @property
    def _namespace(self) -> str:
        return str(self._pod["metadata"]["namespace"])

    def _values(self, kind: str, reference: Object) -> dict[str, str] | None:
        name = str(reference.get("name", ""))
        try:
            found = self._registry.get(kind, self._namespace, name)
        except ApiError as fault:
            if reference.get("optional"):
                return None
            raise NotReadyYet(f'{kind.lower()} "{name}" not found') from fault
        data: dict[str, Any] = found.get("data") or {}
        if kind == "ConfigMap":
            return {key: str(value) for key, value in data.items()}
        return {key: base64.b64decode(value or "").decode(errors="replace") for key, value in data.items()}

    def _field(self, path: str) -> str:
        match = _SUBSCRIPT.match(path)
        meta, spec = self._pod["metadata"], self._pod["spec"]
        if match:
            return str((meta.get(match[1]) or {}).get(match[2], ""))
        values = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "status.podIP": self._places.address,
            "status.podIPs": self._places.address,
            "status.hostIP": "127.0.0.1",
        }
        if path not in values:
            raise NotReadyYet(f"unsupported fieldPath: {path}")
        return str(values[path])


def _expanded(text: str, known: dict[str, str]) -> str:
    """`$(NAME)` of an earlier variable; an unknown one stays as it is, and `$$` is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return known.get(match[2], match[0])

    return _REFERENCE.sub(value, text)
