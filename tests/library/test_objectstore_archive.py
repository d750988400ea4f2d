"""Reading a real archive: PostgreSQL's WAL and base backup as barman-cloud-* put them into S3."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import itertools
import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3.session
import pytest
from botocore.exceptions import ClientError
from fix_archive import (
    ACCESS_KEY,
    S3,
    SECRET_KEY,
    Server,
    every_kind_of_commit,
    running_s3,
    tables_to_drop,
    waldump,
    waldump_deletes,
)

from drillbook.archive import (
    ArchiveSnapshot,
    Entry,
    S3Store,
    TarState,
    archive_chain,
    catalogue,
    changes_between,
    check_tars,
    commit_of,
    histories,
    newest_commit,
    read_folder,
    read_segment,
    resolve,
    survey,
    wal_names,
    window,
)
from drillbook.archive.tar_check import check_end, read_tar
from drillbook.errors import BaseBackupMissing, ObjectStoreError, PreconditionError, WalGap
from drillbook.forecast import calibrate
from drillbook.model import ArchivedCommit, BaseBackup, Lsn, RecoveryTarget
from drillbook.postgres.wal import Chain, ChangeReader, File, Runs, WalFormatError, WalReader, commits, read_run


def lz4_frame(data: bytes) -> bytes:
    """A frame whose blocks are stored as they are, which its format allows."""
    blocks = [data[at : at + (4 << 20)] for at in range(0, len(data), 4 << 20)]
    return (
        b"\x04\x22\x4d\x18\x60\x70\x73"
        + b"".join((len(block) | 1 << 31).to_bytes(4, "little") + block for block in blocks)
        + bytes(4)
    )


DESTINATION, NAME = "s3://archive/site/a", "pg"
WALS = f"site/a/{NAME}/wals"


@dataclasses.dataclass
class Site:
    """A server's archive with two timelines, two base backups, and a workload of every kind of commit."""

    s3: S3
    server: Server
    store: S3Store
    prepared_xid: int
    savepoint_xid: int
    last_xid: int
    idle: list[str]

    def chain(self, which: int = 0) -> Chain:
        backup = catalogue(self.store, NAME).usable[which]
        return archive_chain(self.store, backup, wal_names(self.store, NAME))

    def key(self, segment: str) -> str:
        return f"{WALS}/{segment[:16]}/{segment}.gz"

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        listing = wal_names(self.store, NAME)
        for name in names:
            segment = listing.segment(name)
            assert segment is not None
            yield name, read_segment(self.store, segment)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_s3() as s3:
        server = Server(s3, DESTINATION, NAME)
        try:
            yield lived(server, s3)
        finally:
            server.remove()


def lived(server: Server, s3: S3) -> Site:
    server.start()
    (server.root / "ts").mkdir()
    tables_to_drop(server)
    server.backup("--name", "backup-1", "--gzip")
    made = every_kind_of_commit(server)
    server.switch()
    server.promote_to_new_timeline()
    server.sql("INSERT INTO t VALUES (6)")
    server.backup("--name", "backup-2", "--max-archive-size", "10MB")  # in several parts
    with server.connect() as connection:
        for n in range(300):
            connection.execute("INSERT INTO t VALUES (%s)", (n,))
    last_xid = server.sql(
        "WITH x AS (INSERT INTO t VALUES (7) RETURNING 1) SELECT pg_current_xact_id()::text::bigint FROM x"
    )
    server.switch()
    idle = [server.sql("SELECT pg_create_restore_point('idle')") and server.switch() for _ in range(3)]
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    return Site(s3, server, store, made.prepared_xid, made.savepoint_xid, int(last_xid), idle)


@pytest.mark.parametrize("timeline", [1, 2])
@pytest.mark.long
def test_the_commits_are_those_that_pg_waldump_sees(site: Site, tmp_path: Path, timeline: int) -> None:
    names = [name for name in wal_names(site.store, NAME).names() if name.startswith(f"{timeline:08X}")]
    for name, data in site.read(names):
        (tmp_path / name).write_bytes(data)
    stopped: list[str] = []
    ours = list(commits(site.read(names), stopped=stopped))
    assert [(c.committed_at, c.xid, c.lsn) for c in ours] == waldump(tmp_path, names[0], names[-1])
    assert not stopped
    assert all(a.end_lsn <= b.lsn for a, b in itertools.pairwise(ours))
    if timeline == 1:
        over_two_segments = [c for c in ours if c.lsn.value >> 20 != c.end_lsn.value >> 20]
        assert over_two_segments, "no commit record is in two segments: the workload has lost its point"
        assert site.prepared_xid in {c.xid for c in ours}


