"""One migration rehearsed on two major versions: the report says where they differ, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab

from drillbook_lab import pgbin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))

from fix_majors import found, why_missing

NOTEBOOK = ROOT / "runbooks" / "drill-index-rehearsal.ipynb"
FOUND = found()
# PostgreSQL 18 searches an index by its second column too, once for each value of the first; before, such an index is not
# worth reading, being as large as its table. The other index is used by every version.
MIGRATION = """\
name: V099
database: synergyflow
indexes:
  - name: idx_tasks_status_updated_at
    sql: >-
      create index idx_tasks_status_updated_at on synergyflow_tasks.tasks (status, updated_at)
      include (title, description)
    queries: [tasks of an instant]
  - name: idx_tasks_story_points_created_at
    sql: create index idx_tasks_story_points_created_at on synergyflow_tasks.tasks (created_at, story_points)
    queries: [tasks made at an instant]
queries:
  - name: tasks of an instant
    sql: select task_id from synergyflow_tasks.tasks where updated_at = $1
    keys: {typical: select max(updated_at) from synergyflow_tasks.tasks}
  - name: tasks made at an instant
    sql: select task_id from synergyflow_tasks.tasks where created_at = $1
    keys: {typical: select max(created_at) from synergyflow_tasks.tasks}
"""


@contextmanager
def lab(folder: Path, major: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrillLab]:
    if major not in FOUND:
        pytest.skip(why_missing(major))
    monkeypatch.setenv(pgbin.VARIABLE, str(FOUND[major]))
    made = DrillLab(folder / f"pg{major}", "first", 20)
    try:
        yield made
    finally:
        made.down()


@pytest.mark.soak
def test_a14_where_two_majors_differ_the_report_says_so_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = tmp_path / "V099.yaml"
    migration.write_text(MIGRATION, encoding="utf-8")
    with lab(tmp_path, 16, monkeypatch) as first:
        alone = first.run(NOTEBOOK, migration=str(migration))
        assert alone.verdict == "VERIFIED", alone.said
        assert alone.check("other major versions")["verdict"] == "n/a"
    with lab(tmp_path, 18, monkeypatch) as second, second.on_another_machine(first.outputs):
        drill = second.run(NOTEBOOK, migration=str(migration))
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    compared = drill.check("other major versions: PostgreSQL 16")
    assert (compared["verdict"], compared["required"]) == ("FAILED", False) and "1 of 2 differ" in compared["observed"]
    assert alone.folder.name in compared["reason"]
    ((index, why),) = compared["details"]
    assert index == "idx_tasks_status_updated_at" and why.startswith("18: helps; 16: ")
    report = (drill.folder / "report.html").read_text(encoding="utf-8")
    assert "other major versions: PostgreSQL 16" in report and why.split("16: ")[1][:20] in report
