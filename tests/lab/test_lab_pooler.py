"""Poolers on a real lab: real PgBouncer, real clients through its Service. Needs the system's package pgbouncer."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fix_clusters import SmallCluster, kubectl, namespace, scraped
from fix_lab import CNPG, CORE, RunningLab, condition, until

from drillbook_lab.operator import pooler_config

Object = dict[str, Any]

pytestmark = pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY)


class Pool:
    """A Pooler in a namespace, and clients of it."""

    def __init__(self, cluster: SmallCluster, name: str) -> None:
        self.lab, self.cluster, self.name = cluster.lab, cluster, name
        self.namespace = cluster.namespace
        self.path = f"{CNPG}/{self.namespace}/poolers/{name}"

    def create(self, cluster: str = "", **pgbouncer: Any) -> Pool:
        self.lab.create(
            f"{CNPG}/{self.namespace}/poolers",
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Pooler",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {"cluster": {"name": cluster or self.cluster.name}, "pgbouncer": pgbouncer},
            },
        )
        return self

    def delete(self) -> None:
        self.lab.delete(self.path)
        until(lambda: not self.pods() and self.lab.find(f"{CORE}/{self.namespace}/services/{self.name}") is None)

    @property
    def status(self) -> Object:
        return dict(self.lab.get(self.path).get("status") or {})

    def pods(self) -> list[Object]:
        found: list[Object] = self.lab.get(
            f"{CORE}/{self.namespace}/pods?labelSelector=cnpg.io/poolerName%3D{self.name}"
        )["items"]
        return found

    def ready(self, count: int = 1) -> bool:
        pods = self.pods()
        return len(pods) == count and all(condition(pod, "Ready") == "True" for pod in pods)

    def pause(self, paused: bool) -> None:
        self.lab.patch(self.path, {"spec": {"pgbouncer": {"paused": paused}}})

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        service = self.lab.get(f"{CORE}/{self.namespace}/services/{self.name}")
        values = self.lab.secret(self.namespace, f"{self.cluster.name}-app")
        return psycopg.connect(
            host=service["spec"]["clusterIP"],
            port=5432,
            user=values["username"],
            password=values["password"],
            dbname=values["dbname"],
            autocommit=True,
            prepare_threshold=None,
            **{"connect_timeout": 10, **more},
        )

    def answers(self, **more: Any) -> bool:
        try:
            with self.connect(**more) as connection:
                return connection.execute("SELECT true").fetchone() == (True,)
        except psycopg.Error:
            return False

    def is_held(self) -> bool:
        """PgBouncer itself says so: somebody waits, and no server connection is at work."""
        database = self.lab.secret(self.namespace, f"{self.cluster.name}-app")["dbname"]
        rows = [row for row in self.console("SHOW POOLS") if row["database"] == database]
        return all(row["sv_active"] == "0" for row in rows) and any(row["cl_waiting"] != "0" for row in rows)

    def console(self, command: str, pod: Object | None = None) -> list[dict[str, str]]:
        """PgBouncer's own console, as an administrator reaches it: psql in the pod."""
        name = (pod or self.pods()[0])["metadata"]["name"]
        said = kubectl(
            self.lab, "-n", self.namespace, "exec", name, "--", "psql", "-XAF|", "-P", "footer=off", "-c", command
        )
        head, *rows = [line.split("|") for line in said.stdout.splitlines()]
        return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def pool(small: SmallCluster) -> Iterator[Pool]:
    made = Pool(small, "small-pooler-rw")
    made.create(poolMode="transaction", parameters={"max_client_conn": "1000", "default_pool_size": "5"})
    until(made.ready)
    until(made.answers)
    yield made
    made.delete()


