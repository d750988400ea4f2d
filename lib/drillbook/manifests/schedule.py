"""The objects that run a site's schedules by themselves: accounts with the least rights, CronJobs, and the exporter; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from drillbook.profile import Site
from drillbook.profile.schema import Every, Schedule

EXPORTER_PORT = 9477
TOKEN_SECRET = "drillbook-exporter"  # noqa: S105 - its name; the token is never in a manifest
USER = 10001
CRON = {
    Every.HOUR: "17 * * * *",
    Every.DAY: "0 3 * * *",
    Every.WEEK: "0 4 * * 1",
    # Every Sunday or Saturday: `run --if-due` ends at once where the period has its run. `1-7 * 0` would not do: where day
    # of month and day of week are both given, cron takes either.
    Every.MONTH: "0 10 * * 0",
    Every.QUARTER: "0 10 * * 6",
    Every.YEAR: "0 8 * * 6",
}
"""When a runbook is started, where the schedule doesn't say; UTC."""
ROLES = {
    "check": ("own", "source", "app-read"),
    "backup": ("own", "source", "backups"),
    "drill": ("own", "source", "app-read", "drills"),
    "troubleshoot": ("own", "source", "troubleshoot", "app-read"),
}
"""The Roles of ``deploy/rbac/`` that a class of runbooks needs, by the middle of their names. What is behind a gate is not scheduled."""
_OPTIONAL = {"app-read"}  # a check without it says what it could not read


def accounts(site: Site, prefix: str, *, applications: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The ServiceAccount of a class of runbooks, and the bindings of exactly the Roles that it needs.

    ``applications``: the namespaces in which the Role for an application was applied.
    """
    name, home = f"drillbook-{prefix}", site.drillbook_namespace
    subject = {"kind": "ServiceAccount", "name": name, "namespace": home}
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": home}},
        _binding("ClusterRoleBinding", f"{name}-{site.name}", "", f"drillbook-{site.name}", subject),
    ]
    for role in ROLES[prefix]:
        places = applications if role in _OPTIONAL else [_place(site, role)]
        found += [
            _binding("RoleBinding", f"{name}-{role}-{site.name}", place, f"drillbook-{role}-{site.name}", subject)
            for place in places
        ]
    # A class that may make copies has its Role there; the others read the archive's Secret by name, and see other drills.
    if "drills" not in ROLES[prefix]:
        look = f"{name}-look-{site.name}"
        rules = [{"apiGroups": ["postgresql.cnpg.io"], "resources": ["clusters"], "verbs": ["get", "list"]}]
        if secrets := _archive_secrets(site):
            rules += [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get"]}]
        found.append(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "Role",
                "metadata": {"name": look, "namespace": site.drill_namespace},
                "rules": rules,
            }
        )
        found.append(_binding("RoleBinding", look, site.drill_namespace, look, subject))
    return found


def _archive_secrets(site: Site) -> list[str]:
    """The Secrets by which the archive is read, as far as the profile names them."""
    named = (site.archive.reader_secret, site.archive.endpoint_ca)
    return sorted({one.name for one in named if one is not None})


def cron_job(site: Site, schedule: Schedule, image: str) -> dict[str, Any]:
    """The CronJob of one schedule. A run that failed is evidence: nothing is tried again by itself."""
    prefix = schedule.runbook.partition("-")[0]
    hourly = schedule.every is Every.HOUR
    command = ["drillbook", "run", schedule.runbook, "--mode", "apply", "--if-due"]
    patience = int((site.limits.step + timedelta(minutes=5)).total_seconds())
    pod = {
        "serviceAccountName": f"drillbook-{prefix}",
        "restartPolicy": "Never",
        # What a run that is stopped has made is removed first, and its volumes are waited for (limits.step).
        "terminationGracePeriodSeconds": patience,
        "securityContext": _POD_SECURITY,
        "containers": [_container(site, "runbook", image, command, evidence_read_only=False)],
        "volumes": _volumes(site),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(site, _name(schedule.runbook, site.name), "runbook"),
        "spec": {
            "schedule": schedule.cron or CRON[schedule.every],
            "timeZone": "Etc/UTC",
            # Below the period: over a hundred missed starts would stop a CronJob for good.
            "startingDeadlineSeconds": 1800 if hourly else 3600,
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    # Above limits.total, which ends the run and cleans up; this is the last resort.
                    "activeDeadlineSeconds": int(site.limits.total.total_seconds()) + patience,
                    "template": {"metadata": {"labels": _labels(site, "runbook")}, "spec": pod},
                }
            },
        },
    }


def evidence_volume(site: Site, size: str) -> dict[str, Any]:
    """The volume that outlives every Job. Where the profile's archive copies evidence elsewhere, it is a buffer."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(site, _evidence(site), "evidence"),
        "spec": spec,
    }


