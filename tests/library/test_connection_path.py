"""The path of an application's connections on a real API server: every way to give an address, and what it leads to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api

from drillbook import kube as k8s
from drillbook.connections.path import Path as ConnectionPath
from drillbook.connections.path import PgBouncer, Server, Sessions
from drillbook.engine.step import CheckStep, Context, NullRecorder
from drillbook.errors import ParameterError, PreconditionError
from drillbook.kube import Kube
from drillbook.model import Check, Verdict
from drillbook.profile import load_site
from drillbook.steps.connections import (
    ComputeLimits,
    DecideOnGrowth,
    DiagnoseError,
    FindPath,
    Headroom,
    LimitsAtGrowth,
    LimitsNow,
    LimitsWhenSomethingFails,
    PoolerOnPath,
    PoolersFit,
    TenantsLimited,
)
from drillbook.steps.connections.limits import Computed
from drillbook.steps.connections.path import FoundPath
from drillbook.steps.connections.server import RoleSeen, ServerSeen
from drillbook_lab.operator import pooler_config

PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: default, name: {name}-db}}
tenants:
  - database: shop
    app_role: app
    application:
      namespace: default
      deployment: {name}
      address_variable: URL
      pooler: "{pooler}"
      connections: {{pool_variable: POOL, timeout_variable: WAIT, {more}}}
  - {{database: wiki, app_role: wiki}}
"""
NUMBERS = count(1)


