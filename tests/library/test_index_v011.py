"""The first site's migration at a quarter of its scale: the same verdicts from run to run, and on PostgreSQL 16 and 18."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.library.fix_integrity import PASSWORD, Server, running
from tests.library.fix_majors import found, why_missing

import drillbook_lab.site
from drillbook.indexes.findings import Rehearsal
from drillbook.indexes.migration import load_migration
from drillbook.indexes.rehearsal import rehearse

ROOT = Path(__file__).parents[2]
SEED = Path(drillbook_lab.site.__file__).with_name("sql") / "synergyflow.sql"
FOUND = found()
INCIDENTS = 75_000
RUNS = 10

# Class and first reason at this scale; the same on both majors.
AS_WRITTEN = {
    "idx_incidents_status_sla_deadline": ("helps", ""),
    "idx_incidents_created_at_status": ("unusable", "predicate not implied"),
    "idx_incidents_assigned_to_status": ("used_no_gain", "no less work than without it"),
    "idx_incidents_priority_created_at": ("helps", ""),
    "idx_changes_status_scheduled_date": ("unusable", "another plan is cheaper"),
    "idx_changes_status_created_at": ("helps_but_costs_hot", ""),
    "idx_changes_risk_status": ("used_no_gain", "precedence in the query"),
    "idx_tasks_project_sprint_status": ("unusable", "predicate not implied"),
    "idx_tasks_assigned_to_status": ("helps", ""),
    "idx_audit_events_entity_occurred_at": ("helps", ""),
    "idx_audit_events_user_action": ("helps", ""),
    "idx_policy_decisions_name_time": ("cannot_create", "function not immutable"),
    "idx_articles_status_created_at": ("unusable", "order not usable"),
    "idx_articles_expires_status": ("helps", ""),
}


@pytest.fixture(scope="module", params=[16, 18])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the lab's tables at a quarter of the site's scale, in the database ``site``."""
    if request.param not in FOUND:
        pytest.skip(why_missing(request.param))
    settings = {"shared_buffers": "128MB"}
    folder = tmp_path_factory.mktemp(f"v011-{request.param}")
    with running(folder, settings=settings, programs=FOUND[request.param]) as server:
        server.sql("postgres", "create role app", "create database site owner app")
        server.sql("site", "create extension pg_trgm")
        variables = ["-v", "owner=app", "-v", f"rows={INCIDENTS}", "-v", "ON_ERROR_STOP=1"]
        address = ["-h", server.address.host, "-p", str(server.address.port), "-U", "postgres", "-d", "site"]
        subprocess.run(
            [str(server.programs / "psql"), "-X", "-q", *address, *variables],
            input=f"{SEED.read_text(encoding='utf-8')}\nRESET ROLE;\nVACUUM (ANALYZE);\n",
            env=os.environ | {"PGPASSWORD": PASSWORD},
            text=True,
            check=True,
        )
        yield server


def rehearsed(site: Server, migration: str) -> Rehearsal:
    name = f"copy{next(site._names)}"
    site.sql("postgres", f"create database {name} template site")
    with site.superuser(name, timeout=300) as db, site.superuser(name) as other:
        return rehearse(db, other, load_migration(ROOT / "sites" / "synergyflow" / migration))


@pytest.mark.soak
def test_a14_the_fourteen_have_the_same_verdict_in_every_run(site: Server) -> None:
    for run in range(RUNS):
        found = rehearsed(site, "V011.yaml")
        verdicts = {
            item.label: (str(item.index_class), str(item.reasons[0].reason) if item.reasons else "")
            for item in found.indexes
        }
        assert verdicts == AS_WRITTEN, f"run {run}"
        assert found.together_unused == ()


@pytest.mark.soak
def test_a14_the_corrected_fourteen_are_used_and_help_alone_and_all_together(site: Server) -> None:
    found = rehearsed(site, "V011-corrected.yaml")
    classes = {str(item.index_class) for item in found.indexes}
    assert classes == {"helps", "helps_but_costs_hot"}
    assert set(found.together_used) == set(AS_WRITTEN) and found.together_unused == ()
    dear = [item.label for item in found.indexes if item.index_class == "helps_but_costs_hot"]
    assert all(label.startswith("idx_changes_") for label in dear) and len(dear) == 3
