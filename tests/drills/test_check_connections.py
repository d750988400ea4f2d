"""The limits of the connections as a runbook: the first site's own numbers break, and what was believed is not on the path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, DrillLab, until
from test_check_window import writes
from test_drain_pooler import address, tell

from drillbook import kube as k8s
from drillbook_lab.operator import pooler_config

pytestmark = pytest.mark.long

NOTEBOOK = ROOT / "runbooks" / "check-connections.ipynb"
POOLER = "synergyflow-pool"


def test_d12_the_first_sites_own_numbers_break_and_nothing_is_written(drill_lab: DrillLab) -> None:
    audited = len(drill_lab.jsonl("audit.jsonl"))
    run = drill_lab.run(NOTEBOOK, watch_seconds="0")
    assert (run.code, run.verdict) == (1, "FAILED"), run.said
    assert writes(drill_lab, audited) == [] and run.created == []
    now = run.check("limits now")
    assert now["observed"].startswith("role's CONNECTION LIMIT binds (steady, 60 wanted, 50 served; rolling update")
    assert 'PostgreSQL: too many connections for role "synergyflow_app" (SQLSTATE 53300)' in now["observed"]
    on_path = run.check("pooler on the path")
    assert (on_path["verdict"], on_path["required"]) == ("n/a", False)
    assert on_path["observed"].startswith("PgBouncer is not on this path: Service cnpg-system/shared-postgres-rw")
    assert run.check("sum over PgBouncer's instances")["observed"].startswith("3 × 50 = 150, 200 in its own rolling")
    assert run.check("other tenants' limits")["observed"] == "without one: gitlab_app, harbor_app"
    assert set(run.verdicts("limits at ").values()) == {"FAILED"}
    moments = run.record["facts"]["connections"]["moments"]
    assert {(item["users"], item["binds"]) for item in moments} == {
        (users, "role's CONNECTION LIMIT") for users in (None, 500, 1000, 5000)
    }
    assert "Every limit on the path" in (run.folder / "executed.ipynb").read_text()


@contextmanager
def limited(lab: DrillLab, limit: int) -> Iterator[None]:
    """The role's limit, for a while."""
    role = lab.site.tenants[0].app_role
    before = lab.sql("postgres", f"select rolconnlimit from pg_roles where rolname = '{role}'")
    lab.sql("postgres", f"alter role {role} connection limit {limit}")
    try:
        yield
    finally:
        lab.sql("postgres", f"alter role {role} connection limit {before}")


def test_enough_room_is_green_and_says_what_binds_at_more_users(drill_lab: DrillLab) -> None:
    with limited(drill_lab, 100):
        run = drill_lab.run(NOTEBOOK, watch_seconds="0")
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert run.check("limits now")["observed"].startswith("steady: 60 wanted, 100 served")
    assert run.check("headroom")["verdict"] == "VERIFIED"
    assert run.check("limits at 500 users")["verdict"] == "FAILED"


@contextmanager
def pooler(lab: DrillLab, **spec: Any) -> Iterator[None]:
    """A Pooler in front of the site's cluster."""
    namespace = lab.site.cluster.namespace
    made = lab.admin.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Pooler",
            "metadata": {"name": POOLER, "namespace": namespace},
            "spec": {"cluster": {"name": lab.site.cluster.name}, "type": "rw", **spec},
        }
    )
    try:
        until(
            lambda: ((lab.admin.get(k8s.POOLER, namespace, POOLER) or {}).get("status") or {}).get("phase") == "active",
            "the Pooler is active",
        )
        yield
    finally:
        lab.admin.delete(k8s.POOLER, namespace, POOLER, uid=made["metadata"]["uid"])


@pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY)
def test_a_pooler_counts_once_the_address_leads_there(drill_lab: DrillLab) -> None:
    sizes = {"default_pool_size": "10", "max_client_conn": "80"}
    pgbouncer = {"poolMode": "transaction", "parameters": sizes}
    with pooler(drill_lab, instances=2, pgbouncer=pgbouncer), limited(drill_lab, 100):
        aside = drill_lab.run(NOTEBOOK, watch_seconds="0")
        assert aside.check("pooler on the path")["verdict"] == "FAILED", aside.said
        assert aside.check("pooler on the path")["observed"].startswith("PgBouncer is not on this path")
        assert aside.record["facts"]["connections"]["pooler"] is None
        before = address(drill_lab)
        tell(drill_lab, before.replace(f"{drill_lab.site.cluster.name}-rw", POOLER))
        try:
            through = drill_lab.run(NOTEBOOK, watch_seconds="0")
        finally:
            tell(drill_lab, before)
    on_path = through.check("pooler on the path")
    assert (on_path["verdict"], on_path["observed"]) == (
        "VERIFIED",
        f"Service cnpg-system/{POOLER} → Pooler cnpg-system/{POOLER}",
    )
    now = through.check("limits now")
    assert now["observed"].startswith("default_pool_size binds (steady, 60 wanted, 20 served")
    assert "query_wait_timeout" in now["observed"]
    assert through.check("sum over PgBouncer's instances")["verdict"] == "VERIFIED"
    limits = {item["limit"]: item for item in through.record["facts"]["connections"]["limits"]}
    assert [(limits[name]["size"], limits[name]["times"]) for name in sizes] == [(10, 2), (80, 2)]
    # By PgBouncer's own figures, of its fullest instance.
    assert 0 < limits["default_pool_size"]["used"] <= 10 and 0 < limits["max_client_conn"]["used"] <= 80


def test_another_site_is_judged_by_its_own_names(second_lab: DrillLab) -> None:
    run = second_lab.run(NOTEBOOK, watch_seconds="0")
    assert run.code in (0, 1), run.said
    assert run.check("pooler on the path")["observed"].startswith(
        "PgBouncer is not on this path: Service billing-db/ledger-rw → Cluster billing-db/ledger"
    )
    assert set(run.verdicts("limits at ")) == {f"limits at {n} users" for n in ("500", "1,000", "5,000")}


def test_a_database_without_an_application_is_said(drill_lab: DrillLab) -> None:
    run = drill_lab.run(NOTEBOOK, database="gitlab")
    assert run.code not in (0, 1), run.said
    assert "database: 'gitlab' has no application in the profile (those with one: synergyflow)" in run.said
