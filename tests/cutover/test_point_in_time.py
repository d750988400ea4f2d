"""The whole cluster to a point in time, by the runbook: under another name, and again under its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill, children, until

from drillbook import kube as k8s
from drillbook.run.alive import alive

NOTEBOOK = ROOT / "runbooks" / "recover-point-in-time.ipynb"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

pytestmark = pytest.mark.long


def kept(lab: CutLab, cluster: str) -> set[str]:
    return set(lab.sql(cluster, "select text from kept").split())


def mistake(lab: CutLab) -> str:
    """Something is committed, then a mistake is; the instant in between. There is a database that the profile doesn't name."""
    lab.sql(lab.name, "create database unnamed", "postgres")
    lab.sql(lab.name, "create table kept (text text)")
    lab.sql(lab.name, "insert into kept values ('before')")
    target = lab.sql(lab.name, NOW)
    lab.sql(lab.name, "insert into kept values ('mistake')")
    return target


def again(lab: CutLab, run: Drill) -> Drill:
    """Resume with the phrase of the gate at which the run waits."""
    assert run.code == 3, run.said
    phrase = run.of("waiting")[-1]["phrase"]
    done = lab.lab.drillbook("resume", run.folder.name, "--confirm", phrase)
    return Drill(done.returncode, run.folder, done.stdout + done.stderr)


@pytest.mark.parametrize("strategy", ["repoint", "rebuild"])
def test_every_tenant_goes_back_and_the_application_is_served(cut_lab: CutLab, strategy: str) -> None:
    lab, database = cut_lab, cut_lab.site.tenants[0].database
    address, schedules = lab.address(), lab.schedules()
    uid = (lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {})["metadata"]["uid"]
    (store,) = lab.admin.list(k8s.OBJECT_STORE, lab.namespace)
    target = mistake(lab)
    lab.sql(lab.name, "create table of_nobody (n int)", "unnamed")
    with lab.lab.recovering():
        run = lab.lab.run(NOTEBOOK, database=database, strategy=strategy, target_time=target)
        stopped = again(lab, run)
        (*_, gate) = stopped.of("waiting")
        for loser in (database, "unnamed"):
            assert any(line.startswith(f"{loser}: ") and "commits" in line for line in gate["lost"]), gate
        assert (lab.address(), kept(lab, lab.name)) == (address, {"before", "mistake"}), "nothing of the source has changed"
        done = again(lab, stopped)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said

    cluster = lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {}
    (cut,) = [event["value"] for event in done.of("fact") if event["name"] == "cut"]
    assert kept(lab, cut["now"]) == {"before"}
    asked = done.verdicts("replacement: ")
    assert asked["replacement: boundary"] == "VERIFIED" and set(asked.values()) <= {"VERIFIED", "n/a"}, asked
    if strategy == "repoint":
        assert cut["now"] != lab.name and f"{cut['now']}-rw" in lab.address()
        assert cluster["metadata"]["uid"] == uid and json.loads(cluster["metadata"]["annotations"]["cnpg.io/fencedInstances"]) == ["*"]
        assert {asleep for of, asleep in lab.schedules().values() if of == lab.name} == {True}
        assert {asleep for of, asleep in lab.schedules().values() if of == cut["now"]} == {False}
    else:
        assert cut["now"] == lab.name and cluster["metadata"]["uid"] != uid
        assert (lab.address(), lab.schedules()) == (address, schedules)
    (now,) = lab.admin.list(k8s.OBJECT_STORE, lab.namespace)
    assert now["spec"] == store["spec"], "retention is as it was"
    told = (done.folder / "logs" / "announcement.txt").read_text()
    assert f"serverName {cut['server_name']}" in told and "has it" in told
    assert f"name: {cut['server_name']}" in (done.folder / "logs" / "git.patch.yaml").read_text()
    assert {event["id"] for event in done.of("obligation")} <= {event["id"] for event in done.of("settled")}
    assert lab.lab.left() == []
    assert lab.lab.drillbook("verify", done.folder.name).returncode == 0


def killed(lab: CutLab, run: Drill, when: Callable[[], Any], why: str, *more: str) -> None:
    """Resume, and kill runner and kernel with -9 as soon as ``when`` is true."""
    runner = subprocess.Popen(
        [sys.executable, "-m", "drillbook", "resume", run.folder.name, *more],
        cwd=ROOT, env=lab.lab.env, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: when() or runner.poll() is not None, why)
    assert runner.poll() is None, f"it ended before: {why}"
    for pid in [runner.pid, *children(runner.pid)]:  # papermill outlives its runner otherwise, and goes on
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    runner.wait()
    until(lambda: not alive(run.folder), "the kernel has gone")


@pytest.mark.soak
def test_a_rebuild_that_is_killed_while_it_removes_makes_serves_and_clears_up_comes_to_its_end(cut_lab: CutLab) -> None:
    lab = cut_lab
    schedules = lab.schedules()
    target = mistake(lab)

    def cluster() -> dict[str, Any]:
        return lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {"metadata": {"uid": ""}, "status": {}}

    def copies() -> list[dict[str, Any]]:
        return lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace)

    def new_and_not_ready() -> bool:
        now = cluster()
        return now["metadata"]["uid"] not in ("", uid) and not now.get("status", {}).get("readyInstances")

    uid = cluster()["metadata"]["uid"]
    with lab.lab.recovering():
        run = lab.lab.run(NOTEBOOK, database=lab.site.tenants[0].database, strategy="rebuild", target_time=target)
        stopped = again(lab, run)
        assert stopped.code == 3, stopped.said
        phrase = stopped.of("waiting")[-1]["phrase"]
        killed(lab, run, lambda: cluster()["metadata"]["uid"] != uid, "the old cluster is gone", "--confirm", phrase)
        killed(lab, run, new_and_not_ready, "the new one is being recovered")
        killed(lab, run, lambda: lab.schedules() == schedules, "its schedules go on")
        killed(lab, run, lambda: not copies(), "the copy is being removed")
        done = lab.lab.drillbook("resume", run.folder.name)
    ended = Drill(done.returncode, run.folder, done.stdout + done.stderr)
    assert (ended.code, ended.verdict) == (0, "VERIFIED"), ended.said
    assert len(ended.of("confirmed")) == 2, "nobody was asked again"
    assert kept(lab, lab.name) == {"before"}
    assert lab.schedules() == schedules and lab.lab.left() == []
    assert {event["id"] for event in ended.of("obligation")} <= {event["id"] for event in ended.of("settled")}
    assert lab.lab.drillbook("verify", run.folder.name).returncode == 0
