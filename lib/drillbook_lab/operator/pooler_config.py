"""What a Pooler becomes: PgBouncer's configuration, the Deployment, the Service. Pure builders, and the binary.

A PgBouncer before 1.19 can't ask for passwords in another database than the client's: see `agent.pgbouncer`.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from drillbook_lab import names
from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects

VARIABLE = "DRILLBOOK_LAB_PGBOUNCER"
ROLE = "cnpg_pooler_pgbouncer"
AUTH_QUERY = "SELECT usename, passwd FROM public.user_search($1)"
CONTAINER = "pgbouncer"
NO_BINARY = "no PgBouncer on this machine: install the system package pgbouncer (sudo apt-get install -y pgbouncer)"

# Names that a Pooler may have and an older PgBouncer doesn't know; it would not start with them.
_SINCE = {"max_prepared_statements": (1, 21), "track_extra_parameters": (1, 20), "cancel_wait_timeout": (1, 18)}
_DEFAULTS = {"log_stats": "0", "server_tls_sslmode": "prefer", "client_tls_sslmode": "prefer", "auth_type": "hba"}
_IGNORED = "extra_float_digits,options"


def binary() -> str | None:
    """PgBouncer's program: the one that the environment names, else the system's."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return shutil.which(chosen)
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


@functools.cache
def version(program: str) -> tuple[int, int]:
    """Its version, as in (1, 18)."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = answer.split()[1].split(".")
    return int(major), int(minor)


def asks_in_postgres(program: str) -> bool:
    """Whether PgBouncer itself can ask its auth query in the database `postgres`."""
    return version(program) >= (1, 19)


def upstream(pooler: Object, service: Object | None) -> str:
    """The Service that is pooled: by its name where names resolve in pods, else by its address."""
    if names.available() or service is None:
        return f"{pooler['spec']['cluster']['name']}-{pooler['spec']['type']}"
    return str(service["spec"].get("clusterIP") or service["metadata"]["name"])


def ini(pooler: Object, host: str, auth_user: str, auth_query: str, program: str) -> str:
    """`pgbouncer.ini` but for what belongs to a single pod; its last section stays open for that."""
    pgbouncer = pooler["spec"]["pgbouncer"]
    settings = {**_DEFAULTS, "ignore_startup_parameters": _IGNORED, "pool_mode": pgbouncer.get("poolMode", "session")}
    notes = []
    for name, value in (pgbouncer.get("parameters") or {}).items():
        if version(program) < _SINCE.get(name, (0, 0)):
            notes.append(f"; {name} = {value}: not known to this PgBouncer")
        else:
            settings[name] = value
    settings["admin_users"] = "pgbouncer"
    if asks_in_postgres(program):
        settings |= {"auth_user": auth_user, "auth_query": auth_query, "auth_dbname": "postgres"}
    else:
        notes.append(f"; auth_file holds the answers of {auth_user} in postgres to: {auth_query}")
    lines = [f"{name} = {value}" for name, value in sorted(settings.items())]
    return "\n".join(["[databases]", f"* = host={host}", "", "[pgbouncer]", *notes, *lines, ""])


def hba(pooler: Object) -> str:
    """Who may come in: the console through the pod's private socket, the Pooler's own rules, then passwords."""
    rules = pooler["spec"]["pgbouncer"].get("pg_hba") or []
    # Trust replaces peer: the socket's directory is open to the pod's own user alone.
    return "\n".join(
        ["local pgbouncer pgbouncer trust", *rules, "host all all 0.0.0.0/0 md5", "host all all ::/0 md5", ""]
    )


def labels(pooler: Object) -> dict[str, str]:
    """What marks everything of a Pooler."""
    return {"cnpg.io/cluster": pooler["spec"]["cluster"]["name"], "cnpg.io/poolerName": pooler["metadata"]["name"]}


def _owned(pooler: Object, api: str, kind: str) -> Object:
    meta = pooler["metadata"]
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": labels(pooler),
            "ownerReferences": [objects.owner_reference(pooler)],
        },
    }


def account(pooler: Object) -> Object:
    """The pods' ServiceAccount."""
    return _owned(pooler, "v1", "ServiceAccount")


def secret(pooler: Object, text: str) -> Object:
    """The configuration as the pods are given it; it holds no password."""
    return {
        **_owned(pooler, "v1", "Secret"),
        "type": "Opaque",
        "stringData": {"pgbouncer.ini": text, "pg_hba.conf": hba(pooler)},
    }


def service(pooler: Object) -> Object:
    """Named exactly like the Pooler: what clients connect to."""
    made, template = _owned(pooler, "v1", "Service"), pooler["spec"].get("serviceTemplate") or {}
    _decorate(made["metadata"], template.get("metadata") or {})
    port = {"name": "pgbouncer", "port": 5432, "targetPort": "pgbouncer", "protocol": "TCP"}
    made["spec"] = {
        "type": "ClusterIP",
        **(template.get("spec") or {}),
        "ports": [port],
        "selector": {"cnpg.io/poolerName": pooler["metadata"]["name"]},
    }
    return made


def deployment(pooler: Object) -> Object:
    """The pods. What they run with comes by their spec file: a changed setting is a reload, no new pod."""
    meta, spec = pooler["metadata"], pooler["spec"]
    template = spec.get("template") or {}
    own = template.get("spec") or {}
    image = spec["pgbouncer"].get("image") or next(
        (entry.get("image") for entry in own.get("containers") or () if entry["name"] == CONTAINER), ""
    )
    made = _owned(pooler, "apps/v1", "Deployment")
    pod_meta: Object = {"labels": {**labels(pooler), "cnpg.io/podRole": "pooler"}}
    _decorate(pod_meta, template.get("metadata") or {})
    container = {
        "name": CONTAINER,
        "image": image or "",
        "command": ["/controller/manager", "pgbouncer", "run"],
        "ports": [
            {"name": "pgbouncer", "containerPort": 5432, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9127, "protocol": "TCP"},
        ],
        "env": [
            {"name": "NAMESPACE", "value": meta["namespace"]},
            {"name": "POOLER_NAME", "value": meta["name"]},
            {"name": "PGUSER", "value": "pgbouncer"},
            {"name": "PGDATABASE", "value": "pgbouncer"},
        ],
        "readinessProbe": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 5, "periodSeconds": 2, "failureThreshold": 1},
    }
    pod_spec: Object = {"serviceAccountName": meta["name"], "containers": [container]}
    if own.get("terminationGracePeriodSeconds") is not None:
        pod_spec["terminationGracePeriodSeconds"] = own["terminationGracePeriodSeconds"]
    made["spec"] = {
        "replicas": int(spec.get("instances", 1)),
        "selector": {"matchLabels": {"cnpg.io/poolerName": meta["name"]}},
        "template": {"metadata": pod_meta, "spec": pod_spec},
    }
    if spec.get("deploymentStrategy"):
        made["spec"]["strategy"] = spec["deploymentStrategy"]
    return made


def _decorate(meta: Object, more: Object) -> None:
    """A template's labels and annotations; ours stay as they are."""
    for part in ("labels", "annotations"):
        if more.get(part):
            meta[part] = {**more[part], **(meta.get(part) or {})}
