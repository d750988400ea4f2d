"""What a change of a PersistentVolumeClaim may not do: a bound claim only grows."""

from __future__ import annotations

from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.quantities import quantity

_FROZEN = ("accessModes", "storageClassName", "volumeName", "volumeMode", "selector", "dataSource")
_IMMUTABLE = "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
_SHRUNK = "Forbidden: field can not be less than status.capacity"


def claim_faults(new: Object, old: Object) -> list[Fault]:
    """The rules of an update; what the binder fills in on the way is no change."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    found = []
    if any(before.get(part) not in (None, after.get(part)) for part in _FROZEN):
        found.append(Fault("spec", _IMMUTABLE, "FieldValueForbidden"))
    had = ((old.get("status") or {}).get("capacity") or {}).get("storage")
    size, capacity = quantity(str(_asked(after) or "")), quantity(str(had or ""))
    if size is not None and capacity is not None and size < capacity and _asked(after) != _asked(before):
        found.append(Fault("spec.resources.requests.storage", _SHRUNK, "FieldValueForbidden"))
    return found


def _asked(spec: Object) -> str | None:
    asked: str | None = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    return asked