def test_a_pooler_is_a_deployment_a_service_and_a_configuration(pool: Pool) -> None:
    status = pool.status
    assert (status["phase"], status["instances"]) == ("active", 1)
    assert status["secrets"]["pgBouncerSecrets"]["authQuery"]["name"] == "small-pooler"
    (pod,) = pool.pods()
    assert pod["metadata"]["labels"]["cnpg.io/podRole"] == "pooler"
    with pool.connect():  # a database is listed from its first client on
        (database,) = [row for row in pool.console("SHOW DATABASES") if row["name"] == "app"]
    assert (database["pool_mode"], database["pool_size"]) in (("transaction", "5"), ("", "5"))
    configuration = {row["key"]: row["value"] for row in pool.console("SHOW CONFIG")}
    assert (configuration["max_client_conn"], configuration["pool_mode"]) == ("1000", "transaction")
    integrations = pool.cluster.status["poolerIntegrations"]
    assert integrations == {"pgBouncerIntegration": {"secrets": ["small-pooler"]}}


def test_clients_share_the_servers_connections_and_are_offered_tls(pool: Pool) -> None:
    clients = [pool.connect() for _ in range(12)]
    try:
        assert all(client.pgconn.ssl_in_use for client in clients)
        pids = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients}
        assert len(pids) <= 5
    finally:
        for client in clients:
            client.close()
    with pytest.raises(psycopg.OperationalError, match=r"(?i)auth|password"):
        psycopg.connect(
            host=pool.lab.get(f"{CORE}/small/services/{pool.name}")["spec"]["clusterIP"],
            user="app",
            password="wrong",
            dbname="app",
            connect_timeout=10,
        )


def test_paused_queries_wait_and_none_is_lost(pool: Pool) -> None:
    pool.cluster.app("CREATE TABLE IF NOT EXISTS paused_counter (n int)")
    pool.cluster.app("TRUNCATE paused_counter")
    stop, done, faults = threading.Event(), [0] * 4, []

    def work(number: int) -> None:
        try:
            with pool.connect() as connection:
                while not stop.is_set():
                    connection.execute("INSERT INTO paused_counter VALUES (%s)", [number])
                    done[number] += 1
        except psycopg.Error as fault:
            faults.append(fault)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(done))]
    for worker in workers:
        worker.start()
    try:
        until(lambda: min(done) > 0 or faults)
        pool.pause(True)
        until(lambda: pool.status["phase"] == "paused")
        until(pool.is_held)
        at_rest = list(done)
        time.sleep(1.0)
        assert done == at_rest, "a paused pooler passes nothing on"
        assert not faults
        pool.pause(False)
        until(lambda: all(now > before for now, before in zip(done, at_rest, strict=True)) or faults)
        assert pool.status["phase"] == "active"
    finally:
        pool.pause(False)
        stop.set()
        for worker in workers:
            worker.join(60)
    assert not faults
    ((rows,),) = pool.cluster.app("SELECT count(*) FROM paused_counter")
    assert rows == sum(done)


def test_metrics_are_what_the_console_says(pool: Pool) -> None:
    assert pool.answers()
    pod = pool.pods()[0]
    text = urllib.request.urlopen(f"http://{pod['status']['podIP']}:9127/metrics", timeout=30).read().decode()
    samples = scraped(text)
    assert samples['cnpg_pgbouncer_pools_maxwait{database="app",user="app"}'] == 0
    assert samples['cnpg_pgbouncer_pools_pool_mode{database="app",user="app"}'] == 2
    assert samples['cnpg_pgbouncer_stats_total_query_count{database="app"}'] > 0
    assert samples["cnpg_pgbouncer_lists_databases"] >= 1
    assert samples["cnpg_pgbouncer_last_collection_error"] == 0


def test_a_changed_parameter_and_a_changed_number_are_followed(pool: Pool) -> None:
    before = {pod["metadata"]["uid"] for pod in pool.pods()}
    pool.lab.patch(pool.path, {"spec": {"instances": 2, "pgbouncer": {"parameters": {"default_pool_size": "7"}}}})
    try:
        until(lambda: pool.ready(2))
        for pod in pool.pods():
            until(
                lambda pod=pod: (
                    {r["key"]: r["value"] for r in pool.console("SHOW CONFIG", pod)}["default_pool_size"] == "7"
                )
            )
        assert before < {pod["metadata"]["uid"] for pod in pool.pods()}, "a setting is a reload, no new pod"
        until(lambda: pool.status["instances"] == 2)
    finally:
        pool.lab.patch(pool.path, {"spec": {"instances": 1, "pgbouncer": {"parameters": {"default_pool_size": "5"}}}})
    until(lambda: pool.ready(1))


