"""doctor names what would stop a drill, or leave it UNPROVEN, each with its cause; and is silent on a healthy site."""

from __future__ import annotations

import pytest
from fix_drills import DrillLab

pytestmark = pytest.mark.long


def lines(lab: DrillLab, **changes: object) -> tuple[int, str]:
    site = lab.profile_with("asked", **changes) if changes else lab.profile
    done = lab.drillbook("doctor", "--site", str(site))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_a_healthy_site_is_ready(drill_lab: DrillLab) -> None:
    code, said = lines(drill_lab)
    assert code == 0, said
    assert "queries of the profile may be run" in said
    assert "no database put aside or read only, no fence, no suspended schedule" in said


def test_f04_a_cluster_that_is_not_there_is_named_as_such(drill_lab: DrillLab) -> None:
    code, said = lines(drill_lab, cluster={"name": "absent", "namespace": drill_lab.site.cluster.namespace})
    assert code != 0
    assert "absent does not exist" in said and "list configmaps in cnpg-system forbidden" not in said, said


def test_f12_sql_of_the_profile_that_may_not_be_run_is_named_before_a_run(drill_lab: DrillLab) -> None:
    """The kinds: no right on the schema, no right on the table, no such table, no SQL at all."""
    drill_lab.sql(
        "synergyflow", "create schema closed; create table closed.inside (n int); create table public.shut (n int)"
    )
    try:
        tenants = [tenant.model_dump(mode="json", exclude_defaults=True) for tenant in drill_lab.site.tenants]
        tenants[0]["pending_events"] = "select count(*) from closed.inside"
        tenants[0]["questions"] = [
            {"name": "shut", "sql": "select count(*) from public.shut", "expect": {"at_least": 0}},
            {"name": "gone", "sql": "select count(*) from public.never_was", "expect": {"at_least": 0}},
            {"name": "odd", "sql": "select count(*) frm x where y like 'a%'", "expect": {"at_least": 0}},
        ]
        code, said = lines(drill_lab, tenants=tenants)
        assert code != 0
        for words in (
            "permission denied for schema closed",
            "permission denied for table shut",
            "never_was",
            "syntax error",
        ):
            assert words in said, said
    finally:
        drill_lab.sql("synergyflow", "drop schema closed cascade; drop table public.shut")


def test_what_would_be_unproven_is_predicted(drill_lab: DrillLab) -> None:
    tenants = [{"database": drill_lab.site.tenants[0].database, "app_role": drill_lab.site.tenants[0].app_role}]
    _, said = lines(drill_lab, tenants=tenants)
    assert "the profile names no digest_tables" in said and "the profile does not name gitlab, harbor" in said, said


@pytest.mark.parametrize("table", ['"we""ird"."T x"', "s.t", '"ü".ü'])
def test_a_table_may_be_named_as_sql_names_it(drill_lab: DrillLab, table: str) -> None:
    """Blanks, quotes, dots and letters beyond ASCII."""
    tenants = [tenant.model_dump(mode="json", exclude_defaults=True) for tenant in drill_lab.site.tenants]
    tenants[0]["digest_tables"] = [table]
    schema = table.rpartition(".")[0]
    drill_lab.sql("synergyflow", f"create schema {schema}; create table {table} (n int)")
    try:
        _, said = lines(drill_lab, tenants=tenants)
        assert "lacks: SELECT on" in said and "is not a table" not in said, said
        drill_lab.sql(
            "synergyflow", f"grant usage on schema {schema} to drillbook; grant select on {table} to drillbook"
        )
        code, said = lines(drill_lab, tenants=tenants)
        assert code == 0, said
    finally:
        drill_lab.sql("synergyflow", f"drop schema {schema} cascade")
