"""The whole cluster to a point in time, by the runbooks: under a new name and back again, and under its own."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill

from drillbook import kube as k8s
from drillbook.errors import PostgresError
from drillbook.model import parse_instant, show_instant
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.home import LabHome

RUNBOOKS = ROOT / "runbooks"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def kept(lab: CutLab, cluster: str) -> set[str]:
    return set(lab.sql(cluster, "select text from kept").split())


def mistake(lab: CutLab) -> str:
    """Something is committed, then a mistake is; the instant in between. There is a database that the profile doesn't name."""
    lab.sql(lab.name, "create database unnamed", "postgres")
    lab.sql(lab.name, "create table kept (text text)")
    lab.sql(lab.name, "insert into kept values ('before')")
    target = lab.sql(lab.name, NOW)
    lab.sql(lab.name, "insert into kept values ('mistake')")
    lab.sql(lab.name, "create table of_nobody (n int)", "unnamed")
    return target


def again(lab: CutLab, run: Drill, *more: str) -> Drill:
    """Resume, with the phrase of the gate if the run waits at one."""
    phrase = ["--confirm", run.of("waiting")[-1]["phrase"]] if run.code == 3 else []
    done = lab.lab.drillbook("resume", run.folder.name, *phrase, *more)
    return Drill(done.returncode, run.folder, done.stdout + done.stderr)


def cluster(lab: CutLab) -> dict[str, Any]:
    return lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {"metadata": {"uid": ""}}


def names_every_loser(lab: CutLab, gate: dict[str, Any]) -> None:
    for loser in (lab.site.tenants[0].database, "unnamed"):
        assert any(line.startswith(f"{loser}: ") and "commits" in line for line in gate["lost"]), gate


def owes_nothing(lab: CutLab, run: Drill) -> None:
    assert {event["id"] for event in run.of("obligation")} <= {event["id"] for event in run.of("settled")}
    assert lab.lab.left() == []
    assert lab.lab.drillbook("verify", run.folder.name).returncode == 0


def test_g03_g04_s10_clients_follow_to_the_replacement_and_come_back_a_week_later_with_another_machine(
    cut_lab: CutLab, tmp_path: Path
) -> None:
    lab = cut_lab
    lab.move_address_to_a_secret()  # whose old value no journal keeps
    address, schedules, uid = lab.address(), lab.schedules(), cluster(lab)["metadata"]["uid"]
    target = mistake(lab)
    with lab.lab.recovering():
        run = lab.lab.run(RUNBOOKS / "recover-full-restore.ipynb", target_time=target)
        assert run.code == 3, run.said
        stopped = again(lab, run)
        assert stopped.code == 3, stopped.said
        names_every_loser(lab, stopped.of("waiting")[-1])
        done = again(lab, stopped)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    (cut,) = [event["value"] for event in done.of("fact") if event["name"] == "cut"]
    new = cut["now"]
    assert kept(lab, new) == {"before"} and f"{new}-rw" in lab.address()
    assert json.loads(cluster(lab)["metadata"]["annotations"]["cnpg.io/fencedInstances"]) == ["*"]
    assert {asleep for of, asleep in lab.schedules().values() if of == lab.name} == {True}
    announced = (done.folder / "logs" / "announcement.txt").read_text()
    assert f"drillbook undo {done.folder.name}" in announced
    owes_nothing(lab, done)

    lab.sql(new, "insert into kept values ('since')")
    lab.a_week_passes()
    with lab.lab.recovering(), lab.lab.on_another_machine(tmp_path):
        asked = lab.lab.drillbook("undo", done.folder.name)
        assert asked.returncode == 3, asked.stdout + asked.stderr
        (folder,) = (tmp_path / "undo-full-restore").iterdir()
        waits = Drill(3, folder, asked.stdout)
        written = waits.check("written since: invoices")
        assert "public.kept" in str(written["details"]), written
        assert (
            f"since {show_instant(parse_instant(cut['cut_at']) - timedelta(days=7))[:10]}"
            in waits.check("written since")["observed"]
        )
        assert cluster(lab)["metadata"]["uid"] == uid and f"{new}-rw" in lab.address(), "nothing has changed yet"
        away = again(lab, waits)
        assert (away.code, away.verdict) == (0, "VERIFIED"), away.said
        assert lab.lab.drillbook("verify", folder.name).returncode == 0
    assert (lab.address(), lab.schedules()) == (address, schedules)
    assert kept(lab, lab.name) == {"before", "mistake"}, "the old cluster serves"
    left = lab.admin.get(k8s.CLUSTER, lab.namespace, new) or {"metadata": {}}
    assert left["metadata"]["annotations"]["cnpg.io/fencedInstances"] == '["*"]', "the later writes are kept"
    assert kept(lab, lab.name) == {"before", "mistake"}

    with lab.lab.recovering(), lab.lab.on_another_machine(tmp_path):
        drop = lab.lab.drillbook("drop-kept", folder.name)
        assert drop.returncode == 3, drop.stdout + drop.stderr
        assert lab.admin.get(k8s.CLUSTER, lab.namespace, new) is not None, "nothing has changed yet"
        (dropping,) = (tmp_path / "change-drop-kept").iterdir()
        dropped = again(lab, Drill(3, dropping, drop.stdout))
        assert (dropped.code, dropped.verdict) == (0, "VERIFIED"), dropped.said
    assert lab.admin.get(k8s.CLUSTER, lab.namespace, new) is None and cluster(lab)["metadata"]["uid"] == uid
    assert lab.admin.list(k8s.PVC, lab.namespace, labels=f"cnpg.io/cluster={new}") == []
    assert kept(lab, lab.name) == {"before", "mistake"} and lab.address() == address


