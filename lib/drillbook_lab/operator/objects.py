"""The objects that CNPG makes for a Cluster: pure builders of secrets, services, claims, pods and Jobs.

Names, labels, keys and types are CNPG's, letter by letter: clients find things by them.
"""

from __future__ import annotations

import base64
import secrets
import string
import time
from typing import Any
from urllib.parse import quote

from drillbook_lab.agent.log import SIDECAR
from drillbook_lab.api.errors import Object
from drillbook_lab.operator.certs import Pair

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
OPERATOR_VERSION = "1.30.0"  # whose sources this controller follows
PLUGIN = "barman-cloud.cloudnative-pg.io"
PLUGIN_VERSION = "0.14.0"
_MANAGED = {"app.kubernetes.io/managed-by": "cloudnative-pg"}
_ALPHABET = string.ascii_letters + string.digits
_PORTS = (("postgresql", 5432), ("metrics", 9187), ("status", 8000))


def owner_reference(owner: Object) -> Object:
    """A controller reference: what makes the dependent vanish with its owner."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def password() -> str:
    """Sixty-four characters, as CNPG generates them."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(64))


def decoded(secret: Object) -> dict[str, str]:
    """A Secret's data as text."""
    return {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}


def bootstrap(cluster: Object) -> tuple[str, Object]:
    """How the Cluster begins: the method's name and its section."""
    for method, section in (cluster["spec"].get("bootstrap") or {}).items():
        return method, section or {}
    return "initdb", {}


def application(cluster: Object) -> tuple[str, str]:
    """Database and owner of the application: CNPG's defaults hold where the spec is silent."""
    _, section = bootstrap(cluster)
    database = section.get("database") or "app"
    return database, section.get("owner") or database


def app_secret_name(cluster: Object) -> str:
    """The Secret with the application's password: the user's own, else `c-app`."""
    _, section = bootstrap(cluster)
    own = (section.get("secret") or {}).get("name")
    return str(own or f"{cluster['metadata']['name']}-app")


def _labels(cluster: Object, **more: str) -> dict[str, str]:
    return {"cnpg.io/cluster": cluster["metadata"]["name"], **more}


def owned(cluster: Object, kind: str, name: str, api: str = "v1", **labels: str) -> Object:
    """An object of the Cluster's: its label, its owner reference."""
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": cluster["metadata"]["namespace"],
            "labels": _labels(cluster, **labels),
            "ownerReferences": [owner_reference(cluster)],
        },
    }


def user_secret(cluster: Object, name: str, user: str, secret: str, dbname: str, user_type: str) -> Object:
    """A basic-auth Secret with everything that an application needs to connect."""
    meta = cluster["metadata"]
    host, namespace = f"{meta['name']}-rw", meta["namespace"]
    fqdn = f"{host}.{namespace}.svc.cluster.local"
    short = f"{host}.{namespace}"
    safe_user, safe_secret = quote(user, safe=""), quote(secret, safe="")
    made = owned(cluster, "Secret", name, **_MANAGED, **{"cnpg.io/reload": "true", "cnpg.io/userType": user_type})
    made["type"] = "kubernetes.io/basic-auth"
    made["stringData"] = {
        "username": user,
        "user": user,
        "password": secret,
        "dbname": dbname,
        "host": host,
        "port": "5432",
        "pgpass": f"{host}:5432:{dbname}:{user}:{secret}\n",
        "uri": f"postgresql://{safe_user}:{safe_secret}@{short}:5432/{dbname}",
        "jdbc-uri": f"jdbc:postgresql://{short}:5432/{dbname}?password={safe_secret}&user={safe_user}",
        "fqdn-uri": f"postgresql://{safe_user}:{safe_secret}@{fqdn}:5432/{dbname}",
        "fqdn-jdbc-uri": f"jdbc:postgresql://{fqdn}:5432/{dbname}?password={safe_secret}&user={safe_user}",
    }
    return made


def ca_secret(cluster: Object, ca: Pair) -> Object:
    """`c-ca`: the authority that signs the server's and the clients' certificates."""
    made = _unlabelled_secret(cluster, "ca")
    made["data"] = {"ca.crt": _b64(ca.certificate), "ca.key": _b64(ca.key)}
    return made


