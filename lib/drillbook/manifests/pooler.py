"""A Pooler in front of a drill's copy, and what its traffic needs to be let through the copy's quarantine. Pure."""

from __future__ import annotations

from typing import Any

from drillbook.manifests.recovery import Copy, metadata_of

_POSTGRES = [{"protocol": "TCP", "port": 5432}]


def pooler(copy: Copy, *, pool_size: int, clients: int, owner_uid: str) -> dict[str, Any]:
    """One PgBouncer in transaction mode with at most ``pool_size`` server connections, which takes ``clients``.

    Both limits are set: the pool's, which is a user's and a database's, and that of all its connections to a database.
    """
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Pooler",
        "metadata": metadata_of(copy, f"{copy.ref.name}-load", owner_uid),
        "spec": {
            "cluster": {"name": copy.ref.name},
            "instances": 1,
            "type": "rw",
            "pgbouncer": {
                "poolMode": "transaction",
                "parameters": {
                    "default_pool_size": str(pool_size),
                    "max_db_connections": str(pool_size),
                    "max_client_conn": str(clients),
                },
            },
        },
    }


def load_policy(copy: Copy, *, namespace: str, owner_uid: str) -> dict[str, Any]:
    """What the quarantine of the copy's pods leaves out: clients in ``namespace`` to the Pooler, the Pooler to the copy.

    Policies add up, and the quarantine's own selector, the Cluster's label, takes the Pooler's pods as well.
    """
    cluster = {"cnpg.io/cluster": copy.ref.name}
    pooled = {"podSelector": {"matchLabels": {**cluster, "cnpg.io/podRole": "pooler"}}}
    clients = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    own = {"podSelector": {"matchLabels": cluster}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata_of(copy, f"{copy.ref.name}-load", owner_uid),
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [pooled, clients], "ports": _POSTGRES}],
            "egress": [{"to": [own], "ports": _POSTGRES}],
        },
    }


__all__ = ["load_policy", "pooler"]
