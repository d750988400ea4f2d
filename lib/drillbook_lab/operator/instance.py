"""What the operator does with a running server: ask it who it is, set passwords, keep its roles and its files.

The instance manager's part of CNPG, from outside: through the pod's private socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from drillbook_lab.agent import conf
from drillbook_lab.agent.spec import PodSpec
from drillbook_lab.api.errors import Object
from drillbook_lab.identity import share
from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.operator import adoption, objects, replication, roles
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Members
from drillbook_lab.operator.places import PodPlaces
from drillbook_lab.operator.prepare import Preparation

log = logging.getLogger(__name__)

_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name ~ '^_cnpg_'"
_STATE_FILE = "state"


@dataclass(frozen=True)
class Facts:
    """What was done at a running primary."""

    roles: Object
    secrets: Object
    cannot: bool


class Instances:
    """Looks after the servers of a Cluster."""

    def __init__(self, operator: Operator, preparation: Preparation) -> None:
        self._operator = operator
        self._preparation = preparation
        self._told: dict[str, str] = {}  # pod uid -> digest of the spec that its server runs with: saves a read

    # -- telling a pod its part ------------------------------------------------------------------------------------

    def tell(self, cluster: Object, pod: Object, *, promoted: bool = False) -> None:
        """Write the pod's spec again if it has changed; its agent follows the file."""
        worker = self._worker(pod)
        if worker is None or not worker.running:
            return  # it is prepared when it starts
        places = worker.places
        spec = self._preparation.pod_spec(cluster, pod["metadata"]["name"], "postgres", places, promoted=promoted)
        digest = hashlib.sha256(repr(spec).encode()).hexdigest()
        uid = pod["metadata"]["uid"]
        if self._told.get(uid) == digest and places.spec_file.exists():
            return
        if not places.spec_file.exists() or PodSpec.read(places.spec_file) != spec:
            spec.write(places.spec_file)
            share(places.spec_file)
        self._told[uid] = digest

    def label(self, cluster: Object, pod: Object) -> None:
        """The pod's role, by which the services find it; none exists before there is a primary."""
        primary = replication.current_primary(cluster)
        if primary and not pod["metadata"].get("deletionTimestamp"):
            self.set_role_label(pod, "primary" if pod["metadata"]["name"] == primary else "replica")

    def set_role_label(self, pod: Object, role: str) -> None:
        """The role's label, and its deprecated twin."""
        if (pod["metadata"].get("labels") or {}).get("cnpg.io/instanceRole") != role:
            patch = {"metadata": {"labels": {"cnpg.io/instanceRole": role, "role": role}}}
            self._operator.registry.patch("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], patch)
            if role != "unhealthy":  # of a pod, not of its data
                adoption.mark(self._operator, pod, role)

    # -- looking at it from outside ------------------------------------------------------------------------------

    def is_fenced(self, cluster: Object, instance: str) -> bool:
        """Whether the instance is kept down on purpose."""
        listed = (cluster["metadata"].get("annotations") or {}).get("cnpg.io/fencedInstances") or "[]"
        try:
            fenced = json.loads(listed)
        except ValueError:
            return False
        return isinstance(fenced, list) and ("*" in fenced or instance in fenced)

    def is_gone(self, pod: Object | None) -> bool:
        """Whether a server that ran has ended: its pod is missing, leaving or down. One that starts isn't gone."""
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            return True
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        state = statuses[0].get("state") or {} if statuses else {}
        reason = (state.get("waiting") or {}).get("reason")
        return "terminated" in state or reason == "CrashLoopBackOff"

    def is_stopped(self, pod: Object | None) -> bool:
        """Whether no server runs in the pod, and none will while it isn't told to."""
        worker = self._worker(pod) if pod is not None else None
        if worker is None:
            return True
        return worker.running and _state(worker.places) == "waiting"

    def controldata(self, pgdata: Path) -> dict[str, str]:
        """What a stopped server has noted last; empty if it can't be read."""
        bin_dir = str(self._operator.settings.bin_dir)
        spec = PodSpec("", "", "", str(pgdata), "", "", bin_dir)
        try:
            return conf.controldata(spec)
        except subprocess.CalledProcessError:
            return {}

    def _worker(self, pod: Object) -> PodWorker | None:
        meta = pod["metadata"]
        try:
            return self._operator.kubelet.worker(meta["namespace"], meta["name"])
        except KeyError:
            return None

    # -- at the servers --------------------------------------------------------------------------------------------

    async def primary(self, cluster: Object, members: Members) -> Facts | None:
        """Passwords, roles and slots of the primary; None if it doesn't answer."""
        name = replication.current_primary(cluster)
        worker = self._worker(members.pods[name])
        if worker is None:
            return None
        try:
            async with await roles.connect(str(worker.places.socket_dir)) as connection:
                versions = await self._passwords(cluster, connection)
                if len(members.claims) > 1 or int(cluster["spec"].get("instances", 1)) > 1:
                    versions |= await self._replication(cluster, connection)
                outcome = await roles.reconcile(self._operator, cluster, connection)
                await _keep_slots(connection, [entry for entry in members.names if entry != name])
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, KeyError) as fault:
            log.debug("%s: not answering: %s", name, fault)
            return None
        return Facts(outcome.status(), versions, bool(outcome.cannot))

    async def replicas(self, cluster: Object, members: Members) -> None:
        """Slots on the standbys follow the primary's, so that each of them can take over."""
        primary = replication.current_primary(cluster)
        worker = self._worker(members.pods[primary])
        if worker is None or not members.replicas():
            return
        question = _SLOTS.replace("slot_name", "slot_name, restart_lsn::text", 1)
        try:
            async with await roles.connect(str(worker.places.socket_dir)) as connection:
                positions = dict(await (await connection.execute(question.encode())).fetchall())
            for name in members.replicas():
                standby = self._worker(members.pods[name])
                if standby is not None:
                    async with await roles.connect(str(standby.places.socket_dir)) as connection:
                        await _follow_slots(connection, name, positions)
        except psycopg.Error as fault:
            log.debug("%s: slots: %s", cluster["metadata"]["name"], fault)

    async def _replication(self, cluster: Object, connection: psycopg.AsyncConnection[Any]) -> dict[str, str]:
        """The standbys' password follows the Secret of their certificate."""
        found = replication.replication_password(self._operator, cluster)
        if found is None:
            return {}
        password, version = found
        known = (cluster.get("status") or {}).get("secretsResourceVersion") or {}
        if known.get("replicationSecretVersion") != version:
            await roles.set_password(connection, replication.ROLE, password)
        return {"replicationSecretVersion": version}

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
                try:
                    await roles.set_password(connection, owner, objects.decoded(secret)["password"])
                except (
                    psycopg.errors.UndefinedObject
                ):  # adopted data of another Cluster: that is no reason to be unwell
                    log.warning("%s: there is no role %s", name, owner)
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


async def _keep_slots(connection: psycopg.AsyncConnection[Any], standbys: list[str]) -> None:
    """One physical slot for each standby, and none for anybody else."""
    wanted = {replication.slot_name(name) for name in standbys}
    there = {row[0] for row in await (await connection.execute(_SLOTS.encode())).fetchall()}
    for name in sorted(wanted - there):
        await connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
    for name in sorted(there - wanted):
        with contextlib.suppress(psycopg.errors.ObjectInUse):  # its standby is leaving: the next look takes it
            await connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


async def _follow_slots(connection: psycopg.AsyncConnection[Any], own: str, positions: dict[str, str | None]) -> None:
    wanted = {name: at for name, at in positions.items() if name != replication.slot_name(own) and at}
    there = {row[0] for row in await (await connection.execute(_SLOTS.encode())).fetchall()}
    for name in sorted(there - set(wanted)):
        await connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
    for name, position in wanted.items():
        if name not in there:
            await connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [name])
        with contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidParameterValue):
            # Not yet replayed as far, or kept from further back: the next look comes nearer.
            await connection.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [name, position])


def _state(places: PodPlaces) -> str:
    """What the instance's agent notes of itself; empty before it has begun."""
    try:
        return (places.run_dir / _STATE_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
