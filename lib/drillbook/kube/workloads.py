"""The application on a tenant's database: its Deployment, its pods, and whether they are well."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import KubernetesError, PreconditionError
from drillbook.profile.schema import Application, Tenant

_HEALTH_SECONDS = 10.0


def deployment(kube: k8s.Kube, app: Application) -> dict[str, Any]:
    """The Deployment as it is; PreconditionError if it isn't there."""
    found = kube.get(k8s.DEPLOYMENT, app.namespace, app.deployment)
    if found is None:
        raise PreconditionError(
            f"Deployment {app.namespace}/{app.deployment} does not exist",
            todo="Correct tenants[].application in the profile.",
        )
    return found


def pods(kube: k8s.Kube, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """The Deployment's pods, those that are on their way out too; a canary's with them, which has the same labels."""
    labels = selector_text(deployment["spec"]["selector"])
    return kube.list(k8s.POD, deployment["metadata"]["namespace"], labels=labels)


def selector_text(selector: Mapping[str, Any]) -> str:
    """A selector of labels as a query has it. One with expressions alone would else match every pod of the namespace."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], ",".join(one.get("values") or ())
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        parts.append(forms[one["operator"]])
    return ",".join(parts)


def workers(kube: k8s.Kube, tenant: Tenant, cluster_namespace: str, sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pods that use the application's role and are none of its own: a drain would wait for them in vain, after the carry.

    A session is known by its address. One that is no pod's here (a bastion, translated addresses) says nothing.
    """
    app = tenant.application
    if app is None:
        return []
    found = kube.get(k8s.DEPLOYMENT, app.namespace, app.deployment)
    own = {str(pod["metadata"]["name"]) for pod in pods(kube, found)} if found else set()
    by_address: dict[str, dict[str, Any]] = {}
    for namespace in sorted({app.namespace, cluster_namespace}):
        for pod in kube.list(k8s.POD, namespace):
            labels = pod["metadata"].get("labels") or {}
            if labels.get("cnpg.io/poolerName") and labels["cnpg.io/poolerName"] == app.pooler:
                own.add(str(pod["metadata"]["name"]))
            if not (pod.get("spec") or {}).get("hostNetwork"):  # its address is the node's
                by_address |= {str(one["ip"]): pod for one in (pod.get("status") or {}).get("podIPs") or []}
                by_address |= {ip: pod} if (ip := str((pod.get("status") or {}).get("podIP") or "")) else {}
    counted: dict[tuple[str, str], int] = {}
    for row in sessions:
        pod = by_address.get(str(row.get("address") or "")) or {}
        name = str((pod.get("metadata") or {}).get("name", ""))
        if row["role"] == tenant.app_role and name and name not in own:
            key = (pod["metadata"]["namespace"], name)
            counted[key] = counted.get(key, 0) + int(row["sessions"])
    return [
        f"pod {namespace}/{name} has {count} sessions of role {tenant.app_role} and is no pod of Deployment {app.namespace}/{app.deployment}: "
        "the drain would wait for it; scale it down first, or give it its own role"
        for (namespace, name), count in sorted(counted.items())
    ]


NO_ANSWER = "no answer"


def no_answer(why: str) -> str:
    """What is said of a pod that can't be asked: with the node's own words, which the forward keeps."""
    return f"{NO_ANSWER} ({why.strip()[:300]})"


def unreachable(kube: k8s.Kube, app: Application) -> list[str]:
    """Pods that are Ready and yet can't be asked on the health path: after a cut nobody could see whether they are well.

    A port-forward reaches the pod's localhost. A pod that isn't Ready may be so because of the damage: it is no fault
    here.
    """
    faults = []
    for pod in pods(kube, deployment(kube, app)):
        conditions = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or []}
        if conditions.get("Ready") != "True" or pod["metadata"].get("deletionTimestamp"):
            continue
        name = pod["metadata"]["name"]
        if (said := ask_health(kube, app, name)).startswith(NO_ANSWER):
            faults.append(
                f"pod {app.namespace}/{name} is Ready and can't be asked on port {app.port}, path {app.health_path}: {said}; "
                "a port-forward connects to localhost in the pod: let the application listen there, or correct application.port"
            )
    return faults


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
    except (OSError, http.client.HTTPException) as error:
        return no_answer(forward.why() or f"{type(error).__name__}: {error}")
    except KubernetesError as error:
        return no_answer(error.what)
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
        if not replicas and not here:
            return None, ""
        if first is not None and not ill and ready >= replicas and len(here) >= replicas:
            return first, ""
        wrong = f"{ready} of {replicas} pods ready" + "".join(
            f"; {name}: {said}" for name, said in list(ill.items())[:4]
        )
        if time.monotonic() > deadline:
            return first, wrong
        say(wrong)
        time.sleep(0.3)
