"""Each damage of a real archive is named with its object or segment; of a healthy archive nothing is said.

All of it is read with the drill's own key, which may only list and get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fix_lab import CNPG, CORE, PATIENCE_SECONDS, RunningLab, until

from drillbook.archive import ArchiveFinding, KnownBackup, S3Store, survey
from drillbook_lab.errors import LabError
from drillbook_lab.faults import archive as faultarchive
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.faults import store as faultstore
from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise


def reading(lab: RunningLab) -> tuple[S3Store, str]:
    """The lab's bucket by the drill's key, and the server's folder in it."""
    known = faultstore.admin(lab.home)
    grant = json.loads((lab.home.s3 / "keys.json").read_text())[known["drill_key"]]
    assert grant["policy"] == "readonly"
    folder, _, server = known["prefix"].rpartition("/")
    store = S3Store.open(
        f"s3://{known['bucket']}/{folder}",
        endpoint_url=known["endpoint"],
        access_key_id=known["drill_key"],
        secret_access_key=grant["secret"],
    )
    return store, server


def findings(lab: RunningLab, *, later: float = 3600, **more: int) -> tuple[ArchiveFinding, ...]:
    """What is reported some seconds ``later``, when nothing can be on its way any more."""
    store, server = reading(lab)
    (cluster,) = lab.get(f"{CNPG}/{lab.state['namespace']}/clusters")["items"]
    said = cluster["status"]["systemID"]
    try:
        return survey(store, server, system_id=said, now=datetime.now(UTC) + timedelta(seconds=later), **more).findings  # type: ignore[arg-type]
    finally:
        store.close()


def etags(lab: RunningLab) -> dict[str, str]:
    """Every object of the archive with the digest that S3 keeps of it; of a tar, which came in parts, with its size."""
    store, server = reading(lab)
    try:
        return {item.key: str(item.size) if ".tar" in item.key else item.etag for item in store.list(f"{server}/")}
    finally:
        store.close()


def switch_wal(lab: RunningLab) -> None:
    """A commit, the end of its segment, and the segment seen in the archive."""
    lab.drill_sql("CREATE TABLE IF NOT EXISTS noise (at timestamptz)")
    lab.drill_sql("INSERT INTO noise VALUES (now())")
    ((name,),) = lab.drill_sql("SELECT pg_walfile_name(pg_switch_wal())")
    until(lambda: any(name in key for key in faultstore.bucket(lab.home).keys("wals/")))


@pytest.fixture(scope="module")
def archive(lab: RunningLab) -> RunningLab:
    """The lab's archive with some segments after its newest base backup; nothing is wrong with it."""
    for _ in range(3):
        switch_wal(lab)
    assert findings(lab) == ()
    return lab


# The fault, the state that must be reported, and whether it is given an object or a segment. Only what no listing and
# no last byte shows needs a sample of the WAL.
KINDS = [
    ("backup-data-removed", "missing data", 0),
    ("backup-torn", "cut", 0),
    ("backup-empty", "missing data", 0),
    ("backup-info-removed", "unfinished", 0),
    ("backup-failed", "failed", 0),
    ("backup-foreign", "foreign", 0),
    ("backup-cold", "cold", 0),
    ("wal-removed", "lost", 0),
    ("wal-empty", "zero-length", 0),
    ("wal-partial", "partial", 0),
    ("wal-begin-removed", "lost", 0),
    ("wal-torn", "damaged", 64),
    ("wal-damaged", "damaged", 64),
]


@pytest.mark.parametrize(("fault", "state", "samples"), KINDS, ids=[kind[0] for kind in KINDS])
def test_each_damage_is_named_alone_and_gone_when_it_is_undone(
    archive: RunningLab, fault: str, state: str, samples: int
) -> None:
    bucket = faultstore.bucket(archive.home)
    before = etags(archive)
    did = faults.inject(archive.home, fault)
    try:
        key = json.loads((archive.home.faults / f"{fault}.json").read_text())["key"]
        found = findings(archive, samples=samples, read_through=0)
    finally:
        faults.restore(archive.home, fault)
    (finding,) = found
    assert finding.state == state, did
    if fault.startswith("wal-"):
        assert finding.segment in key and finding.segment in finding.what and len(finding.segment) == 24
    else:
        backup, _ = faultarchive.newest_backup(bucket)
        assert (finding.key.partition("/")[2], finding.backup_id) == (key.partition(f"{bucket.prefix}/")[2], backup)
        assert backup in finding.what
    after = etags(archive)
    assert {key: tag for key, tag in before.items() if after.get(key) != tag} == {}, "not as it was, byte for byte"
    assert ".partial" not in "".join(after)
    assert findings(archive, samples=0, read_through=0) == ()


