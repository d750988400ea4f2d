"""The quarterly drill: everything comes back, on as many instances as the source has; what is missing is seen."""

from __future__ import annotations

import pytest
from fix_drills import ROOT, DrillLab

from drillbook.engine import open_run
from drillbook.steps.archive import base_backup
from drillbook.steps.checks import full_restore
from drillbook.steps.preflight import readiness
from drillbook.steps.recovery import archive_end, boundary, copy
from drillbook_lab.faults.store import bucket
from drillbook_lab.home import LabHome

NOTEBOOK = ROOT / "runbooks" / "drill-quarterly-full-restore.ipynb"


@pytest.mark.long
def test_everything_that_was_archived_comes_back(drill_lab: DrillLab) -> None:
    drill = drill_lab.run(NOTEBOOK)
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    for name in ("target and timeline", "boundary", "completeness", "newest changes: synergyflow"):
        assert drill.check(name)["verdict"] == "VERIFIED", name
    (end,) = [event["value"] for event in drill.of("fact") if event["name"] == "target"]
    assert f"segment {end['last_segment']} or later" in drill.check("completeness")["expected"]
    assert drill.check("instances")["verdict"] == "n/a"
    assert drill.check("pending events: synergyflow")["observed"].endswith("pending in the copy")
    # A full restore has no target in time: the objective of a point-in-time recovery says nothing about it.
    assert [row["name"] for row in drill.record["objectives"]["measured"]] == ["recovery time", "recovery point"]
    assert "forecast_seconds" in drill.record["objectives"]["measured"][0]
    assert {event["id"] for event in drill.of("settled")} == set(drill.created)


@pytest.mark.long
def test_a_copy_that_was_promoted_early_is_not_complete(drill_lab: DrillLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest segments are lost between the look at the archive and the restore: the copy is healthy, and too old."""
    for name, value in drill_lab.env.items():
        monkeypatch.setenv(name, value)
    drill_lab.archive_segments(1)
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", drill_lab.own_outputs())
    run = open_run("drill-quarterly-full-restore", mode="apply")
    store = bucket(LabHome(drill_lab.home))
    lost: dict[str, bytes] = {}
    try:
        cluster = run.do(readiness.CheckReadiness())
        backup = run.do(base_backup.ChooseBaseBackup(cluster))
        archived = run.do(base_backup.WalChainUnbroken(cluster, backup))
        with drill_lab.fault("writer-stopped"):
            baseline = run.do(boundary.MarkBefore(cluster, archived))
            noted = run.do(archive_end.NoteNewestChanges(baseline))
            switched = run.do(boundary.SwitchWal(cluster, backup, baseline))
            end = run.do(archive_end.ReadArchiveEnd(cluster, backup, baseline, switched))
            for key in store.keys("wals/"):
                if key.rpartition("/")[2][:24] >= switched.segment:
                    lost[key] = store.read(key)
                    store.client.delete_object(Bucket=store.name, Key=key)
            created = run.do(copy.CreateRecoveryCluster(cluster, backup, end))
            recovered = run.do(copy.WaitForRecovery(cluster, created))
        whole = run.do(full_restore.EndAndCompleteness(cluster, baseline, end, recovered)).checks
        changes = run.do(full_restore.NewestAndStructure(baseline, noted, recovered)).checks
        run.do(copy.RemoveRecoveryCluster(created))
    finally:
        for key, body in lost.items():
            store.write(key, body)
        run.release()
    verdicts = {check.name: str(check.verdict) for check in (*whole, *changes)}
    assert lost
    assert verdicts["target and timeline"] == verdicts["boundary"] == verdicts["completeness"] == "FAILED", whole
    assert "ends before it" in next(check.observed for check in whole if check.name == "completeness")
