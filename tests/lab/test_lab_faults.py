"""Each fault breaks the real thing, is seen to break it, and is undone."""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fix_lab import BARMAN, CNPG, CORE, RunningLab, condition, until

from drillbook_lab.errors import LabError
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.faults import store


@contextmanager
def broken(lab: RunningLab, name: str) -> Iterator[str]:
    did = faults.inject(lab.home, name)
    try:
        yield did
    finally:
        faults.restore(lab.home, name)
    assert name not in faults.in_force(lab.home)


def switch_wal(lab: RunningLab) -> str:
    """A commit, then the end of its segment; the segment's name."""
    lab.drill_sql("CREATE TABLE IF NOT EXISTS noise (at timestamptz)")
    lab.drill_sql("INSERT INTO noise VALUES (now())")
    ((name,),) = lab.drill_sql("SELECT pg_walfile_name(pg_switch_wal())")
    return str(name)


def archived(lab: RunningLab) -> list[str]:
    return store.bucket(lab.home).keys("wals/")


def source_is(lab: RunningLab, phase: str) -> bool:
    return str(lab.source()["status"]["phase"]) == phase


def healthy(lab: RunningLab) -> bool:
    return source_is(lab, "Cluster in healthy state")


def test_each_fault_is_broken_and_undone_in_this_file() -> None:
    """A fault that the list shows and nobody has seen to break anything would be a claim."""
    text = Path(__file__).read_text() + Path(__file__).with_name("test_lab_damaged_archive.py").read_text()
    assert [fault.name for fault in faults.catalogue() if f'"{fault.name}"' not in text] == []


def test_a_denied_archiver_flips_the_condition_and_back(lab: RunningLab) -> None:
    with broken(lab, "archiver-broken"):
        switch_wal(lab)
        until(lambda: condition(lab.source(), "ContinuousArchiving") == "False")
    switch_wal(lab)
    until(lambda: condition(lab.source(), "ContinuousArchiving") == "True")


def test_a_removed_segment_is_gone_and_comes_back_byte_for_byte(lab: RunningLab) -> None:
    for _ in range(3):
        last = switch_wal(lab)
        until(lambda segment=last: any(segment in key for key in archived(lab)))
    before = archived(lab)
    with broken(lab, "wal-removed") as did:
        (missing,) = set(before) - set(archived(lab))
        assert did.split()[1].strip(",") in missing
    assert set(before) <= set(archived(lab))


@pytest.mark.parametrize("name", ["wal-torn", "wal-damaged"])
def test_a_spoilt_segment_is_another_one_and_comes_back_byte_for_byte(lab: RunningLab, name: str) -> None:
    bucket = store.bucket(lab.home)
    for _ in range(2):
        last = switch_wal(lab)
        until(lambda segment=last: any(segment in key for key in archived(lab)))
    before = {key: bucket.read(key) for key in archived(lab)}
    with broken(lab, name) as did:
        (spoilt,) = [key for key, body in before.items() if bucket.read(key) != body]
        now, was = bucket.read(spoilt), before[spoilt]
        assert len(now) == (len(was) // 2 if name == "wal-torn" else len(was))
        assert any(word.strip(",") in spoilt for word in did.split() if len(word) >= 24)
    assert {key: bucket.read(key) for key in before} == before


def test_a_torn_backup_is_half_as_long(lab: RunningLab) -> None:
    bucket = store.bucket(lab.home)
    (key,) = [key for key in bucket.keys("base/") if key.endswith("data.tar")][-1:]
    whole = bucket.read(key)
    with broken(lab, "backup-torn"):
        assert bucket.read(key) == whole[: len(whole) // 2]
    assert bucket.read(key) == whole


def test_a_stopped_writer_is_a_process_that_has_ended(lab: RunningLab) -> None:
    def writer() -> int | None:
        processes = faults.control(lab.home, {"op": "status"})["processes"]
        return next(process["pid"] for process in processes if process["what"] == "writer")

    assert writer()
    with broken(lab, "writer-stopped"):
        assert writer() is None
    assert writer()


def note(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


def test_an_api_server_that_is_away_refuses_connections_and_comes_back_at_its_address(lab: RunningLab) -> None:
    with broken(lab, "api-away"), pytest.raises(urllib.error.URLError, match="Connection refused"):
        lab.call("GET", "/version")
    assert lab.call("GET", "/version")[0] == 200


def test_a_busy_api_server_asks_for_patience_now_and_then(lab: RunningLab) -> None:
    with broken(lab, "api-busy"):
        assert sorted(lab.call("GET", f"{CORE}/default/configmaps")[0] for _ in range(6)) == [200] * 4 + [429] * 2
    assert {lab.call("GET", "/version")[0] for _ in range(6)} == {200}


def test_a_change_whose_answer_is_lost_was_done(lab: RunningLab) -> None:
    names = ("answered", "unanswered")
    with broken(lab, "api-unsure"):
        assert lab.call("POST", f"{CORE}/default/configmaps", note(names[0]))[0] == 201
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError, urllib.error.URLError)):
            lab.call("POST", f"{CORE}/default/configmaps", note(names[1]))
    for name in names:
        assert lab.call("DELETE", f"{CORE}/default/configmaps/{name}")[0] == 200


def test_a_store_that_is_down_answers_nobody(lab: RunningLab) -> None:
    with broken(lab, "store-down"), pytest.raises(Exception, match=r"(?i)connection"):
        archived(lab)
    assert archived(lab)


def test_a_store_that_refuses_tells_everybody(lab: RunningLab) -> None:
    with broken(lab, "store-refusing"), pytest.raises(ClientError) as refused:
        archived(lab)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert archived(lab)


def test_a_stuck_archiver_neither_fails_nor_goes_on(lab: RunningLab) -> None:
    query = "SELECT failed_count, coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    ((failed, last),) = lab.drill_sql(query)
    with broken(lab, "archiver-stuck"):
        segment = switch_wal(lab)
        later = switch_wal(lab)
        until(lambda: held(lab))
        assert not [key for key in archived(lab) if later in key]
        ((failed_now, last_now),) = lab.drill_sql(query)
        assert (failed_now, last_now < segment) == (failed, True), (last, last_now)
        assert condition(lab.source(), "ContinuousArchiving") == "True"
    until(lambda: any(later in key for key in archived(lab)))


def held(lab: RunningLab) -> bool:
    """An upload of WAL to this lab's store is under way."""
    wanted = b"barman-cloud-wal-archive", lab.state["endpoint"].encode()
    return any(all(word in _command(path) for word in wanted) for path in Path("/proc").glob("[0-9]*/cmdline"))


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_deleted_object_store_comes_back_as_it_was(lab: RunningLab) -> None:
    stores = f"{BARMAN}/{lab.state['namespace']}/objectstores"
    (before,) = lab.get(stores)["items"]
    with broken(lab, "objectstore-missing"):
        assert lab.get(stores)["items"] == []
    (after,) = lab.get(stores)["items"]
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    until(lambda: healthy(lab))


def test_a_plugin_that_is_not_installed_stops_the_cluster(lab: RunningLab) -> None:
    before = lab.source()["spec"]["plugins"]
    with broken(lab, "plugin-missing"):
        until(
            lambda: source_is(lab, "Cluster cannot proceed to reconciliation due to an unknown plugin being required")
        )
    assert lab.source()["spec"]["plugins"] == before
    until(lambda: healthy(lab))


def test_without_its_operator_nothing_is_judged_or_done_and_the_pods_live_on(lab: RunningLab) -> None:
    namespace = lab.state["namespace"]
    pod = f"{CORE}/{namespace}/pods/{lab.state['cluster']}-1"
    backup: dict[str, Any] = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "unattended"},
        "spec": {
            "cluster": {"name": "nobody"},
            "method": "plugin",
            "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
        },
    }
    path = f"{CNPG}/{namespace}/backups"
    kept = lab.get(pod)["metadata"]["uid"]
    with broken(lab, "operator-gone"):
        code, answer = lab.call("POST", path, backup)
        assert (code, "failed calling webhook" in answer["message"]) == (500, True), answer
        assert lab.drill_sql("SELECT 1") == [(1,)]
        assert lab.get(pod)["metadata"]["uid"] == kept
    lab.create(path, backup)
    until(lambda: (lab.get(f"{path}/unattended").get("status") or {}).get("phase") == "pending")
    lab.delete(f"{path}/unattended")


