"""`status.used` of every ResourceQuota, kept while what it counts comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal

from drillbook_lab.api import quota as quota_rules
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry


class Keeper:
    """Keeps `status.used` of every quota, a moment after what it counts has changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._dirty: set[str] = set()
        registry.subscribe(self._changed)
        self._dirty.update(quota["metadata"]["namespace"] for quota in registry.peek("ResourceQuota"))
        if self._dirty:
            asyncio.get_running_loop().call_soon(self._count)

    def _changed(self, event: str, obj: Object) -> None:
        namespace = obj["metadata"].get("namespace")
        if not namespace or obj["kind"] == "Event" or namespace in self._dirty:
            return
        if self._registry.peek("ResourceQuota", namespace):
            # Not now: anyone who has changed the object isn't done yet.
            self._dirty.add(namespace)
            asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        namespaces, self._dirty = self._dirty, set()
        for namespace in namespaces:
            for quota in self._registry.peek("ResourceQuota", namespace):
                if quota_rules.is_enforced(quota) and not quota["metadata"].get("deletionTimestamp"):
                    self._tell(namespace, quota)

    def _tell(self, namespace: str, quota: Object) -> None:
        hard = (quota.get("spec") or {}).get("hard") or {}
        total: dict[str, Decimal] = dict.fromkeys(hard, Decimal(0))
        for resource in self._registry.resources():
            if resource.namespaced:
                for obj in self._registry.peek(resource.kind, namespace):
                    quota_rules.add(total, quota_rules.usage(resource, obj))
        status = {"hard": hard, "used": {name: quota_rules.shown(amount, name) for name, amount in total.items()}}
        if quota.get("status") != status:
            with contextlib.suppress(ApiError):  # it may be gone in the meantime
                self._registry.update(
                    {**quota, "metadata": {**quota["metadata"], "resourceVersion": ""}, "status": status},
                    subresource="status",
                )
