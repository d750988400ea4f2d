"""The decision about growth: the plan's own flow, and each option counted with the model."""

from __future__ import annotations

import pytest

from drillbook.connections.options import Option, count, decide
from drillbook.connections.outcomes import Limit
from drillbook.connections.path import AppPods, Path, PgBouncer, Server, Sessions

PODS = AppPods(replicas=3, most_replicas=3, surge=1, pool=20, acquire_seconds=5)
SITE = Server(
    major=16,
    max_connections=200,
    role_limits={"app": 50},
    sessions=(Sessions(role="gitlab", database="gitlab", count=12),),
)
PATH = Path(role="app", database="shop", pods=PODS, server=SITE)


def with_limit(limit: int, most: int = 200) -> Path:
    server = SITE.model_copy(update={"role_limits": {"app": limit}, "max_connections": most})
    return PATH.model_copy(update={"server": server})


@pytest.mark.parametrize(
    ("path", "levels", "consumers", "raised", "option"),
    [
        (with_limit(180), {500: 6}, False, False, Option.KEEP),
        (with_limit(180), {500: 9}, False, True, Option.SMALLER_POOLS),
        (with_limit(180, 400), {1000: 12}, False, True, Option.HIGHER_LIMIT),
        (PATH, {1000: 10}, False, False, Option.SMALLER_POOLS),
        (PATH, {5000: 60}, False, True, Option.HIGHER_LIMIT),
        (PATH, {1000: 10}, True, True, Option.EVENTS_OUTSIDE),
        (PATH, {}, False, False, Option.KEEP),
    ],
    ids=["it fits", "smaller pools fit", "a higher limit fits", "not allowed", "nothing fits", "events", "no growth"],
)
def test_the_flow_of_the_plan_with_the_models_figures(
    path: Path, levels: dict[int, int], consumers: bool, raised: bool, option: Option
) -> None:
    found = decide(path, levels, external_consumers=consumers, limit_can_be_raised=raised)
    assert found.option is option, found.why


def test_a_smaller_pool_alone_does_not_help_the_first_site() -> None:
    found = count(Option.SMALLER_POOLS, PATH, 1000, 10)
    assert (found.steady.demand, found.steady.served, found.steady.limit, found.fits) == (150, 50, Limit.ROLE, False)
    assert found.again_at == 35


def test_a_higher_limit_of_the_role_says_what_it_needs_next() -> None:
    found = count(Option.HIGHER_LIMIT, PATH, 1000, 10)
    assert (found.steady.served, found.steady.limit) == (185, Limit.SLOTS)
    connections, tenants = found.needs
    assert connections.startswith("max_connections 200 leaves 185 for this role (less 3 reserved and 12 of others)")
    assert connections.endswith("315 are needed")
    assert tenants.startswith("a limit for gitlab")
    pooled = PATH.model_copy(update={"pgbouncer": PgBouncer(name="pool", instances=3, default_pool_size=50)})
    assert "3 × 50 = 150" in count(Option.HIGHER_LIMIT, pooled, 1000, 10).needs[-1]
    assert "not measured" in count(Option.EVENTS_OUTSIDE, PATH, 1000, 10).needs[0]
