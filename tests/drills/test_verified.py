"""Drills that prove what they should: by the command line, by plain papermill, and on another site."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from fix_drills import NOTEBOOK, ROOT, Drill, DrillLab

from drillbook.engine.step import Context, NullRecorder
from drillbook.model import Verdict
from drillbook.steps.archive import FindArchive
from drillbook.steps.preflight import EarlierRunsKnown


@pytest.fixture(scope="module")
def drill(drill_lab: DrillLab) -> Drill:
    return drill_lab.drill()


def test_the_drill_is_verified_and_says_where_its_report_is(drill: Drill) -> None:
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    assert "VERIFIED" in drill.said
    assert str(drill.folder / "report.html") in drill.said
    for name in ("executed.ipynb", "executed.html", "report.html", "record.json", "SHA256SUMS", "logs/recovery.log"):
        assert (drill.folder / name).stat().st_size > 0


def test_both_sides_of_the_boundary_are_proven(drill: Drill) -> None:
    boundary = drill.check("boundary")
    assert boundary["observed"] == "marker before there, marker after absent, 1000 rows"
    target = drill.check("target and timeline")
    (proven,) = [event["value"] for event in drill.of("fact") if event["name"] == "target"]
    assert f"stopped before transaction {proven['first_after']['xid']}, timeline 2" in target["observed"]
    assert proven["last_before"]["committed_at"] == proven["target"]["target_time"]


def test_every_rung_was_seen(drill: Drill) -> None:
    assert drill.verdicts("rows") == {"rows: synergyflow": "VERIFIED"}
    assert set(drill.verdicts("structure")) == {
        "structure: roles and databases",
        "structure: synergyflow",
        "structure: gitlab",
        "structure: harbor",
    }
    assert set(drill.verdicts("amcheck").values()) == {"VERIFIED"}
    assert set(drill.verdicts("app login").values()) == {"VERIFIED"}
    assert drill.check("right cluster")["verdict"] == "VERIFIED"


def test_the_forecast_was_made_before_the_copy_and_stands_beside_what_was_achieved(drill: Drill) -> None:
    order = [event.get("name") or event.get("step") for event in drill.of("fact") + drill.of("step_started")]
    assert {"forecast", "CreateRecoveryCluster"} <= set(order)
    (fact,) = [event for event in drill.of("fact") if event["name"] == "forecast"]
    (creating,) = [event for event in drill.of("step_started") if event["step"] == "CreateRecoveryCluster"]
    assert fact["seq"] < creating["seq"]
    foretold = fact["value"]
    assert foretold["seconds"] > 0, foretold["unknown"]
    # Another drill may have gone before this one; without one it is the archive that was read.
    assert (foretold["source"] == "calibration") == (foretold["samples"] == 0)
    assert bool(foretold["calibration"]) == (foretold["samples"] == 0)
    compared = {row["name"]: row for row in drill.record["forecast"]["compared"]}
    achieved = drill.record["objectives"]["measured"][0]["achieved_seconds"]
    assert compared["recovery time"]["achieved_seconds"] == pytest.approx(achieved, abs=0.1)
    assert compared["fetch"]["achieved_seconds"] > 0
    assert compared["verify"]["achieved_seconds"] > 0
    check = drill.check("forecast")
    assert (check["verdict"], check["required"]) == ("VERIFIED", False)
    assert "Forecast and achieved" in (drill.folder / "report.html").read_text()


def test_the_copy_never_wrote_to_the_archive(drill: Drill, drill_lab: DrillLab) -> None:
    keys = json.loads((drill_lab.home / "s3" / "keys.json").read_text())
    readers = {key for key, value in keys.items() if value["policy"] == "readonly"}
    requests = drill_lab.jsonl("s3/access.jsonl")
    assert {entry["key"] for entry in requests} & readers, "the drill read the archive with its own key"
    assert not [entry for entry in requests if entry["key"] in readers and entry["method"] not in ("GET", "HEAD")]
    written = [entry["object"] for entry in requests if entry["method"] in ("PUT", "POST")]
    assert not [key for key in written if re.search(r"/wals/0000000[2-9]", str(key))]


def test_nothing_of_the_copy_is_left_on_this_machine(drill: Drill, drill_lab: DrillLab) -> None:
    copy = next(name for name in drill.created if name.startswith("Cluster/")).rpartition("/")[2]
    assert drill_lab.left_on_this_machine(copy) == []
    assert {event["id"] for event in drill.of("settled")} == set(drill.created)


def test_no_secret_is_in_the_evidence(drill: Drill, drill_lab: DrillLab) -> None:
    site = drill_lab.site
    secrets = (drill_lab.admin.secret(site.sql.secret.namespace, site.sql.secret.name)["password"],)
    secrets += (drill_lab.admin.secret(site.drill_namespace, site.archive.reader_secret.name)["AWS_SECRET_ACCESS_KEY"],)
    for tenant in site.tenants:
        if tenant.app_login:
            secrets += (drill_lab.admin.secret(tenant.app_login.namespace, tenant.app_login.name)["password"],)
    for path in (path for path in drill.folder.rglob("*") if path.is_file()):
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path.name


def test_standard_tools_verify_the_evidence(drill: Drill, drill_lab: DrillLab) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=drill.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    verified = drill_lab.drillbook("verify", drill.folder.name)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.long
def test_plain_papermill_runs_the_notebook_and_finish_seals_it(drill_lab: DrillLab, tmp_path: Path) -> None:
    executed = tmp_path / "by-hand.ipynb"
    before = set(drill_lab.folders())
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(executed), "-p", "mode", "apply", "-k", "python3"]
    done = subprocess.run(command, cwd=ROOT, env=drill_lab.env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = set(drill_lab.folders()) - before
    listed = drill_lab.drillbook("list").stdout
    assert re.search(rf"{folder.name}.* open ", listed), "until it is finished, the run shows as open"

    finished = drill_lab.drillbook("finish", folder.name, "--notebook", str(executed))

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert Drill(0, folder, "").verdict == "VERIFIED"
    assert drill_lab.drillbook("verify", folder.name).returncode == 0


@pytest.mark.long
def test_another_site_passes_with_no_change_to_the_code(second_lab: DrillLab) -> None:
    drill = second_lab.drill()
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    assert drill.verdicts("rows") == {"rows: invoices": "VERIFIED"}
    text = (drill.folder / "record.json").read_text()
    for foreign in ("shared-postgres", "synergyflow", "cnpg-system"):
        assert foreign not in text


@pytest.mark.long
def test_a_target_of_ones_own_is_reached(drill: Drill, drill_lab: DrillLab) -> None:
    (proven,) = [event["value"] for event in drill.of("fact") if event["name"] == "target"]
    asked = datetime.fromisoformat(proven["newest"]["committed_at"])
    again = drill_lab.drill(target_time=proven["target"]["target_time"])
    assert (again.code, again.verdict) == (0, "VERIFIED"), again.said
    assert again.check("rows")["verdict"] == "n/a"
    assert (
        f"stopped before transaction {proven['first_after']['xid']}" in again.check("target and timeline")["observed"]
    )
    assert asked.tzinfo is not None
    (foretold,) = [event["value"] for event in again.of("fact") if event["name"] == "forecast"]
    assert (foretold["source"], foretold["calibration"]) == ("earlier runs", None)
    assert drill.folder.name in foretold["sample_runs"]


def test_i16_a_run_that_only_the_source_knows_of_is_named(drill: Drill, drill_lab: DrillLab) -> None:
    """Markers lie on the source: whoever removes a run's evidence, or repeats a drill elsewhere, leaves them."""
    ctx = Context(
        site=drill_lab.site,
        run_id="",
        mode="plan",
        recorder=NullRecorder(),
        mask=lambda _: None,
        outputs=drill_lab.outputs,
    )
    strange = "20260101T100000Z-0ff5e7"
    try:
        step = EarlierRunsKnown(FindArchive().do(ctx))
        # Other tests' runs may have their evidence elsewhere: what they left is not this test's.
        before = {name for name, _ in step.observe(ctx)[0].details}
        assert drill.folder.name not in before
        drill_lab.sql("drillbook", f"insert into drillbook.marker (run_id, name) values ('{strange}', 'before')")
        (check,) = step.observe(ctx)
        assert (check.verdict, check.required) == (Verdict.UNPROVEN, False)
        assert strange in dict(check.details) and drill.folder.name not in dict(check.details)
    finally:
        drill_lab.sql("drillbook", f"delete from drillbook.marker where run_id = '{strange}'")
        ctx.close()
