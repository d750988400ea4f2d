"""Which of the source's replicas a drill reads its digests on, by what the Cluster and its pods say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from drillbook import kube as k8s
from drillbook.engine.step import Context, pod_of
from drillbook.postgres import checks
from drillbook.steps.preflight.instances import FENCED


def replica_of(cluster: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The pod of a replica that is ready, and ""; or "" and why there isn't one."""
    primary = pod_of(dict(cluster))
    others = {str(pod["metadata"]["name"]): pod for pod in pods if pod["metadata"]["name"] != primary}
    if not others:
        return "", "the Cluster has no replica"
    faults = {name: _fault(cluster, name, pod) for name, pod in sorted(others.items())}
    well = next((name for name, fault in faults.items() if not fault), "")
    return well, "" if well else "; ".join(f"{name} {fault}" for name, fault in faults.items())


def _fault(cluster: Mapping[str, Any], name: str, pod: Mapping[str, Any]) -> str:
    """Why a pod can't be read as a replica, "" if it can."""
    labels = pod["metadata"].get("labels") or {}
    if labels.get("cnpg.io/instanceRole") != "replica":
        return f"has the role {labels.get('cnpg.io/instanceRole') or 'none'}"
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    conditions = (pod.get("status") or {}).get("conditions") or []
    if not any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
        return "is not ready"
    try:
        fenced = json.loads((cluster["metadata"].get("annotations") or {}).get(FENCED) or "[]")
    except ValueError:
        fenced = ["*"]
    return "is fenced" if name in fenced or "*" in fenced else ""


def replica(ctx: Context, flush: Callable[[], Any]) -> tuple[checks.Replica | None, str]:
    """The replica to read on, or why on the primary; ``flush`` commits something on the primary. KubernetesError as it is."""
    if not ctx.site.digests.replica:
        return None, "the profile says so (digests.replica)"
    ref = ctx.source_ref
    selector = f"cnpg.io/cluster={ref.name},cnpg.io/podRole=instance"
    name, why = replica_of(ctx.cluster_object(ref), ctx.kube.list(k8s.POD, ref.namespace, labels=selector))
    if not name:
        return None, why
    return checks.Replica(name=name, open_db=partial(ctx.source, pod=name), flush=flush), ""


__all__ = ["replica", "replica_of"]
