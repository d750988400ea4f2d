"""Where an address leads, and how large what is on the way is: every kind of address, Service, rollout and size."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from drillbook.connections import discovery
from drillbook.connections.discovery import CLUSTER, OTHER, OUTSIDE, POOLER, Target, hosts, leads_to
from drillbook.connections.path import PgBouncer
from drillbook.profile.schema import ConnectionSettings, GrowthStep

HOME, DATABASES = "shop", "databases"


def service(name: str, namespace: str = DATABASES, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


SERVICES = [
    service("pg-rw", selector={"cnpg.io/cluster": "pg", "cnpg.io/instanceRole": "primary"}, clusterIP="10.0.0.7"),
    service("pg-ro", selector={"cnpg.io/cluster": "pg", "cnpg.io/instanceRole": "replica"}),
    service("pg-r", selector={"cnpg.io/cluster": "pg", "cnpg.io/podRole": "instance"}),
    service("pg-old-rw", selector={"cnpg.io/cluster": "pg", "role": "primary"}),
    service("pool", selector={"cnpg.io/poolerName": "pool"}),
    service("orders", HOME, type="ExternalName", externalName="pool.databases.svc.cluster.local"),
    service("shop", HOME, selector={"app": "shop"}, clusterIP="None"),
    service("round", HOME, type="ExternalName", externalName="round"),
    service("away", HOME, type="ExternalName", externalName="db.example.com"),
]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("jdbc:postgresql://pg-rw.databases.svc.cluster.local:5432/shop", ["pg-rw.databases.svc.cluster.local"]),
        ("jdbc:postgresql://pg-rw.databases/shop?user=pool&password=pool", ["pg-rw.databases"]),
        ("postgresql://pool:p%40ss@pg-rw.databases:5432/shop", ["pg-rw.databases"]),
        ("postgres://pool:a@b@pg-rw.databases/shop", ["pg-rw.databases"]),
        ("jdbc:postgresql://one:5432,two:5433/shop?targetServerType=primary", ["one", "two"]),
        ("host=pg-rw.databases port=5432 user=pool dbname=pool", ["pg-rw.databases"]),
        ("pg-rw.databases:5432", ["pg-rw.databases"]),
        (" pg-rw.databases ", ["pg-rw.databases"]),
        ("postgresql://[fd00::7]:5432/shop", ["fd00::7"]),
        ("10.0.0.7:5432", ["10.0.0.7"]),
        ("", []),
    ],
)
def test_the_hosts_of_an_address_and_nothing_else_of_it(address: str, found: list[str]) -> None:
    assert hosts(address) == found


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("pg-rw.databases.svc.cluster.local", Target(CLUSTER, DATABASES, "pg", "rw", ("databases/pg-rw",))),
        ("pg-rw.databases.svc.", Target(CLUSTER, DATABASES, "pg", "rw", ("databases/pg-rw",))),
        ("pg-rw.databases", Target(CLUSTER, DATABASES, "pg", "rw", ("databases/pg-rw",))),
        ("10.0.0.7", Target(CLUSTER, DATABASES, "pg", "rw", ("databases/pg-rw",))),
        ("pg-old-rw.databases", Target(CLUSTER, DATABASES, "pg", "rw", ("databases/pg-old-rw",))),
        ("pg-ro.databases", Target(CLUSTER, DATABASES, "pg", "ro", ("databases/pg-ro",))),
        ("pg-r.databases", Target(CLUSTER, DATABASES, "pg", "r", ("databases/pg-r",))),
        ("pool.databases", Target(POOLER, DATABASES, "pool", "", ("databases/pool",))),
        ("orders", Target(POOLER, DATABASES, "pool", "", ("shop/orders", "databases/pool"))),
        ("shop", Target(OTHER, HOME, via=("shop/shop",))),
        ("away", Target(OUTSIDE, via=("shop/away",))),
        ("pg-rw", Target(OUTSIDE)),
        ("pg-rw.elsewhere", Target(OUTSIDE)),
        ("pg-rw.databases.example.com", Target(OUTSIDE)),
        ("None", Target(OUTSIDE)),
    ],
)
def test_a_host_leads_where_a_pod_would_find_it(host: str, target: Target) -> None:
    assert leads_to(host, SERVICES, HOME) == target


def test_services_that_lead_round_and_round_end() -> None:
    assert leads_to("round", SERVICES, HOME).kind == OUTSIDE


@pytest.mark.parametrize(
    ("strategy", "surge"),
    [
        (None, (0, 25)),
        ({"type": "RollingUpdate"}, (0, 25)),
        ({"type": "Recreate"}, (0, 0)),
        ({"rollingUpdate": {"maxSurge": 2}}, (2, 0)),
        ({"rollingUpdate": {"maxSurge": "50%"}}, (0, 50)),
        ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, (0, 0)),
    ],
)
def test_a_rolling_update_runs_more_pods_than_wanted(strategy: dict[str, Any] | None, surge: tuple[int, int]) -> None:
    assert discovery.surge(strategy) == surge


def deployment(replicas: int | None = 3) -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    return {"metadata": {"name": "backend", "namespace": HOME}, "spec": spec}


def autoscaler(name: str, most: int, kind: str = "Deployment") -> dict[str, Any]:
    return {"spec": {"scaleTargetRef": {"kind": kind, "name": name}, "maxReplicas": most}}


def test_the_pods_are_those_of_the_deployment_its_variables_and_the_autoscalers_maximum() -> None:
    settings = ConnectionSettings(pool_variable="POOL", timeout_variable="WAIT", workers=2, startup_pool=10)
    scalers = [autoscaler("backend", 9), autoscaler("other", 30), autoscaler("backend", 40, "StatefulSet")]
    pods, unknown = discovery.app_pods(deployment(), scalers, settings, {"POOL": "20", "WAIT": "5000"})
    assert (pods.replicas, pods.most_replicas, pods.pool, pods.workers, pods.startup_pool) == (3, 9, 20, 2, 10)
    assert (pods.acquire_seconds, pods.surge_of(3), unknown) == (5.0, 1, [])
    assert discovery.app_pods(deployment(None), [], settings, {"POOL": "20", "WAIT": "1"})[0].replicas == 1


@pytest.mark.parametrize("value", [None, "", "many", "0", "-3"])
def test_a_pool_whose_size_is_not_known_is_said_so(value: str | None) -> None:
    settings = ConnectionSettings(pool_variable="POOL", pool=12)
    pods, unknown = discovery.app_pods(deployment(), [], settings, {} if value is None else {"POOL": value})
    assert pods.pool == 12
    assert unknown == ["POOL has no number: a pool is taken to be 12"]


def test_a_poolers_sizes_are_those_it_sets_and_pgbouncers_own() -> None:
    parameters = {
        "default_pool_size": "50",
        "reserve_pool_size": "5",
        "max_db_connections": "60",
        "max_client_conn": "1000",
        "query_wait_timeout": "2min",
        "server_login_retry": "1500ms",
    }
    pooler = {
        "metadata": {"name": "pool"},
        "spec": {"instances": 3, "pgbouncer": {"poolMode": "transaction", "parameters": parameters}},
    }
    found = discovery.pgbouncer(pooler, ["ghcr.io/cloudnative-pg/pgbouncer:1.24.1-15", "sidecar:2.0"])
    assert found == PgBouncer(
        name="pool",
        instances=3,
        surge=1,
        mode="transaction",
        default_pool_size=50,
        reserve_pool_size=5,
        max_db_connections=60,
        max_client_conn=1000,
        query_wait_timeout=120,
        server_login_retry=1.5,
        version=(1, 24),
    )
    bare = discovery.pgbouncer({"metadata": {"name": "pool"}, "spec": {}})
    assert (bare.default_pool_size, bare.max_client_conn, bare.mode, bare.version) == (20, 100, "session", None)


@pytest.mark.parametrize(
    ("users", "replicas"),
    [(500, 6), (1000, 12), (750, 9), (1001, 13)],
    ids=["as said", "twice", "thrice", "rounded up"],
)
def test_replicas_are_as_said_or_in_proportion(users: int, replicas: int) -> None:
    settings = ConnectionSettings(users=250, growth=(GrowthStep(users=500, replicas=6), GrowthStep(users=1000)))
    assert discovery.replicas_for(users, settings, 3) == replicas


def test_nobody_knows_the_replicas_for_more_users_where_todays_are_not_known() -> None:
    settings = ConnectionSettings(growth=(GrowthStep(users=500, replicas=6), GrowthStep(users=1000)))
    assert [discovery.replicas_for(users, settings, 3) for users in (500, 1000)] == [6, None]


def test_an_acquire_timeout_of_the_profile_holds_where_no_variable_says_it() -> None:
    settings = ConnectionSettings(acquire_timeout=timedelta(seconds=7))
    assert discovery.app_pods(deployment(), [], settings, {})[0].acquire_seconds == 7