def network_policy(site: Site) -> dict[str, Any]:
    """Nobody reaches a runbook's pod; the exporter is reached on its port only."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(site, f"drillbook-{site.name}", "network"),
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "drillbook", "drillbook.io/site": site.name}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": EXPORTER_PORT, "protocol": "TCP"}]}],
        },
    }


def exporter(site: Site, image: str) -> list[dict[str, Any]]:
    """The exporter as a Deployment with its Service; the token comes from the Secret ``drillbook-exporter``, key ``token``."""
    name = f"drillbook-exporter-{site.name}"
    command = ["drillbook", "exporter", "--listen", f"0.0.0.0:{EXPORTER_PORT}", "--token-file", "/token/token"]
    container = _container(site, "exporter", image, command, evidence_read_only=True)
    container["ports"] = [{"name": "metrics", "containerPort": EXPORTER_PORT}]
    container["readinessProbe"] = {"tcpSocket": {"port": EXPORTER_PORT}}
    container["volumeMounts"].append({"name": "token", "mountPath": "/token", "readOnly": True})
    labels = _labels(site, "exporter")
    pod = {
        "serviceAccountName": "drillbook-check",
        "securityContext": _POD_SECURITY,
        "containers": [container],
        "volumes": [*_volumes(site), {"name": "token", "secret": {"secretName": TOKEN_SECRET}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(site, name, "exporter"),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(site, name, "exporter"),
        "spec": {"selector": labels, "ports": [{"name": "metrics", "port": EXPORTER_PORT, "targetPort": "metrics"}]},
    }
    return [deployment, service]


_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _container(site: Site, name: str, image: str, command: list[str], *, evidence_read_only: bool) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "command": command,
        "env": [
            {"name": "DRILLBOOK_SITE", "value": "/etc/drillbook/site.yaml"},
            {"name": "DRILLBOOK_OUTPUTS", "value": "/evidence"},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - an emptyDir of the pod's own
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [
            {"name": "site", "mountPath": "/etc/drillbook", "readOnly": True},
            {"name": "evidence", "mountPath": "/evidence", **({"readOnly": True} if evidence_read_only else {})},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod's own
        ],
    }


def _volumes(site: Site) -> list[dict[str, Any]]:
    return [
        {"name": "site", "configMap": {"name": f"drillbook-site-{site.name}"}},
        {"name": "evidence", "persistentVolumeClaim": {"claimName": _evidence(site)}},
        {"name": "scratch", "emptyDir": {}},
    ]


def _binding(kind: str, name: str, namespace: str, role: str, subject: dict[str, str]) -> dict[str, Any]:
    reference = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole" if kind == "ClusterRoleBinding" else "Role",
        "name": role,
    }
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": reference,
        "subjects": [subject],
    }


def _place(site: Site, role: str) -> str:
    return {"own": site.drillbook_namespace, "drills": site.drill_namespace}.get(role, site.cluster.namespace)


def _evidence(site: Site) -> str:
    return f"drillbook-evidence-{site.name}"


def _labels(site: Site, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "drillbook",
        "app.kubernetes.io/component": component,
        "drillbook.io/site": site.name,
    }


def _metadata(site: Site, name: str, component: str) -> dict[str, Any]:
    return {"name": name, "namespace": site.drillbook_namespace, "labels": _labels(site, component)}


def _name(runbook: str, site: str) -> str:
    """A CronJob's name has at most 52 characters: its Jobs' names are longer."""
    whole = f"{runbook}-{site}"
    return whole if len(whole) <= 52 else f"{whole[:43]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


__all__ = [
    "CRON",
    "EXPORTER_PORT",
    "ROLES",
    "TOKEN_SECRET",
    "accounts",
    "cron_job",
    "evidence_volume",
    "exporter",
    "network_policy",
]
