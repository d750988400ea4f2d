"""The limits on a path by hand: the first site's own numbers, uneven instances, and what a number hides."""

from __future__ import annotations

import pytest

from drillbook.connections.limits import Judged, Moment, binding, judge, pooled_servers, room, rows
from drillbook.connections.outcomes import Limit, Way
from drillbook.connections.path import AppPods, Path, PgBouncer, Server, Sessions

PODS = AppPods(replicas=3, most_replicas=3, surge=1, pool=20, acquire_seconds=5)
SITE = Server(
    major=16,
    max_connections=200,
    role_limits={"app": 50},
    sessions=(
        Sessions(role="gitlab", database="gitlab", count=12),
        Sessions(role="harbor", database="harbor", count=8),
    ),
)
DIRECT = Path(role="app", database="shop", pods=PODS, server=SITE)
POOLER = PgBouncer(
    name="shop-pooler",
    instances=3,
    surge=1,
    mode="transaction",
    default_pool_size=50,
    max_db_connections=50,
    max_client_conn=1000,
)
POOLED = DIRECT.model_copy(update={"pgbouncer": POOLER})


def at(judged: list[Judged], moment: Moment) -> Judged:
    return next(item for item in judged if item.moment is moment)


@pytest.mark.parametrize("path", [DIRECT, POOLED], ids=["direct", "pooled"])
def test_d12_the_seeds_own_numbers_break_at_the_role(path: Path) -> None:
    steady = at(judge(path), Moment.STEADY)
    assert (steady.demand, steady.served, steady.limit) == (60, 50, Limit.ROLE)
    assert steady.breaks and steady.headroom == 35 - 60


def test_d12_option_a_breaks_too() -> None:
    option = DIRECT.model_copy(update={"pods": PODS.model_copy(update={"pool": 15})})
    steady = at(judge(option, replicas=10), Moment.STEADY)
    assert (steady.demand, steady.served, steady.limit, steady.breaks) == (150, 50, Limit.ROLE, True)


def test_d12_option_b_alone_moves_the_limit_to_the_cluster() -> None:
    raised = SITE.model_copy(update={"role_limits": {"app": 300}})
    steady = at(judge(DIRECT.model_copy(update={"server": raised}), replicas=10), Moment.STEADY)
    assert (steady.demand, steady.served, steady.limit) == (200, 197 - 20, Limit.SLOTS)


def test_d12_the_poolers_sum_is_over_its_instances() -> None:
    assert pooled_servers(POOLER) == 150
    assert pooled_servers(POOLER, pairs=2) == 300


def test_a_third_instance_is_starved_and_refuses_while_the_others_queue() -> None:
    found = room(POOLED)
    assert found.first is not None and (found.first.way, found.first.text) == (Way.QUEUED, "query_wait_timeout")
    assert found.starved is not None and found.starved.way is Way.REFUSED
    assert found.starved.text == 'too many connections for role "app"'


def test_one_instance_can_be_full_while_the_others_are_free() -> None:
    narrow = POOLER.model_copy(update={"default_pool_size": 16, "max_db_connections": 0})
    found = room(POOLED.model_copy(update={"pgbouncer": narrow}))
    assert (found.evenly, found.worst, found.limit) == (48, 16, Limit.POOL)
    assert found.unluckily is not None and 16 < found.unluckily < 48


def test_enough_room_makes_the_applications_own_pools_the_narrowest_place() -> None:
    few = DIRECT.model_copy(update={"pods": PODS.model_copy(update={"pool": 8, "surge": 0})})
    steady = at(judge(few), Moment.STEADY)
    assert (steady.demand, steady.limit, steady.breaks, steady.headroom) == (24, Limit.APP_POOL, False, 11)
    assert steady.outcome.text == "Connection is not available, request timed out after 5000ms"


@pytest.mark.parametrize(
    ("pods", "moment", "demand"),
    [
        (PODS, Moment.ROLLOUT, 80),
        (PODS.model_copy(update={"startup_pool": 10}), Moment.ROLLOUT, 90),
        (PODS.model_copy(update={"workers": 2}), Moment.STEADY, 120),
        (PODS.model_copy(update={"most_replicas": 6}), Moment.AUTOSCALED, 140),
        (PODS.model_copy(update={"surge": 0, "surge_percent": 50}), Moment.ROLLOUT, 100),
        (PODS, Moment.FAILOVER, 60),
    ],
    ids=["surge", "migration", "workers", "autoscaler", "surge as a share", "failover"],
)
def test_what_is_wanted_is_the_most_that_may_come(pods: AppPods, moment: Moment, demand: int) -> None:
    assert at(judge(DIRECT.model_copy(update={"pods": pods})), moment).demand == demand


def test_after_a_failover_other_tenants_may_take_what_their_limits_allow() -> None:
    limits = {"app": 100, "gitlab": 120}
    path = DIRECT.model_copy(update={"server": SITE.model_copy(update={"role_limits": limits})})
    assert at(judge(path), Moment.STEADY).served == 100
    failover = at(judge(path), Moment.FAILOVER)
    assert (failover.served, failover.limit) == (197 - 120 - 8, Limit.APP_POOL)


def test_a_pooler_that_is_updated_has_one_instance_more_and_one_that_is_lost_one_less() -> None:
    narrow = POOLER.model_copy(update={"default_pool_size": 10, "max_db_connections": 0})
    judged = judge(POOLED.model_copy(update={"pgbouncer": narrow}))
    assert at(judged, Moment.POOLER_ROLLOUT).served == 40
    assert at(judged, Moment.POOLER_LOST).served == 20
    assert binding(judged).moment is Moment.ROLLOUT


def test_each_limit_is_listed_with_its_own_way_of_failing() -> None:
    table = {row.limit: row for row in rows(POOLED, sessions=30)}
    assert {limit: row.admits for limit, row in table.items()} == {
        Limit.APP_POOL: 60,
        Limit.CLIENTS: 3000,
        Limit.POOL: 150,
        Limit.POOLER_DATABASE: 150,
        Limit.POOLER_USER: None,
        Limit.ROLE: 50,
        Limit.SLOTS: 197 - 20,
        Limit.DATABASE: None,
    }
    assert table[Limit.ROLE].ceiling == 35
    assert table[Limit.SLOTS].used == 50
    refused = table[Limit.CLIENTS].outcome
    assert refused is not None and (refused.way, refused.sqlstate) == (Way.REFUSED, "08P01")


@pytest.mark.parametrize(
    ("pooler", "cap"),
    [
        (PgBouncer(name="p"), 20),
        (PgBouncer(name="p", reserve_pool_size=5), 25),
        (PgBouncer(name="p", reserve_pool_size=5, reserve_pool_timeout=0), 20),
        (PgBouncer(name="p", max_db_connections=7), 7),
        (PgBouncer(name="p", max_user_connections=6, max_db_connections=7), 6),
        (PgBouncer(name="p", default_pool_size=0, max_db_connections=9, version=(1, 24)), 9),
        (PgBouncer(name="p", default_pool_size=0, version=(1, 18)), 1),
    ],
)
def test_what_an_instance_opens_for_a_pair_is_the_smallest_of_its_sizes(pooler: PgBouncer, cap: int) -> None:
    assert pooler.most_of_a_pair == cap
