"""One tenant's database to a point in time: nothing before its gates, and all of it behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab

from drillbook import kube as k8s

NOTEBOOK = ROOT / "runbooks" / "recover-point-in-time.ipynb"
DATABASE, TABLE = "synergyflow", "synergyflow_knowledge.articles"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

pytestmark = pytest.mark.long  # whole recoveries


@pytest.fixture(scope="module", autouse=True)
def rights(drill_lab: DrillLab) -> Iterator[None]:
    """Drills and backups have no such rights."""
    with drill_lab.recovering():
        yield


def damage(lab: DrillLab) -> tuple[str, int]:
    """Delete every article; the instant just before, and how many there were."""
    count = int(lab.sql(DATABASE, f"select count(*) from {TABLE}"))
    before = lab.sql("postgres", NOW)
    lab.sql(DATABASE, f"delete from {TABLE}")
    return before, count


def held(lab: DrillLab) -> dict[str, Any]:
    """What the first gate is about: retention, schedules, and whether the database takes writes."""
    namespace = lab.site.cluster.namespace
    stores = lab.admin.list(k8s.OBJECT_STORE, namespace)
    schedules = lab.admin.list(k8s.SCHEDULED_BACKUP, namespace)
    return {
        "retention": [store["spec"].get("retentionPolicy") for store in stores],
        "suspended": [bool(schedule["spec"].get("suspend")) for schedule in schedules],
        "settings": lab.sql("postgres", "select count(*) from pg_db_role_setting where setrole = 0 and setconfig::text like '%read_only%'"),
    }  # fmt: skip


def again(lab: DrillLab, run: Drill) -> Drill:
    """Resume with the phrase of the gate at which the run waits."""
    (*_, gate) = run.of("waiting")
    done = lab.drillbook("resume", run.folder.name, "--confirm", gate["phrase"])
    return Drill(done.returncode, run.folder, done.stdout + done.stderr)


@pytest.fixture
def tidy(drill_lab: DrillLab) -> Iterator[None]:
    """What a cut keeps on purpose is dropped after the test."""
    yield
    kept = drill_lab.sql("postgres", f"select datname from pg_database where datname like '{DATABASE}\\_%'")
    for name in kept.split():
        drill_lab.sql("postgres", f'drop database "{name}" with (force)')


def test_a_plan_and_a_run_without_confirmation_change_nothing(drill_lab: DrillLab) -> None:
    before = held(drill_lab)
    refused = drill_lab.run(NOTEBOOK, database="nobody's")
    assert refused.code == 4, refused.said
    assert "is no tenant of the profile" in refused.said
    run = drill_lab.run(NOTEBOOK)
    assert run.code == 3, run.said
    (gate,) = run.of("waiting")
    assert (gate["section"], gate["made"]) == ("Stop the bleeding", [])
    assert "deadline" in gate and gate["phrase"] in run.said
    assert held(drill_lab) == before
    abandoned = drill_lab.drillbook("abandon", run.folder.name)
    assert held(drill_lab) == before, abandoned.stdout + abandoned.stderr


def test_a_damaged_database_is_found_recovered_swapped_and_back_in_service(drill_lab: DrillLab, tidy: None) -> None:
    as_it_was = held(drill_lab)
    target, count = damage(drill_lab)
    run = drill_lab.run(NOTEBOOK, target_time=target, search_table=TABLE)
    assert run.code == 3, run.said
    assert f"{count} rows deleted from {TABLE}" in str(run.check("damage")["details"])

    stopped = again(drill_lab, run)
    assert stopped.code == 3, stopped.said
    (*_, gate) = stopped.of("waiting")
    assert gate["section"] == "Put the recovered database into service"
    assert [made for made in gate["made"] if made.startswith("Cluster/")], "the copy is listed with its deadline"
    assert held(drill_lab)["suspended"] == [True]
    assert int(drill_lab.sql(DATABASE, f"select count(*) from {TABLE}")) == 0, "production is still as damaged"

    done = again(drill_lab, stopped)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert int(drill_lab.sql(DATABASE, f"select count(*) from {TABLE}")) == count
    assert held(drill_lab) == as_it_was
    for name in ("boundary", "application health", "smoke test", "application log"):
        assert done.check(name)["verdict"] == "VERIFIED", name
    assert set(done.verdicts("backup after the cut").values()) == {"VERIFIED"}
    assert {event["id"] for event in done.of("obligation")} == {event["id"] for event in done.of("settled")}
    assert "are not in service any more" in (done.folder / "logs" / "announcement.txt").read_text()
    assert drill_lab.drillbook("verify", run.folder.name).returncode == 0


@pytest.mark.long
def test_a_run_that_is_abandoned_before_the_cut_puts_everything_back(drill_lab: DrillLab) -> None:
    as_it_was = held(drill_lab)
    waiting = again(drill_lab, drill_lab.run(NOTEBOOK))
    assert waiting.code == 3, waiting.said
    assert held(drill_lab) != as_it_was
    done = drill_lab.drillbook("abandon", waiting.folder.name)
    assert held(drill_lab) == as_it_was, done.stdout + done.stderr
    assert {event["id"] for event in waiting.of("obligation")} == {event["id"] for event in waiting.of("settled")}
    assert drill_lab.left() == []
    drill_lab.sql(DATABASE, "create table after_all (n int)")
    drill_lab.sql(DATABASE, "drop table after_all")
