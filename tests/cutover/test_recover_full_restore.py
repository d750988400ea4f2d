"""The notebooks, headless: the whole cluster from its archive, under a new name, under its own, and with nothing left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_cutover import CutLab
from fix_drills import ROOT, Drill, until
from fix_hands import Hands

from drillbook import kube as k8s
from drillbook.archive.lost_cluster import archive_of
from drillbook.errors import PreconditionError
from drillbook.profile import load_site

BESIDE = ROOT / "runbooks" / "recover-full-restore.ipynb"
IN_PLACE = ROOT / "runbooks" / "recover-full-restore-in-place.ipynb"

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


def is_verified(lab: CutLab, run: Drill, complete: tuple[str, ...] = ("complete", "complete: old cluster")) -> None:
    """The run is VERIFIED, its record is sealed and intact, and it owes nothing."""
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert {event["id"] for event in run.of("obligation")} == {event["id"] for event in run.of("settled")}
    assert {run.check(name)["verdict"] for name in complete} == {"VERIFIED"}
    for start in ("application health", "smoke test", "application log", "backup after the cut"):
        assert set(run.verdicts(start).values()) == {"VERIFIED"}, run.verdicts(start)
    assert (run.folder / "SHA256SUMS").exists()
    assert lab.lab.drillbook("verify", run.folder.name).returncode == 0


@pytest.fixture
def hands(cut_lab: CutLab) -> Iterator[Hands]:
    """A reconciler and an autoscaler that act on the application."""
    found = Hands(cut_lab)
    yield found
    found.rest()


def test_in_place_loses_nothing_and_is_not_proven_while_git_declares_the_old_cluster(
    cut_lab: CutLab, hands: Hands
) -> None:
    lab = cut_lab
    hands.declare_cluster()
    commit(lab, "never-archived")
    before = source(lab)
    run = lab.lab.run(IN_PLACE)
    assert waits_for(run, "Stop the old cluster") == []
    assert "is healthy" in run.check("restore called for")["observed"]
    assert source(lab) == before
    assert lab.lab.drillbook("resume", run.folder.name).returncode == 3, "nobody has confirmed it"
    assert source(lab) == before

    stopped = approved(lab, run)
    assert any("fencedInstances" in made for made in waits_for(stopped, "Delete the old cluster, and create it again"))
    assert source(lab)[0] == before[0], "it is still there"
    done = approved(lab, stopped)
    assert (done.code, done.verdict) == (2, "UNPROVEN"), done.said
    (removing,) = [event["plan"] for event in done.of("step_started") if event["step"] == "RemoveOldCluster"]
    assert f"pause automated sync of Application argocd/{hands.app.deployment}" in removing["touches"]
    hands.stays_paused(done)
    made = source(lab)
    assert made[0] not in (None, before[0])
    assert lab.sql(lab.name, "select text from kept") == "never-archived"
    assert (lab.address(), lab.schedules()) == (before[4], before[3])
    assert f"serverName {lab.name}" in (done.folder / "logs" / "announcement.txt").read_text()
    patch = (done.folder / "logs" / "git.patch.yaml").read_text()
    assert f"serverName: {lab.name}-" in patch and "until:" in patch
    hands.declare_as_told(done)
    until(lambda: hands.status("sync", "status") == "Synced", "what the run has told is what is there")
    hands.sync_again()
    assert source(lab) == made, "the next sync brings nothing back"
    hands.as_before()


def test_beside_is_proven_once_git_agrees_and_replicas_are_as_they_were(cut_lab: CutLab, hands: Hands) -> None:
    lab = cut_lab
    commit(lab, "never-archived")
    before = source(lab)
    run = lab.lab.run(BESIDE, no_backup_because="the test of in-place takes one")
    waits_for(run, "Stop the old cluster")
    assert "no backup of" in str(run.of("waiting")[-1]["lost"])
    stopped = approved(lab, run)
    made = waits_for(stopped, "Put the replacement into service")
    (new,) = [name.rpartition("/")[2] for name in made if name.startswith("Cluster/") and ":" not in name]
    assert source(lab)[3:] == before[3:], "applications, schedules and backups are as they were"
    with hands.git_follows(f"{lab.name}-rw", f"{new}-rw"):
        done = approved(lab, stopped)
    is_verified(lab, done)
    assert f"{new}-rw" in lab.address()
    assert lab.sql(new, "select text from kept") == "never-archived"
    old = source(lab)
    assert (old[0], old[2]) == (before[0], '["*"]'), "the old one stands fenced"
    assert lab.schedules()[f"{lab.name}-nightly"] == (lab.name, True)
    assert [state for state in lab.schedules().values() if state[0] == new] == [(new, False)]
    assert f"drillbook undo {done.folder.name}" in (done.folder / "logs" / "announcement.txt").read_text()
    hands.went_on(done)
    assert hands.verdict_while_git_says_otherwise() == "UNPROVEN"


def test_bucket_and_profile_are_enough_when_the_cluster_is_gone(cut_lab: CutLab) -> None:
    lab = cut_lab
    commit(lab, "the-last")
    cluster = lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {}
    lab.lab.back_up()
    lab.sql(lab.name, "select pg_switch_wal()", "postgres")
    commit(lab, "lost-with-the-volume")
    server = cluster["spec"]["plugins"][0]["parameters"]["serverName"]
    delete(lab)
    (store,) = lab.admin.list(k8s.OBJECT_STORE, lab.namespace)
    site = lab.lab.profile_with(
        "gone",
        replacement={"instances": 1, "storage_size": "1Gi", "image": cluster["spec"]["imageName"]},
        archive={"object_store": store["metadata"]["name"], "server_name": server},
    )
    run = lab.lab.run(IN_PLACE, site=site)
    waits_for(run, "Delete the old cluster, and create it again")
    assert [event["section"] for event in run.of("confirmed")] == ["Stop the old cluster"], "nothing to stop: not asked"
    done = approved(lab, run)
    is_verified(lab, done, complete=("complete",))
    assert done.check("complete: old cluster")["verdict"] == "UNPROVEN", "nobody can see what the volume held"
    assert "is lost: the old volume could not be read" in (done.folder / "logs" / "announcement.txt").read_text()
    assert "the-last" in lab.sql(lab.name, "select text from kept")
    assert lab.own_login(lab.name) == lab.site.tenants[0].database
    gone_again_its_application_follows_to_another_name(lab, site, done)


def gone_again_its_application_follows_to_another_name(lab: CutLab, site: Path, first: Drill) -> None:
    """Lost a second time: what was committed since is under the newer serverName, which the profile must know."""
    commit(lab, "since-then")
    lab.sql(lab.name, "select pg_switch_wal()", "postgres")
    delete(lab)
    with pytest.raises(PreconditionError, match=f"run {first.folder.name} made Cluster .* again, which archived under"):
        archive_of(lab.admin, load_site(str(site)))
    told, _ = yaml.safe_load_all((first.folder / "logs" / "git.patch.yaml").read_text())
    known = yaml.safe_load(site.read_text())
    newer = lab.lab.profile_with("gone-again", **known | {"archive": known["archive"] | told["archive"]})
    address, asleep = lab.address(), lab.schedules()[f"{lab.name}-nightly"]
    run = lab.lab.run(BESIDE, site=newer)
    made = waits_for(run, "Put the replacement into service")
    (new,) = [name.rpartition("/")[2] for name in made if name.startswith("Cluster/")]
    assert (lab.address(), lab.schedules()[f"{lab.name}-nightly"]) == (address, asleep)
    done = approved(lab, run)
    is_verified(lab, done, complete=("complete",))
    assert f"{new}-rw" in lab.address() and lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) is None
    assert {"the-last", "since-then"} <= set(lab.sql(new, "select text from kept").split())
    assert lab.own_login(new) == lab.site.tenants[0].database
    assert [state for state in lab.schedules().values() if state[0] == new] == [(new, False)]


@pytest.mark.soak
def test_what_a_dead_volume_held_is_given_up_by_name_and_told_as_lost(cut_lab: CutLab) -> None:
    lab = cut_lab
    commit(lab, "archived")
    lab.lab.archive_segments(1)
    with lab.lab.fault("archiver-broken"):
        commit(lab, "never-archived")
        its_node_is_gone(lab)
    given = {"no_backup_because": "its node is gone", "no_salvage_because": "its disk went with it"}
    refused = lab.lab.run(BESIDE, no_backup_because=given["no_backup_because"])
    refused = approved(lab, refused)
    assert (refused.code, refused.verdict) == (2, "UNPROVEN"), refused.said
    assert "no_salvage_because" in refused.check("old volume")["reason"]
    assert lab.admin.list(k8s.CLUSTER, lab.namespace, labels="drillbook.io/run") == [], "nothing was made"

    run = lab.lab.run(BESIDE, **given)
    waits_for(run, "Stop the old cluster")
    assert "never archived; given up, because: its disk went with it" in str(run.of("waiting")[-1]["lost"])
    stopped = approved(lab, run)
    (new,) = [
        name.rpartition("/")[2]
        for name in waits_for(stopped, "Put the replacement into service")
        if name.startswith("Cluster/") and ":" not in name
    ]
    done = approved(lab, stopped)
    is_verified(lab, done, complete=("complete",))
    assert lab.sql(new, "select text from kept") == "archived"
    for name in ("old volume", "complete: old cluster"):
        check = done.check(name)
        assert check["verdict"] == "n/a" and "given up, because: its disk went with it" in check["reason"].lower(), (
            check
        )
    assert "without what was never archived" in done.headline
    told = (done.folder / "logs" / "announcement.txt").read_text()
    assert "is lost: the old volume could not be read. It was given up, because: its disk went with it." in told


def its_node_is_gone(lab: CutLab) -> None:
    """The primary's pod ends at once, and nobody makes another."""
    patch = {"metadata": {"annotations": {"cnpg.io/reconciliationLoop": "disabled"}}}
    lab.admin.patch(k8s.CLUSTER, lab.namespace, lab.name, patch)
    path = k8s.POD.path(lab.namespace, f"{lab.name}-1")
    lab.admin._transport.call("DELETE", path, what="lose the node", body={"gracePeriodSeconds": 0})
    until(lambda: lab.admin.get(k8s.POD, lab.namespace, f"{lab.name}-1") is None, "its pod is gone")


def delete(lab: CutLab) -> None:
    """The Cluster and its volumes are gone."""
    cluster = lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {}
    lab.admin.delete(k8s.CLUSTER, lab.namespace, lab.name, uid=cluster["metadata"]["uid"])
    until(
        lambda: not lab.admin.list(k8s.PVC, lab.namespace, labels=f"cnpg.io/cluster={lab.name}"), "its volumes are gone"
    )
