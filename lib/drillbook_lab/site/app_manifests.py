"""The objects of a site's application: what a team would have in its repository, and the Secret that it is given."""

from __future__ import annotations

import yaml

from drillbook_lab.api.errors import Object
from drillbook_lab.site.site import App, LabSite

IMAGE = "registry.lab.internal/drillbook-lab/sample-app:1"
_PORT = 8080


def declared(site: LabSite) -> list[Object]:
    """What is declared of the application, and so what a reconciler would hold on to."""
    return [_service(site.app), _api(site.app), _deployment(site)]


def secret(site: LabSite, password: str) -> Object:
    """The application's login, in its own namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": site.app_secret, "namespace": site.app.namespace},
        "type": "kubernetes.io/basic-auth",
        "stringData": {"username": site.tenants[0].owner, "password": password},
    }


def _labels(app: App) -> dict[str, str]:
    return {"app.kubernetes.io/name": app.name}


def _service(app: App) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app.name, "namespace": app.namespace, "labels": _labels(app)},
        "spec": {
            "type": "ClusterIP",
            "selector": _labels(app),
            "ports": [{"name": "http", "port": _PORT, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def _api(app: App) -> Object:
    """What the sample application serves: another site's is another text."""
    served = {
        "health": app.health,
        "resource": app.resource,
        "create": list(app.create),
        "find": app.find,
        "defaults": app.defaults,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{app.name}-api", "namespace": app.namespace, "labels": _labels(app)},
        "data": {"api.yaml": yaml.safe_dump(served, sort_keys=False)},
    }


def _deployment(site: LabSite) -> Object:
    app, database = site.app, site.tenants[0].database
    host = f"{site.cluster}-rw.{site.source_namespace}.svc.cluster.local"
    names = app.variables
    env: list[Object] = [
        {"name": "SERVER_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "SERVER_PORT", "value": str(_PORT)},
        {"name": "APP_NAME", "value": app.name},
        {"name": "APP_API", "valueFrom": {"configMapKeyRef": {"name": f"{app.name}-api", "key": "api.yaml"}}},
        {"name": names["url"], "value": f"jdbc:postgresql://{host}:5432/{database}"},
        {"name": names["user"], "valueFrom": {"secretKeyRef": {"name": site.app_secret, "key": "username"}}},
        {"name": names["password"], "valueFrom": {"secretKeyRef": {"name": site.app_secret, "key": "password"}}},
        {"name": names["pool"], "value": str(app.pool)},
        {"name": names["minimum_idle"], "value": str(app.minimum_idle)},
        {"name": names["timeout"], "value": "5000"},
    ]
    container = {
        "name": "app",
        "image": IMAGE,
        "ports": [{"name": "http", "containerPort": _PORT, "protocol": "TCP"}],
        "env": env,
        "readinessProbe": {
            "httpGet": {"path": app.health, "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 6,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "http"},
            "periodSeconds": 10,
            "initialDelaySeconds": 10,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app.name, "namespace": app.namespace, "labels": _labels(app)},
        "spec": {
            "replicas": app.replicas,
            "selector": {"matchLabels": _labels(app)},
            "template": {
                "metadata": {"labels": _labels(app)},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 30},
            },
        },
    }
