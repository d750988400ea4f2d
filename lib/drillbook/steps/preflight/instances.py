"""A cluster's instances as the API and their pods show them: which run a server, which are fenced, whose node is lost."""

from __future__ import annotations

import json
from typing import Any

from drillbook import kube as k8s
from drillbook.engine.step import Context, Obligation
from drillbook.errors import KubernetesError
from drillbook.steps.preflight.old_cluster import OldCluster

FENCED = "cnpg.io/fencedInstances"
NODE_IS_DOWN = "node_is_down_because"
"""The parameter by which a person says that a lost node is down."""
_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def is_fenced(cluster: dict[str, Any]) -> bool:
    """Whether every instance of the Cluster is fenced."""
    text = (cluster["metadata"].get("annotations") or {}).get(FENCED, "")
    try:
        return "*" in json.loads(text or "[]")
    except ValueError:
        return False


def promises_on(ctx: Context, kind: k8s.Kind, namespace: str, name: str) -> list[Obligation]:
    """The run's open promises to put a value of this object back, the newest first."""
    place = (kind.kind, namespace, name)
    found = [item for item in ctx.recorder.promises() if (item.kind, item.namespace, item.name) == place]
    return [item for item in reversed(found) if (item.undo or {}).get("verb") in ("patch", "scale")]


def instance_pods(ctx: Context, old: OldCluster) -> list[str]:
    """The names of the old cluster's instance pods, the primary's first."""
    labels = f"cnpg.io/cluster={old.ref.name},cnpg.io/podRole=instance"
    found = [str(pod["metadata"]["name"]) for pod in ctx.kube.list(k8s.POD, old.ref.namespace, labels=labels)]
    return sorted(found, key=lambda name: (name != old.primary, name))


def server_runs(ctx: Context, old: OldCluster, pod: str, *, down_because: str = "") -> bool:
    """Whether PostgreSQL runs in the pod, by what pg_ctl says there; a pod that runs nothing at all has no server.

    Where its node can't be asked it counts as running: a machine that is only cut off may still write. Unless somebody
    says that the machine is down: by the node's out-of-service taint, by ``down_because``, or as the run has noted.
    """
    found = ctx.kube.get(k8s.POD, old.ref.namespace, pod)
    if found is None or found.get("status", {}).get("phase") != "Running":
        return False
    node = _node_of(ctx, found)
    if _is_away(node):
        if any(taint.get("key") == _OUT_OF_SERVICE for taint in (node or {}).get("spec", {}).get("taints") or ()):
            return False
        return not (down_because or ctx.recorder.facts.node_is_down_because)
    try:
        done = ctx.kube.exec(
            old.ref.namespace,
            pod,
            "postgres",
            ["pg_ctl", "status", "-D", data_directory(ctx, old, pod)],
            timeout_seconds=30,
            repeatable=True,
        )
    except KubernetesError:
        if between_attempts(ctx.kube.get(k8s.POD, old.ref.namespace, pod)):
            return False
        raise
    return done.exit_code == 0


def between_attempts(pod: dict[str, Any] | None) -> bool:
    """Whether the kubelet reports that nothing runs in PostgreSQL's container now: it has ended, or waits to start again."""
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    state = next((one.get("state") or {} for one in statuses if one.get("name") == "postgres"), {})
    return "waiting" in state or "terminated" in state


def away_words(ctx: Context, old: OldCluster, pod: str) -> str:
    """That the pod's node can't be asked, in words; "" if it can, or if nothing runs there."""
    found = ctx.kube.get(k8s.POD, old.ref.namespace, pod)
    if found is None or found.get("status", {}).get("phase") != "Running":
        return ""
    node = _node_of(ctx, found)
    return (
        f"node {found['spec'].get('nodeName')} of instance {pod} does not answer (Ready is not True)"
        if _is_away(node)
        else ""
    )


def _node_of(ctx: Context, pod: dict[str, Any]) -> dict[str, Any] | None:
    """The pod's node; None if it may not be read, or isn't there: then the pod itself is asked."""
    name = str((pod.get("spec") or {}).get("nodeName") or "")
    try:
        return ctx.kube.get(k8s.NODE, "", name) if name else None
    except KubernetesError as error:
        if error.status != 403:
            raise
        return None


def _is_away(node: dict[str, Any] | None) -> bool:
    """Whether the control plane has lost the node: its kubelet says nothing any more, and nobody there can be asked."""
    conditions = ((node or {}).get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] != "True" for item in conditions)


def data_directory(ctx: Context, old: OldCluster, pod: str) -> str:
    """PGDATA as the pod's own environment has it."""
    done = ctx.kube.exec(
        old.ref.namespace, pod, "postgres", ["printenv", "PGDATA"], timeout_seconds=30, repeatable=True
    )
    return done.text.strip() or "/var/lib/postgresql/data/pgdata"