def _unlabelled_secret(cluster: Object, suffix: str) -> Object:
    """Certificates don't carry their Cluster's label."""
    made = owned(cluster, "Secret", f"{cluster['metadata']['name']}-{suffix}")
    made["metadata"]["labels"] = dict(_MANAGED)
    return made


def tls_secret(cluster: Object, suffix: str, pair: Pair, ca: Pair) -> Object:
    """`c-server` or `c-replication`."""
    made = _unlabelled_secret(cluster, suffix)
    made["type"] = "kubernetes.io/tls"
    made["data"] = {"tls.crt": _b64(pair.certificate), "tls.key": _b64(pair.key), "ca.crt": _b64(ca.certificate)}
    return made


def server_names(cluster: Object) -> list[str]:
    """The names that the server's certificate is good for."""
    meta = cluster["metadata"]
    names = []
    for suffix in ("rw", "r", "ro"):
        service = f"{meta['name']}-{suffix}"
        namespace = meta["namespace"]
        names += [
            service,
            f"{service}.{namespace}",
            f"{service}.{namespace}.svc",
            f"{service}.{namespace}.svc.cluster.local",
        ]
    return names + list((cluster["spec"].get("certificates") or {}).get("serverAltDNSNames") or ())


def services(cluster: Object, version: str) -> list[Object]:
    """`c-r`, `c-ro` and `c-rw`, in this order. They exist before the first instance does."""
    name = cluster["metadata"]["name"]
    selectors = {
        "r": {"cnpg.io/cluster": name, "cnpg.io/podRole": "instance"},
        "ro": {"cnpg.io/cluster": name, "cnpg.io/instanceRole": "replica"},
        "rw": {"cnpg.io/cluster": name, "cnpg.io/instanceRole": "primary"},
    }
    made = []
    for suffix, selector in selectors.items():
        service = owned(cluster, "Service", f"{name}-{suffix}", **component_labels(cluster, version))
        port = {"name": "postgres", "port": 5432, "targetPort": 5432, "protocol": "TCP"}
        service["spec"] = {"type": "ClusterIP", "ports": [port], "selector": selector}
        made.append(service)
    return made


def claim(cluster: Object, instance: str, serial: int) -> Object:
    """The claim that holds an instance's PGDATA."""
    storage = cluster["spec"].get("storage") or {}
    template = storage.get("pvcTemplate") or {}
    requested = storage.get("size") or template.get("resources", {}).get("requests", {}).get("storage", "1Gi")
    made = owned(
        cluster,
        "PersistentVolumeClaim",
        instance,
        **{"cnpg.io/instanceName": instance, "cnpg.io/pvcRole": "PG_DATA", "app.kubernetes.io/name": "postgresql"},
        **{"app.kubernetes.io/component": "database", **_MANAGED},
    )
    made["metadata"]["annotations"] = {"cnpg.io/nodeSerial": str(serial), "cnpg.io/pvcStatus": "initializing"}
    made["spec"] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": requested}},
    }
    storage_class = storage.get("storageClass") or template.get("storageClassName")
    if storage_class:
        made["spec"]["storageClassName"] = storage_class
    return made


def _pod_spec(cluster: Object, instance: str, container: str, command: list[str], restart: str) -> Object:
    return {
        "restartPolicy": restart,
        "serviceAccountName": cluster["metadata"]["name"],
        "containers": [
            {
                "name": container,
                "image": image(cluster),
                "command": command,
                "resources": cluster["spec"].get("resources") or {},
                "volumeMounts": [{"name": "pgdata", "mountPath": "/var/lib/postgresql/data"}],
            }
        ],
        "volumes": [{"name": "pgdata", "persistentVolumeClaim": {"claimName": instance}}],
    }