def test_a_full_disk_stops_the_primary_until_there_is_room(lab: RunningLab) -> None:
    with broken(lab, "disk-full") as did:
        assert f"{lab.state['cluster']}-1" in did
        until(lambda: source_is(lab, "Not enough disk space"))
    until(lambda: healthy(lab))
    assert lab.drill_sql("SELECT 1") == [(1,)]


def test_a_standby_that_lags_catches_up(lab: RunningLab) -> None:
    with pytest.raises(LabError, match="no standby"):
        faults.inject(lab.home, "replica-lagging")
    namespace, name = lab.state["namespace"], lab.state["cluster"]
    path = f"{CNPG}/{namespace}/clusters/{name}"
    lab.patch(path, {"spec": {"instances": 2}})
    try:
        until(lambda: healthy(lab) and lab.source()["status"].get("readyInstances") == 2)
        password = lab.secret(lab.state["drillbook_namespace"], "drillbook-sql")["password"]
        standby = lab.get(f"{CORE}/{namespace}/pods/{name}-2")

        def says(question: str) -> bool:
            return lab.sql("drillbook", password, "drillbook", f"SELECT {question}", pod=standby) == [(True,)]

        there = "to_regclass('late') IS NOT NULL"
        with broken(lab, "replica-lagging"):
            lab.drill_sql("CREATE TABLE late (n int)")
            ((written,),) = lab.drill_sql("SELECT pg_current_wal_lsn()::text")
            until(lambda: says(f"pg_last_wal_receive_lsn() >= '{written}'"))
            assert not says(there)
        until(lambda: says(there))
        lab.drill_sql("DROP TABLE late")
    finally:
        lab.patch(path, {"spec": {"instances": 1}})
        until(lambda: healthy(lab) and lab.source()["status"].get("readyInstances") == 1)


def test_the_drills_key_alone_is_denied(lab: RunningLab) -> None:
    with broken(lab, "drill-denied"):
        state = json.loads((lab.home.s3 / "faults.json").read_text())
        admin = json.loads((lab.home.s3 / "admin.json").read_text())
        assert state["deny_keys"] == [admin["drill_key"]]


def test_a_fault_is_injected_once_and_undone_once(lab: RunningLab) -> None:
    with broken(lab, "store-slow"), pytest.raises(LabError, match="in force already"):
        faults.inject(lab.home, "store-slow")
    with pytest.raises(LabError, match="not in force"):
        faults.restore(lab.home, "store-slow")
