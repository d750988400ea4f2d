"""The cluster is replaced for real: under another name and back, and under its own; nothing that was committed is lost."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import yaml
from fix_cutover import CutLab, confirmed, open_promises
from fix_drills import ROOT, until

from drillbook import kube as k8s
from drillbook.engine import Run, open_run
from drillbook.engine import undo as restoring
from drillbook.model import AskedTarget, RecoveryTarget, Verdict, parse_instant
from drillbook.steps.archive.base_backup import WalChainUnbroken
from drillbook.steps.archive.damage import FindDamage
from drillbook.steps.archive.losses import losses
from drillbook.steps.archive.restore_point import ChooseRestorePoint
from drillbook.steps.archive.salvage import ArchiveRemainingWal
from drillbook.steps.archive.targets import ResolveTarget
from drillbook.steps.backup.manual_backup import RequestBackup, WaitForBackup
from drillbook.steps.backup.new_timeline import FirstBackupOfNewTimeline, ReadPromotedCluster
from drillbook.steps.checks.completeness import ReplacementComplete
from drillbook.steps.cutover.access import OpenToClients
from drillbook.steps.cutover.fence import FenceOldCluster
from drillbook.steps.cutover.rebuild import CreateUnderOldName, FinishRebuild, RemoveOldCluster
from drillbook.steps.cutover.rebuild_check import CheckRebuild
from drillbook.steps.cutover.repoint import KeepReplacement, RepointApplication, RepointPoolers
from drillbook.steps.cutover.schedules import MoveSchedules
from drillbook.steps.finish.git_patch import PatchForGit
from drillbook.steps.preflight.instances import between_attempts
from drillbook.steps.preflight.old_cluster import ReadOldCluster
from drillbook.steps.preflight.readiness import CheckReadiness
from drillbook.steps.recovery.copy import CreateRecoveryCluster, RemoveRecoveryCluster, WaitForRecovery
from drillbook.steps.recovery.replacement import CreateReplacementCluster, RemoveReplacement, WaitForReplacement
from drillbook.steps.undo.full_restore import (
    AddressesBack,
    FenceReplacement,
    FindRestore,
    PoolersBack,
    SchedulesBack,
    ServeOldCluster,
    ShowWrittenSinceRestore,
)
from drillbook_lab.faults.store import bucket
from drillbook_lab.home import LabHome

pytestmark = pytest.mark.long


def commit(lab: CutLab, text: str, cluster: str = "") -> None:
    lab.sql(cluster or lab.name, "create table if not exists kept (text text)")
    lab.sql(cluster or lab.name, f"insert into kept values ('{text}')")


def kept(lab: CutLab, cluster: str) -> set[str]:
    return set(lab.sql(cluster, "select text from kept").split())


def pooler(lab: CutLab) -> None:
    spec = {"cluster": {"name": lab.name}, "instances": 1, "type": "rw", "pgbouncer": {"poolMode": "transaction"}}
    meta = {"name": "ledger-pool", "namespace": lab.namespace}
    lab.admin.create({"apiVersion": "postgresql.cnpg.io/v1", "kind": "Pooler", "metadata": meta, "spec": spec})


def asleep(lab: CutLab) -> None:
    """A schedule that somebody has suspended."""
    spec = {"cluster": {"name": lab.name}, "schedule": "0 0 3 * * 0", "suspend": True, "method": "plugin"}
    spec |= {"pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"}}
    meta = {"name": "ledger-weekly", "namespace": lab.namespace}
    lab.admin.create({"apiVersion": "postgresql.cnpg.io/v1", "kind": "ScheduledBackup", "metadata": meta, "spec": spec})


def pooler_over(lab: CutLab) -> str:
    return str((lab.admin.get(k8s.POOLER, lab.namespace, "ledger-pool") or {})["spec"]["cluster"]["name"])


def crashed_container(lab: CutLab) -> bool:
    """The primary's container crashes until the kubelet waits some seconds; whether it is down now."""
    pod = f"{lab.name}-1"

    def running() -> int:
        if between_attempts(lab.admin.get(k8s.POD, lab.namespace, pod)):
            return 0
        found = [one["pid"] for one in lab.lab.processes() if one["what"] == f"pod {lab.namespace}/{pod}"]
        return int(found[0] or 0) if found else 0

    for _ in range(4):
        pid = until(running, "the container runs")
        os.kill(pid, signal.SIGKILL)
        until(lambda ended=pid: running() != ended, "it has ended")
    return between_attempts(lab.admin.get(k8s.POD, lab.namespace, pod))