class Site:
    """A Cluster, its Services and Poolers, and an application, all of names of their own."""

    def __init__(self, api: Api, kube: Kube, folder: Path) -> None:
        self.kube, self._api, self._folder = kube, api, folder
        self.name = f"web{next(NUMBERS)}"
        self._opened: list[Context] = []
        cluster = {"instances": 1, "storage": {"size": "1Gi"}}
        self._create("postgresql.cnpg.io/v1", "Cluster", f"{self.name}-db", cluster)
        for service, role in (("rw", "primary"), ("ro", "replica")):
            selector = {"cnpg.io/cluster": f"{self.name}-db", "cnpg.io/instanceRole": role}
            self.service(f"{self.name}-db-{service}", selector=selector)

    def _create(self, api_version: str, kind: str, name: str, spec: dict[str, Any], **more: Any) -> None:
        meta = {"name": name, "namespace": "default"}
        self.kube.create({"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec, **more})

    def service(self, name: str, **spec: Any) -> None:
        self._create("v1", "Service", name, {"ports": [{"port": 5432}], **spec})

    def pooler(self, suffix: str = "pool", cluster: str = "", **spec: Any) -> str:
        name = f"{self.name}-{suffix}"
        self._create(
            "postgresql.cnpg.io/v1",
            "Pooler",
            name,
            {"cluster": {"name": cluster or f"{self.name}-db"}, "type": "rw", **({"pgbouncer": {}} | spec)},
        )
        self.service(name, selector={"cnpg.io/poolerName": name})
        return name

    def app(self, *env: dict[str, Any], replicas: int = 3, env_from: list[dict[str, Any]] | None = None) -> None:
        labels = {"app": self.name}
        container = {"name": "app", "image": "x", "env": list(env), "envFrom": env_from or []}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        self._create("apps/v1", "Deployment", self.name, spec)

    def config(self, **data: str) -> None:
        place = {"name": self.name, "namespace": "default"}
        self.kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": data})
        self.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": place, "stringData": data})

    def autoscaler(self, most: int) -> None:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": most}
        self._create("autoscaling/v2", "HorizontalPodAutoscaler", self.name, spec)

    def ctx(self, pooler: str = "", more: str = "users: 250") -> Context:
        path = self._folder / f"{self.name}.yaml"
        text = PROFILE.format(kubeconfig=self._api.kubeconfig, name=self.name, pooler=pooler, more=more)
        path.write_text(text, encoding="utf-8")
        made = Context(site=load_site(path), run_id="run", mode="plan", recorder=NullRecorder(), mask=lambda _: None)
        self._opened.append(made)
        return made

    def close(self) -> None:
        for ctx in self._opened:
            ctx.close()


@pytest.fixture
def site(api: Api, kube: Kube, tmp_path: Path) -> Iterator[Site]:
    made = Site(api, kube, tmp_path)
    yield made
    made.close()


def url(host: str) -> dict[str, str]:
    return {"name": "URL", "value": f"jdbc:postgresql://{host}:5432/shop?password=longenough"}


SIZES = ({"name": "POOL", "value": "20"}, {"name": "WAIT", "value": "5000"})


def judged(ctx: Context, step: CheckStep) -> Check:
    (found,) = step.observe(ctx)
    return found


def test_directly_to_the_cluster(site: Site) -> None:
    site.app(url(f"{site.name}-db-rw.default.svc.cluster.local"), *SIZES)
    site.autoscaler(7)
    ctx = site.ctx()
    found = FindPath().do(ctx)
    assert found.leads_to == f"Service default/{site.name}-db-rw → Cluster default/{site.name}-db"
    assert (found.pooler, found.other_is, found.doubts) == (None, "the profile's plan", ())
    assert (found.pods.replicas, found.pods.most_replicas, found.pods.pool, found.pods.acquire_seconds) == (3, 7, 20, 5)
    check = judged(ctx, PoolerOnPath(found))
    assert check.verdict is Verdict.NOT_APPLICABLE and check.observed.startswith("PgBouncer is not on this path")
    assert "longenough" not in found.model_dump_json()


@pytest.mark.parametrize("way", ["its Service", "an alias of one's own"])
def test_through_a_pooler(site: Site, way: str) -> None:
    pooler = site.pooler(instances=2, pgbouncer={"poolMode": "transaction", "parameters": {"default_pool_size": "9"}})
    host = pooler
    if way != "its Service":
        host = f"{site.name}-alias"
        site.service(host, type="ExternalName", externalName=f"{pooler}.default.svc.cluster.local")
    site.app(url(host), *SIZES)
    ctx = site.ctx(pooler=pooler)
    found = FindPath("shop").do(ctx)
    assert found.pooler is not None and (found.pooler.instances, found.pooler.default_pool_size) == (2, 9)
    assert found.other is None
    assert judged(ctx, PoolerOnPath(found)).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("declared", [True, False], ids=["named by the profile", "only there"])
def test_around_a_pooler_that_is_there(site: Site, declared: bool) -> None:
    pooler = site.pooler()
    site.app(url(f"{site.name}-db-rw"), *SIZES)
    ctx = site.ctx(pooler=pooler if declared else "")
    found = FindPath().do(ctx)
    assert found.pooler is None and found.other is not None and found.other.name == pooler
    check = judged(ctx, PoolerOnPath(found))
    assert (check.verdict, check.expected) == (Verdict.FAILED, f"Pooler {pooler}")


def test_through_another_pooler_than_the_profile_names(site: Site) -> None:
    one, two = site.pooler("one"), site.pooler("two")
    site.app(url(one), *SIZES)
    ctx = site.ctx(pooler=two)
    assert judged(ctx, PoolerOnPath(FindPath().do(ctx))).verdict is Verdict.FAILED


@pytest.mark.parametrize("phase", ["failed", "inactive", "paused"])
def test_a_pooler_that_serves_nobody_leaves_its_own_part_unproven(site: Site, phase: str) -> None:
    """The lab's operator says so of every Pooler where the machine has no PgBouncer, with the command that installs it."""
    ctx = site.ctx()
    pooler = site.pooler()
    site.app(url(pooler), *SIZES)
    status = {"status": {"phase": phase, "phaseReason": pooler_config.NO_BINARY}}
    site.kube.patch(k8s.POOLER, "default", pooler, status, subresource="status")
    check = judged(ctx, PoolerOnPath(FindPath().do(ctx)))
    assert (check.verdict, check.required) == (Verdict.UNPROVEN, False)
    assert check.reason == f"Pooler {pooler} is {phase}: {pooler_config.NO_BINARY}"
    assert check.reason.endswith("(sudo apt-get install -y pgbouncer)")


@pytest.mark.parametrize("kind", ["secretRef", "configMapRef"])
def test_an_address_in_another_object(site: Site, kind: str) -> None:
    site.config(URL=f"postgresql://app:longenough@{site.name}-db-rw/shop", POOL="4", WAIT="100")
    site.app(env_from=[{kind: {"name": site.name}}])
    found = FindPath().do(site.ctx())
    assert found.kind == "Cluster" and found.pods.pool == 4
    assert "longenough" not in found.model_dump_json()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ([], "URL is no variable of the Deployment with a text that can be read"),
        (
            [{"name": "URL", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "url"}}}],
            "URL is no variable of the Deployment with a text that can be read",
        ),
        ([{"name": "URL", "value": "jdbc:postgresql://"}], "URL names no host"),
        ([url("db.example.com")], "no Service that is known"),
    ],
    ids=["none", "an object that is not there", "no host", "outside"],
)
def test_an_address_that_can_not_be_followed_is_no_proof(site: Site, env: list[dict[str, Any]], words: str) -> None:
    site.app(*env, *SIZES)
    ctx = site.ctx()
    found = FindPath().do(ctx)
    assert found.leads_to == words
    check = judged(ctx, PoolerOnPath(found))
    assert check.verdict is Verdict.UNPROVEN and words in check.reason