def test_g01_g13_s23_one_refused_call_after_the_deletion_lets_nobody_in_and_removes_nothing(cut_lab: CutLab) -> None:
    lab = cut_lab
    address, schedules, uid = lab.address(), lab.schedules(), cluster(lab)["metadata"]["uid"]
    target = mistake(lab)
    lab.generated_secret()
    home = LabHome(lab.lab.home)
    with lab.lab.recovering():
        run = lab.lab.run(RUNBOOKS / "recover-full-restore-in-place.ipynb", target_time=target)
        assert run.code == 3, run.said
        stopped = again(lab, run)
        assert stopped.code == 3, stopped.said
        names_every_loser(lab, stopped.of("waiting")[-1])
        assert cluster(lab)["metadata"]["uid"] == uid, "it is still there"
        copies = lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace)
        faults.control(home, {"op": "api", "rules": [{"method": "POST", "path": "/clusters$", "status": 403}]})
        halted = again(lab, stopped)
        assert halted.code == 6, halted.said
        assert "Nothing was put back or removed" in halted.said and "drillbook undo" in halted.said
        assert cluster(lab)["metadata"]["uid"] in ("",), "the new one was refused"
        assert [item["metadata"]["uid"] for item in lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace)] == [
            item["metadata"]["uid"] for item in copies
        ], "the verified copy is still there"
        refused = lab.lab.drillbook("abandon", run.folder.name)
        assert refused.returncode == 4 and "--as-it-stands" in refused.stderr + refused.stdout
        assert "left as it is" in lab.lab.drillbook("cleanup", "--site", str(lab.lab.profile)).stdout
        faults.control(
            home, {"op": "api", "rules": [{"method": "PATCH", "path": f"/clusters/{lab.name}$", "status": 403}]}
        )
        shut = again(lab, halted)
        assert shut.code == 6 and "Let the clients in" in shut.said, shut.said
        with pytest.raises(PostgresError, match="reject"):  # S23: its Services route to it already
            lab.own_login(lab.name)
        done = again(lab, shut)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert lab.own_login(lab.name) == lab.site.tenants[0].database
    assert cluster(lab)["metadata"]["uid"] not in ("", uid) and kept(lab, lab.name) == {"before"}
    assert (lab.address(), lab.schedules()) == (address, schedules)
    assert not (cluster(lab)["spec"]["postgresql"].get("pg_hba") or []), "its clients are let in"
    assert lab.admin.get(k8s.SECRET, lab.namespace, f"{lab.name}-app") is not None, "clients refer to it by name"
    owes_nothing(lab, done)


@pytest.mark.soak
def test_g03_a_restore_that_stopped_after_its_first_client_moved_goes_back_by_an_undo(cut_lab: CutLab) -> None:
    lab = cut_lab
    address, schedules = lab.address(), lab.schedules()
    home = LabHome(lab.lab.home)
    with lab.lab.recovering():
        run = lab.lab.run(RUNBOOKS / "recover-full-restore.ipynb", no_backup_because="the test of the whole takes one")
        stopped = again(lab, run)
        assert stopped.code == 3, stopped.said
        app = lab.site.tenants[0].application
        assert app is not None
        faults.control(
            home,
            {"op": "api", "rules": [{"method": "PATCH", "path": f"/deployments/{app.deployment}$", "status": 403}]},
        )
        halted = again(lab, stopped)
        assert halted.code == 6 and "Point the applications at the replacement" in halted.said, halted.said
        assert json.loads(cluster(lab)["metadata"]["annotations"]["cnpg.io/fencedInstances"]) == ["*"], (
            "the fence stays"
        )
        refused = lab.lab.drillbook("run", str(RUNBOOKS / "backup-manual.ipynb"), "--mode", "apply")
        assert refused.returncode == 4 and run.folder.name in refused.stdout + refused.stderr, "no blind run next to it"
        asked = lab.lab.drillbook("undo", run.folder.name)
        assert asked.returncode == 3, asked.stdout + asked.stderr
        (folder,) = lab.lab.folders(Path("undo-full-restore.ipynb"))
        back = again(lab, Drill(3, folder, asked.stdout))
        assert (back.code, back.verdict) == (0, "VERIFIED"), back.said
        ended = lab.lab.drillbook("abandon", run.folder.name, "--as-it-stands")
        assert ended.returncode in (0, 6), ended.stdout + ended.stderr
    assert (lab.address(), lab.schedules()) == (address, schedules)
    assert "fencedInstances" not in str(cluster(lab)["metadata"]["annotations"])
    assert lab.lab.drillbook("verify").returncode == 0


