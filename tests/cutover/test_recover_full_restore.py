"""The notebook, headless: the whole cluster from its archive and in its place, by each strategy, and with nothing left of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill

from drillbook import kube as k8s

NOTEBOOK = ROOT / "runbooks" / "recover-full-restore.ipynb"

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def rights(cut_lab: CutLab) -> Iterator[None]:
    """Those of deploy/recover/ and deploy/replace/, and no others."""
    with cut_lab.lab.recovering():
        yield


def approved(lab: CutLab, run: Drill) -> Drill:
    """Approve the plan at which the run waits, and resume it."""
    (*_, gate) = run.of("waiting")
    told = lab.lab.drillbook("approve", run.folder.name, "--phrase", gate["phrase"])
    assert told.returncode == 0, told.stdout + told.stderr
    done = lab.lab.drillbook("resume", run.folder.name)
    return Drill(done.returncode, run.folder, done.stdout + done.stderr)


def waits_for(run: Drill, section: str) -> list[str]:
    """The run has stopped at this gate; what it has made so far, each with the gate's deadline."""
    assert run.code == 3, run.said
    (*_, gate) = run.of("waiting")
    assert gate["section"] == section and gate["deadline"], gate
    assert all(made in run.said for made in gate["made"]), run.said
    return [str(made) for made in gate["made"]]


def source(lab: CutLab) -> tuple[Any, ...]:
    """What must not change before somebody has confirmed it."""
    cluster = lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {"metadata": {}, "spec": {}}
    fenced = (cluster["metadata"].get("annotations") or {}).get("cnpg.io/fencedInstances")
    backups = len(lab.admin.list(k8s.BACKUP, lab.namespace))
    return cluster["metadata"].get("uid"), cluster["spec"], fenced, lab.schedules(), lab.address(), backups


def commit(lab: CutLab, text: str, cluster: str = "") -> None:
    lab.sql(cluster or lab.name, "create table if not exists kept (text text)")
    lab.sql(cluster or lab.name, f"insert into kept values ('{text}')")


def is_verified(lab: CutLab, run: Drill) -> None:
    """The run is VERIFIED, its record is sealed and intact, and it owes nothing."""
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert {event["id"] for event in run.of("obligation")} == {event["id"] for event in run.of("settled")}
    for start in ("complete", "application health", "smoke test", "application log", "backup after the cut"):
        assert set(run.verdicts(start).values()) == {"VERIFIED"}, run.verdicts(start)
    assert (run.folder / "SHA256SUMS").exists()
    assert lab.lab.drillbook("verify", run.folder.name).returncode == 0


def test_rebuild_of_a_healthy_cluster_warns_waits_and_loses_nothing(cut_lab: CutLab) -> None:
    lab = cut_lab
    commit(lab, "never-archived")
    before = source(lab)
    run = lab.lab.run(NOTEBOOK, strategy="rebuild")
    assert waits_for(run, "Stop the old cluster") == []
    assert "is healthy" in run.check("restore called for")["observed"]
    assert source(lab) == before
    assert lab.lab.drillbook("resume", run.folder.name).returncode == 3, "nobody has confirmed it"
    assert source(lab) == before

    stopped = approved(lab, run)
    assert any("fencedInstances" in made for made in waits_for(stopped, "Remove the old cluster, and make it again"))
    assert source(lab)[0] == before[0], "it is still there"
    done = approved(lab, stopped)
    is_verified(lab, done)
    assert source(lab)[0] not in (None, before[0])
    assert lab.sql(lab.name, "select text from kept") == "never-archived"
    assert (lab.address(), lab.schedules()) == (before[4], before[3])
    assert f"serverName {lab.name}" in (done.folder / "logs" / "announcement.txt").read_text()
    patch = (done.folder / "logs" / "git.patch.yaml").read_text()
    assert f"serverName: {lab.name}-" in patch and "until:" in patch
