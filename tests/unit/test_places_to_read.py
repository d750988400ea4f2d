"""Which replica a drill reads on, and how many sessions verify a copy, by what the Cluster and its pods say."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.steps.checks.sessions import processors
from drillbook.steps.recovery.replicas import replica_of


def cluster(primary: str = "shop-1", **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "shop", "annotations": annotations}, "status": {"currentPrimary": primary}}


def pod(name: str, *, role: str = "replica", ready: str = "True", **metadata: Any) -> dict[str, Any]:
    labels = {"cnpg.io/instanceRole": role} if role else {}
    return {
        "metadata": {"name": name, "labels": labels, **metadata},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }


PRIMARY = pod("shop-1", role="primary")


@pytest.mark.parametrize(
    ("pods", "found", "why"),
    [
        pytest.param([PRIMARY, pod("shop-2"), pod("shop-3")], "shop-2", "", id="the first that is ready"),
        pytest.param([PRIMARY, pod("shop-2", ready="False"), pod("shop-3")], "shop-3", "", id="not one that isn't"),
        pytest.param([PRIMARY], "", "the Cluster has no replica", id="one instance"),
        pytest.param([], "", "the Cluster has no replica", id="no pod"),
        pytest.param([PRIMARY, pod("shop-2", ready="False")], "", "shop-2 is not ready", id="none is ready"),
        pytest.param([PRIMARY, pod("shop-2", role="")], "", "shop-2 has the role none", id="that joins only now"),
        pytest.param([PRIMARY, pod("shop-2", role="primary")], "", "shop-2 has the role primary", id="in a switchover"),
        pytest.param(
            [PRIMARY, pod("shop-2", deletionTimestamp="2026-11-01T12:00:00Z")],
            "",
            "shop-2 is being deleted",
            id="deleted",
        ),
    ],
)
def test_g08_the_replica_that_is_read(pods: list[dict[str, Any]], found: str, why: str) -> None:
    assert replica_of(cluster(), pods) == (found, why)


@pytest.mark.parametrize("fenced", ['["shop-2"]', '["*"]', "no json"])
def test_g08_a_fenced_replica_is_not_read(fenced: str) -> None:
    """Its PostgreSQL is stopped, though its pod runs."""
    assert replica_of(cluster(**{"cnpg.io/fencedInstances": fenced}), [PRIMARY, pod("shop-2")]) == (
        "",
        "shop-2 is fenced",
    )


@pytest.mark.parametrize(
    ("resources", "count"),
    [
        pytest.param({"limits": {"cpu": "4"}}, 4, id="a number"),
        pytest.param({"limits": {"cpu": 2}}, 2, id="written as a number"),
        pytest.param({"limits": {"cpu": "2500m"}}, 2, id="thousandths"),
        pytest.param({"limits": {"cpu": "250m"}}, 1, id="less than one"),
        pytest.param({"limits": {"memory": "1Gi"}}, 6, id="no limit"),
        pytest.param({"requests": {"cpu": "1"}}, 6, id="only a request"),
        pytest.param(None, 6, id="nothing"),
        pytest.param({"limits": {"cpu": "many"}}, 6, id="no number"),
    ],
)
def test_c16_a_copys_processors(resources: dict[str, Any] | None, count: int) -> None:
    """As many as its limit allows; this machine's where it has none."""
    assert processors({"spec": {"resources": resources}}, 6) == count
