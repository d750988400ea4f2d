"""What the operator does with a running server: ask it who it is, set passwords, keep its roles and its files.

The instance manager's part of CNPG, from outside: through the pod's private socket.
"""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from drillbook_lab.agent.spec import PodSpec
from drillbook_lab.apiserver.errors import Object
from drillbook_lab.controller import objects, objectstore, roles
from drillbook_lab.controller.context import Operator, condition
from drillbook_lab.controller.places import PodPlaces
from drillbook_lab.controller.prepare import Preparation
from drillbook_lab.identity import share

_FACTS = """
SELECT (pg_control_checkpoint()).timeline_id, (pg_control_system()).system_identifier::text,
       (SELECT archived_count FROM pg_stat_archiver)
"""


@dataclass(frozen=True)
class Facts:
    """What a running primary said, and what was done to it."""

    timeline: int
    system_id: str
    roles: Object
    secrets: Object
    archives_nothing: bool
    look_again_seconds: float | None


class Instances:
    """Looks after running servers."""

    def __init__(self, operator: Operator, preparation: Preparation) -> None:
        self._operator = operator
        self._preparation = preparation
        self._told: dict[str, str] = {}  # pod uid -> digest of the spec that its server runs with

    async def reconcile(self, cluster: Object, pod: Object) -> Facts:
        """Bring the server in line with the Cluster; what comes back was read from the server."""
        meta = pod["metadata"]
        worker = self._operator.kubelet.worker(meta["namespace"], meta["name"])
        self._refresh(cluster, pod, worker.places, worker.pid)
        async with await roles.connect(str(worker.places.socket_dir)) as connection:
            cursor = await connection.execute(_FACTS)
            timeline, system_id, archived = await cursor.fetchone() or (0, "", 0)
            versions = await self._passwords(cluster, connection)
            outcome = await roles.reconcile(self._operator, cluster, connection)
        self._label(pod)
        nowhere = objectstore.archive_use(cluster) is None
        waits = nowhere and not archived and condition(cluster, "ContinuousArchiving") is None
        return Facts(
            timeline=int(timeline),
            system_id=system_id,
            roles=outcome.status(),
            secrets=versions,
            archives_nothing=bool(nowhere and archived),
            look_again_seconds=1.0 if waits or outcome.cannot else None,
        )

    def _refresh(self, cluster: Object, pod: Object, places: PodPlaces, pid: int | None) -> None:
        """Write the spec anew, and have the server read it if it has changed since."""
        spec = self._preparation.pod_spec(cluster, pod["metadata"]["name"], "postgres", places)
        digest = hashlib.sha256(repr(spec).encode()).hexdigest()
        known = self._told.get(pod["metadata"]["uid"])
        if known == digest:
            return
        changed = places.spec_file.exists() and PodSpec.read(places.spec_file) != spec
        self._told[pod["metadata"]["uid"]] = digest
        if changed and pid is not None:
            spec.write(places.spec_file)
            share(places.spec_file)
            os.kill(pid, signal.SIGHUP)

    async def _passwords(self, cluster: Object, connection: psycopg.AsyncConnection[Any]) -> Object:
        """The owner's and the superuser's password follow their Secrets."""
        namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        known = (cluster.get("status") or {}).get("secretsResourceVersion") or {}
        versions: dict[str, str] = {}
        secret = self._operator.find("Secret", namespace, objects.app_secret_name(cluster))
        _, owner = objects.application(cluster)
        if secret is not None:
            versions["applicationSecretVersion"] = secret["metadata"]["resourceVersion"]
            if known.get("applicationSecretVersion") != versions["applicationSecretVersion"]:
                await roles.set_password(connection, owner, objects.decoded(secret)["password"])
        if cluster["spec"].get("enableSuperuserAccess"):
            chosen = (cluster["spec"].get("superuserSecret") or {}).get("name") or f"{name}-superuser"
            secret = self._operator.find("Secret", namespace, chosen)
            if secret is not None:
                versions["superuserSecretVersion"] = secret["metadata"]["resourceVersion"]
                if known.get("superuserSecretVersion") != versions["superuserSecretVersion"]:
                    await roles.set_password(connection, "postgres", objects.decoded(secret)["password"])
        elif known.get("superuserSecretVersion"):
            await connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD NULL"))
        for suffix, key in (("ca", "serverCaSecretVersion"), ("server", "serverSecretVersion")):
            secret = self._operator.find("Secret", namespace, f"{name}-{suffix}")
            if secret is not None:
                versions[key] = secret["metadata"]["resourceVersion"]
        return versions

    def _label(self, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        if labels.get("cnpg.io/instanceRole") != "primary":
            patch = {"metadata": {"labels": {"cnpg.io/instanceRole": "primary", "role": "primary"}}}
            self._operator.registry.patch("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], patch)
