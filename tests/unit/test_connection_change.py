"""A change of connections on paper: what it sets, whether it fits, the canary alongside the others, and each threshold."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.connections import change as changing
from drillbook.connections.change import CLUSTER, DEPLOYMENT, POOLER, ObjectSeen, Setting
from drillbook.connections.comparison import Decision
from drillbook.connections.path import AppPods, Path, PgBouncer, Server
from drillbook.connections.watching import Burst, Gauges, Look, PodSeen, Share, Watch, gauges
from drillbook.kube import workloads
from drillbook.manifests import canary

POOL = "POOL_SIZE"


def app(**spec: Any) -> dict[str, Any]:
    labels = {"app": "shop"}
    env = [{"name": POOL, "value": "20"}, {"name": "URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}]
    containers = [{"name": "proxy", "image": "p"}, {"name": "web", "image": "w", "env": env}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "shop",
            "namespace": "apps",
            "uid": "u1",
            "labels": {"app": "shop", "app.kubernetes.io/instance": "shop"},
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:apps/shop"},
        },
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
            **spec,
        },
    }


def setting(key: str, before: Any, after: Any, kind: str = DEPLOYMENT, place: str = "web") -> Setting:
    return Setting(kind=kind, namespace="apps", name="shop", place=place, key=key, before=before, after=after)


def patched(obj: dict[str, Any], *settings: Setting) -> dict[str, Any]:
    """The Deployment after the merge patch: of what it sets, lists are whole."""
    inside = changing.patch(obj, settings)["spec"]["template"]["spec"]
    template = {**obj["spec"]["template"], "spec": {**obj["spec"]["template"]["spec"], **inside}}
    return {**obj, "spec": {**obj["spec"], "template": template}}


@pytest.mark.parametrize(
    ("key", "after"),
    [
        (POOL, {"name": POOL, "value": "15"}),
        ("URL", {"name": "URL", "value": "plain"}),  # it referred to a Secret before
        ("NEW", {"name": "NEW", "value": "1"}),  # it was not there
    ],
)
def test_a_variable_is_set_in_its_container_alone_and_the_way_back_is_exact(key: str, after: dict[str, str]) -> None:
    obj = app()
    empty = setting(key, None, None)
    one = setting(key, changing.current(obj, empty), after)
    changed = patched(obj, one)
    assert changing.current(changed, one) == after
    assert changed["spec"]["template"]["spec"]["containers"][0] == {"name": "proxy", "image": "p"}
    assert patched(changed, one.reversed) == obj


def test_a_roles_limit_and_a_poolers_parameter_leave_their_neighbours_alone() -> None:
    roles = [{"name": "other", "connectionLimit": 5}, {"name": "shop", "login": True}]
    cluster = {"spec": {"managed": {"roles": roles}}}
    limit = setting("connectionLimit", None, 80, CLUSTER, "shop")
    after = changing.patch(cluster, [limit])["spec"]["managed"]["roles"]
    assert after == [roles[0], {**roles[1], "connectionLimit": 80}]
    assert (
        changing.patch({"spec": {"managed": {"roles": after}}}, [limit.reversed])["spec"]["managed"]["roles"] == roles
    )
    size = setting("default_pool_size", None, "30", POOLER, "")
    assert changing.patch({}, [size.reversed]) == {"spec": {"pgbouncer": {"parameters": {"default_pool_size": None}}}}


def test_pairs_that_are_none_are_all_named() -> None:
    faults: list[str] = []
    assert changing.given("A=1, B=2\nC=", "variables", faults) == {"A": "1", "B": "2", "C": ""} and not faults
    changing.given("A=1 =2 word A=3", "variables", faults)
    assert faults == [
        "variables: '=2' is no NAME=VALUE",
        "variables: 'word' is no NAME=VALUE",
        "variables: A is given twice",
    ]


def path(pool: int, limit: int = 50, *, replicas: int = 3, most: int = 3, pgbouncer: PgBouncer | None = None) -> Path:
    return Path(
        role="shop",
        database="shop",
        pods=AppPods(replicas=replicas, most_replicas=most, surge_percent=25, pool=pool),
        server=Server(major=16, max_connections=200, role_limits={"shop": limit}),
        pgbouncer=pgbouncer,
    )


def test_what_does_not_fit_after_the_change_is_refused_at_every_moment() -> None:
    faults, told = changing.misfits(path(20), [path(15)], canary=True)
    assert len(faults) == 1 and faults[0].startswith("rolling update of the application: 60 wanted, 50 served; role's")
    assert any(line.startswith("steady: 45 wanted, 50 served") for line in told)
    assert changing.misfits(path(20), [path(12)], canary=True)[0] == []
    assert len(changing.misfits(path(20), [path(18)], canary=True)[0]) == 2, "steady and rolling, both at once"


def test_the_autoscalers_maximum_counts() -> None:
    faults, _ = changing.misfits(path(12), [path(10, most=6)], canary=True)
    assert [fault.partition(":")[0] for fault in faults] == ["autoscaler's maximum, and a rolling update then"]


def test_a_path_that_is_too_narrow_today_can_still_be_made_better() -> None:
    # 60 are wanted of 50 today, 80 in a rolling update: one pod more with a pool of 12 is no worse than that.
    assert changing.misfits(path(20), [path(12)], canary=True)[0] == []


def test_one_pod_more_is_refused_where_no_rolling_update_ever_runs_one_more() -> None:
    now, then = (
        one.model_copy(update={"pods": one.pods.model_copy(update={"surge_percent": 0})})
        for one in (path(16), path(15))
    )
    faults, _ = changing.misfits(now, [then], canary=True)
    assert faults == [
        "the canary alongside the others: 63 wanted, 50 served; an ordinary rolling update wants 48 today"
    ]


def test_a_limit_that_is_lowered_before_the_pools_is_refused_in_between() -> None:
    faults, _ = changing.misfits(path(12), [path(12, 30), path(5, 30)], canary=True)
    assert any(fault.startswith("in between") for fault in faults)


def test_the_parameters_of_a_pooler_are_counted_over_its_instances() -> None:
    pooler = {"metadata": {"name": "p"}, "spec": {"instances": 3, "pgbouncer": {"parameters": {}}}}
    small = PgBouncer(name="p", instances=3, default_pool_size=5, max_client_conn=100)
    size = setting("default_pool_size", "5", "16", POOLER, "")
    found = changing.resized(path(10, pgbouncer=small), pooler, [size], pool=POOL, timeout="")
    assert found.pgbouncer is not None and found.pgbouncer.most_of_a_pair == 16
    assert changing.resized(path(10), pooler, [size], pool=POOL, timeout="").pgbouncer is None


def test_the_sum_over_a_poolers_instances_must_fit_also_where_it_is_not_on_the_path() -> None:
    parameters = {"default_pool_size": "10"}
    pooler = {"metadata": {"name": "p"}, "spec": {"instances": 3, "pgbouncer": {"parameters": parameters}}}
    server = path(10).server
    size = setting("default_pool_size", "10", "16", POOLER, "")
    assert changing.starved(changing.sized(pooler, []), server, "shop", "shop") == ""
    why = changing.starved(changing.sized(pooler, [size]), server, "shop", "shop")
    assert "3 instances, 1 more in its own rolling update" in why and "are 64; the role's limit leaves 50" in why


def test_the_canary_has_the_pods_labels_and_a_selector_that_meets_no_other_pod() -> None:
    obj = app()
    one = setting(POOL, obj["spec"]["template"]["spec"]["containers"][1]["env"][0], {"name": POOL, "value": "12"})
    made = canary.canary(obj, changing.patch(obj, [one]), "20261129T022212Z-ad22ac")
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert obj["spec"]["selector"]["matchLabels"].items() <= labels.items(), "the same Services send to it"
    selector = made["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert not selector.items() <= obj["spec"]["template"]["metadata"]["labels"].items()
    assert made["spec"]["replicas"] == 1 and "annotations" not in made["metadata"]
    assert set(made["metadata"]["labels"]) == {canary.CANARY, "drillbook.io/run"}, "no other controller knows it"
    assert changing.current(made, one) == {"name": POOL, "value": "12"}
    assert obj == app(), "what it was made of is as it was"
    assert canary.services(obj, [{"metadata": {"name": "s"}, "spec": {"selector": {"app": "shop"}}}]) == ["s"]
    assert canary.services(made, [{"metadata": {"name": "s"}, "spec": {"selector": {"app": "shop"}}}]) == ["s"]


def test_k15_a_deployment_that_selects_by_expressions_alone_has_its_own_pods_only() -> None:
    expressions = [
        {"key": "app", "operator": "In", "values": ["shop", "store"]},
        {"key": "tier", "operator": "NotIn", "values": ["batch"]},
        {"key": "team", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    text = workloads.selector_text({"matchExpressions": expressions})
    assert text == "app in (shop,store),tier notin (batch),team,!old"
    assert workloads.selector_text({"matchLabels": {"b": "2", "a": "1"}}) == "a=1,b=2"


@pytest.mark.parametrize("name", ["shop", "a" * 63, "shop-" + "b" * 40])
def test_the_canarys_name_leaves_room_for_its_pods_and_differs_between_runs(name: str) -> None:
    one, two = canary.name_of(name, "20261129T022212Z-ad22ac"), canary.name_of(name, "20261129T022212Z-ad22ad")
    assert len(one) <= 40 and one != two and one == one.lower()


def with_inside(**inside: Any) -> dict[str, Any]:
    obj = app()
    obj["spec"]["template"]["spec"] |= inside
    return obj


@pytest.mark.parametrize(
    ("obj", "word"),
    [
        (app(replicas=0), "scaled to 0"),
        (app(paused=True), "paused"),
        (app(strategy={"type": "Recreate"}), "Recreate"),
        (with_inside(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "files"}}]), "files"),
        (with_inside(containers=[{"name": "web", "ports": [{"hostPort": 80}]}]), "hostPort 80"),
    ],
)
def test_a_deployment_that_no_second_one_can_stand_beside_is_refused(obj: dict[str, Any], word: str) -> None:
    assert canary.faults(app()) == []
    assert [fault for fault in canary.faults(obj) if word in fault]


@pytest.mark.parametrize(
    "change",
    [
        lambda obj: obj["spec"].update(replicas=4),
        lambda obj: obj["metadata"]["labels"].update(team="a"),
        lambda obj: obj["metadata"]["annotations"].update(note="b"),
        lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image="q"),
    ],
)
def test_as_before_means_every_field_that_somebody_declares(change: Any) -> None:
    obj = app()
    before = ObjectSeen.of(obj)
    obj["status"] = {"replicas": 3}
    obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "7"
    assert ObjectSeen.of(obj) == before
    change(obj)
    assert ObjectSeen.of(obj).digest != before.digest


# -- thresholds ------------------------------------------------------------------------------------------------------


def well(**gauge: float) -> PodSeen:
    values: dict[str, float] = {"active": 1, "most": 12, "requests": 100}
    return PodSeen(pod="new", gauges=Gauges(**(values | gauge)))


def burst(seconds: float, failed: int = 0) -> Burst:
    return Burst(latencies=(seconds,) * 20, failed=failed)


def watched(**worse: Any) -> Watch:
    """Ten looks at a healthy pod, but for what is worse."""
    watch = Watch(compared=True, counted=True)
    for number in range(10):
        watch.add(
            Look(
                pods=worse.get("pods", lambda n: (well(requests=100 + 50 * n),))(number),
                stuck=worse.get("stuck", {}),
                stuck_elsewhere=worse.get("elsewhere", 0),
                shares=worse.get("shares", (Share(limit="the role's limit", used=30, size=50, expected=42),)),
            )
        )
        watch.use([Gauges(active=worse.get("active", 4), most=12)])
        noise = 1 + 0.1 * (number % 3)
        watch.pair(burst(0.010 * noise), worse.get("burst", burst(0.011 * noise)))
    return watch


def test_a_healthy_pod_keeps_every_threshold() -> None:
    watch = watched()
    assert watch.missed == []
    assert {one.decision for one in watch.criteria} == {Decision.ACCEPTED}, watch.criteria


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"pods": lambda _: (PodSeen(pod="new", unwell="HTTP 503"),)}, "health"),
        ({"pods": lambda n: (PodSeen(pod="new", restarts=1 if n > 4 else 0),)}, "restarts"),
        ({"pods": lambda n: (well(timeouts=n, requests=100 + 50 * n),)}, "timeouts and errors"),
        ({"pods": lambda n: (well(failed=n, requests=100 + 50 * n),)}, "timeouts and errors"),
        ({"burst": burst(0.011, failed=1)}, "timeouts and errors"),
        ({"active": 12}, "pool saturation"),
        ({"stuck": {"new": 2}}, "leaked connections"),
        ({"stuck": {"new": 4}, "elsewhere": 1}, "leaked connections"),
        ({"burst": burst(0.070)}, "latency alongside an unchanged pod"),
        ({"burst": burst(0.300)}, "probe latency"),
        ({"shares": (Share(limit="max_connections", used=150, size=197, expected=100),)}, "use of max_connections"),
    ],
)
def test_k15_each_threshold_is_missed_by_what_it_is_for(worse: dict[str, Any], missed: str) -> None:
    assert missed in [line.partition(":")[0] for line in watched(**worse).missed]


@pytest.mark.parametrize(
    "bearable",
    [
        {"pods": lambda n: (PodSeen(pod="new", unwell="HTTP 503") if n == 4 else well(),)},  # one look
        {"stuck": {"new": 1}},
        {"stuck": {"new": 3}, "elsewhere": 2},
        {"burst": burst(0.016)},  # the few milliseconds that a smaller pool was expected to cost
        {"shares": (Share(limit="max_connections", used=150, size=197, expected=155),)},  # mostly others', as before
    ],
)
def test_k15_a_threshold_is_silent_on_what_it_is_not_for(bearable: dict[str, Any]) -> None:
    assert watched(**bearable).missed == []


def test_k15_a_request_that_gets_lost_once_or_at_both_pods_ends_no_watch() -> None:
    for lost in ((burst(0.01), burst(0.01, failed=2)), *[(burst(0.01, failed=4), burst(0.01, failed=4))] * 3):
        watch = Watch(compared=True, counted=True)
        watch.add(Look(pods=(well(),)))
        watch.pair(*lost)
        assert watch.missed == []
    watch.pair(burst(0.01), burst(0.01, failed=3))
    assert [line.partition(":")[0] for line in watch.missed] == ["timeouts and errors"]


def test_too_few_bursts_decide_nothing() -> None:
    watch = Watch(compared=True, counted=True)
    watch.add(Look(pods=(well(),)))
    watch.pair(burst(0.01), burst(1.0))
    assert watch.missed == []
    assert Decision.UNPROVEN in {one.decision for one in watch.criteria}


def test_gauges_are_read_by_hikaris_names_and_several_pools_count_together() -> None:
    found = gauges(
        {
            'hikaricp_connections_active{pool="a"}': 3,
            'hikaricp_connections_active{pool="b"}': 1,
            'hikaricp_connections_max{pool="a"}': 10,
            'hikaricp_connections_max{pool="b"}': 5,
            'hikaricp_connections_timeout_total{pool="a"}': 2,
            'http_server_requests_seconds_count{method="GET",status="200"}': 90,
            'http_server_requests_seconds_count{method="GET",status="503"}': 10,
        }
    )
    assert found == Gauges(active=4, most=15, timeouts=2, requests=100, failed=10)
    assert gauges({"process_cpu_usage": 1.0}) is None
