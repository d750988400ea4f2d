"""The rehearsal of an index migration as a runbook, on the lab: every claim measured, production as it was, the copy gone."""

from __future__ import annotations

import pytest
from fix_drills import ROOT, DrillLab

from drillbook.engine import open_run
from drillbook.indexes.judging import IndexClass
from drillbook.indexes.migration import load_migration
from drillbook.steps import indexes

NOTEBOOK = ROOT / "runbooks" / "drill-index-rehearsal.ipynb"
CATALOGUE = "select string_agg(indexrelid::regclass::text, ',' order by 1) from pg_stat_user_indexes"


@pytest.mark.long
@pytest.mark.parametrize("migration", ["V011.yaml", pytest.param("V011-corrected.yaml", marks=pytest.mark.soak)])
def test_a14_every_claim_of_the_first_sites_migration_is_measured(drill_lab: DrillLab, migration: str) -> None:
    before = drill_lab.sql("synergyflow", CATALOGUE)
    path = ROOT / "sites" / "synergyflow" / migration
    drill = drill_lab.run(NOTEBOOK, migration=str(path))
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    for index in load_migration(path).indexes:
        check = drill.check(f"index claims: {index.name}")
        assert check["verdict"] == "VERIFIED" and check["expected"] == f"claimed: {index.claim}"
        assert check["observed"].partition(" ")[0] in list(IndexClass)
    for name in ("target and timeline", "same planner", "source untouched", "quarantine: synergyflow"):
        assert drill.check(name)["verdict"] == "VERIFIED", name
    as_written = drill.check("file as written: in one transaction")
    assert ("SQLSTATE 42P17" in as_written["observed"]) is (migration == "V011.yaml")
    assert "writers wait" in drill.check("file as written: writers")["observed"]
    assert drill_lab.sql("synergyflow", CATALOGUE) == before
    assert {event["id"] for event in drill.of("settled")} == set(drill.created) and drill_lab.left() == []
    report = (drill.folder / "report.html").read_text(encoding="utf-8")
    assert "What each index is worth" in report and report.count('aria-label="pages read for') >= 5


@pytest.mark.long
def test_a14_a_change_in_production_meanwhile_is_named(drill_lab: DrillLab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in drill_lab.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", drill_lab.own_outputs())
    run = open_run("drill-index-rehearsal", mode="apply")
    try:
        proposed = run.do(indexes.ReadMigration())
        before = run.do(indexes.NoteSource(proposed))
        drill_lab.sql("synergyflow", "create index planted on synergyflow_tasks.tasks (title)")
        (found,) = run.do(indexes.SourceUntouched(before)).checks
    finally:
        drill_lab.sql("synergyflow", "drop index if exists synergyflow_tasks.planted")
        run.release()
    assert (str(found.verdict), found.required) == ("FAILED", True)
    assert "planted" in f"{found.observed} {found.details}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("migration", "code", "fault"),
    [("nowhere.sql", 4, "there is no file nowhere.sql"), ("tests/soak.py", 4, "  - tests/soak.py:")],
)
def test_a14_a_migration_that_cannot_be_read_is_refused_before_anything_is_touched(
    drill_lab: DrillLab, migration: str, code: int, fault: str
) -> None:
    drill = drill_lab.run(NOTEBOOK, migration=migration)
    assert drill.code == code and fault in drill.said, drill.said
    assert drill_lab.left() == []
