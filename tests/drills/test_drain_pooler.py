"""An application behind a Pooler is drained with it: PgBouncer is paused for the cut, and lets go afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fix_drills import DrillLab, until
from test_swap_database import TENANT, confirmed, facts, last_error, opened

from drillbook import kube as k8s
from drillbook.engine.step import Pending
from drillbook.evidence.judge import unsettled
from drillbook.steps.cutover import drain, swap_check
from drillbook.steps.preflight import readiness
from drillbook_lab.operator import pooler_config

NAME = "synergyflow-pool"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY),
]


@pytest.fixture
def pooled(drill_lab: DrillLab) -> Iterator[None]:
    """The application reaches its database through a Pooler, for the time of a test."""
    lab, stack = drill_lab, ExitStack()
    app = lab.site.tenants[0].application
    assert app is not None
    namespace = lab.site.cluster.namespace
    with stack:
        stack.enter_context(lab.recovering())
        spec = {"cluster": {"name": lab.site.cluster.name}, "type": "rw", "pgbouncer": {"poolMode": "transaction"}}
        meta = {"name": NAME, "namespace": namespace}
        made = lab.admin.create(
            {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Pooler", "metadata": meta, "spec": spec}
        )
        stack.callback(lab.admin.delete, k8s.POOLER, namespace, NAME, uid=made["metadata"]["uid"])
        until(lambda: _phase(lab) == "active", "the Pooler is active")
        before = address(lab)
        stack.callback(tell, lab, before)
        tell(lab, before.replace(f"{lab.site.cluster.name}-rw", NAME))
        yield


def address(lab: DrillLab) -> str:
    """What the application is given its database."""
    app = lab.site.tenants[0].application
    assert app is not None
    found = lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
    env = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(entry["value"] for entry in env if entry["name"] == app.address_variable))


def tell(lab: DrillLab, url: str) -> None:
    """Another address for the application, and its pods again."""
    app = lab.site.tenants[0].application
    assert app is not None
    deployment = lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
    containers = deployment["spec"]["template"]["spec"]["containers"]
    next(entry for entry in containers[0]["env"] if entry["name"] == app.address_variable)["value"] = url
    spec = {"spec": {"template": {"spec": {"containers": containers}}}}
    lab.admin.patch(k8s.DEPLOYMENT, app.namespace, app.deployment, spec)
    until(lambda: _settled(lab), "the application runs with its new address")


def _settled(lab: DrillLab) -> bool:
    app = lab.site.tenants[0].application
    assert app is not None
    found = lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
    status, wanted = found.get("status") or {}, found["spec"]["replicas"]
    seen = status.get("observedGeneration") == found["metadata"]["generation"]
    return seen and status.get("updatedReplicas") == status.get("readyReplicas") == status.get("replicas") == wanted


def _phase(lab: DrillLab) -> str:
    found = lab.admin.get(k8s.POOLER, lab.site.cluster.namespace, NAME) or {}
    return str((found.get("status") or {}).get("phase"))


def _paused(lab: DrillLab) -> bool:
    found = lab.admin.get(k8s.POOLER, lab.site.cluster.namespace, NAME) or {}
    return bool(found["spec"]["pgbouncer"].get("paused"))


def _sessions(lab: DrillLab) -> int:
    role = lab.site.tenants[0].app_role
    return int(
        lab.sql("postgres", f"select count(*) from pg_stat_activity where datname = '{TENANT}' and usename = '{role}'")
    )


def test_a_pooler_is_paused_for_the_cut_and_lets_go_after_it(
    drill_lab: DrillLab, pooled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = drill_lab
    tenants = [tenant.model_dump(mode="json", exclude_unset=True) for tenant in lab.site.tenants]
    tenants[0]["application"]["pooler"] = NAME
    site = str(lab.profile_with("pooled", tenants=tenants))
    until(lambda: _sessions(lab) > 0, "PgBouncer has sessions of the application's role")
    with opened(lab, monkeypatch, site=site) as run:
        cluster = run.do(readiness.CheckReadiness())
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        off, on = drain.DrainApplication(cluster, fits), drain.ScaleUpApplication(cluster, fits)
        assert ("pause", "Pooler", NAME) in [(t.verb, t.kind, t.name) for t in off.plan(run.context).touches]
        confirmed(run, "drained, and back", off, on)
        drained = run.do(off)
        assert not isinstance(drained, Pending), last_error(run)
        assert (_paused(lab), _phase(lab), _sessions(lab)) == (True, "paused", 0)
        service = run.do(on)
        assert not isinstance(service, Pending), last_error(run)
        assert (service.replicas, _paused(lab), _phase(lab)) == (3, False, "active")
        assert unsettled(run.journal.events()) == []
        assert facts(run)["outage"]["seconds"] > 0
    assert _sessions(lab) > 0
