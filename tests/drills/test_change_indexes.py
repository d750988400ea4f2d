"""Indexes of a running cluster are changed by the runbook and taken back by another, and a kill in the middle leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, children, until

from drillbook import kube as k8s

NOTEBOOK = ROOT / "runbooks" / "change-indexes.ipynb"
TENANT = "synergyflow"
BUILT = {"idx_incidents_open_deadline", "idx_incidents_assigned_to_status"}
DROPPED = "idx_incidents_assigned_to"
CAUGHT_UP = "select bool_and(replay_lsn = pg_current_wal_lsn()) from pg_stat_replication"
INVALID = "select count(*) from pg_index where not (indisvalid and indisready and indislive)"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def rights(drill_lab: DrillLab) -> Iterator[None]:
    with drill_lab.recovering():
        yield


def indexes(lab: DrillLab) -> set[str]:
    """Every valid index of the table, with its definition."""
    names = lab.sql(
        TENANT,
        "select indexname || ': ' || indexdef from pg_indexes where schemaname = 'synergyflow_incidents' and tablename = 'incidents'",
    )
    return set(names.splitlines())


def facts(run: Drill, name: str) -> Any:
    return [event["value"] for event in run.of("fact") if event["name"] == name][-1]


def test_i14_indexes_are_changed_behind_two_gates_and_taken_back_by_the_runs_id(drill_lab: DrillLab) -> None:
    lab = drill_lab
    before = indexes(lab)
    run = lab.run(NOTEBOOK)
    assert indexes(lab) == before, "nothing before the gate"
    gate = run.of("waiting")[-1]
    assert [line.startswith("CREATE INDEX CONCURRENTLY idx_") for line in gate["steps"][0]["plan"]["sql"]] == [
        True,
        True,
    ]
    second = lab.go_on(run)
    named = {line.partition(":")[0] for line in indexes(lab)}
    assert BUILT | {DROPPED} <= named, second.said
    done = lab.go_on(second)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    after = {line.partition(":")[0] for line in indexes(lab)}
    assert after >= BUILT and DROPPED not in after
    backup = facts(done, "backup_before_the_change")["backup_id"]
    told = (done.folder / "logs" / "announcement.txt").read_text()
    assert "is in place (indexes built: 2, dropped: 1)" in told and backup in told
    for stall in ("stall_while_built", "stall_while_dropped"):
        assert facts(done, stall)["reason"] == "" and facts(done, stall)["beats"] > 0
    assert lab.drillbook("verify", done.folder.name).returncode == 0

    asked = lab.drillbook("undo", done.folder.name)
    assert asked.returncode == 3, asked.stdout + asked.stderr
    back = Drill(3, lab.folders(NOTEBOOK.with_stem("undo-change-indexes"))[-1], asked.stdout)
    undone = lab.go_on(back)
    assert (undone.code, undone.verdict) == (0, "VERIFIED"), undone.said
    assert indexes(lab) == before
    said = f"The index change of run {done.folder.name} is undone in {TENANT}"
    assert said in undone.said, undone.said
    again = lab.drillbook("undo", done.folder.name)
    assert again.returncode == 4 and f"undone by run {undone.folder.name}" in again.stdout + again.stderr


@contextmanager
def older_transaction(lab: DrillLab) -> Iterator[None]:
    """A writer's transaction, which holds Flyway's lock as well, is open within the block."""
    pod = f"{lab.site.cluster.name}-1"
    held = (
        "begin; set application_name = 'nightly report'; lock table synergyflow_incidents.incidents in row exclusive mode; "
        "select pg_advisory_xact_lock(77431708279161), pg_sleep(120)"
    )
    argv = ["psql", "-XAtq", "-U", "postgres", "-d", TENANT, "-c", held]
    where = lab.site.cluster.namespace
    thread = threading.Thread(
        target=lambda: lab.admin.exec(where, pod, "postgres", argv, timeout_seconds=180), daemon=True
    )
    thread.start()
    there = "select count(*) from pg_locks join pg_stat_activity using (pid) where mode = 'RowExclusiveLock' and application_name = 'nightly report'"
    until(lambda: lab.sql("postgres", there) != "0", "the transaction is open")
    try:
        yield
    finally:
        lab.sql(
            "postgres",
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'nightly report'",
        )
        thread.join(60)


def killed_while_it_waits(lab: DrillLab, run: Drill) -> None:
    """Confirm, wait until the first build waits for the older transaction, and kill every process of the run."""
    argv = [sys.executable, "-m", "drillbook", "resume", run.folder.name, "--confirm", run.of("waiting")[-1]["phrase"]]
    process = subprocess.Popen(argv, cwd=ROOT, env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waits = "select count(*) from pg_stat_progress_create_index where phase like 'waiting for writers%'"
    until(lambda: lab.sql(TENANT, waits) != "0" or process.poll() is not None, "the build waits")
    assert process.poll() is None, "it ended without waiting"
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["resumed", "abandoned"])
def test_i14_killed_while_a_build_waits_no_invalid_index_is_left(drill_lab: DrillLab, ending: str) -> None:
    lab = drill_lab
    before = indexes(lab)
    run = lab.run(NOTEBOOK)
    assert run.code == 3, run.said
    with older_transaction(lab):
        killed_while_it_waits(lab, run)
    # As when the server restarts: the backend that is left of it is gone, its index INVALID.
    lab.sql(
        "postgres",
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'drillbook_index'",
    )
    if ending == "abandoned":
        told = lab.drillbook("abandon", run.folder.name)
        assert "removed" in told.stdout or told.returncode in (0, 2), told.stdout + told.stderr
        assert lab.sql(TENANT, INVALID) == "0", told.stdout
        assert indexes(lab) >= before
    else:
        told = lab.drillbook("resume", run.folder.name)
        assert told.returncode == 3, told.stdout + told.stderr
        done = lab.go_on(Drill(3, run.folder, told.stdout))
        assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
        assert lab.sql(TENANT, INVALID) == "0"
        assert {line.partition(":")[0] for line in indexes(lab)} >= BUILT
    if indexes(lab) != before:
        back = lab.drillbook("undo", run.folder.name)
        lab.go_on(Drill(back.returncode, lab.folders(NOTEBOOK.with_stem("undo-change-indexes"))[-1], back.stdout))
    assert indexes(lab) == before


def test_i14_what_is_in_the_way_is_all_named_and_nobody_is_asked(drill_lab: DrillLab) -> None:
    lab = drill_lab
    before = indexes(lab)
    spoil = (
        "update pg_index set indisvalid = {} where indexrelid = 'synergyflow_incidents.idx_incidents_status'::regclass"
    )
    lab.sql(TENANT, spoil.format("false"))
    try:
        with older_transaction(lab):
            run = lab.run(NOTEBOOK, no_backup_because="a test of what is asked before")
    finally:
        lab.sql(TENANT, spoil.format("true"))
    assert (run.code, run.verdict) == (1, "FAILED"), run.said
    red = {check["name"]: check["observed"] for check in run.of("check") if check["verdict"] == "FAILED"}
    assert "nightly report" in red["older transactions"] and "nightly report" in red["another migration"]
    assert "idx_incidents_status" in red["invalid indexes"]
    assert run.of("waiting") == [] and indexes(lab) == before


@pytest.mark.soak
def test_i14_a_replica_that_is_behind_is_in_the_way_and_one_that_follows_is_not(drill_lab: DrillLab) -> None:
    lab, cluster = drill_lab, drill_lab.site.cluster
    replica = f"{cluster.name}-2"

    def ready() -> int:
        return int((lab.admin.get(k8s.CLUSTER, cluster.namespace, cluster.name) or {})["status"]["readyInstances"])

    def scaled_to(instances: int) -> None:
        lab.admin.patch(k8s.CLUSTER, cluster.namespace, cluster.name, {"spec": {"instances": instances}})
        until(lambda: ready() == instances, f"{instances} instances are ready")

    def on_the_replica(statement: str) -> None:
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-c", statement]
        assert lab.admin.exec(cluster.namespace, replica, "postgres", argv, timeout_seconds=60).exit_code == 0

    scaled_to(2)
    try:
        on_the_replica("select pg_wal_replay_pause()")
        lab.sql(
            "postgres",
            "select count(pg_logical_emit_message(false, 'test', repeat('x', 1000000))) from generate_series(1, 80)",
        )
        run = lab.run(NOTEBOOK, no_backup_because="a test of what is asked before")
        behind = run.check("replication lag")
        assert (run.code, behind["verdict"]) == (1, "FAILED") and f"{replica}: 7" in behind["observed"], run.said
        assert run.of("waiting") == []
        on_the_replica("select pg_wal_replay_resume()")
        until(lambda: lab.sql("postgres", CAUGHT_UP) == "t", "the replica has replayed all")
        run = lab.run(NOTEBOOK, no_backup_because="a test of what is asked before")
        assert run.code == 3 and run.check("replication lag")["verdict"] == "VERIFIED", run.said
        assert replica in run.check("replication lag")["observed"]
        lab.drillbook("abandon", run.folder.name)
    finally:
        scaled_to(1)
