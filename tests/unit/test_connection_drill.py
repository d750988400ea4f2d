"""The parts of the load drill that need no server: objects, what the exporter says, parameters, and how it is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.connections.findings import Curve
from drillbook.engine.parameters import faults_of
from drillbook.manifests import pooler
from drillbook.manifests.recovery import RUN_LABEL, Copy
from drillbook.model import ClusterRef
from drillbook.report import load
from drillbook.steps.connections.load_run import processors
from drillbook.steps.connections.pooler_watch import PoolerSeen, pools

COPY = Copy.of(ClusterRef(namespace="drills", name="shop-20260101000000"), "run-1")


def test_c15_pooler_and_policy_are_the_runs_own_and_go_with_it() -> None:
    made = [
        pooler.pooler(COPY, pool_size=7, clients=99, owner_uid="u"),
        pooler.load_policy(COPY, namespace="drillbook", owner_uid="u"),
    ]
    for item in made:
        metadata = item["metadata"]
        assert metadata["labels"][RUN_LABEL] == "run-1" and metadata["namespace"] == "drills"
        assert metadata["ownerReferences"][0] | {"uid": "u"} == metadata["ownerReferences"][0]
    parameters = made[0]["spec"]["pgbouncer"]["parameters"]
    assert parameters == {"default_pool_size": "7", "max_db_connections": "7", "max_client_conn": "99"}
    policy = made[1]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"cnpg.io/cluster": COPY.ref.name}
    assert {port["port"] for rule in (*policy["ingress"], *policy["egress"]) for port in rule["ports"]} == {5432}


TEXT = """\
# HELP cnpg_pgbouncer_pools_cl_waiting SHOW POOLS: cl_waiting.
cnpg_pgbouncer_pools_cl_waiting{database="shop",user="shop_app"} 3
cnpg_pgbouncer_pools_cl_waiting{database="shop",user="other"} 1
cnpg_pgbouncer_pools_cl_waiting{database="else",user="shop_app"} 50
cnpg_pgbouncer_pools_sv_active{database="shop",user="shop_app"} 9
cnpg_pgbouncer_pools_maxwait{database="shop",user="shop_app"} 1
cnpg_pgbouncer_pools_maxwait_us{database="shop",user="shop_app"} 500000
"""


def test_c15_the_most_that_the_pooler_shows_is_kept() -> None:
    seen = pools(TEXT, 'database="shop"', PoolerSeen())
    assert (seen.looks, seen.waiting, seen.active, seen.longest_wait) == (1, 4, 9, 1.5)
    calm = pools(TEXT.replace("} 3", "} 0"), 'database="shop"', seen)
    assert (calm.looks, calm.waiting) == (2, 4) and "4 clients waited" in str(calm)


@pytest.mark.parametrize("text", ["", "cnpg_pgbouncer_lists_databases 2\n", TEXT.replace("shop", "another")])
def test_c15_a_pooler_that_shows_nothing_is_not_read(text: str) -> None:
    seen = pools(text, 'database="shop"', PoolerSeen())
    assert seen.unread and "not read" in str(seen)


@pytest.mark.parametrize(("quantity", "count"), [("", 0), ("500m", 1), ("2500m", 3), ("4", 4), ("1.5", 2)])
def test_c15_processors_of_a_limit(quantity: str, count: int) -> None:
    assert processors(quantity) == count


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, 0) for name in ("pods", "baseline_pool", "candidate_pool", "pooler_size", "rate", "block_seconds")),
        ("pairs", 5),
        ("hold_ms", -1),
        ("seed", "x"),
        ("rate", 1.5),
        ("pods", True),
    ],
)
def test_c15_every_faulty_parameter_is_named(name: str, wrong: Any) -> None:
    (fault,) = faults_of({name: wrong})
    assert fault.startswith(f"{name}: ") and "whole number" in fault
    assert len(faults_of({name: wrong, "timeout_seconds": 0})) == 2


@pytest.mark.parametrize(
    ("knee", "modelled", "holds"),
    [(4, 4, True), (4, 5, True), (4, 6, False), (10, 12, True), (9, 12, False), (None, None, True), (None, 3, False)],
)
def test_c15_a_knee_holds_within_one_connection_or_a_fifth(knee: int | None, modelled: int | None, holds: bool) -> None:
    found = Curve(points=(), pods=1, rate=1, holding_seconds=1, knee=knee, modelled_knee=modelled, assumption="")
    assert found.holds is holds


def _curve(**changes: Any) -> dict[str, Any]:
    point = {"p95_ms": 40.0, "modelled_p95_ms": 45.0, "throughput": 100.0, "modelled_throughput": 110.0, "timeouts": 0}
    drawn = {
        "pods": 2,
        "rate": 80.0,
        "holding_ms": 21.0,
        "knee": 3,
        "modelled_knee": 3,
        "holds": True,
        "assumption": "",
        "pooler": "",
        "points": [{**point, "pool": pool} for pool in (2, 3, 4)],
    }
    return drawn | changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"knee": None, "modelled_knee": None},
        {"points": _curve()["points"][:1]},
        {"points": [{**_curve()["points"][0], "modelled_p95_ms": None, "p95_ms": 0.0, "throughput": 0.0}]},
        {"holds": False, "assumption": "nobody queues behind the pool: 7 clients <waited>"},
    ],
)
def test_c15_every_curve_is_drawn_and_said_in_words(changes: dict[str, Any]) -> None:
    data = _curve(**changes)
    html = load.curve_html(data)
    assert html.count("<svg") == 2 and "NaN" not in html and "inf" not in html and "<waited>" not in html
    words = "\n".join(load.curve_words(data))
    assert ("does not hold" in words) is (not data["holds"]) and ("does not hold" in html) is (not data["holds"])