def test_what_kubernetes_says_is_held_against_the_bucket(archive: RunningLab) -> None:
    store, server = reading(archive)
    objects = archive.get(f"{CNPG}/{archive.state['namespace']}/backups")["items"]
    known = [
        KnownBackup(item["metadata"]["name"], item["status"]["phase"], item["status"].get("backupId", ""))
        for item in objects
    ]
    assert any(item.phase == "completed" for item in known)
    assert survey(store, server, known=known, samples=0, read_through=0).findings == ()
    claimed = KnownBackup("by-hand", "completed", "20200101T000000")
    (missing,) = survey(store, server, known=[*known, claimed], samples=0, read_through=0).findings
    assert (missing.state, missing.backup_id) == ("orphaned", "20200101T000000")
    bucket = faultstore.bucket(archive.home)
    stray = f"{bucket.prefix}/base/29990101T000000/data.tar"
    bucket.write(stray, b"x" * 512)
    try:
        (orphan,) = survey(store, server, known=known, samples=0, read_through=0).findings
        assert (orphan.state, orphan.backup_id) == ("orphaned", "29990101T000000")
        running = KnownBackup("now", "started")
        assert survey(store, server, known=[*known, running], samples=0, read_through=0).findings == ()
    finally:
        bucket.remove(stray)
    store.close()


def test_of_two_names_that_begin_alike_each_has_its_own_archive(archive: RunningLab) -> None:
    bucket, (store, server) = faultstore.bucket(archive.home), reading(archive)
    copied = [(key, f"{bucket.prefix}-v2/{key.removeprefix(bucket.prefix + '/')}") for key in bucket.keys("")]
    for key, copy in copied:
        bucket.write(copy, bucket.read(key))
    try:
        for name in (server, f"{server}-v2"):
            found = survey(store, name, samples=2, read_through=0)
            assert (found.findings, found.backups) == ((), len({k for k, _ in copied if k.endswith("backup.info")}))
        faults.inject(archive.home, "wal-removed")
        try:
            # Its successor has only just come: parallel uploads end out of order.
            assert [item.state for item in survey(store, server, samples=0).findings] == ["delayed"]
            assert survey(store, f"{server}-v2", samples=0).findings == ()
        finally:
            faults.restore(archive.home, "wal-removed")
    finally:
        for _, copy in copied:
            bucket.remove(copy)
        store.close()


def test_an_archive_without_a_second_timeline_has_no_history_file_to_lose(archive: RunningLab) -> None:
    for name in ("history-removed", "history-damaged"):
        with pytest.raises(LabError, match="no history file"):
            faults.inject(archive.home, name)


# -- a switchover first ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_timelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """Its own lab whose primary has moved once: its archive has a second timeline."""
    home = LabHome(tmp_path_factory.mktemp("moved") / "home")
    argv = supervise.daemon_command(home, "first", 1.0, "--job-retry-seconds", "0.1", "--instances", "2")
    daemon = supervise.start(home, argv, detached=True)
    try:
        supervise.follow(home, daemon, lambda _: None)
        lab = RunningLab(home)
        cluster = f"{CNPG}/{lab.state['namespace']}/clusters/{lab.state['cluster']}"
        other = f"{lab.state['cluster']}-2"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        moved = {"targetPrimary": other, "targetPrimaryTimestamp": now, "phase": "Switchover in progress"}
        lab.patch(f"{cluster}/status", {"status": moved})
        until(lambda: lab.source()["status"].get("currentPrimary") == other)
        until(lambda: any(".history" in key for key in faultstore.bucket(home).keys("wals/")))
        pod = lab.get(f"{CORE}/{lab.state['namespace']}/pods/{other}")
        password = lab.secret(lab.state["drillbook_namespace"], "drillbook-sql")["password"]
        lab.sql("drillbook", password, "drillbook", "CREATE TABLE IF NOT EXISTS noise (at timestamptz)", pod=pod)
        ((name,),) = lab.sql("drillbook", password, "drillbook", "SELECT pg_walfile_name(pg_switch_wal())", pod=pod)
        until(lambda: any(f"/{name}" in key for key in faultstore.bucket(home).keys("wals/")))
        yield lab
    finally:
        supervise.down(home)
        daemon.wait(PATIENCE_SECONDS)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "state"), [("history-removed", "history missing"), ("history-damaged", "history damaged")]
)
def test_a_lost_way_to_the_newest_timeline_is_named(two_timelines: RunningLab, fault: str, state: str) -> None:
    assert findings(two_timelines) == (), "an archive with two timelines is healthy"
    faults.inject(two_timelines.home, fault)
    try:
        found = findings(two_timelines, samples=0, read_through=0)
    finally:
        faults.restore(two_timelines.home, fault)
    assert state in {item.state for item in found}
    assert all("00000002.history" in item.what and "00000002.history" in item.key for item in found), found
    assert findings(two_timelines, samples=0, read_through=0) == ()
