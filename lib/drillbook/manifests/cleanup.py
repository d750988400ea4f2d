"""Removing what a run made, found by its label, in an order that works; and proving it gone.

A Pooler first, then the Cluster; then their pods, jobs and volumes are waited for (CloudNativePG removes them), and only
then the ObjectStore and Secrets go: a Cluster whose ObjectStore is gone is not reconciled any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import Changed, KubernetesError, StepTimeoutError
from drillbook.manifests.recovery import EXPIRES, RUN_LABEL
from drillbook.model import parse_instant, show_instant

# What CloudNativePG makes for a Cluster, found by its own label.
OF_A_CLUSTER = (k8s.POD, k8s.JOB, k8s.PVC, k8s.SECRET, k8s.SERVICE)
# What a run makes besides the Cluster, in the order of removal; the owner goes last.
OF_A_RUN = (k8s.OBJECT_STORE, k8s.NETWORK_POLICY, k8s.SECRET, k8s.CONFIG_MAP)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Removed:
    """One object that was removed, and how it was seen to be gone."""

    kind: str
    namespace: str
    name: str
    proof: str

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def left_of(kube: k8s.Kube, namespace: str, run_id: str = "") -> list[dict[str, Any]]:
    """Every object of a run (of any run, without ``run_id``) that is there now."""
    labels = f"{RUN_LABEL}={run_id}" if run_id else RUN_LABEL
    return [item for kind in (k8s.POOLER, k8s.CLUSTER, *OF_A_RUN) for item in _list(kube, kind, namespace, labels)]


def expired(item: dict[str, Any], now: datetime) -> bool:
    """Whether the owner object's expiry has passed; an object without one has not expired."""
    text = item["metadata"].get("annotations", {}).get(EXPIRES, "")
    return bool(text) and parse_instant(text) < now


def keep_until(kube: k8s.Kube, namespace: str, run_id: str, until: datetime) -> None:
    """What the run made carries an expiry for others to see: no earlier than ``until``."""
    for item in kube.list(k8s.CONFIG_MAP, namespace, labels=f"{RUN_LABEL}={run_id}"):
        now = item["metadata"].get("annotations", {}).get(EXPIRES, "")
        if now and parse_instant(now) < until:
            merge = {"metadata": {"annotations": {EXPIRES: show_instant(until)}}}
            kube.patch(k8s.CONFIG_MAP, namespace, item["metadata"]["name"], merge)


def remaining(kube: k8s.Kube, namespace: str, cluster: str) -> list[str]:
    """What CloudNativePG made for ``cluster`` and is still there, as ``Kind/name``."""
    labels = f"cnpg.io/cluster={cluster}"
    return [
        f"{kind.kind}/{item['metadata']['name']}"
        for kind in OF_A_CLUSTER
        for item in kube.list(kind, namespace, labels=labels)
    ]


def remove_run(
    kube: k8s.Kube, namespace: str, run_id: str, *, timeout_seconds: float, say: Say = lambda _: None
) -> list[Removed]:
    """Remove everything of ``run_id``; returns what was removed and proven gone. Safe to repeat.

    Raises StepTimeoutError naming what is still there after ``timeout_seconds``.
    """
    deadline = time.monotonic() + timeout_seconds
    labels = f"{RUN_LABEL}={run_id}"
    removed: list[Removed] = []
    _remove(kube, k8s.POOLER, namespace, labels, deadline, removed)
    for cluster in kube.list(k8s.CLUSTER, namespace, labels=labels):
        name = cluster["metadata"]["name"]
        say(f"removing Cluster {namespace}/{name}")
        kube.delete(k8s.CLUSTER, namespace, name, uid=cluster["metadata"]["uid"], propagation="Background")
        _wait_gone(kube, namespace, name, deadline, say)
        proof = f"404 at {_now()}; no pod, job, volume claim, secret or service of it is left"
        removed.append(Removed("Cluster", namespace, name, proof))
    for kind in OF_A_RUN:
        _remove(kube, kind, namespace, labels, deadline, removed)
    return removed


def _remove(
    kube: k8s.Kube, kind: k8s.Kind, namespace: str, labels: str, deadline: float, removed: list[Removed]
) -> None:
    """Remove the objects of a kind, each seen to be gone."""
    for item in _list(kube, kind, namespace, labels):
        name = item["metadata"]["name"]
        kube.delete(kind, namespace, name, uid=item["metadata"]["uid"])
        gone = kube.wait(
            kind,
            namespace,
            name,
            lambda found: found is None,
            timeout_seconds=max(1.0, deadline - time.monotonic()),
            what=f"{kind.kind} {name} to be gone",
        )
        assert gone is None  # noqa: S101 - wait() returns only then
        removed.append(Removed(kind.kind, namespace, name, f"404 at {_now()}"))


def _wait_gone(kube: k8s.Kube, namespace: str, cluster: str, deadline: float, say: Say) -> None:
    while True:
        left = remaining(kube, namespace, cluster)
        if kube.get(k8s.CLUSTER, namespace, cluster) is not None:
            left.insert(0, f"Cluster/{cluster}")
        if not left:
            return
        if time.monotonic() > deadline:
            raise StepTimeoutError(
                f"still there after the removal of Cluster {namespace}/{cluster}: {', '.join(left)}",
                changed=Changed.UNKNOWN,
                todo="Look for finalizers on them, then run `drillbook cleanup` again.",
            )
        say(f"waiting for {len(left)} to be gone: {', '.join(left[:4])}")
        time.sleep(0.3)


def _list(kube: k8s.Kube, kind: k8s.Kind, namespace: str, labels: str) -> list[dict[str, Any]]:
    """The objects of a kind. A cluster that backs up in-tree may not know ObjectStores: then there are none.

    A site whose roles are from before drill-connection-load may not list Poolers: then no run has made one.
    """
    try:
        return kube.list(kind, namespace, labels=labels)
    except KubernetesError as error:
        if (kind is k8s.OBJECT_STORE and error.status == 404) or (kind is k8s.POOLER and error.status in (403, 404)):
            return []
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