def test_the_last_commits_are_salvaged_and_the_application_follows_and_comes_back(cut_lab: CutLab) -> None:
    lab = cut_lab
    pooler(lab)
    asleep(lab)
    commit(lab, "archived")
    lab.sql(lab.name, "select pg_switch_wal()", "postgres")
    address, schedules = lab.address(), lab.schedules()
    between: list[bool] = []

    with lab.lab.fault("archiver-broken"):
        commit(lab, "on-the-volume")
        lab.sql(lab.name, "select pg_switch_wal()", "postgres")
        commit(lab, "in-the-last-segment")
        argv = ["pg_ctl", "stop", "-m", "immediate", "-W", "-D", "pgdata"]
        lab.admin.patch(
            k8s.CLUSTER, lab.namespace, lab.name, {"metadata": {"annotations": {"cnpg.io/fencedInstances": '["*"]'}}}
        )
        lab.admin.exec(lab.namespace, f"{lab.name}-1", "postgres", argv, timeout_seconds=60)  # it dies, or is dead
        until(lambda: not ready(lab), "the primary is down")
    lab.admin.patch(
        k8s.CLUSTER, lab.namespace, lab.name, {"metadata": {"annotations": {"cnpg.io/fencedInstances": '["ledger-1"]'}}}
    )

    def procedure(run: Run) -> dict[str, Any]:
        old = run.do(ReadOldCluster())
        point = run.do(ChooseRestorePoint(old, run.target))
        confirmed(run, "Stop the old cluster", FenceOldCluster(old))
        salvage = ArchiveRemainingWal(old, point.backup)
        run.confirm(run.plan("Archive what is left", salvage))
        if not between:
            between.append(crashed_container(lab))
        salvaged = run.do(salvage)
        archived = run.do(WalChainUnbroken(old, point.backup))
        made = run.do(CreateReplacementCluster(old, point.backup, point.target))
        recovered = run.do(WaitForReplacement(old, made))
        complete = run.do(ReplacementComplete(old, point, archived, made, recovered))
        steps = RepointPoolers(old, made), RepointApplication(old, made), MoveSchedules(old, made)
        confirmed(run, "Cut over", *steps)
        seen = {
            "kept": kept(lab, made.ref.name),
            "address": lab.address(),
            "pooler": pooler_over(lab),
            "schedules": lab.schedules(),
        }
        confirmed(run, "Keep", KeepReplacement(old, made))
        return (
            seen | {"promises": open_promises(run)} | {"new": made.ref.name, "salvaged": salvaged, "complete": complete}
        )

    run, seen = lab.run(procedure)
    new = seen["new"]
    assert between == [True], "the container ran again before its volume was read, so that nothing was waited for"
    assert seen["salvaged"].segments
    assert seen["complete"].verdict is Verdict.VERIFIED, seen["complete"]
    assert seen["kept"] == {"archived", "on-the-volume", "in-the-last-segment"}
    assert f"{new}-rw" in seen["address"] and seen["address"] != address
    assert seen["pooler"] == new
    assert {name: state[1] for name, state in seen["schedules"].items() if state[0] == lab.name} == dict.fromkeys(
        schedules, True
    )
    mine = {name: sleeps for name, (of, sleeps) in seen["schedules"].items() if of == new}
    assert len(mine) == 2 and [name.startswith("ledger-weekly") for name, sleeps in mine.items() if sleeps] == [True]
    assert seen["promises"] == [], "the cut was kept"

    def way_back(run: Run) -> None:
        restore = run.do(FindRestore(""))
        run.do(ShowWrittenSinceRestore(restore))
        steps = (
            FenceReplacement(restore.serving),
            ServeOldCluster(restore),
            PoolersBack(restore),
            AddressesBack(restore),
        )
        confirmed(run, "Go back", *steps, SchedulesBack(restore))

    back, _ = lab.run(way_back, runbook="undo-full-restore")
    assert lab.address() == address and pooler_over(lab) == lab.name and lab.schedules() == schedules
    assert (lab.admin.get(k8s.CLUSTER, lab.namespace, new) or {"metadata": {}})["metadata"]["annotations"][
        "cnpg.io/fencedInstances"
    ] == '["*"]'
    assert open_promises(back) == []
    put_back_as_when_abandoned(lab, run)
    lab.admin.patch(
        k8s.CLUSTER, lab.namespace, lab.name, {"metadata": {"annotations": {"cnpg.io/fencedInstances": None}}}
    )
    until(lambda: ready(lab), "the old cluster serves again")
    assert kept(lab, lab.name) == seen["kept"]


