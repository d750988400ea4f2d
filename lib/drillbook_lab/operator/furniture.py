"""What stands around a Cluster before its first instance: certificates, secrets, services, budgets, permissions."""

from __future__ import annotations

import base64

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import availability, certs, objects, permissions
from drillbook_lab.operator.context import Operator, is_owned_by


class ForeignService(Exception):
    """A Service with one of the Cluster's names belongs to somebody else."""


def ensure(operator: Operator, cluster: Object) -> None:
    """Make whatever of it is missing, in CNPG's order. A Secret that somebody else made is used as it is; a Service is not."""
    meta = cluster["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    _certificates(operator, cluster)
    database, owner = objects.application(cluster)
    if objects.app_secret_name(cluster) == f"{name}-app" and operator.find("Secret", namespace, f"{name}-app") is None:
        operator.registry.create(
            objects.user_secret(cluster, f"{name}-app", owner, objects.password(), database, "app")
        )
    wants_superuser = cluster["spec"].get("enableSuperuserAccess") and not cluster["spec"].get("superuserSecret")
    if wants_superuser and operator.find("Secret", namespace, f"{name}-superuser") is None:
        operator.registry.create(
            objects.user_secret(cluster, f"{name}-superuser", "postgres", objects.password(), "*", "superuser")
        )
    for service in objects.services(cluster, operator.settings.pg_version):
        found = operator.ensure(service)
        if not is_owned_by(found, meta["uid"]):
            raise ForeignService(f"refusing to reconcile service: {service['metadata']['name']}, not owned by cluster")
    availability.ensure_budgets(operator, cluster)
    permissions.ensure(operator, cluster)
    availability.ensure_lease(operator, cluster)


def _certificates(operator: Operator, cluster: Object) -> None:
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    stored = operator.find("Secret", namespace, f"{name}-ca")
    if stored is None:
        ca = certs.make_ca(name)
        operator.registry.create(objects.ca_secret(cluster, ca))
    else:
        data = stored["data"]
        ca = certs.Pair(base64.b64decode(data["ca.crt"]), base64.b64decode(data["ca.key"]))
    if operator.find("Secret", namespace, f"{name}-server") is None:
        pair = certs.make_leaf(ca, f"{name}-rw", objects.server_names(cluster))
        operator.registry.create(objects.tls_secret(cluster, "server", pair, ca))
    if operator.find("Secret", namespace, f"{name}-replication") is None:
        pair = certs.make_leaf(ca, "streaming_replica", client=True)
        operator.registry.create(objects.tls_secret(cluster, "replication", pair, ca))


def certificate_status(operator: Operator, cluster: Object) -> Object:
    """`status.certificates`: which Secrets, and until when they are good."""
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    expirations = {}
    for suffix, key in (("ca", "ca.crt"), ("server", "tls.crt"), ("replication", "tls.crt")):
        secret = operator.find("Secret", namespace, f"{name}-{suffix}")
        if secret is not None:
            until = certs.expires_at(base64.b64decode(secret["data"][key]))
            expirations[f"{name}-{suffix}"] = until.strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    return {
        "clientCASecret": f"{name}-ca",
        "serverCASecret": f"{name}-ca",
        "serverTLSSecret": f"{name}-server",
        "replicationTLSSecret": f"{name}-replication",
        "serverAltDNSNames": objects.server_names(cluster),
        "expirations": expirations,
    }
