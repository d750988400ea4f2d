"""The rehearsal of an index migration as a runbook, on the lab: every claim measured, production as it was, the copy gone."""

from __future__ import annotations

import pytest
from fix_drills import ROOT, DrillLab

from drillbook.indexes.judging import IndexClass
from drillbook.indexes.migration import load_migration

NOTEBOOK = ROOT / "runbooks" / "drill-index-rehearsal.ipynb"
CATALOGUE = "select string_agg(indexrelid::regclass::text, ',' order by 1) from pg_stat_user_indexes"


@pytest.mark.long
@pytest.mark.parametrize("migration", ["V011.yaml", "V011-corrected.yaml"])
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
