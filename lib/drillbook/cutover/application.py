"""The application on a tenant's database: drained, brought back, asked whether it is well.

What it was before a drain stands on its own Deployment, so that a run that was killed, or another one, can put it back.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import KubernetesError, PreconditionError
from drillbook.model import Frozen, Instant
from drillbook.site.profile import Application

DRAINED = "drillbook.io/drained"  # JSON: by which run, since when, from how many replicas
_HEALTH_SECONDS = 10.0


class Before(Frozen):
    """What the Deployment was before the drain."""

    run: str
    replicas: int
    began_at: Instant


def deployment(kube: k8s.Kube, app: Application) -> dict[str, Any]:
    """The Deployment as it is; PreconditionError if it isn't there."""
    found = kube.get(k8s.DEPLOYMENT, app.namespace, app.deployment)
    if found is None:
        raise PreconditionError(
            f"Deployment {app.namespace}/{app.deployment} does not exist",
            todo="Correct tenants[].application in the profile.",
        )
    return found


def before(deployment: dict[str, Any]) -> Before | None:
    """What a drain has noted on the Deployment; None if nothing has drained it."""
    text = (deployment["metadata"].get("annotations") or {}).get(DRAINED, "")
    return Before.model_validate_json(text) if text else None


def scale_to_nothing(kube: k8s.Kube, app: Application, run_id: str, now: datetime) -> Before:
    """Scale to 0 and note what was, in one change; a drain that has begun before is only read."""
    found = deployment(kube, app)
    noted = before(found)
    if noted is None:
        noted = Before(run=run_id, replicas=int(found["spec"].get("replicas", 1)), began_at=now)
    elif noted.run != run_id:
        raise PreconditionError(
            f"Deployment {app.namespace}/{app.deployment} was drained by run {noted.run} and not brought back",
            todo=f"Settle that run first: resume it, or scale to {noted.replicas} and remove the annotation {DRAINED}.",
        )
    kube.patch(
        k8s.DEPLOYMENT,
        app.namespace,
        app.deployment,
        {
            "metadata": {
                "annotations": {DRAINED: noted.model_dump_json()},
                "resourceVersion": found["metadata"]["resourceVersion"],
            },
            "spec": {"replicas": 0},
        },
    )
    return noted


def scale_back(kube: k8s.Kube, app: Application, run_id: str) -> Before | None:
    """Give the Deployment the replicas that this run took; None if it took none. The note stays until ``forget``."""
    noted = before(deployment(kube, app))
    if noted is None or noted.run != run_id:
        return None
    kube.patch(k8s.DEPLOYMENT, app.namespace, app.deployment, {"spec": {"replicas": noted.replicas}})
    return noted


def forget(kube: k8s.Kube, app: Application) -> None:
    """Remove the note of the drain."""
    kube.patch(k8s.DEPLOYMENT, app.namespace, app.deployment, {"metadata": {"annotations": {DRAINED: None}}})


def pods(kube: k8s.Kube, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """The Deployment's pods, those that are on their way out too."""
    wanted = deployment["spec"]["selector"].get("matchLabels") or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
    return kube.list(k8s.POD, deployment["metadata"]["namespace"], labels=labels)


def pause_pooler(kube: k8s.Kube, namespace: str, app: Application, *, paused: bool) -> None:
    """Pause or resume the Pooler that the application connects through; nothing if the profile names none."""
    if app.pooler:
        kube.patch(k8s.POOLER, namespace, app.pooler, {"spec": {"pgbouncer": {"paused": paused}}})


def ask_health(kube: k8s.Kube, app: Application, pod: str) -> str:
    """``""`` if the pod answers on its health path that it is well, else what it answered. By port-forward."""
    try:
        with kube.forward(app.namespace, pod, app.port) as forward:
            connection = http.client.HTTPConnection(forward.host, forward.port, timeout=_HEALTH_SECONDS)
            try:
                connection.request("GET", app.health_path, headers={"Host": pod})
                answer = connection.getresponse()
                body = answer.read(1 << 16)
            finally:
                connection.close()
    except (OSError, http.client.HTTPException, KubernetesError) as error:
        return f"no answer ({type(error).__name__})"
    if answer.status != 200:
        return f"HTTP {answer.status}"
    try:
        status = json.loads(body).get("status", "UP")
    except (ValueError, AttributeError):
        return ""
    return "" if str(status).upper() == "UP" else f"status {str(status)[:40]}"


def wait_until_well(
    kube: k8s.Kube, app: Application, replicas: int, *, timeout_seconds: float, say: Callable[[str], None]
) -> tuple[datetime | None, str]:
    """Wait until ``replicas`` pods are ready and each says on its health path that it is well.

    Returns the instant of the first healthy answer (None: there was none) and ``""``, or what is wrong at the end.
    """
    deadline = time.monotonic() + timeout_seconds
    first: datetime | None = None
    while True:
        found = deployment(kube, app)
        here = [pod for pod in pods(kube, found) if not pod["metadata"].get("deletionTimestamp")]
        ill: dict[str, str] = {}
        for pod in here:
            name = pod["metadata"]["name"]
            running = (pod.get("status") or {}).get("phase") == "Running"
            said = ask_health(kube, app, name) if running else f"phase {(pod.get('status') or {}).get('phase')}"
            if said:
                ill[name] = said
            elif first is None:
                first = datetime.now(UTC)
        ready = int((found.get("status") or {}).get("readyReplicas", 0) or 0)
        # An autoscaler may have added some since.
        if first is not None and not ill and ready >= replicas and len(here) >= replicas:
            return first, ""
        wrong = f"{ready} of {replicas} pods ready" + "".join(
            f"; {name}: {said}" for name, said in list(ill.items())[:4]
        )
        if time.monotonic() > deadline:
            return first, wrong
        say(wrong)
        time.sleep(0.3)
