"""Events: the same thing said again is counted, not repeated, and what is old goes away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.operator import objects

_KEPT = timedelta(hours=1)  # as Kubernetes keeps them
_MOST = 1000  # in a namespace: a lab that runs for weeks stays small


def record(registry: Registry, about: Object, reason: str, message: str, *, kind: str = "Normal") -> None:
    """Tell what has just happened to an object. Telling is never a reason to fail."""
    at = datetime.now(UTC)
    stamp = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    wanted = objects.event(about, reason, message, stamp, kind=kind)
    namespace = wanted["metadata"]["namespace"]
    try:
        for known in registry.peek("Event", namespace):
            if _is_same(known, wanted):
                again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": stamp}
                registry.patch("Event", namespace, known["metadata"]["name"], again)
                return
        _expire(registry, namespace, at)
        registry.create(wanted)
    except ApiError as fault:
        if fault.code not in (403, 404, 409):  # the namespace is gone or going
            raise


def _is_same(known: Object, wanted: Object) -> bool:
    mine, other = known.get("involvedObject") or {}, wanted["involvedObject"]
    return mine.get("uid") == other["uid"] and all(
        known.get(part) == wanted[part] for part in ("reason", "message", "type", "source")
    )


def _expire(registry: Registry, namespace: str, at: datetime) -> None:
    """Only when a new one comes: nobody minds an old event while nothing happens."""
    oldest = f"{at - _KEPT:%Y-%m-%dT%H:%M:%SZ}"
    events = sorted(registry.peek("Event", namespace), key=_last)
    surplus = len(events) - _MOST + 1
    for number, event in enumerate(events):
        if number >= surplus and _last(event) >= oldest:
            return
        registry.delete("Event", namespace, event["metadata"]["name"])


def _last(event: Object) -> str:
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