def test_what_a_pooler_may_not_be(pool: Pool, small: SmallCluster) -> None:
    def refused(**changes: Any) -> str:
        body = {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Pooler",
            "metadata": {"name": "wrong", "namespace": "small"},
            "spec": {"cluster": {"name": "small"}, "pgbouncer": {}},
        } | changes
        code, answer = pool.lab.call("POST", f"{CNPG}/small/poolers", body)
        assert code == 422, answer
        return str(answer["message"])

    assert "same name of a cluster" in refused(metadata={"name": "small", "namespace": "small"})
    wrong = {"cluster": {"name": "small"}, "pgbouncer": {"parameters": {"auth_file": "/etc/passwd"}}}
    assert "Invalid or reserved parameter" in refused(spec=wrong)
    code, answer = pool.lab.call(
        "PATCH", pool.path, {"spec": {"cluster": {"name": "other"}}}, "application/merge-patch+json"
    )
    assert (code, "immutable" in answer["message"]) == (422, True)


def test_without_its_cluster_it_is_inactive_and_comes_to_life_with_it(small: SmallCluster) -> None:
    pool = Pool(small, "early-pooler").create(cluster="late")
    try:
        until(lambda: pool.status.get("phase") == "inactive")
        assert pool.status["phaseReason"] == 'Cluster "late" not found'
        assert pool.pods() == []
    finally:
        pool.delete()


def test_a_new_password_is_known_to_the_pooler_soon(pool: Pool) -> None:
    before = pool.lab.secret("small", "small-app")["password"]
    # Put back afterwards: the Secret's other keys, its URIs among them, still hold the first one.
    for password in ("another-one", before):
        pool.lab.patch(f"{CORE}/small/secrets/small-app", {"stringData": {"password": password}})
        until(pool.cluster.answers)
        until(pool.answers)


@pytest.mark.soak
def test_the_switch_of_the_primary_is_followed(lab: RunningLab) -> None:
    pair = SmallCluster(lab, namespace(lab, "pooled"), "pair").create(instances=2)
    pool = Pool(pair, "pair-rw-pooler").create(poolMode="transaction")
    try:
        until(pool.ready)
        until(pool.answers)
        until(lambda: pair.is_ready(2))
        code, answer = lab.call(
            "PATCH",
            f"{pair.path}/status",
            {"status": {"targetPrimary": "pair-2", "phase": "Switchover in progress"}},
            "application/merge-patch+json",
        )
        assert code == 200, answer
        until(lambda: pair.status.get("currentPrimary") == "pair-2" and pair.is_healthy())

        def writes() -> str:
            try:
                with pool.connect() as client:
                    client.execute("CREATE TABLE IF NOT EXISTS after_switch (n int)")
                    row = client.execute("SELECT host(inet_server_addr())").fetchone()
                    return str(row[0]) if row else ""
            except psycopg.Error:
                return ""

        until(lambda: writes() == lab.get(f"{CORE}/pooled/pods/pair-2")["status"]["podIP"])
    finally:
        pool.delete()
        lab.delete(f"{CORE}/pooled")


@pytest.mark.soak
def test_the_same_name_with_another_cluster_serves_the_other_one(lab: RunningLab) -> None:
    """What a cut-over does: `cluster` can't change, so the Pooler is deleted and recreated under its name."""
    here = namespace(lab, "cutover")
    old, new = (SmallCluster(lab, here, name).create() for name in ("old", "new"))
    for cluster in (old, new):
        cluster.app(f"CREATE TABLE who AS SELECT '{cluster.name}' AS name")
    first = Pool(old, "app-pooler").create(poolMode="transaction")
    try:
        until(first.ready)
        until(first.answers)
        first.delete()
        second = Pool(new, "app-pooler").create(poolMode="transaction")
        until(second.ready)
        until(second.answers)
        with second.connect() as client:
            assert client.execute("SELECT name FROM who").fetchone() == ("new",)
        assert "poolerIntegrations" not in old.status
    finally:
        lab.delete(f"{CORE}/{here}")
