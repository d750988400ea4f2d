"""ResourceQuota: how much a namespace may hold, refused in Kubernetes' words, and what it holds, kept in `status.used`.

What is used is counted again each time: nothing can drift. A quota's scopes are not offered: one that has them is
not enforced, and its status stays empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from drillbook_lab.api import errors
from drillbook_lab.api.errors import Object
from drillbook_lab.api.resources import Resource
from drillbook_lab.api.store import Store
from drillbook_lab.quantities import quantity

Usage = dict[str, Decimal]

# Kinds that a quota counts by their bare plural, as it did before `count/` came.
_BARE = frozenset(
    {"pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "resourcequotas", "replicationcontrollers"}
)
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def check(store: Store, resource: Resource, new: Object, old: Object | None = None) -> None:
    """403 if a new or changed object takes its namespace over one of its quotas."""
    meta = new["metadata"]
    quotas = [quota for quota in store.of_kind("ResourceQuota", meta.get("namespace") or "-") if is_enforced(quota)]
    if not quotas or resource.kind in ("Event", "ResourceQuota"):
        return
    before = usage(resource, old) if old is not None else {}
    more = {name: amount - before.get(name, Decimal(0)) for name, amount in usage(resource, new).items()}
    for quota in quotas:
        hard = _hard(quota)
        _demand_told(resource, new, old, quota["metadata"]["name"], hard)
        asked = {name: amount for name, amount in more.items() if name in hard and amount > 0}
        if not asked:
            continue
        used = _used(store, meta["namespace"], resource, hard)
        over = sorted(name for name, amount in asked.items() if used.get(name, Decimal(0)) + amount > hard[name])
        if over:
            told = (
                f"{what}: {','.join(f'{name}={shown(amounts.get(name, Decimal(0)), name)}' for name in over)}"
                for what, amounts in (("requested", asked), ("used", used), ("limited", hard))
            )
            raise errors.forbidden(
                resource.plural,
                resource.group,
                meta.get("name", ""),
                f"exceeded quota: {quota['metadata']['name']}, {', '.join(told)}",
            )


def usage(resource: Resource, obj: Object) -> Usage:
    """What one object counts for."""
    plural = resource.plural
    found: Usage = {f"count/{errors.qualified(plural, resource.group)}": Decimal(1)}
    spec = obj.get("spec") or {}
    if not resource.group and plural in _BARE and plural != "pods":
        found[plural] = Decimal(1)
    if resource.kind == "Pod" and (obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
        found["pods"] = Decimal(1)
        found |= _compute(spec)
    if resource.kind == "PersistentVolumeClaim":
        size = _amount(((spec.get("resources") or {}).get("requests") or {}).get("storage"))
        found["requests.storage"] = size
        if spec.get("storageClassName"):
            prefix = f"{spec['storageClassName']}.storageclass.storage.k8s.io"
            found |= {f"{prefix}/requests.storage": size, f"{prefix}/persistentvolumeclaims": Decimal(1)}
    if resource.kind == "Service" and spec.get("type") in ("NodePort", "LoadBalancer"):
        found["services.nodeports"] = Decimal(len(spec.get("ports") or ()))
        if spec["type"] == "LoadBalancer":
            found["services.loadbalancers"] = Decimal(1)
    return found


def add(total: Usage, more: Usage) -> None:
    """Add what is counted there."""
    for name, amount in more.items():
        if name in total:
            total[name] += amount


def _compute(spec: Object) -> Usage:
    """A pod's requests and limits: its containers together, or the largest of those that run before them."""
    found: Usage = {}
    for what in ("requests", "limits"):
        for name in _COMPUTE:
            together = sum((_of(container, what, name) for container in spec.get("containers") or ()), Decimal(0))
            alone = [_of(container, what, name) for container in spec.get("initContainers") or ()]
            first = max(alone, default=Decimal(0))
            if amount := max(together, first):
                found[f"{what}.{name}"] = amount
                if what == "requests":
                    found[name] = amount
    return found


def _of(container: Object, what: str, name: str) -> Decimal:
    resources = container.get("resources") or {}
    told = (resources.get(what) or {}).get(name)
    if told is None and what == "requests":  # a limit without a request is both
        told = (resources.get("limits") or {}).get(name)
    return _amount(told)


def _demand_told(resource: Resource, new: Object, old: Object | None, quota: str, hard: Mapping[str, Decimal]) -> None:
    """Where compute is limited, a pod has to say what it needs."""
    if resource.kind != "Pod" or old is not None:
        return
    missing = []
    for name in sorted(hard):
        what, _, plain = name.partition(".") if "." in name else ("requests", "", name)
        if what not in ("requests", "limits") or plain not in _COMPUTE:
            continue
        silent = [c["name"] for c in (new.get("spec") or {}).get("containers") or () if not _of(c, what, plain)]
        if silent:
            missing.append(f"{name} for: {','.join(silent)}")
    if missing:
        meta = new["metadata"]
        raise errors.forbidden(
            "pods", "", meta.get("name", ""), f"failed quota: {quota}: must specify {'; '.join(missing)}"
        )


def is_enforced(quota: Object) -> bool:
    """Whether it is one that this server can count by."""
    spec = quota.get("spec") or {}
    return not spec.get("scopes") and not spec.get("scopeSelector")


def _hard(quota: Object) -> Usage:
    return {name: _amount(told) for name, told in ((quota.get("spec") or {}).get("hard") or {}).items()}


def _used(store: Store, namespace: str, resource: Resource, names: Iterable[str]) -> Usage:
    """What the objects of one kind use of these."""
    total = dict.fromkeys(names, Decimal(0))
    for obj in store.of_kind(resource.kind, namespace):
        add(total, usage(resource, obj))
    return total


def _amount(told: object) -> Decimal:
    return (quantity(str(told)) if told is not None else None) or Decimal(0)


def shown(amount: Decimal, name: str) -> str:
    """An amount as Kubernetes writes it: memory in binary units where they are whole, fractions in thousandths."""
    if amount != amount.to_integral_value():
        return f"{(amount * 1000).to_integral_value()}m"
    whole = int(amount)
    if name.rpartition(".")[2] in ("memory", "storage", "ephemeral-storage"):
        for unit in reversed("KMGTPE"):
            step = 1024 ** ("KMGTPE".index(unit) + 1)
            if whole and whole % step == 0:
                return f"{whole // step}{unit}i"
    return str(whole)
