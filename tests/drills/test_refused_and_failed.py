"""Honest verdicts, each provoked for real: the cause is named, later checks still run, nothing is left behind."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab

from drillbook import kube as k8s
from drillbook.model import show_instant

pytestmark = pytest.mark.long


def test_plan_changes_nothing(drill_lab: DrillLab) -> None:
    tenant = drill_lab.site.tenants[0]
    count = f"select md5(string_agg(t::text, '' order by t::text)) from {tenant.digest_tables[0]} t"
    drill_lab.sql("postgres", "alter system set autovacuum = off")
    drill_lab.sql("postgres", "select pg_reload_conf()")
    with drill_lab.fault("writer-stopped"):
        xid = drill_lab.sql("postgres", "select pg_snapshot_xmax(pg_current_snapshot())")
        rows = drill_lab.sql(tenant.database, count)
        audited, requested = len(drill_lab.jsonl("audit.jsonl")), len(drill_lab.jsonl("s3/access.jsonl"))
        started = datetime.now(UTC)

        drill = drill_lab.drill(mode="plan")

        calls = drill_lab.jsonl("audit.jsonl")[audited:]
        requests = drill_lab.jsonl("s3/access.jsonl")[requested:]
        assert drill_lab.sql("postgres", "select pg_snapshot_xmax(pg_current_snapshot())") == xid
        assert drill_lab.sql(tenant.database, count) == rows
    drill_lab.sql("postgres", "alter system reset autovacuum")
    drill_lab.sql("postgres", "select pg_reload_conf()")
    assert (drill.code, drill.verdict) == (0, None), drill.said
    assert not drill.created
    reads = {"get", "list", "watch"}
    asked = {"selfsubjectreviews", "selfsubjectaccessreviews"}
    mutating = [
        call
        for call in calls
        if call["user"].endswith(":drillbook")
        and call["verb"] not in reads
        and call["resource"] not in asked
        and call.get("subresource") != "portforward"
        and not call["dry_run"]
    ]
    assert calls and mutating == []
    readers = {e["key"] for e in requests if e["method"] in ("PUT", "POST", "DELETE")}
    keys = drill_lab.admin.secret(drill_lab.site.drill_namespace, drill_lab.site.archive.reader_secret.name)
    assert requests and keys["AWS_ACCESS_KEY_ID"] not in readers
    assert started <= datetime.now(UTC)


def test_a_removed_wal_segment_fails_before_anything_is_created(drill_lab: DrillLab) -> None:
    drill_lab.archive_segments(3)
    with drill_lab.fault("wal-removed"):
        drill = drill_lab.drill()
    assert (drill.code, drill.verdict) == (1, "FAILED"), drill.said
    assert drill.created == []
    chain = drill.check("WAL chain")
    assert re.search(r"segment [0-9A-F]{24} is missing", chain["observed"])
    assert re.search(r"[0-9A-F]{24}", drill.headline)
    assert drill.check("archiving live")["verdict"] == "VERIFIED", "later checks still run"


def test_the_window_is_shown_and_names_a_removed_segment(drill_lab: DrillLab, tmp_path: Path) -> None:
    drill_lab.back_up()  # whatever other tests have left: the chain from it is some seconds old
    drill_lab.archive_segments(3)
    svg = tmp_path / "window.svg"
    whole = drill_lab.drillbook("window", "--svg", str(svg))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "reachable" in whole.stdout and "every record's checksum right" in whole.stdout and "→" not in whole.stdout
    assert svg.read_text().startswith("<svg")
    with drill_lab.fault("wal-removed"):
        done = drill_lab.drillbook("window", "--json", "--samples", "0")
    found = json.loads(done.stdout)
    (gap,) = found["gaps"]
    # What follows has only just come, so it may be on its way.
    assert (done.returncode, gap["broken"]["state"], gap["broken"]["segments"]) == (2, "delayed", 1), done.stderr
    assert gap["broken"]["first_segment"] in found["todo"][-1]


def test_a_torn_base_backup_fails_as_soon_as_the_job_fails(drill_lab: DrillLab) -> None:
    with drill_lab.fault("backup-torn"):
        drill = drill_lab.drill()
    assert (drill.code, drill.verdict) == (1, "FAILED"), drill.said
    assert "unexpected end of data" in drill.headline, "the sidecar's own reason"
    assert (drill.folder / "logs" / "recovery.log").stat().st_size > 0
    assert "Can't restore backup" in (drill.folder / "logs" / "recovery-plugin.log").read_text(), "barman's own words"
    (failed,) = [event for event in drill.of("step_finished") if event["status"] == "failed"]
    assert failed["error"]["type"] == "RecoveryFailed"
    # The job's first failed attempt ends the wait; its retries would go on for minutes.
    assert failed["seconds"] < drill_lab.site.limits.recovery.total_seconds() / 2
    # Its known text leads on, on the console, in the record and in the report, and what was kept is enough to name the cause.
    leads = f'The runbook troubleshoot-recovery-slow looks for the cause: open it at “4 The cause”, with failed_run = "{drill.folder.name}"'
    assert leads in failed["error"]["todo"] and "troubleshoot-recovery-slow" in drill.said
    assert "troubleshoot-recovery-slow" in (drill.folder / "report.html").read_text()
    looked = drill_lab.run(ROOT / "runbooks" / "troubleshoot-recovery-slow.ipynb", failed_run=drill.folder.name)
    assert looked.record["facts"]["answer"].startswith("THE BASE BACKUP IS DAMAGED. "), looked.said


def test_a_broken_archiver_fails_at_the_precondition(drill_lab: DrillLab) -> None:
    with drill_lab.failing_archiver():
        drill = drill_lab.drill()
    assert (drill.code, drill.verdict) == (1, "FAILED"), drill.said
    assert drill.created == []
    assert "archiving live" in drill.headline.lower()
    assert drill.check("archiving live")["verdict"] == "FAILED"


def test_denied_keys_leave_it_unproven(drill_lab: DrillLab) -> None:
    with drill_lab.fault("drill-denied"):
        drill = drill_lab.drill()
    assert (drill.code, drill.verdict) == (2, "UNPROVEN"), drill.said
    assert drill.created == []
    assert "AccessDenied" in drill.headline or "403" in drill.headline
    assert drill.check("nothing else running")["verdict"] == "VERIFIED"
    assert {check["verdict"] for check in drill.of("check") if "not run" in check["reason"]} == {"UNPROVEN"}


def test_a_wrong_answer_fails_and_an_error_leaves_unproven(drill_lab: DrillLab) -> None:
    tenants = [tenant.model_dump(mode="json", exclude_unset=True) for tenant in drill_lab.site.tenants]
    tenants[0]["questions"] = [
        {"name": "an impossible count", "sql": "select 41", "expect": {"equals": 42}},
        {"name": "a table that is not there", "sql": "select count(*) from nowhere", "expect": {"at_least": 1}},
        {"name": "a right answer", "sql": "select 7", "expect": {"equals": 7}},
        # Digests and amcheck of a large table take minutes: a statement may take as long as a step.
        {
            "name": "the limit of a statement",
            "sql": "select setting::int from pg_settings where name = 'statement_timeout'",
            "expect": {"equals": drill_lab.site.limits.step.total_seconds() * 1000},
        },
    ]
    drill = drill_lab.drill(site=drill_lab.profile_with("questions", tenants=tenants))
    assert (drill.code, drill.verdict) == (1, "FAILED"), drill.said
    wrong = drill.check("site questions: an impossible count")
    assert (wrong["verdict"], wrong["expected"], wrong["observed"]) == ("FAILED", "42", "41")
    assert drill.check("site questions: a table that is not there")["verdict"] == "UNPROVEN"
    assert drill.check("site questions: a right answer")["verdict"] == "VERIFIED"
    assert drill.check("site questions: the limit of a statement")["verdict"] == "VERIFIED"
    assert "42" in drill.headline and "41" in drill.headline
    assert set(drill.verdicts("quarantine").values()) == {"VERIFIED"}, "later checks still run"


def test_a_target_later_than_the_newest_commit_is_refused(drill_lab: DrillLab) -> None:
    drill = drill_lab.drill(target_time=show_instant(datetime.now(UTC) + timedelta(hours=1)))
    assert (drill.code, drill.verdict) == (4, None), drill.said
    assert re.search(r"nearest reachable instant is 20\d\d-\d\d-\d\dT[\d:.]+Z", drill.headline)
    assert drill.created == []


def test_a_target_before_the_first_backup_is_refused(drill_lab: DrillLab) -> None:
    drill = drill_lab.drill(target_time="2020-01-01T00:00:00Z")
    assert (drill.code, drill.verdict) == (4, None), drill.said
    assert re.search(r"nearest reachable instant is 20\d\d-\d\d-\d\dT[\d:.]+Z", drill.headline)


def test_a_target_without_a_zone_is_refused_and_its_utc_reading_shown(drill_lab: DrillLab) -> None:
    before = drill_lab.folders()
    drill = drill_lab.drill(target_time="2026-11-01 10:15:00")
    assert drill.code == 4
    assert "2026-11-01T10:15:00Z" in drill.said
    assert drill_lab.folders() == before


def test_three_mistakes_in_a_profile_are_told_together(drill_lab: DrillLab) -> None:
    bad = drill_lab.profile_with(
        "mistakes", drill_namespace=drill_lab.site.cluster.namespace, limits={"recovery": "soon"}, colour="green"
    )
    before = drill_lab.folders()
    drill = drill_lab.drill(site=bad)
    assert drill.code == 4
    for fault in ("drill_namespace", "limits.recovery", "colour"):
        assert fault in drill.said
    assert drill_lab.folders() == before


def test_identity_rights_and_storage_class_are_told_at_once(drill_lab: DrillLab) -> None:
    namespace = drill_lab.site.drill_namespace
    kind = k8s.Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
    bindings = drill_lab.admin.list(kind, namespace)
    assert bindings
    for binding in bindings:
        drill_lab.admin.patch(kind, namespace, binding["metadata"]["name"], {"subjects": []})
    wrong = drill_lab.profile_with(
        "wrong",
        identity={
            "kube_system_uid": "00000000-0000-0000-0000-000000000000",
            "system_identifier": "7000000000000000000",
        },
        copy={"storage_class": "no-such-class"},
    )
    try:
        drill = drill_lab.drill(site=wrong)
    finally:
        for binding in bindings:
            drill_lab.admin.patch(kind, namespace, binding["metadata"]["name"], {"subjects": binding["subjects"]})
    assert drill.code == 4, drill.said
    for fault in (
        "wrong Kubernetes cluster",
        "wrong PostgreSQL",
        "no-such-class",
        f"create, get, list, watch, delete on clusters in {namespace}",
    ):
        assert fault in drill.headline, fault
    assert drill.created == []


def test_amcheck_names_a_damaged_index_of_the_source(drill_lab: DrillLab) -> None:
    # An index whose order no longer fits its comparison: what a changed collation does to an index in life.
    database = drill_lab.site.tenants[0].database
    drill_lab.sql(
        database,
        """
        create schema damaged;
        create function damaged.cmp(a int4, b int4) returns int4 language sql immutable as
          'select case when a < b then -1 when a > b then 1 else 0 end';
        create operator class damaged.ops for type int4 using btree as
          operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 damaged.cmp(int4, int4);
        create table damaged.t as select n from generate_series(1, 500) n;
        create index broken_index on damaged.t using btree (n damaged.ops);
        create or replace function damaged.cmp(a int4, b int4) returns int4 language sql immutable as
          'select case when a < b then 1 when a > b then -1 else 0 end';
        """,
    )
    try:
        drill = drill_lab.drill()
    finally:
        drill_lab.sql(database, "drop schema damaged cascade")
    assert (drill.code, drill.verdict) == (1, "FAILED"), drill.said
    assert "broken_index" in str(drill.check(f"amcheck: {database}"))
    assert drill.check("boundary")["verdict"] == "VERIFIED", "checks that can't see the damage stay green"


def test_evidence_that_cannot_be_written_stops_everything(drill_lab: DrillLab) -> None:
    before = drill_lab.folders()
    done = drill_lab.drillbook(
        "run",
        "runbooks/drill-monthly-verification.ipynb",
        "--mode",
        "apply",
        env={"DRILLBOOK_OUTPUTS": "/proc/nowhere"},
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert drill_lab.folders() == before


def test_another_run_that_holds_the_lease_is_named(drill_lab: DrillLab) -> None:
    site = drill_lab.site
    name = f"drillbook-{site.cluster.name}"
    with drill_lab.admin.lease(site.drillbook_namespace, name, "a-run-elsewhere", ttl_seconds=300):
        drill = drill_lab.drill()
    assert drill.code == 4, drill.said
    assert "a-run-elsewhere" in drill.headline
    time.sleep(1.2)  # a Lease that was given back has a second to live