@pytest.mark.long
def test_what_was_deleted_and_dropped_is_what_pg_waldump_sees(site: Site, tmp_path: Path) -> None:
    names = [name for name in wal_names(site.store, NAME).names() if name.startswith("00000001")]
    for name, data in site.read(names):
        (tmp_path / name).write_bytes(data)
    theirs = waldump_deletes(tmp_path, names[0], names[-1])
    reader = ChangeReader()
    changes = [one for name, data in site.read(names) for one in reader.changes(name, data)]
    ours: Counter[File] = Counter()
    for one in changes:
        ours.update(one.deleted)
    assert theirs and ours == theirs
    # 120 tables with an index each, in one transaction; and one table in a savepoint of a prepared transaction.
    assert [len(one.dropped) for one in changes if len(one.dropped) > 100] == [240]
    (prepared,) = [one for one in changes if one.xid == site.prepared_xid]
    assert len(prepared.dropped) == 1 and sum(prepared.deleted.values()) > 1
    assert {one.database for one in changes if one.deleted} == {one.database for one in changes if one.dropped}


def test_changes_are_found_between_two_instants(site: Site) -> None:
    listing, reach = wal_names(site.store, NAME), site.chain()
    everything = list(
        changes_between(
            site.store,
            listing,
            reach,
            since=datetime.min.replace(tzinfo=UTC) + timedelta(days=1),
            until=datetime.now(UTC),
        )
    )
    heavy = next(one for one in everything if len(one.dropped) > 100)
    at = heavy.committed_at
    (found,) = changes_between(site.store, listing, reach, since=at, until=at)
    assert (found.xid, found.dropped) == (heavy.xid, heavy.dropped)
    earlier = timedelta(microseconds=1)
    assert heavy.xid not in [
        one.xid for one in changes_between(site.store, listing, reach, since=at - timedelta(days=1), until=at - earlier)
    ]


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_s12_runs_that_are_read_apart_give_what_one_reading_gives(site: Site, length: int) -> None:
    """Records and transactions that go on from one run into the next among them."""
    names = [name for name in wal_names(site.store, NAME).names() if name.startswith("00000001")]
    read = list(site.read(names))
    reader, together = ChangeReader(), Runs()
    whole = [one for name, data in read for one in reader.changes(name, data) if one.deleted or one.dropped]
    after = 8  # the longest record goes over four segments
    starts = range(0, len(read), length)
    runs = [read_run(read[at : at + length], read[at + length : at + length + after], "") for at in starts]
    apart = [one for run in runs for one in together.settle(run)]
    assert [(c.xid, c.lsn, c.deleted, c.dropped) for c in apart] == [
        (c.xid, c.lsn, c.deleted, c.dropped) for c in whole
    ]
    every = [commit for run in runs for commits_ in run.commits for commit in commits_]
    assert every == list(commits(read))
    assert sum(len(run.databases) for run in runs) == len(every)


def test_reading_may_begin_at_any_segment(site: Site) -> None:
    names = [name for name in wal_names(site.store, NAME).names() if name.startswith("00000001")]
    read = dict(site.read(names))
    everything = list(commits(read.items()))
    for at in range(len(names)):
        run = list(commits((name, read[name]) for name in names[at:]))
        assert run == [commit for commit in everything if commit.segment >= names[at]]


