"""What the cut-overs share: keeping what is needed for the way back, and handing a replacement over to its users."""

from __future__ import annotations

import json
from typing import Any

from drillbook import kube as k8s
from drillbook.engine.step import Context, Obligation
from drillbook.errors import KubernetesError, PreconditionError
from drillbook.manifests.recovery import EXPIRES, RUN_LABEL
from drillbook.manifests.replacement import MADE_BY
from drillbook.steps.preflight.old_cluster import OldCluster
from drillbook.steps.recovery.replacement import ReplacementCluster

HELD = (k8s.CLUSTER, k8s.SECRET, k8s.CONFIG_MAP)


def remember(ctx: Context, namespace: str, note: str, key: str, value: Any) -> None:
    """Keep ``value`` in the run's ConfigMap, in the cluster itself: what another machine needs, should this one be lost.

    The first value counts: a step that is done again may already see what it has changed.
    """
    found = ctx.kube.get(k8s.CONFIG_MAP, namespace, note)
    if found is None:
        raise PreconditionError(
            f"ConfigMap {namespace}/{note} of this run is gone: it keeps what the way back needs",
            todo="Find out who removed it; nothing more is changed without it.",
        )
    if key not in (found.get("data") or {}):
        ctx.kube.patch(k8s.CONFIG_MAP, namespace, note, {"data": {key: json.dumps(value)}})


def recall(ctx: Context, namespace: str, note: str, key: str) -> Any:
    """What was kept, None if nothing was."""
    found = ctx.kube.get(k8s.CONFIG_MAP, namespace, note) or {}
    text = (found.get("data") or {}).get(key)
    return None if text is None else json.loads(text)


def adopt(ctx: Context, replacement: ReplacementCluster) -> None:
    """Take the replacement out of what is cleaned up with its run: from here on somebody relies on it. Safe to repeat."""
    _relabel(ctx, replacement, {RUN_LABEL: None, MADE_BY: ctx.run_id}, {EXPIRES: None})
    for kind, name in _parts(replacement):
        promise = Obligation(kind, replacement.ref.namespace, name, "")
        ctx.recorder.settled(promise, "kept", "in service; it is no longer removed with its run")


def _relabel(
    ctx: Context, replacement: ReplacementCluster, labels: dict[str, str | None], annotations: dict[str, None]
) -> None:
    patch: dict[str, Any] = {"metadata": {"labels": labels} | ({"annotations": annotations} if annotations else {})}
    for kind in HELD:
        for known, name in _parts(replacement):
            if known == kind.kind:
                try:
                    ctx.kube.patch(kind, replacement.ref.namespace, name, patch)
                except KubernetesError as error:
                    if error.status != 404:
                        raise


def _parts(replacement: ReplacementCluster) -> list[tuple[str, str]]:
    return [(kind, name) for kind, _, name in (item.partition("/") for item in replacement.objects)]


def bare(item: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """An object as it could be created again: without what the API server has set, with parts of its spec replaced."""
    metadata = item["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if metadata.get(key)}
    annotations = {key: text for key, text in kept.get("annotations", {}).items() if "last-applied" not in key}
    if "annotations" in kept:
        kept["annotations"] = annotations
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "metadata": kept,
        "spec": dict(item["spec"]) | spec,
    }


def of_cluster(ctx: Context, kind: k8s.Kind, old: OldCluster, name: str) -> list[dict[str, Any]]:
    """The Poolers or ScheduledBackups of Cluster ``name`` in the old cluster's namespace."""
    return [item for item in ctx.kube.list(kind, old.ref.namespace) if item["spec"]["cluster"]["name"] == name]
