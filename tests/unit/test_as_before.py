"""What a run has held, paused or suspended, as it was before: from its own promises, in a real journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drillbook.engine import undo
from drillbook.engine.observations import Observations
from drillbook.engine.step import Context
from drillbook.evidence import Masker
from drillbook.evidence.facts import TenantLoss
from drillbook.profile import load_site
from drillbook.steps.archive.losses import to_tell

PROFILE = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants:
  - {database: shop, app_role: shop_app}
  - {database: wiki, app_role: wiki_app}
"""


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    told = Observations(tmp_path, Masker())
    return Context(
        site=load_site(path), run_id="20261101T101500Z-1a2b3c", mode="apply", recorder=told, mask=told.masker.register
    )


def thing(kind: str, name: str, spec: Mapping[str, Any], uid: str = "u-1") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"namespace": "databases", "name": name, "uid": uid}, "spec": dict(spec)}


@pytest.mark.parametrize(
    ("kind", "was", "patch"),
    [
        (
            "Cluster",
            {"instances": 3, "backup": {"retentionPolicy": "30d"}},
            {"spec": {"backup": {"retentionPolicy": None}}},
        ),
        ("Pooler", {"pgbouncer": {"poolMode": "session"}}, {"spec": {"pgbouncer": {"paused": True}}}),
        ("ScheduledBackup", {"schedule": "0 0 2 * * *", "suspend": False}, {"spec": {"suspend": True}}),
        ("Deployment", {"replicas": 3}, {"spec": {"replicas": 0}}),
    ],
)
def test_what_the_run_has_changed_is_as_it_was(
    ctx: Context, kind: str, was: dict[str, Any], patch: dict[str, Any]
) -> None:
    old = thing(kind, "shop", was)
    promise = undo.restoration(old, patch, "held")
    ctx.recorder.obligation(promise)
    now = undo.merged(old, patch)
    assert now != old and undo.before(ctx, now) == old

    for other in (thing(kind, "other", now["spec"]), thing(kind, "shop", now["spec"], uid="u-2")):
        assert undo.before(ctx, other) == other, "nothing was promised of it"
    ctx.recorder.settled(promise, "put back", "")
    assert undo.before(ctx, now) == now, "it is not this run's any more"


def test_the_first_of_several_changes_knows_the_oldest_value(ctx: Context) -> None:
    old = thing("Deployment", "shop", {"replicas": 3, "paused": False})
    now = old
    for patch in ({"spec": {"replicas": 1}}, {"spec": {"replicas": 0, "paused": True}}):
        ctx.recorder.obligation(undo.restoration(now, patch, "changed"))
        now = undo.merged(now, patch)
    assert undo.before(ctx, now) == old


def test_a_loss_is_told_of_each_tenant_and_of_whoever_else_has_one(ctx: Context) -> None:
    found = [
        TenantLoss(database=name, commits=commits)
        for name, commits in {"shop": 2, "wiki": 0, "reports": 1, "idle": 0, "postgres": 3, "drillbook": 5}.items()
    ]
    assert [one.database for one in to_tell(ctx.site, found)] == ["shop", "wiki", "reports"]