def test_a_pooler_of_another_cluster_and_replicas_are_doubts(site: Site) -> None:
    other = site.pooler("other", cluster="another-db")
    site.app({"name": "URL", "value": f"postgresql://{other},{other}/shop"}, *SIZES)
    found = FindPath().do(site.ctx())
    assert any("is no Pooler of Cluster" in doubt for doubt in found.doubts)


def test_several_hosts_that_part_ways_are_said(site: Site) -> None:
    site.app({"name": "URL", "value": f"postgresql://{site.pooler()},{site.name}-db-rw/shop"}, *SIZES)
    found = FindPath().do(site.ctx())
    assert found.kind == "unknown" and "several hosts that lead to different places" in found.leads_to


def test_what_the_profile_or_the_cluster_lacks_is_said(site: Site) -> None:
    with pytest.raises(ParameterError, match="'wiki' has no application in the profile"):
        FindPath("wiki").do(site.ctx())
    with pytest.raises(PreconditionError, match="does not exist"):
        FindPath().do(site.ctx())


# -- the checks, on values ----------------------------------------------------------------------------------------


def seen(limit: int = 50, own: int = 10, **others: int) -> ServerSeen:
    """A server with the application's role and others, each with so many sessions and no limit, unless named wiki."""
    limits = {"app": limit, "wiki": 30}
    roles = (RoleSeen(role="app", superuser=False, limit=limit, sessions=own),)
    roles += (RoleSeen(role="wiki", superuser=False, limit=30, sessions=0),)
    roles += tuple(RoleSeen(role=role, superuser=False, limit=-1, sessions=count) for role, count in others.items())
    sessions = tuple(Sessions(role=role, database=role, count=count) for role, count in others.items())
    server = Server(major=16, max_connections=200, role_limits=limits, sessions=sessions)
    return ServerSeen(server=server, roles=roles, own=own)


def computed(site: Site, ctx: Context, server: ServerSeen, **update: Any) -> tuple[FoundPath, Computed]:
    site.app(url(f"{site.name}-db-rw"), *SIZES)
    found = FindPath().do(ctx)
    pods = found.pods.model_copy(update=update.pop("pods", {}))
    found = found.model_copy(update={"pods": pods, **update})
    return found, ComputeLimits(found, server).do(ctx)


