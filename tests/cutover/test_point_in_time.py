"""The whole cluster to a point in time, by the runbook: under another name, and again under its own."""

from __future__ import annotations

import json

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill

from drillbook import kube as k8s

NOTEBOOK = ROOT / "runbooks" / "recover-point-in-time.ipynb"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

pytestmark = pytest.mark.long


def kept(lab: CutLab, cluster: str) -> set[str]:
    return set(lab.sql(cluster, "select text from kept").split())


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
    lab.sql(lab.name, "create table kept (text text)")
    lab.sql(lab.name, "insert into kept values ('before')")
    target = lab.sql(lab.name, NOW)
    lab.sql(lab.name, "insert into kept values ('mistake')")
    with lab.lab.recovering():
        run = lab.lab.run(NOTEBOOK, database=database, strategy=strategy, target_time=target)
        stopped = again(lab, run)
        (*_, gate) = stopped.of("waiting")
        assert any(line.startswith(f"{database}: ") and "commits" in line for line in gate["lost"]), gate
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