def databases(lab: CutLab) -> set[str]:
    return set(lab.sql(lab.name, "select datname from pg_database where datname like 'invoices%'", "postgres").split())


def test_s10_one_database_comes_back_a_week_later_with_another_machine_and_the_later_one_is_dropped(
    cut_lab: CutLab, tmp_path: Path
) -> None:
    lab, database = cut_lab, cut_lab.site.tenants[0].database
    target = mistake(lab)
    with lab.lab.recovering():
        run = lab.lab.run(RUNBOOKS / "recover-point-in-time.ipynb", database=database, target_time=target)
        done = again(lab, again(lab, run))
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert done.check("rows back")["observed"].startswith("0 come back"), "the profile's tables lack nothing"
    assert kept(lab, lab.name) == {"before"}
    assert f"drillbook undo {done.folder.name}" in (done.folder / "logs" / "announcement.txt").read_text()

    lab.sql(lab.name, "insert into kept values ('since')")
    lab.a_week_passes()
    lab.refresh_credentials()
    with lab.lab.recovering(), lab.lab.on_another_machine(tmp_path):
        asked = lab.lab.drillbook("undo", done.folder.name)
        assert asked.returncode == 3, asked.stdout + asked.stderr
        (folder,) = (tmp_path / "undo-point-in-time").iterdir()
        waits = Drill(3, folder, asked.stdout)
        assert "public.kept" in str(waits.check("written since")["details"])
        assert kept(lab, lab.name) == {"before", "since"}, "nothing has changed yet"
        back = again(lab, waits)
        assert (back.code, back.verdict) == (0, "VERIFIED"), back.said
        assert kept(lab, lab.name) == {"before", "mistake"}, "what was there before the cut serves"
        (later,) = databases(lab) - {database}
        assert set(lab.sql(lab.name, "select text from kept", later).split()) == {"before", "since"}

        drop = lab.lab.drillbook("drop-kept", folder.name)
        assert drop.returncode == 3, drop.stdout + drop.stderr
        (dropping,) = (tmp_path / "change-drop-kept").iterdir()
        dropped = again(lab, Drill(3, dropping, drop.stdout))
        assert (dropped.code, dropped.verdict) == (0, "VERIFIED"), dropped.said
        assert databases(lab) == {database}


@pytest.mark.soak
def test_s10_a_swap_that_stopped_midway_is_undone_with_another_machine(cut_lab: CutLab, tmp_path: Path) -> None:
    """The application is at 0 replicas and the old database is read-only: what the cut noted brings both back."""
    lab, database = cut_lab, cut_lab.site.tenants[0].database
    app = lab.site.tenants[0].application
    assert app is not None
    target = mistake(lab)
    scaled_up = {
        "method": "PATCH",
        "path": f"/deployments/{app.deployment}$",
        "every": 2,
        "status": 403,
    }  # the first one drains it

    def replicas() -> int:
        return int((lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {})["spec"]["replicas"])

    wanted = replicas()
    with lab.lab.recovering():
        run = lab.lab.run(RUNBOOKS / "recover-point-in-time.ipynb", database=database, target_time=target)
        waits = again(lab, run)
        assert waits.code == 3, waits.said
        faults.control(LabHome(lab.lab.home), {"op": "api", "rules": [scaled_up]})
        halted = again(lab, waits)
        assert halted.code == 6, halted.said
        assert replicas() == 0 and kept(lab, lab.name) == {"before"}
        with lab.lab.on_another_machine(tmp_path):
            asked = lab.lab.drillbook("undo", run.folder.name)
            assert asked.returncode == 3, asked.stdout + asked.stderr
            assert replicas() == 0, "nothing has changed yet"
            (folder,) = (tmp_path / "undo-point-in-time").iterdir()
            back = again(lab, Drill(3, folder, asked.stdout))
            assert (back.code, back.verdict) == (0, "VERIFIED"), back.said
        assert replicas() == wanted and kept(lab, lab.name) == {"before", "mistake"}
        lab.sql(lab.name, "insert into kept values ('writable')")
        ended = lab.lab.drillbook("abandon", run.folder.name, "--as-it-stands")
        assert ended.returncode in (0, 6), ended.stdout + ended.stderr
    assert replicas() == wanted, "what the stopped run had promised is not put back a second time"
