"""An instance's part, as its pod is given: primary, candidate, or a standby of the one that is primary now.

It follows from `currentPrimary` and `targetPrimary` alone, so that a pod that starts late, or again, takes the
right part by itself. CNPG's standbys log in with a client certificate; the wheel's PostgreSQL has no TLS, so here
the private key's digest is the password of the same role, and pg_hba.conf lets that role in from loopback only.
"""

from __future__ import annotations

import hashlib

from drillbook_lab.agent.spec import PodSpec
from drillbook_lab.api.errors import Object
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator

ROLE = "streaming_replica"
PENDING = "pending"  # CNPG's mark for a failover that has no new primary yet


def slot_name(instance: str) -> str:
    """The physical slot of one standby, as CNPG names it."""
    return "_cnpg_" + instance.replace("-", "_")


def current_primary(cluster: Object) -> str:
    """The instance that is primary; empty while the Cluster is being bootstrapped."""
    return str((cluster.get("status") or {}).get("currentPrimary") or "")


def target_primary(cluster: Object) -> str:
    """The instance that is to be primary; `pending` while it isn't chosen."""
    return str((cluster.get("status") or {}).get("targetPrimary") or "")


def replication_password(operator: Operator, cluster: Object) -> tuple[str, str] | None:
    """The password of the standbys' role, and the version of the Secret that it comes from."""
    meta = cluster["metadata"]
    secret = operator.find("Secret", meta["namespace"], f"{meta['name']}-replication")
    if secret is None:
        return None
    key = objects.decoded(secret)["tls.key"]
    return hashlib.sha256(key.encode()).hexdigest(), str(secret["metadata"]["resourceVersion"])


def assign(operator: Operator, cluster: Object, spec: PodSpec, passfile: str, *, promoted: bool = False) -> None:
    """Write an instance's part into its spec; `promoted`: the candidate may take over now."""
    current, target = current_primary(cluster), target_primary(cluster)
    annotations = cluster["metadata"].get("annotations") or {}
    spec.reload = str(annotations.get("cnpg.io/reloadedAt") or "")
    spec.own_conninfo, spec.own_slot = _as_primary(cluster, spec.pod)
    if not current or spec.pod == current == target or (promoted and spec.pod == target):
        spec.role = "primary"
        return
    spec.role = "replica"
    spec.candidate = spec.pod == target
    spec.slot = slot_name(spec.pod)
    spec.upstream = _upstream(operator, cluster, spec.pod, passfile)


def conninfo(address: str, instance: str, passfile: str) -> str:
    """How a standby reaches its primary."""
    return (
        f"host={address} port=5432 user={ROLE} dbname=postgres application_name={instance}"
        f" passfile={passfile} connect_timeout=10"
    )


def _as_primary(cluster: Object, instance: str) -> tuple[str, str]:
    """``primary_conninfo`` and ``primary_slot_name`` that a primary keeps from how it came to be.

    An instance that initdb made names the Job that made it, one that was recovered nobody, one that joined itself.
    """
    service, first = f"{cluster['metadata']['name']}-rw", instance.endswith("-1")
    recovered = "recovery" in (cluster["spec"].get("bootstrap") or {})
    name = (f"{instance}-initdb" if not recovered else "") if first else instance
    slot = "" if first and not recovered else slot_name(name)
    return f"host={service} user={ROLE} port=5432 application_name={name} dbname=postgres", slot


def _upstream(operator: Operator, cluster: Object, instance: str, passfile: str) -> str:
    """The primary's address; empty for an old primary until there is a new one."""
    current = current_primary(cluster)
    if current == instance:
        return ""
    pod = operator.find("Pod", cluster["metadata"]["namespace"], current)
    address = ((pod or {}).get("status") or {}).get("podIP")
    return conninfo(str(address), instance, passfile) if address else ""
