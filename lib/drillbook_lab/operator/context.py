"""What every controller works with: the registry, the kubelet, and a few verbs over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.operator import events

_FIRST_RETRY_SECONDS = 0.005


@dataclass(frozen=True)
class Settings:
    """What differs between labs, and between a lab and a test."""

    bin_dir: Path
    pg_version: str
    job_retry_seconds: float = 1.0
    archive_poll_seconds: float = 0.2
    store_retry_longest_seconds: float = 5.0  # of a real operator 1000
    # Schedules go by this clock; a test may set it.
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    schedule_recheck_seconds: float = 60.0
    retention_poll_seconds: float = 0.5
    declared_dir: Path | None = None  # what stands for Git, if there is one
    reconciler_seconds: float = 2.0

    def store_retry(self, misses: int) -> float:
        """Seconds until a missing ObjectStore is looked for again, as controller-runtime's queue has it: nobody watches for it."""
        return min(_FIRST_RETRY_SECONDS * 2.0 ** (misses - 1), self.store_retry_longest_seconds)


@dataclass
class Operator:
    """The controllers' common ground."""

    registry: Registry
    kubelet: Kubelet
    settings: Settings

    def find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """An object, or None if it isn't there."""
        try:
            return self.registry.get(kind, namespace, name)
        except ApiError as fault:
            if fault.code != 404:
                raise
            return None

    def ensure(self, wanted: Object) -> Object:
        """The object as it is, made if it isn't there. What somebody else made is left alone."""
        meta = wanted["metadata"]
        found = self.find(wanted["kind"], meta.get("namespace"), meta["name"])
        return found if found is not None else self.registry.create(wanted)

    def set_status(self, obj: Object, changes: Mapping[str, Any]) -> Object:
        """Replace these fields of the status as it is now (None removes); nothing is written that is already so."""
        meta = obj["metadata"]
        found = self.find(obj["kind"], meta.get("namespace"), meta["name"])
        if found is None or found["metadata"]["uid"] != meta["uid"]:
            return obj  # a later object of the same name is not the one that was looked at
        status = found.get("status") or {}
        if all(status.get(key) == value for key, value in changes.items()):
            return found
        found["status"] = {key: value for key, value in {**status, **changes}.items() if value is not None}
        return self.registry.update(found, subresource="status")

    def set_condition(self, obj: Object, kind: str, holds: bool, reason: str, message: str) -> Object:
        """Set one condition; its transition time moves only when its status does."""
        meta = obj["metadata"]
        found = self.find(obj["kind"], meta.get("namespace"), meta["name"])
        if found is None or found["metadata"]["uid"] != meta["uid"]:
            return obj
        conditions = list((found.get("status") or {}).get("conditions") or ())
        updated = with_condition(conditions, kind, holds, reason, message)
        return found if updated == conditions else self.set_status(found, {"conditions": updated})

    def event(self, about: Object, reason: str, message: str, *, kind: str = "Normal") -> None:
        """Tell about an object what has just happened to it."""
        events.record(self.registry, about, reason, message, kind=kind)

    def owned(self, owner: Object, kind: str, labels: str = "") -> list[Object]:
        """The objects of a kind that belong to this very owner, not to an earlier one of its name."""
        uid = owner["metadata"]["uid"]
        found = self.registry.list(kind, owner["metadata"]["namespace"], labels=labels)
        return [entry for entry in found if is_owned_by(entry, uid)]


def is_owned_by(obj: Object, uid: str) -> bool:
    """Whether an owner reference names that uid."""
    return any(reference["uid"] == uid for reference in obj["metadata"].get("ownerReferences") or ())


def with_condition(conditions: Iterable[Object], kind: str, holds: bool, reason: str, message: str) -> list[Object]:
    """The conditions with one of them replaced or added."""
    status = "True" if holds else "False"
    result, done = [], False
    for condition in conditions:
        if condition["type"] != kind:
            result.append(condition)
            continue
        since = condition["lastTransitionTime"] if condition["status"] == status else timestamp()
        result.append(_condition(kind, status, reason, message, since))
        done = True
    if not done:
        result.append(_condition(kind, status, reason, message, timestamp()))
    return result


def condition(obj: Object, kind: str) -> Object | None:
    """One condition of an object, if it has it."""
    for entry in (obj.get("status") or {}).get("conditions") or ():
        if entry["type"] == kind:
            found: Object = entry
            return found
    return None


def holds(obj: Object, kind: str) -> bool:
    """Whether a condition of an object is there and true."""
    found = condition(obj, kind)
    return found is not None and found["status"] == "True"


def timestamp() -> str:
    """This instant as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp() -> str:
    """This instant with microseconds, as CNPG writes a primary's timestamps."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _condition(kind: str, status: str, reason: str, message: str, since: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