def put_back_as_when_abandoned(lab: CutLab, run: Run) -> None:
    """What the journal holds of a Pooler is enough to make it again in the place of another of its name."""
    (undo,) = [
        event["undo"] for event in run.journal.events() if event["type"] == "obligation" and event["kind"] == "Pooler"
    ]
    assert pooler_over(lab) == undo["object"]["spec"]["cluster"]["name"]
    undo["object"]["spec"]["pgbouncer"]["poolMode"] = "session"
    before = lab.admin.get(k8s.POOLER, lab.namespace, "ledger-pool") or {}
    restoring.put_back(lab.admin, undo)
    after = lab.admin.get(k8s.POOLER, lab.namespace, "ledger-pool") or {}
    assert after["spec"]["pgbouncer"]["poolMode"] == "session" and after["metadata"]["uid"] != before["metadata"]["uid"]


def ready(lab: CutLab) -> bool:
    pod = lab.admin.get(k8s.POD, lab.namespace, f"{lab.name}-1") or {}
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def test_healthy_is_not_complete_when_a_segment_is_gone(cut_lab: CutLab) -> None:
    lab = cut_lab
    for number in range(3):
        commit(lab, f"gap-{number}")
        lab.sql(lab.name, "select pg_switch_wal()", "postgres")
    store = bucket(LabHome(lab.lab.home))

    def procedure(run: Run) -> tuple[str, Any]:
        old = run.do(ReadOldCluster())
        point = run.do(ChooseRestorePoint(old, run.target))
        confirmed(run, "Stop the old cluster", FenceOldCluster(old))
        confirmed(run, "Archive what is left", ArchiveRemainingWal(old, point.backup))
        archived = run.do(WalChainUnbroken(old, point.backup))
        lost = archived.last_segment[:-1] + format(int(archived.last_segment[-1], 16) - 1, "X")
        (key,) = [key for key in store.keys("wals/") if lost in key]
        body = store.read(key)
        store.client.delete_object(Bucket=store.name, Key=key)
        made = run.do(CreateReplacementCluster(old, point.backup, point.target))
        recovered = run.do(WaitForReplacement(old, made))
        checks = run.do(ReplacementComplete(old, point, archived, made, recovered))
        store.write(key, body)
        run.do(RemoveReplacement(old, made))
        return lost, checks

    _, (lost, checks) = lab.run(procedure)
    by_name = {check.name: check for check in checks.checks}
    assert by_name["complete"].verdict is Verdict.FAILED and lost in by_name["complete"].observed, checks
    assert (
        by_name["complete: old cluster"].verdict is Verdict.FAILED and lost in by_name["complete: old cluster"].observed
    )


@pytest.mark.soak
def test_the_name_stays_and_what_was_before_the_cut_can_still_be_had(cut_lab: CutLab) -> None:
    lab = cut_lab
    commit(lab, "before")
    before = lab.sql(lab.name, "select clock_timestamp() at time zone 'UTC'")
    commit(lab, "mistake")
    lab.generated_secret()
    address, schedules = lab.address(), lab.schedules()
    uid = (lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {})["metadata"]["uid"]

    def procedure(run: Run) -> dict[str, Any]:
        # As if CloudNativePG had drawn the owner's password: its Secret dies with the Cluster, and no profile knows it.
        old = run.do(ReadOldCluster()).model_copy(update={"secret": ""})
        point = run.do(ChooseRestorePoint(old, run.target))
        checked = run.do(CheckRebuild(old))
        confirmed(run, "Stop the old cluster", FenceOldCluster(old))
        confirmed(run, "Archive what is left", ArchiveRemainingWal(old, point.backup))
        archived = run.do(WalChainUnbroken(old, point.backup))
        removed, made = confirmed(
            run, "Rebuild", RemoveOldCluster(old, point, checked), CreateUnderOldName(old, point.backup, point.target)
        )
        recovered = run.do(WaitForReplacement(old, made))
        complete = run.do(ReplacementComplete(old, point, archived, made, recovered))
        _, rebuilt = confirmed(run, "Let in", OpenToClients(old), FinishRebuild(old, checked))
        line = run.do(ReadPromotedCluster(old, made))
        finished = run.do(WaitForBackup(line, run.do(RequestBackup(line))))
        (first,) = run.do(FirstBackupOfNewTimeline(line, finished)).checks
        assert first.verdict is Verdict.VERIFIED, first
        patch = run.do(PatchForGit(old, made, archived.newest_commit))
        assert f"name: {made.server_name}" in patch.profile and f"serverName: {made.server_name}" in patch.manifests
        # The way to before the cut is the old serverName.
        target = RecoveryTarget(target_time=parse_instant(before.replace(" ", "T") + "+00:00"), timeline=old.timeline)
        known = old.model_copy(update={"secret": made.secret})
        earlier = run.do(CreateReplacementCluster(known, point.backup, target, server_name="ledger-earlier"))
        again = run.do(WaitForReplacement(known, earlier))
        seen = kept(lab, earlier.ref.name)
        run.do(RemoveReplacement(known, earlier))
        found = {"removed": removed, "complete": complete, "rebuilt": rebuilt, "earlier": seen, "again": again}
        return found | {"profile": patch.profile}

    password = lab.password(lab.namespace, f"{lab.name}-app")
    run, seen = lab.run(procedure, tenants=lab.tenants_without_login())
    cluster = lab.admin.get(k8s.CLUSTER, lab.namespace, lab.name) or {}
    assert lab.password(lab.namespace, cluster["spec"]["bootstrap"]["recovery"]["secret"]["name"]) == password
    assert cluster["metadata"]["uid"] not in (uid, "") and "drillbook.io/run" not in cluster["metadata"]["labels"]
    assert cluster["spec"]["plugins"][0]["parameters"]["serverName"] == seen["rebuilt"].server_name != lab.name
    assert cluster["spec"]["enableSuperuserAccess"] is False
    assert {"before", "mistake"} <= kept(lab, lab.name)
    assert "before" in seen["earlier"] and "mistake" not in seen["earlier"]
    by_name = {check.name: check.verdict for check in seen["complete"].checks}
    assert by_name["complete"] is Verdict.VERIFIED
    assert lab.address() == address and lab.schedules() == schedules
    assert open_promises(run) == []
    after_the_cut(lab, before, yaml.safe_load(seen["profile"]))