def test_reading_stops_where_a_record_or_a_page_is_damaged(site: Site) -> None:
    name = newest_commit(site.store, wal_names(site.store, NAME), site.chain()).segment
    data = dict(site.read([name]))[name]
    whole = list(commits([(name, data)]))
    victim = whole[len(whole) // 2]
    at = victim.lsn.value % len(data)
    for offset, why in [(at + 27, "checksum"), (at + 9, "not linked"), (at + 3, "a record of")]:
        damaged = bytearray(data)
        damaged[offset] ^= 0x55
        stopped: list[str] = []
        assert list(commits([(name, bytes(damaged))], stopped=stopped)) == whole[: whole.index(victim)]
        assert why in stopped[0] and str(victim.lsn) in stopped[0]
    zeroed = data[:16384] + bytes(len(data) - 16384)
    stopped = []
    assert list(commits([(name, zeroed)], stopped=stopped)) == [
        c for c in whole if c.end_lsn.value % len(data) <= 16384
    ]
    assert stopped


def test_what_is_not_the_named_segment_is_refused(site: Site) -> None:
    names = list(wal_names(site.store, NAME).names())[:3]
    read = dict(site.read(names))
    with pytest.raises(WalFormatError, match="holds the WAL from"):
        WalReader().feed(names[1], read[names[0]])
    with pytest.raises(WalFormatError, match="is torn"):
        WalReader().feed(names[0], read[names[0]][:-1])
    with pytest.raises(WalFormatError, match="page magic"):
        WalReader().feed(names[0], bytes(1 << 20))
    with pytest.raises(WalFormatError, match="expected 42"):
        WalReader(expected_system_id="42").feed(names[0], read[names[0]])
    reader = WalReader()
    reader.feed(names[0], read[names[0]])
    with pytest.raises(WalFormatError, match="does not adjoin"):
        reader.feed(names[2], read[names[2]])


def test_the_catalogue_is_what_barman_wrote(site: Site) -> None:
    found = catalogue(site.store, NAME)
    first, second = found.usable
    assert not found.unusable and found.newest == second and found.find(first.backup_id) == first
    assert (first.backup_name, first.timeline, first.compression) == ("backup-1", 1, "gzip")
    assert (second.backup_name, second.timeline, second.compression) == ("backup-2", 2, "")
    assert first.system_id == str(site.server.sql("SELECT system_identifier FROM pg_control_system()"))
    assert first.segment_bytes == 1 << 20
    assert first.pg_version == site.server.sql("SELECT current_setting('server_version_num')::int")
    assert first.begin_lsn < first.end_lsn and first.begin_time < first.end_time
    assert first.location == f"s3://archive/site/a/pg/base/{first.backup_id}"
    assert first.size_bytes > 1_000_000 and first.cluster_size_bytes > first.size_bytes
    assert BaseBackup.model_validate_json(first.model_dump_json()) == first


def test_each_unusable_backup_is_named_with_its_reason(site: Site) -> None:
    first, second = catalogue(site.store, NAME).usable
    base = f"site/a/{NAME}/base"
    info = site.s3.client.get_object(Bucket="archive", Key=f"{base}/{second.backup_id}/backup.info")["Body"].read()

    def reason(backup_id: str, **more: str) -> str:
        return dict(catalogue(site.store, NAME, **more).unusable)[backup_id]

    foreign = catalogue(site.store, NAME, system_id="42")
    assert not foreign.usable and all("foreign" in why and first.system_id in why for _, why in foreign.unusable)
    with site.s3.without(f"{base}/{second.backup_id}/backup.info"):
        assert "no backup.info" in reason(second.backup_id)
        assert catalogue(site.store, NAME).usable == [first]
    with site.s3.without(f"{base}/{second.backup_id}/data.tar"):
        assert reason(second.backup_id) == "missing data: no data.tar"
    for old, new, told in [
        (b"status=DONE", b"status=STARTED", "unfinished: its status is STARTED"),
        (b"status=DONE", b"status=FAILED\nerror=disk full", "failed: "),
        (b"systemid=", b"other=", "unreadable: it has no systemid"),
        (b"+00:00", b"", "no time zone"),
        (b"xlog_segment_size=1048576", b"xlog_segment_size=3", "power of two"),
        (b"tablespaces=None", b"tablespaces=[('ts', 16999, '/ts')]", "missing data: no 16999.tar"),
        (b"timeline=2", b"timeline=7", "does not hold"),
    ]:
        assert old in info
        with site.s3.without(f"{base}/{second.backup_id}/backup.info"):
            site.s3.put(f"{base}/{second.backup_id}/backup.info", info.replace(old, new))
            assert told in reason(second.backup_id)
    with site.s3.without(f"{base}/{second.backup_id}/data_0001.tar"):
        assert reason(second.backup_id) == "missing data: no data_0001.tar"
    with site.s3.without(f"{base}/{second.backup_id}/data_0001.tar"):
        site.s3.put(f"{base}/{second.backup_id}/data_0001.tar", b"")
        assert reason(second.backup_id) == "missing data: data_0001.tar is empty"
    with site.s3.without(f"{base}/{second.backup_id}/data.tar") as body:
        key, bucket = f"{base}/{second.backup_id}/data.tar", "archive"
        site.s3.client.put_object(Bucket=bucket, Key=key, Body=body, StorageClass="GLACIER")
        assert "cold: data.tar is in GLACIER" in reason(second.backup_id)
        site.s3.client.restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": 1})
        assert catalogue(site.store, NAME).find(second.backup_id), "it was made readable for a day"
        site.s3.client.put_object(Bucket=bucket, Key=key, Body=body, ServerSideEncryption="AES256")
        assert catalogue(site.store, NAME).find(second.backup_id), "encryption at rest hinders nobody"


def test_the_tars_of_a_real_backup_are_whole(site: Site) -> None:
    for entry in catalogue(site.store, NAME).entries:
        assert {check.state for check in check_tars(site.store, entry.tars)} == {TarState.WHOLE}
        ends = check_tars(site.store, entry.tars, read_through=0)
        assert {check.state for check in ends} == {TarState.ENDS}
        assert sum(check.read_bytes for check in ends) <= len(ends) * 20480, "only the last bytes were read"


def test_a_cut_tar_shows_by_its_last_bytes(site: Site) -> None:
    compressed, plain = catalogue(site.store, NAME).entries
    assert len(plain.tars) > 1, "the backup is in one part: the test has lost its point"

    def broken(entry: Entry, **more: int) -> dict[str, str]:
        found = check_tars(site.store, entry.tars, **more)
        return {check.key.rpartition("/")[2]: f"{check.state}: {check.found}" for check in found if check.state.broken}

    (data, _), *_ = compressed.tars
    with site.s3.without(f"site/a/{data.key}") as body:
        for part in (2, 3, 7):
            site.s3.put(f"site/a/{data.key}", body[: len(body) * (part - 1) // part])
            assert list(broken(reread(site, compressed), read_through=0)) == ["data.tar.gz"], part
        # The wrong bytes are in the middle: its end is a whole one's, and only reading it through shows them.
        wrong = bytes(byte ^ 0xFF for byte in body[len(body) // 2 :][:5000])
        site.s3.put(f"site/a/{data.key}", body[: len(body) // 2] + wrong + body[len(body) // 2 + 5000 :])
        assert not broken(compressed, read_through=0)
        assert "damaged: gzip says error" in broken(compressed)["data.tar.gz"]
    last, _ = plain.tars[-1]
    with site.s3.without(f"site/a/{last.key}") as body:
        # Cut where a whole tar could end, behind zeros that are in the data: what comes last in a backup is missing.
        zeros = [at for at in range(10240, len(body) - 30000, 10240) if not any(body[at - 1024 : at])]
        for end in (len(body) // 2, len(body) - 512, zeros[len(zeros) // 2]):
            site.s3.put(f"site/a/{last.key}", body[:end])
            assert list(broken(reread(site, plain), read_through=0)) == [last.key.rpartition("/")[2]], end
            through = read_tar(site.store, *reread(site, plain).tars[-1])
            assert (through.state, "it stops after" in through.found) == (TarState.CUT, True) or end == len(body) - 512
    with site.s3.without(f"site/a/{last.key}"):
        assert "a later part is missing" in str(broken(reread(site, plain), read_through=0))


def reread(site: Site, entry: Entry) -> Entry:
    return next(item for item in catalogue(site.store, NAME).entries if item.backup_id == entry.backup_id)


@pytest.mark.parametrize(("compression", "packed"), [("bzip2", bz2.compress), ("lz4", lz4_frame)])
def test_what_the_end_of_each_compression_tells(site: Site, compression: str, packed: Callable[[bytes], bytes]) -> None:
    item, _ = catalogue(site.store, NAME).entries[1].tars[-1]
    body = packed(site.store.get(item.key))
    key = f"packed/data.tar.{compression}"

    def state(stored: bytes) -> TarState:
        site.s3.put(f"site/a/{key}", stored)
        info = site.store.head(key)
        assert info
        return check_end(site.store, info, compression).state

    try:
        assert (state(body), state(body[: len(body) // 2])) == (TarState.ENDS, TarState.CUT)
        assert state(b"") is TarState.EMPTY
    finally:
        site.s3.take(f"site/a/{key}")


def test_nothing_is_said_of_an_idle_server_with_two_timelines(site: Site) -> None:
    a_month_later = datetime.now(UTC) + timedelta(days=31)
    found = survey(site.store, NAME, now=a_month_later)
    assert (found.findings, found.backups, found.usable) == ((), 2, 2)
    assert any("read through" in line for line in found.read)


def test_a_folder_is_read_once_and_a_torn_backup_reaches_nothing(site: Site) -> None:
    first, second = catalogue(site.store, NAME).usable
    whole = read_folder(site.store, NAME, samples=0, read_through=0, checked=0, retention_policy="1d")
    assert [item.state for item in whole.backups] == ["complete", "complete"] and not whole.survey.findings
    assert whole.backups[0].goes_at and not whole.backups[1].goes_at
    assert (whole.periods, whole.reach.newest) == (whole.reach.periods, newest_commit_of(site))
    # Of the cluster's history only the period in this folder counts, whatever was archived here after it.
    until = second.end_time
    older = read_folder(site.store, NAME, until=until, samples=0, read_through=0, checked=0)
    assert [period.last for period in older.periods] == [until - timedelta(microseconds=1)]
    (data, _), *_ = next(
        entry for entry in catalogue(site.store, NAME).entries if entry.backup_id == first.backup_id
    ).tars
    with site.s3.without(f"site/a/{data.key}") as body:
        site.s3.put(f"site/a/{data.key}", body[: len(body) // 2])
        torn = read_folder(site.store, NAME, samples=0, read_through=0, checked=0)
    assert [item.state for item in torn.backups] == ["cut", "complete"]
    assert [item.backup_id for item in torn.reach.backups] == [second.backup_id]
    assert [(item.state, item.key) for item in torn.damages] == [("cut", data.key)]
    assert torn.periods[0].first == second.end_time


def test_what_lies_before_a_damaged_newest_segment_is_still_reached(site: Site) -> None:
    newest = newest_commit_of(site)
    with site.s3.without(site.key(newest.segment)):
        site.s3.put(site.key(newest.segment), gzip.compress(bytes(1 << 20)))
        found = read_folder(site.store, NAME, samples=0, read_through=0, checked=0)
    assert all(newest.segment in reach.problem for reach in found.reach.backups)
    assert found.reach.newest and found.reach.newest.lsn < newest.lsn


def newest_commit_of(site: Site) -> ArchivedCommit:
    return newest_commit(site.store, wal_names(site.store, NAME), site.chain())


@contextmanager
def who_may_only_list_and_get(site: Site) -> Iterator[dict[str, str]]:
    """IAM is evaluated: the keys of a user who may list the bucket and get below its prefix, and nothing else."""
    iam = boto3.session.Session().client(
        "iam",
        endpoint_url=site.s3.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    statements = [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::archive"},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::archive/site/a/*"},
    ]

    def free_calls(count: str) -> None:
        address = f"{site.s3.endpoint_url}/moto-api/reset-auth"
        asked = urllib.request.Request(address, data=count.encode(), headers={"Content-Type": "text/plain"})  # noqa: S310
        urllib.request.urlopen(asked).close()  # noqa: S310

    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="reader", PolicyName="archive", PolicyDocument=policy)
    free_calls("0")
    try:
        yield {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}
    finally:
        free_calls("inf")
        iam.close()


def test_credentials_that_may_only_list_and_get_are_enough_for_all_that_is_read(site: Site) -> None:
    newest, (backup, _) = newest_commit_of(site), catalogue(site.store, NAME).usable
    with who_may_only_list_and_get(site) as keys:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=site.s3.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
        )
        with pytest.raises(ClientError, match="AccessDenied"):
            client.put_object(Bucket="archive", Key=f"{WALS}/x", Body=b"x")
        client.close()
        store = S3Store.open(DESTINATION, endpoint_url=site.s3.endpoint_url, **keys)
        found = read_folder(store, NAME)
        assert not found.survey.findings and found.reach.newest == newest
        assert not found.reach.uploads_told, "uploads in parts may not be listed: that is said, and no more"
        assert window(store, wal_names(store, NAME), catalogue(store, NAME).usable).newest_commit == newest
        held = ArchiveSnapshot.read(store, catalogue(store, NAME).usable, NAME)
        for wanted in (
            {},
            {"target_time": newest.committed_at - timedelta(microseconds=1)},
            {"target_lsn": newest.lsn},
            {"target_xid": newest.xid},
        ):
            assert resolve(held, RecoveryTarget.model_validate(wanted)).wal.segments
        calibration = calibrate(store, backup, list(wal_names(store, NAME, since=backup.begin_wal).segments()))
        assert calibration.notes == () and calibration.base_read and calibration.wal_read
        store.close()


def test_a_lost_way_to_the_newest_timeline_is_named(site: Site) -> None:
    key = f"{WALS}/00000002.history.gz"

    def told() -> set[tuple[str, str]]:
        found = survey(site.store, NAME, samples=0, read_through=0).findings
        return {(item.state, item.key.rpartition("/")[2]) for item in found if "history" in item.state}

    with site.s3.without(key):
        assert told() == {("history missing", "00000002.history")}
        site.s3.put(key, gzip.compress(b"nonsense"))
        assert told() == {("history damaged", "00000002.history.gz")}
    assert told() == set()


def test_the_chain_goes_over_the_switch_of_timelines(site: Site) -> None:
    listing = wal_names(site.store, NAME)
    assert listing.timelines == (1, 2) and listing.newest and listing.newest.name == site.idle[-1]
    assert not listing.unknown and not listing.empty
    (switch,) = histories(site.store, listing)[2]
    found = site.chain()
    assert found.unbroken and found.timelines == (1, 2) and found.last_segment == site.idle[-1]
    assert list(found.backwards())[-1] == catalogue(site.store, NAME).usable[0].begin_wal
    at_the_switch = found.name_at(switch.lsn.value >> 20)
    assert at_the_switch.startswith("00000002")
    assert any(key.endswith(f"{at_the_switch[8:]}.partial.gz") for key in site.s3.keys(WALS))
    assert site.chain(1).timelines == (2,)


def test_a_later_listing_holds_only_what_can_be_new(site: Site) -> None:
    later = wal_names(site.store, NAME, since=site.idle[0])
    assert later.timelines == (2,) and 2 in later.histories
    assert later.segment(site.idle[-1]) == wal_names(site.store, NAME).segment(site.idle[-1])
    with pytest.raises(ObjectStoreError, match="after the base backup's"):
        archive_chain(site.store, catalogue(site.store, NAME).usable[0], later)


def test_the_newest_commit_is_found_behind_idle_segments(site: Site) -> None:
    found = newest_commit(site.store, wal_names(site.store, NAME), site.chain())
    assert found.xid == site.last_xid & 0xFFFFFFFF and found.segment < site.idle[0]
    with pytest.raises(ObjectStoreError, match=f"newest 2 archived segments, back to {site.idle[1]}") as error:
        newest_commit(site.store, wal_names(site.store, NAME), site.chain(), look_back=2)
    assert error.value.reason == "NoCommitSeen"


def test_a_chain_without_any_commit_says_so(site: Site) -> None:
    whole = site.chain(1)
    from_the_idle = dataclasses.replace(whole, begin_wal=site.idle[0])
    with pytest.raises(PreconditionError, match="where the base backup begins"):
        newest_commit(site.store, wal_names(site.store, NAME), from_the_idle)


def test_a_transaction_is_found_by_its_id(site: Site) -> None:
    listing, reach = wal_names(site.store, NAME), site.chain()

    def of(xid: int, since: Lsn | None = None) -> ArchivedCommit | None:
        return commit_of(site.store, listing, reach, xid, since=since)

    prepared = of(site.prepared_xid)
    assert prepared and prepared.xid == site.prepared_xid and prepared.segment.startswith("00000001")
    assert of(site.prepared_xid + (5 << 32)) == prepared
    assert of(site.prepared_xid, since=prepared.lsn) == prepared
    assert of(site.prepared_xid, since=newest_commit(site.store, listing, reach).lsn) is None
    assert of(site.last_xid + 1000) is None


def test_the_window_reaches_from_the_oldest_backup_to_just_before_the_newest_commit(site: Site) -> None:
    backups = catalogue(site.store, NAME).usable
    found = window(site.store, wal_names(site.store, NAME), backups)
    assert found.first_time == backups[0].end_time
    assert found.newest_commit.xid == site.last_xid & 0xFFFFFFFF
    assert found.last_time == found.newest_commit.committed_at - timedelta(microseconds=1)
    assert abs(datetime.now(UTC) - found.last_time) < timedelta(minutes=10)
    with pytest.raises(BaseBackupMissing):
        window(site.store, wal_names(site.store, NAME), [])


def test_a_lost_segment_breaks_the_chain_and_narrows_the_window(site: Site) -> None:
    backups = catalogue(site.store, NAME).usable
    first, second = (list(site.chain(which).backwards()) for which in (0, 1))
    between = next(name for name in first if name not in second)
    with site.s3.without(site.key(between)):
        assert site.chain().problem == f"segment {between} is missing"
        assert window(site.store, wal_names(site.store, NAME), backups).first_time == backups[1].end_time
        both = rf"{backups[1].backup_id}: segment {second[1]} is missing"
        with site.s3.without(site.key(second[1])), pytest.raises(WalGap, match=both):
            window(site.store, wal_names(site.store, NAME), backups)


def test_torn_segments_are_named(site: Site) -> None:
    backups = catalogue(site.store, NAME).usable
    commit = newest_commit(site.store, wal_names(site.store, NAME), site.chain())
    name, key = commit.segment, site.key(commit.segment)
    with site.s3.without(key) as body:
        site.s3.put(key, b"")
        assert f"{name}: there, but torn or empty" in site.chain().problem
        for wrong, told in [
            (body[: len(body) // 2], "damaged: gzip says EOFError"),
            (b"not gzip", "damaged: gzip says"),
            (gzip.compress(gzip.decompress(body)[:-5000]), "is torn"),
            (gzip.compress(bytes(1 << 20)), "page magic 0000"),
        ]:
            site.s3.put(key, wrong)
            with pytest.raises(WalGap, match=name) as error:
                window(site.store, wal_names(site.store, NAME), backups)
            assert told in error.value.what
        hole = bytearray(gzip.decompress(body))
        hole[8192:16384] = bytes(8192)
        site.s3.put(key, gzip.compress(hole))
        with pytest.raises(WalGap, match=f"{name} in the archive is damaged: valid WAL ends at"):
            newest_commit(site.store, wal_names(site.store, NAME), site.chain())


def test_a_damaged_history_file_is_named(site: Site) -> None:
    key = f"{WALS}/00000002.history.gz"
    with site.s3.without(key):
        assert site.chain().unlinked == (2,)
        site.s3.put(key, gzip.compress(b"nonsense"))
        with pytest.raises(WalGap, match=r"00000002\.history in the archive can't be read: line 1"):
            site.chain()


@pytest.mark.parametrize(
    ("option", "ending"),
    [
        ("", ""),
        ("--bzip2", "bz2"),
        ("--xz", "xz"),
        ("--gzip", "gz"),
        ("--snappy", "snappy"),
        ("--zstd", "zst"),
        ("--lz4", "lz4"),
    ],
)
def test_b20_each_compression_reads_to_the_same_bytes(site: Site, option: str, ending: str) -> None:
    name = site.idle[0]
    site.server.archive_by_hand(name, *filter(None, [option]), name=f"by-hand-{ending}")
    segment = wal_names(site.store, f"by-hand-{ending}").segment(name)
    assert segment and segment.key.endswith(f"{name}.{ending}" if ending else name)
    assert read_segment(site.store, segment) == (site.server.data / "pg_wal" / name).read_bytes()
    if not ending:
        site.s3.put(f"site/a/{segment.key}", b"short")
        assert wal_names(site.store, "by-hand-").torn(1 << 20) == [name]
