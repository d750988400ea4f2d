"""Poolers: real PgBouncer in pods of a Deployment, and the role and function by which it asks the Cluster for passwords.

The pods' agent gives PAUSE and RESUME; `status.phase` says what is wanted, as CloudNativePG's does: `paused` proves
nothing about clients that still hold a connection.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any

import psycopg
from psycopg import sql

from drillbook_lab.agent.pgbouncer import PoolerSpec
from drillbook_lab.api.errors import Object
from drillbook_lab.identity import share
from drillbook_lab.node.pod_worker import PodWorker
from drillbook_lab.operator import certs, guard, objects, pooler_config, replication, roles
from drillbook_lab.operator.context import Operator, is_owned_by
from drillbook_lab.operator.places import NotReadyYet, PodPlaces

log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 10.0
_SOON_SECONDS = 0.5
_FUNCTION = """
CREATE OR REPLACE FUNCTION public.user_search(uname text) RETURNS TABLE (usename name, passwd text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS 'SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1'
"""
_GRANTS = (
    "REVOKE ALL ON FUNCTION public.user_search(text) FROM PUBLIC",
    f"GRANT EXECUTE ON FUNCTION public.user_search(text) TO {pooler_config.ROLE}",
    f"GRANT CONNECT ON DATABASE postgres TO {pooler_config.ROLE}",
)
_KNOWN = """
SELECT (SELECT rolpassword FROM pg_authid WHERE rolname = %s) IS NOT NULL, to_regprocedure('public.user_search(text)') IS NOT NULL,
       current_setting('transaction_read_only') = 'on'
"""


class Inactive(Exception):
    """Something that the Pooler depends on isn't there."""


class Poolers:
    """Reconciles Pooler objects, and prepares their pods."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring one Pooler's objects and pods in line with it."""
        pooler = self._operator.find("Pooler", namespace, name)
        self._integrations(namespace)
        if pooler is None or pooler["metadata"].get("deletionTimestamp") or not guard.admits(self._operator, pooler):
            return None
        program = pooler_config.binary()
        if program is None:
            return self._tell(pooler, "failed", pooler_config.NO_BINARY, error=pooler_config.NO_BINARY)
        if self._operator.find("Cluster", namespace, name) is not None:
            why = f"a Cluster is called {name!r}, too"
            return self._tell(pooler, "failed", why, error=why)
        try:
            cluster, auth = self._cluster(pooler), self._auth(pooler)
        except Inactive as missing:
            return self._tell(pooler, "inactive", str(missing))
        foreign = self._foreign(pooler)
        if foreign:
            return self._tell(pooler, "failed", foreign, error=foreign)
        again = _LOOK_AGAIN_SECONDS
        if auth["own"] and not await self._integrate(cluster, auth["password"]):
            again = _SOON_SECONDS
        now = self._operator.find("Pooler", namespace, name)
        if (
            now is None
            or now["metadata"]["uid"] != pooler["metadata"]["uid"]
            or now["metadata"].get("deletionTimestamp")
        ):
            return None  # deleted while the primary was asked
        self._ensure(pooler, program)
        self._tell_pods(pooler)
        phase, why = ("paused", "PgBouncer has been told to pause") if _paused(pooler) else ("active", "")
        self._tell(pooler, phase, why, secrets=self._secrets(pooler))
        return again

    # -- what it depends on ---------------------------------------------------------------------------------------

    def _cluster(self, pooler: Object) -> Object:
        namespace, name = pooler["metadata"]["namespace"], pooler["spec"]["cluster"]["name"]
        cluster = self._operator.find("Cluster", namespace, name)
        if cluster is None or cluster["metadata"].get("deletionTimestamp"):
            raise Inactive(f'Cluster "{name}" not found')
        for suffix in ("ca", "server"):
            self._secret(namespace, f"{name}-{suffix}")
        return cluster

    def _secret(self, namespace: str, name: str) -> Object:
        found = self._operator.find("Secret", namespace, name)
        if found is None:
            raise Inactive(f'Secret "{name}" not found')
        return found

    def _auth(self, pooler: Object) -> dict[str, Any]:
        """Who asks for passwords, and how; `own`: by the role and function that the operator keeps."""
        namespace, spec = pooler["metadata"]["namespace"], pooler["spec"]
        chosen = (spec["pgbouncer"].get("authQuerySecret") or {}).get("name")
        if chosen:
            values = objects.decoded(self._secret(namespace, chosen))
            user, password = values.get("username", ""), values.get("password", "")
            return {
                "own": False,
                "secret": chosen,
                "user": user,
                "password": password,
                "query": spec["pgbouncer"]["authQuery"],
            }
        name = f"{spec['cluster']['name']}-pooler"
        if self._operator.find("Secret", namespace, name) is None:
            cluster = self._operator.find("Cluster", namespace, spec["cluster"]["name"])
            if cluster is not None:
                self._certificate(cluster)
        # The wheel's server has no TLS to see a certificate by: the role has a password that both sides know from its
        # key.
        key = objects.decoded(self._secret(namespace, name))["tls.key"]
        password = hashlib.sha256(key.encode()).hexdigest()
        return {
            "own": True,
            "secret": name,
            "user": pooler_config.ROLE,
            "password": password,
            "query": pooler_config.AUTH_QUERY,
        }

    def _certificate(self, cluster: Object) -> None:
        """`c-pooler`: made with the first Pooler of a Cluster, and the Cluster's own."""
        stored = self._secret(cluster["metadata"]["namespace"], f"{cluster['metadata']['name']}-ca")["data"]
        ca = certs.Pair(base64.b64decode(stored["ca.crt"]), base64.b64decode(stored["ca.key"]))
        pair = certs.make_leaf(ca, pooler_config.ROLE, client=True)
        self._operator.registry.create(objects.tls_secret(cluster, "pooler", pair, ca))

    def _foreign(self, pooler: Object) -> str:
        """Whether somebody else's object has the name of one that the Pooler needs."""
        meta = pooler["metadata"]
        for kind in ("Service", "Deployment", "Secret"):
            found = self._operator.find(kind, meta["namespace"], meta["name"])
            if found is not None and not is_owned_by(found, meta["uid"]):
                if found["metadata"].get("deletionTimestamp"):
                    continue
                return f"{kind} {meta['name']!r} exists and is not the Pooler's: refusing to reconcile it"
        return ""

    async def _integrate(self, cluster: Object, password: str) -> bool:
        """The role and its function on the primary; whether they are there."""
        primary = replication.current_primary(cluster)
        worker = self._worker(cluster["metadata"]["namespace"], primary) if primary else None
        if worker is None or not worker.running:
            return False
        role = sql.Identifier(pooler_config.ROLE)
        try:
            async with await roles.connect(str(worker.places.socket_dir)) as connection:
                row = await (await connection.execute(_KNOWN.encode(), [pooler_config.ROLE])).fetchone()
                known, there, read_only = row or (False, False, True)
                if read_only:
                    return False
                if not known:
                    cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [pooler_config.ROLE])
                    if await cursor.fetchone() is None:
                        await connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
                if not known or not await _accepts(worker, password):
                    await roles.set_password(connection, pooler_config.ROLE, password)
                if not there:
                    await connection.execute(_FUNCTION.encode())
                    for grant in _GRANTS:
                        await connection.execute(grant.encode())
            return True
        except psycopg.Error as fault:
            log.debug("%s: not integrated yet: %s", cluster["metadata"]["name"], fault)
            return False

    def _integrations(self, namespace: str) -> None:
        """`status.poolerIntegrations`: the Secrets by which a Cluster's Poolers ask it."""
        by_cluster: dict[str, set[str]] = {}
        for pooler in self._operator.registry.list("Pooler", namespace):
            if not (pooler["spec"]["pgbouncer"].get("authQuerySecret") or {}).get("name"):
                name = pooler["spec"]["cluster"]["name"]
                if self._operator.find("Secret", namespace, f"{name}-pooler") is not None:
                    by_cluster.setdefault(name, set()).add(f"{name}-pooler")
        for cluster in self._operator.registry.list("Cluster", namespace):
            secrets = sorted(by_cluster.get(cluster["metadata"]["name"], ()))
            wanted = {"pgBouncerIntegration": {"secrets": secrets}} if secrets else None
            if (cluster.get("status") or {}).get("poolerIntegrations") != wanted:
                self._operator.set_status(cluster, {"poolerIntegrations": wanted})

    # -- what it makes -------------------------------------------------------------------------------------------

    def _ensure(self, pooler: Object, program: str) -> None:
        self._operator.ensure(pooler_config.account(pooler))
        auth = self._auth(pooler)
        text = pooler_config.ini(pooler, self._upstream(pooler), auth["user"], auth["query"], program)
        secret = pooler_config.secret(pooler, text)
        found = self._operator.ensure(secret)
        if objects.decoded(found) != secret["stringData"]:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in secret["stringData"].items()}
            self._patch(found, {"data": data})
        service = pooler_config.service(pooler)
        found = self._operator.ensure(service)
        if found["spec"].get("type") != service["spec"]["type"]:
            self._patch(found, {"spec": {"type": service["spec"]["type"]}})
        wanted = pooler_config.deployment(pooler)
        found = self._operator.ensure(wanted)
        changes: Object = {key: value for key, value in wanted["spec"].items() if key in ("replicas", "strategy")}
        marks, ours = found["spec"]["template"].get("metadata") or {}, wanted["spec"]["template"]["metadata"]
        image = wanted["spec"]["template"]["spec"]["containers"][0]["image"]
        containers = found["spec"]["template"]["spec"]["containers"]
        template: Object = {}
        if any((marks.get(part) or {}) != (ours.get(part) or {}) for part in ("labels", "annotations")):
            template["metadata"] = ours
        if containers[0].get("image", "") != image:
            template["spec"] = {"containers": [{**containers[0], "image": image}]}
        if template:
            changes["template"] = template
        if any(found["spec"].get(key) != value for key, value in changes.items()):
            self._patch(found, {"spec": changes})

    def _patch(self, obj: Object, patch: Object) -> None:
        meta = obj["metadata"]
        self._operator.registry.patch(obj["kind"], meta["namespace"], meta["name"], patch)

    def _upstream(self, pooler: Object) -> str:
        name = f"{pooler['spec']['cluster']['name']}-{pooler['spec']['type']}"
        service = self._operator.find("Service", pooler["metadata"]["namespace"], name)
        return pooler_config.upstream(pooler, service)

    # -- its pods ------------------------------------------------------------------------------------------------

    def prepare(self, pod: Object, places: PodPlaces) -> None:
        """Write what a pooler's pod starts with."""
        meta = pod["metadata"]
        name = (meta.get("labels") or {}).get("cnpg.io/poolerName", "")
        pooler = self._operator.find("Pooler", meta["namespace"], name)
        if pooler is None:
            raise NotReadyYet(f"poolers.postgresql.cnpg.io {name!r} not found")
        self._spec(pooler, meta["name"], places).write(places.spec_file)
        share(places.spec_file)

    def _spec(self, pooler: Object, pod: str, places: PodPlaces) -> PoolerSpec:
        meta, program = pooler["metadata"], pooler_config.binary()
        secret = self._operator.find("Secret", meta["namespace"], meta["name"])
        if program is None or secret is None:
            raise NotReadyYet(pooler_config.NO_BINARY if program is None else f"secret {meta['name']!r} not found")
        try:
            auth = self._auth(pooler)
            server = objects.decoded(self._secret(meta["namespace"], f"{pooler['spec']['cluster']['name']}-server"))
        except Inactive as missing:
            raise NotReadyYet(str(missing)) from missing
        given = objects.decoded(secret)
        return PoolerSpec(
            namespace=meta["namespace"],
            pooler=meta["name"],
            pod=pod,
            run_dir=str(places.run_dir),
            socket_dir=str(places.socket_dir),
            binary=program,
            listen_address=places.address,
            ini=given["pgbouncer.ini"],
            hba=given["pg_hba.conf"],
            paused=_paused(pooler),
            auth_in_postgres=pooler_config.asks_in_postgres(program),
            auth_user=auth["user"],
            auth_password=auth["password"],
            auth_query=auth["query"],
            upstream=self._upstream(pooler),
            tls={"server.crt": server["tls.crt"], "server.key": server["tls.key"], "ca.crt": server["ca.crt"]},
        )

    def _tell_pods(self, pooler: Object) -> None:
        """Have the running pods follow: their agent looks at the file."""
        meta = pooler["metadata"]
        for pod in self._operator.registry.list("Pod", meta["namespace"], labels=f"cnpg.io/poolerName={meta['name']}"):
            worker = self._worker(meta["namespace"], pod["metadata"]["name"])
            if worker is None or not worker.running or pod["metadata"].get("deletionTimestamp"):
                continue
            spec = self._spec(pooler, pod["metadata"]["name"], worker.places)
            if PoolerSpec.read(worker.places.spec_file) != spec:
                spec.write(worker.places.spec_file)
                share(worker.places.spec_file)

    def _worker(self, namespace: str, pod: str) -> PodWorker | None:
        try:
            return self._operator.kubelet.worker(namespace, pod)
        except KeyError:
            return None

    # -- status --------------------------------------------------------------------------------------------------

    def _tell(
        self, pooler: Object, phase: str, why: str, *, error: str | None = None, secrets: Object | None = None
    ) -> float:
        meta = pooler["metadata"]
        found = self._operator.find("Deployment", meta["namespace"], meta["name"])
        instances = int(((found or {}).get("status") or {}).get("replicas") or 0)
        changes: Object = {"phase": phase, "phaseReason": why or None, "error": error, "instances": instances}
        if secrets is not None:
            changes["secrets"] = secrets
        before = (pooler.get("status") or {}).get("phase")
        self._operator.set_status(pooler, changes)
        if phase == "failed" and before != "failed":
            self._operator.event(pooler, "PoolerFailed", why, kind="Warning")
        return _LOOK_AGAIN_SECONDS

    def _secrets(self, pooler: Object) -> Object:
        namespace, cluster = pooler["metadata"]["namespace"], pooler["spec"]["cluster"]["name"]
        names = {"serverTLS": f"{cluster}-server", "serverCA": f"{cluster}-ca", "clientCA": f"{cluster}-ca"}
        found: Object = {}
        for field, name in names.items():
            found[field] = {"name": name, "version": self._secret(namespace, name)["metadata"]["resourceVersion"]}
        used = self._secret(namespace, self._auth(pooler)["secret"])["metadata"]
        found["pgBouncerSecrets"] = {"authQuery": {"name": used["name"], "version": used["resourceVersion"]}}
        return found


def _paused(pooler: Object) -> bool:
    return bool(pooler["spec"]["pgbouncer"].get("paused"))


async def _accepts(worker: PodWorker, password: str) -> bool:
    """Whether the role's password is this one: a restored server has its origin's."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            host=worker.places.address, user=pooler_config.ROLE, password=password, dbname="postgres", connect_timeout=5
        )
    except psycopg.OperationalError:
        return False
    await connection.close()
    return True