def after_the_cut(lab: CutLab, before: str, changes: dict[str, Any]) -> None:
    """By the profile with both serverNames: the window is their union, and an instant before the cut is recovered."""
    old_name, new_name = (item["name"] for item in changes["archive"]["server_names"])
    commit(lab, "after")
    lab.sql(lab.name, "select pg_switch_wal()", "postgres")
    lab.lab.back_up()
    site = lab.profile("both-names", **changes)
    check = lab.lab.run(ROOT / "runbooks" / "check-recovery-window.ipynb", site=site)
    assert (check.code, check.verdict) == (0, "VERIFIED"), check.said
    rows = dict(check.check("recovery window")["details"])
    assert [name.split()[1] for name in rows] == [old_name, new_name] and "nothing" not in rows.values()
    (older, newer) = check.record["facts"]["reach"]["lines"]
    assert (older["server"], newer["server"]) == (old_name, new_name) and older["to"] <= newer["to"]
    at = f"{before.replace(' ', 'T')}Z"
    asked = lab.lab.run(ROOT / "runbooks" / "check-recovery-window.ipynb", site=site, target_time=at)
    assert (asked.code, asked.record["target"]["requested"]["backup"]["server_name"]) == (0, old_name), asked.said

    drill = lab.lab.drill(site=site, target_time=at)
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    (target,) = [event["value"] for event in drill.of("fact") if event["name"] == "target"]
    assert drill.record["backup"]["server_name"] == old_name
    assert parse_instant(target["target"]["target_time"]) == parse_instant(at)  # trailing zeros are not written
    assert not target["own_marker"] and drill.check("boundary")["verdict"] == "VERIFIED"

    os.environ |= {"DRILLBOOK_OUTPUTS": lab.lab.own_outputs(), "DRILLBOOK_NOTEBOOK": str(lab.lab.home / "none.ipynb")}
    run = open_run("recover-point-in-time", site=str(site), mode="apply", target_time=at)
    try:
        cluster = run.do(CheckReadiness())
        target = run.do(ResolveTarget(cluster, run.target))
        asked = AskedTarget.of({"target_xid": str(target.first_after.xid if target.first_after else 0)})
        by_xid = run.do(ResolveTarget(cluster, asked))
        assert by_xid.backup.server_name == old_name, "a commit that only the older name has"
        damage = run.do(FindDamage(cluster, search_from=at))
        assert damage.since < damage.until
        lost = {
            item.database: item
            for item in losses(run.context, cluster, target.last_before, target.first_after, server_name=old_name)
        }
        mine = lost["invoices"]
        assert (
            mine.commits >= 2
            and mine.in_production
            and mine.in_production > parse_instant(changes["archive"]["server_names"][1]["since"])
        )
        created = run.do(CreateRecoveryCluster(cluster, target.backup, target))
        try:
            copy = lab.admin.get(k8s.CLUSTER, created.ref.namespace, created.ref.name) or {}
            parameters = copy["spec"]["externalClusters"][0]["plugin"]["parameters"]
            assert parameters["serverName"] == old_name
            recovered = run.do(WaitForRecovery(cluster, created))
            with run.context.copy(recovered.ref, "invoices", read_only=True) as db:
                found = {row[0] for row in db.ask_text("select text from kept")}
            assert "before" in found and not {"mistake", "after"} & found
        finally:
            run.do(RemoveRecoveryCluster(created))
    finally:
        run.release()