def _before(cluster: Object, *, recovery: bool = False) -> list[Object]:
    """Containers that start first: the operator's own, and the plugin's where it archives or restores."""
    made: list[Object] = [
        {
            "name": "bootstrap-controller",
            "image": f"cloudnative-pg:{OPERATOR_VERSION}",
            "command": ["/manager", "bootstrap", "/controller/manager"],
        }
    ]
    entries = cluster["spec"].get("plugins") or ()
    wanted = any(entry["name"] == PLUGIN and entry.get("enabled", True) for entry in entries)
    if recovery:
        source = bootstrap(cluster)[1].get("source")
        external = cluster["spec"].get("externalClusters") or ()
        wanted = any(
            entry["name"] == source and (entry.get("plugin") or {}).get("name") == PLUGIN for entry in external
        )
    if wanted:
        sidecar = {
            "name": SIDECAR,
            "image": f"plugin-barman-cloud-sidecar:v{PLUGIN_VERSION}",
            "args": ["restore" if recovery else "instance"],
            "restartPolicy": "Always",
        }
        made.append(sidecar)
    return made


def image(cluster: Object) -> str:
    """The image that the spec names; the lab runs the PostgreSQL that it has, whatever stands here."""
    return str(cluster["spec"].get("imageName") or "")


def component_labels(cluster: Object, version: str) -> dict[str, str]:
    """The recommended labels of a part of the database; of PostgreSQL's version the major one."""
    return {
        "app.kubernetes.io/name": "postgresql",
        "app.kubernetes.io/instance": cluster["metadata"]["name"],
        "app.kubernetes.io/component": "database",
        "app.kubernetes.io/version": version.partition(".")[0],
        **_MANAGED,
    }


def instance_pod(cluster: Object, instance: str, version: str) -> Object:
    """The pod of one instance. Its role's labels come once it is known to be the primary."""
    labels = {
        "cnpg.io/instanceName": instance,
        "cnpg.io/podRole": "instance",
        **component_labels(cluster, version),
    }
    made = owned(cluster, "Pod", instance, **labels)
    made["metadata"]["annotations"] = {
        "cnpg.io/nodeSerial": instance.rpartition("-")[2],
        "cnpg.io/operatorVersion": OPERATOR_VERSION,
    }
    restarted_at = (cluster["metadata"].get("annotations") or {}).get(RESTARTED_AT)
    if restarted_at:  # a pod that is made now needs no restart for it
        made["metadata"]["annotations"][RESTARTED_AT] = restarted_at
    spec = _pod_spec(cluster, instance, "postgres", ["/controller/manager", "instance", "run"], "Always")
    spec["terminationGracePeriodSeconds"] = cluster["spec"].get("stopDelay", 1800)
    spec["initContainers"] = _before(cluster)
    spec["containers"][0]["ports"] = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in _PORTS]
    made["spec"] = spec
    return made


def bootstrap_job(cluster: Object, instance: str, role: str, version: str) -> Object:
    """The Job that fills PGDATA: role `initdb`, `full-recovery` or `join`."""
    command = {"initdb": "init", "full-recovery": "restore", "join": "join"}[role]
    labels = {"cnpg.io/instanceName": instance, "cnpg.io/jobRole": role, **component_labels(cluster, version)}
    spec = _pod_spec(cluster, instance, role, ["/controller/manager", "instance", command], "Never")
    recovery = role == "full-recovery"
    spec["initContainers"] = [one for one in _before(cluster, recovery=recovery) if recovery or one["name"] != SIDECAR]
    made = owned(cluster, "Job", f"{instance}-{role}", "batch/v1", **labels)
    made["spec"] = {
        "template": {
            "metadata": {"labels": _labels(cluster, **labels)},
            "spec": spec,
        }
    }
    return made


def event(about: Object, reason: str, message: str, at: str, *, kind: str = "Normal") -> Object:
    """A core Event about an object.

    Its name ends with the instant in nanoseconds, as client-go's recorder has it: a listing, which is by name, tells
    an object's events in the order in which they happened.
    """
    meta = about["metadata"]
    reference: dict[str, Any] = {
        "apiVersion": about["apiVersion"],
        "kind": about["kind"],
        "name": meta["name"],
        "namespace": meta["namespace"],
        "uid": meta["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{time.time_ns():016x}", "namespace": meta["namespace"]},
        "involvedObject": reference,
        "reason": reason,
        "message": message,
        "type": kind,
        "source": {"component": "cloudnative-pg"},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
