"""A backup by hand: read back from the bucket, answered in one line, told to a webhook; and every way it says no."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fix_drills import ROOT, DrillLab

from drillbook import kube as k8s
from drillbook.engine import open_run
from drillbook.steps.backup import manual_backup
from drillbook_lab.faults.store import bucket
from drillbook_lab.home import LabHome

pytestmark = pytest.mark.long

NOTEBOOK = ROOT / "runbooks" / "backup-manual.ipynb"
SECRET_PATH = "/hooks/T00000000-do-not-tell"


@contextmanager
def webhook(lab: DrillLab, status: int) -> Iterator[tuple[list[dict[str, str]], dict[str, Any]]]:
    """A listener that keeps what it is reported, and the profile's section that names it."""
    told: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = {"namespace": lab.site.drillbook_namespace, "name": "announce"}
    secret = lab.admin.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": place,
            "stringData": {"url": f"http://127.0.0.1:{server.server_port}{SECRET_PATH}"},
        }
    )
    try:
        yield told, {"webhook": place}
    finally:
        lab.admin.delete(k8s.SECRET, place["namespace"], place["name"], uid=secret["metadata"]["uid"])
        server.shutdown()
        server.server_close()


@contextmanager
def without_the_data(lab: DrillLab, backup_id: str) -> Iterator[None]:
    """The backup's data is taken out of the bucket, and put back."""
    store = bucket(LabHome(lab.home))
    (key,) = [key for key in store.keys(f"base/{backup_id}/") if "/data.tar" in key]
    body = store.read(key)
    store.client.delete_object(Bucket=store.name, Key=key)
    try:
        yield
    finally:
        store.write(key, body)


def backups(lab: DrillLab) -> set[str]:
    return {item["metadata"]["name"] for item in lab.admin.list(k8s.BACKUP, lab.site.cluster.namespace)}


def test_a_backup_is_read_back_from_the_bucket_and_announced(drill_lab: DrillLab) -> None:
    known = backups(drill_lab)
    with webhook(drill_lab, 200) as (told, section):
        run = drill_lab.run(
            NOTEBOOK,
            site=drill_lab.profile_with("announcing", announce=section),
            reason="schema change",
            ticket="CHG-1042",
        )
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    (made,) = backups(drill_lab) - known
    backup = drill_lab.admin.get(k8s.BACKUP, drill_lab.site.cluster.namespace, made) or {}
    assert backup["metadata"]["annotations"]["drillbook.io/reason"] == "schema change (CHG-1042)"
    for name in ("backup in the bucket", "backup's WAL archived", "recovery window extended", "announced"):
        assert run.check(name)["verdict"] == "VERIFIED", name
    assert dict(run.check("backup in the bucket")["details"]).keys() == {"data.tar"}
    (text,) = told
    assert text["path"] == SECRET_PATH
    assert f"YES. Backup {backup['status']['backupId']}" in text["text"]
    assert "schema change CHG-1042" in text["text"]
    assert not [path for path in run.folder.rglob("*") if path.is_file() and SECRET_PATH.encode() in path.read_bytes()]


def test_a_plan_asks_for_no_backup(drill_lab: DrillLab) -> None:
    known = backups(drill_lab)
    run = drill_lab.run(NOTEBOOK, mode="plan")
    assert (run.code, run.verdict) == (0, None), run.said
    assert backups(drill_lab) == known


def test_bad_parameters_are_told_together(drill_lab: DrillLab) -> None:
    run = drill_lab.run(NOTEBOOK, reason="because", ticket="two\nlines")
    assert run.code == 4, run.said
    assert "reason: 'because' is none of" in run.said
    assert "ticket: not one line" in run.said


def test_no_backup_is_asked_for_while_archiving_fails(drill_lab: DrillLab) -> None:
    known = backups(drill_lab)
    with drill_lab.failing_archiver():
        run = drill_lab.run(NOTEBOOK)
    assert (run.code, run.verdict) == (1, "FAILED"), run.said
    assert run.check("archiving live")["verdict"] == "FAILED"
    assert backups(drill_lab) == known
    assert run.check("backup in the bucket")["verdict"] == "UNPROVEN"


def test_a_webhook_that_fails_is_told_and_costs_no_verdict(drill_lab: DrillLab) -> None:
    with webhook(drill_lab, 500) as (told, section):
        run = drill_lab.run(NOTEBOOK, site=drill_lab.profile_with("not-announcing", announce=section))
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert told
    assert run.check("announced")["verdict"] == "UNPROVEN"
    assert "answered 500" in run.check("announced")["observed"]


def test_completed_is_not_believed_when_the_bucket_lacks_an_object_or_half_of_it(
    drill_lab: DrillLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in drill_lab.env.items():
        monkeypatch.setenv(name, value)
    run = open_run("backup-manual", mode="apply", reason="emergency")
    try:
        cluster = run.do(manual_backup.CheckBackupReadiness())
        before = run.do(manual_backup.ReadArchiveBefore(cluster))
        requested = run.do(manual_backup.RequestBackup(cluster, "emergency"))
        finished = run.do(manual_backup.WaitForBackup(cluster, requested))
        end = run.do(manual_backup.ArchiveTheEnd(cluster, finished))
        look = manual_backup.VerifyInBucket(cluster, before, finished, end)  # a run would do it once only
        with without_the_data(drill_lab, finished.backup_id):
            gone = look.do(run.context).checks
        with drill_lab.fault("backup-torn"):
            torn = look.do(run.context).checks
        whole = look.do(run.context).checks
    finally:
        run.release()
    for checks, verdict, told in (
        (gone, "FAILED", "no data.tar"),
        (torn, "FAILED", "data.tar is cut"),
        (whole, "VERIFIED", finished.backup_id),
    ):
        (check,) = [check for check in checks if check.name == "backup in the bucket"]
        assert (str(check.verdict), told in check.observed) == (verdict, True), check
