"""The recovery window as a runbook: green on a healthy archive, and each damage named; nothing is changed by it."""

from __future__ import annotations

import json

import pytest
from fix_drills import ROOT, Drill, DrillLab

pytestmark = pytest.mark.long

NOTEBOOK = ROOT / "runbooks" / "check-recovery-window.ipynb"


def writes(lab: DrillLab, since: int) -> list[str]:
    """What Drillbook's own account has written to the API server, as verb and resource."""
    return [
        f"{call['verb']} {call['resource']}"
        for call in lab.jsonl("audit.jsonl")[since:]
        if call["user"].endswith(":drillbook")
        and call["verb"] not in ("get", "list", "watch")
        and not call["resource"].startswith("selfsubject")
        and call.get("subresource") != "portforward"
    ]


def damaged(lab: DrillLab, fault: str) -> tuple[Drill, str, str]:
    """The check and the two commands while a fault is in force, and the object that it has damaged."""
    with lab.fault(fault):
        key = json.loads((lab.home / "faults" / f"{fault}.json").read_text())["key"].rpartition("/")[2]
        run = lab.run(NOTEBOOK)
        window, doctor = lab.drillbook("window", "--samples", "64"), lab.drillbook("doctor")
    assert window.returncode == run.code, window.stdout + window.stderr
    return run, key, window.stdout + doctor.stdout


def test_a_healthy_archive_is_green_and_nothing_is_written(drill_lab: DrillLab) -> None:
    site = drill_lab.site
    audited = len(drill_lab.jsonl("audit.jsonl"))
    name = f"drillbook-{site.cluster.name}"
    # Another run holds the cluster: who only reads is not kept waiting, and keeps nobody waiting.
    with drill_lab.admin.lease(site.drillbook_namespace, name, "a-run-elsewhere", ttl_seconds=300):
        run = drill_lab.run(NOTEBOOK)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert writes(drill_lab, audited) == [] and run.created == []
    for check in ("base backup", "WAL chain", "WAL gaps", "recovery window", "damage", "WAL sample", "archive lag"):
        assert run.check(check)["verdict"] == "VERIFIED", check
    assert run.record["forecast"]["predicted"]["seconds"] and run.record["facts"]["answer"].startswith(
        "YES. Any instant"
    )
    assert run.record["target"]["window"]["last_time"] > run.record["target"]["window"]["first_time"]
    assert "<svg" in (run.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("fault", "code", "state"),
    [
        ("wal-removed", 2, "delayed"),  # its successor has only just come
        pytest.param("wal-empty", 1, "zero-length", marks=pytest.mark.soak),
        pytest.param("wal-damaged", 1, "damaged", marks=pytest.mark.soak),
        ("backup-torn", 1, "cut"),
        pytest.param("backup-data-removed", 1, "missing data", marks=pytest.mark.soak),
    ],
)
def test_each_damage_is_named_with_its_object_or_segment(
    drill_lab: DrillLab, fault: str, code: int, state: str
) -> None:
    if state == "delayed":
        drill_lab.back_up()
    drill_lab.archive_segments(3)
    run, key, told = damaged(drill_lab, fault)
    assert (run.code, run.verdict) == (code, {1: "FAILED", 2: "UNPROVEN"}[code]), run.said
    found = run.check("damage")
    assert state in dict(found["details"]) and found["verdict"] == run.verdict, found
    named = key[:24] if fault.startswith("wal-") else key
    assert any(named in what for what in dict(found["details"]).values()), found
    assert named in told and state in told
    if code == 1:
        assert "archive: damages  1 damage" in told or fault == "wal-damaged", (
            "no listing shows damage inside of a segment"
        )
    assert run.record["facts"].get("answer", "NO, OR ONLY PARTLY").startswith("NO, OR ONLY PARTLY")


def test_a_target_that_cannot_be_reached_is_refused_with_the_nearest(drill_lab: DrillLab) -> None:
    run = drill_lab.run(NOTEBOOK, target_time="2020-01-01T00:00:00Z")
    assert (run.code, run.verdict) == (4, None), run.said
    assert "the nearest reachable: " in run.said
    (refused,) = [event for event in run.of("step_finished") if event["status"] == "refused"]
    assert refused["error"]["type"] == "TargetOutsideWindow"
    assert run.check("recovery window")["verdict"] == "VERIFIED"