def test_each_check_fails_on_the_first_sites_numbers(site: Site) -> None:
    ctx = site.ctx()
    server = seen(own=40, gitlab=20)
    planned = PgBouncer(name="plan", instances=3, default_pool_size=50, mode="transaction")
    found, limits = computed(site, ctx, server, other=planned)
    for step in (
        LimitsNow(limits),
        LimitsWhenSomethingFails(limits),
        Headroom(limits, server),
        PoolersFit(limits),
        TenantsLimited(limits, server),
    ):
        assert judged(ctx, step).verdict is Verdict.FAILED, step
    growth = LimitsAtGrowth(limits).observe(ctx)
    assert [item.name for item in growth] == [f"limits at {users} users" for users in ("500", "1,000", "5,000")]
    assert all(item.verdict is Verdict.FAILED for item in growth)
    decided = DecideOnGrowth(found, limits).do(ctx)
    assert dict(decided.rows())["decision"] == "A: a smaller pool in each pod"
    card = limits.card()
    assert card["text/html"].count("<rect") > 10 and "binds" in card["text/html"]
    assert "Role 40 of 50 BINDS" in card["text/plain"]


def test_each_check_is_silent_where_there_is_room(site: Site) -> None:
    ctx = site.ctx(more="users: 250, growth: [{users: 500}]")
    server = seen(limit=190, own=40)
    fitting = PgBouncer(name="plan", instances=3, surge=1, default_pool_size=40, mode="transaction")
    _, limits = computed(site, ctx, server, other=fitting, pods={"pool": 10})
    for step in (
        LimitsNow(limits),
        LimitsWhenSomethingFails(limits),
        LimitsAtGrowth(limits),
        Headroom(limits, server),
        PoolersFit(limits),
        TenantsLimited(limits, server),
    ):
        assert judged(ctx, step).verdict is Verdict.VERIFIED, judged(ctx, step)
    assert limits.card()["text/plain"].startswith(
        "Directly to PostgreSQL: the path that is taken: Application 40 of 30 BINDS"
    )


def test_without_the_number_of_users_growth_is_not_judged(site: Site) -> None:
    ctx = site.ctx(more="workers: 1")
    _, limits = computed(site, ctx, seen())
    check = judged(ctx, LimitsAtGrowth(limits))
    assert check.verdict is Verdict.UNPROVEN and "neither today's users" in check.reason


def test_a_spread_that_chance_can_make_is_a_failure_too(site: Site) -> None:
    ctx = site.ctx()
    narrow = PgBouncer(name="pool", instances=3, default_pool_size=28, max_client_conn=1000, mode="transaction")
    _, limits = computed(site, ctx, seen(limit=190), pooler=narrow, other=None)
    check = judged(ctx, LimitsNow(limits))
    assert check.verdict is Verdict.FAILED and "only" in check.observed
    assert isinstance(limits.path, ConnectionPath)


@pytest.mark.parametrize(
    ("error", "pooled", "cause"),
    [
        ('FATAL: too many connections for role "app" (SQLSTATE 53300)', False, "no pooler on the path"),
        ('FATAL: too many connections for role "app"', True, "role's limit"),
        ("ERROR 53300 in another language", True, "role's limit"),
        ("HikariPool-1 - Connection is not available, request timed out after 5000ms.", True, "role's limit"),
        ("no more connections allowed (max_client_conn)", True, "pooler's clients"),
        ("no route to host", True, "unknown"),
        ("", True, ""),
    ],
)
def test_an_error_from_a_log_is_diagnosed_with_what_is_full(site: Site, error: str, pooled: bool, cause: str) -> None:
    pooler = site.pooler()
    site.app(url(pooler if pooled else f"{site.name}-db-rw"), *SIZES)
    ctx = site.ctx()
    found = DiagnoseError(FindPath().do(ctx), seen(limit=50, own=50, gitlab=20), error).do(ctx)
    rows = dict(found.rows())
    assert rows.get("cause", "") == cause, rows
