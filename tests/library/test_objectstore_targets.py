"""A target is resolved to what PostgreSQL would do with it: every kind, against a plain look at all commits."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from fix_archive import ACCESS_KEY, BUCKET, S3, SECRET_KEY, Server, running_s3

from drillbook.archive import (
    ArchiveSnapshot,
    Reachable,
    ResolvedTarget,
    S3Store,
    broken_wal,
    catalogue,
    read_segment,
    resolve,
    sample,
    uploading,
    wal_names,
)
from drillbook.archive.reachability import reachable
from drillbook.errors import BaseBackupMissing, ObjectStoreError, TargetOutsideWindow
from drillbook.model import ArchivedCommit, BaseBackup, Lsn, RecoveryTarget
from drillbook.postgres.wal import SegmentName, WalReader
from drillbook.steps.archive.targets import _pinned

DESTINATION, NAME = "s3://archive/targets", "pg"
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Site:
    """Two base backups, a new timeline after the second, commits in every segment but the idle ones."""

    s3: S3
    server: Server
    store: S3Store
    first: BaseBackup
    second: BaseBackup
    commits: list[ArchivedCommit]  # in the order of the WAL, on the way to the newest timeline
    last_record: Lsn
    reading: WalReader
    only_old: int  # the transaction that only the old primary committed, after the switch
    once: ArchiveSnapshot

    def held(self) -> ArchiveSnapshot:
        return ArchiveSnapshot.read(
            self.store, catalogue(self.store, NAME).usable, NAME, system_id=self.first.system_id
        )

    def resolve(self, backup_id: str = "", look_back: int = 1024, **wanted: object) -> ResolvedTarget:
        target = RecoveryTarget.model_validate(wanted)
        return resolve(self.once, target, backup_id=backup_id, look_back=look_back)

    def again(self) -> Site:
        """The site as a new listing shows it."""
        return replace(self, once=self.held())

    def refused(self, backup_id: str = "", **wanted: object) -> str:
        with pytest.raises(TargetOutsideWindow) as error:
            self.resolve(backup_id, **wanted)
        return error.value.what

    def point(self, name: str) -> list[Lsn]:
        return [point.lsn for point in self.reading.restore_points if point.name == name]


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
    archive = server.root / "archive"  # as barman would, but without half a second of Python for each segment
    server.sql(
        f"ALTER SYSTEM SET archive_command = 'mkdir -p {archive} && gzip -c %p >{archive}/%f.gz'",
        "SELECT pg_reload_conf()",
        "CREATE TABLE t (a int)",
    )
    server.backup("--gzip")
    work(server, 3)
    server.sql("SELECT pg_create_restore_point('twice')")
    work(server, 2)
    server.sql("INSERT INTO t VALUES (0)", "SELECT pg_create_restore_point('once')", "INSERT INTO t VALUES (1)")
    server.switch()
    server.backup("--gzip")
    work(server, 2)
    server.sql("SELECT pg_create_restore_point('twice')", "INSERT INTO t VALUES (0)")
    server.stop()
    old = server.twin()
    server.promote_to_new_timeline()
    work(server, 4)
    try:
        old.start()
        write = "WITH x AS (INSERT INTO t VALUES (7) RETURNING 1) SELECT pg_current_xact_id()::text::bigint FROM x"
        work(old, 2)
        only_old = [old.sql(write) for _ in range(40)][-1]
        old.switch()
    finally:
        old.remove()
    for _ in range(2):
        server.sql("SELECT pg_create_restore_point('idle')")
        server.switch()
    for path in sorted(archive.iterdir()):  # the old timeline first: which one went on is told by when it was archived
        folder = f"{path.name[:16]}/" if len(path.name) >= 24 else ""
        s3.put(f"targets/{NAME}/wals/{folder}{path.name}", path.read_bytes())
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    first, second = catalogue(store, NAME).usable
    listing = wal_names(store, NAME)
    reader, commits = WalReader(), []
    reach = ArchiveSnapshot.read(store, [first], NAME).chain(first)
    for name in reversed(list(reach.backwards())):
        segment = listing.segment(name)
        assert segment is not None
        commits += reader.feed(name, read_segment(store, segment))
    assert reader.last_record is not None and len(reach.timelines) == 2
    once = ArchiveSnapshot.read(store, [first, second], NAME, system_id=first.system_id)
    return Site(s3, server, store, first, second, commits, reader.last_record, reader, int(only_old), once)


def work(server: Server, segments: int) -> None:
    for n in range(segments):
        server.sql(*["INSERT INTO t VALUES (1)"] * (n + 1))
        server.switch()


def segment_of(lsn: Lsn, found: ResolvedTarget) -> int:
    return SegmentName.parse(found.wal.last_segment, 1 << 20).number - lsn.value // (1 << 20)


def test_a_time_is_resolved_as_a_look_at_every_commit_says(site: Site) -> None:
    for commit in site.commits:
        for at in (commit.committed_at - MICROSECOND, commit.committed_at):
            after = [c for c in site.commits if c.committed_at > at]
            if at < site.first.end_time or not after:
                assert "can't be reached; the nearest reachable: " in site.refused(target_time=at)
                continue
            found = site.resolve(target_time=at)
            assert found.first_after == after[0]
            assert found.last_before == next((c for c in reversed(site.commits) if c.lsn < after[0].lsn), None)
            assert found.backup == (site.second if site.second.end_time <= at else site.first)
            assert found.target == RecoveryTarget(target_time=at, timeline=2)
            assert found.wal.first_segment == found.backup.begin_wal
            assert found.wal.last_segment >= after[0].segment and segment_of(after[0].end_lsn, found) in {0, -1}


def test_the_nearest_reachable_times_are_told_and_can_be_reached(site: Site) -> None:
    newest = site.commits[-1]
    told = site.refused(target_time=newest.committed_at)
    nearest = newest.committed_at - MICROSECOND
    assert nearest.isoformat().replace("+00:00", "Z") in told and f"target_xid {newest.xid}" in told
    assert site.resolve(target_time=nearest).first_after == newest
    early = site.first.end_time - MICROSECOND
    assert f"where base backup {site.first.backup_id} ends" in site.refused(target_time=early)
    assert site.resolve(target_time=site.first.end_time).backup == site.first


def test_an_exclusive_time_needs_a_commit_at_it_only(site: Site) -> None:
    newest = site.commits[-1]
    found = site.resolve(target_time=newest.committed_at, exclusive=True)
    assert found.first_after == newest and found.target.exclusive


def test_an_lsn_is_resolved_as_a_look_at_every_commit_says(site: Site) -> None:
    reachable = [commit for commit in site.commits if commit.lsn > site.first.end_lsn]
    for commit in reachable:
        found = site.resolve(target_lsn=commit.lsn)
        assert found.last_before == commit and segment_of(commit.lsn, found) == 0
        assert found.first_after == next((c for c in site.commits if c.lsn > commit.lsn), None)
        assert found.backup == (site.second if site.second.end_lsn < commit.lsn else site.first)
        left = site.resolve(target_lsn=commit.lsn, exclusive=True)
        assert left.first_after == commit
    # Between two records, the next record stops it.
    assert site.resolve(target_lsn=Lsn(reachable[0].lsn.value - 1)).last_before == reachable[0]


def test_the_last_lsn_is_where_the_last_whole_record_starts(site: Site) -> None:
    assert site.resolve(target_lsn=site.last_record).target.target_lsn == site.last_record
    told = site.refused(target_lsn=Lsn(site.last_record.value + 1))
    assert f"nearest reachable: LSN {site.last_record}" in told
    assert f"an LSN after {site.first.end_lsn}" in site.refused(target_lsn=site.first.end_lsn)


def test_a_transaction_is_resolved_from_the_newest_backup_before_its_commit(site: Site) -> None:
    for commit in (c for c in site.commits if c.lsn > site.first.end_lsn):
        found = site.resolve(target_xid=commit.xid)
        assert found.last_before == commit
        assert found.backup == (site.second if site.second.end_lsn <= commit.lsn else site.first)
    assert site.resolve(site.first.backup_id, target_xid=site.commits[-1].xid).backup == site.first
    told = site.refused(target_xid=site.commits[-1].xid + 1000)
    assert f"no commit of XID {site.commits[-1].xid + 1000}; the nearest reachable: XID {site.commits[-1].xid}" in told
    early = next(c for c in site.commits if c.lsn > site.first.end_lsn)
    assert f"no commit of XID {early.xid}" in site.refused(site.second.backup_id, target_xid=early.xid)


def test_a_commit_that_only_the_old_timeline_has_is_found_there(site: Site) -> None:
    """What the old primary committed after the switch is another history's, and reached on its own timeline."""
    assert site.only_old not in {commit.xid for commit in site.commits}
    found = site.resolve(target_xid=site.only_old)
    assert found.target == RecoveryTarget(target_xid=site.only_old, timeline=1) and found.backup == site.second
    assert found.last_before and found.last_before.segment.startswith("00000001")
    both = next(c for c in site.commits if c.lsn > site.second.end_lsn)
    assert site.resolve(target_xid=both.xid).target.timeline == 2
    assert site.resolve(target_xid=both.xid, timeline=1).target.timeline == 1


def test_a_restore_point_is_resolved_by_its_record(site: Site) -> None:
    found = site.resolve(target_name="once")
    assert found.restore_point and [found.restore_point.lsn] == site.point("once")
    assert found.backup == site.first and found.last_before and found.last_before.lsn < found.restore_point.lsn
    assert found.first_after and found.first_after.lsn > found.restore_point.lsn
    assert "no restore point 'never'" in site.refused(target_name="never")


def test_barmans_restore_point_belongs_to_its_backup(site: Site) -> None:
    for backup in (site.first, site.second):
        found = site.resolve(target_name=f"barman_{backup.backup_id}", look_back=4)
        assert found.backup == backup and found.restore_point


def test_a_name_given_twice_is_refused_where_it_would_stop_at_the_other(site: Site) -> None:
    early, late = site.point("twice")
    # From the second backup on the name is there once, so that backup can be recovered by it.
    assert site.resolve(target_name="twice").backup == site.second
    told = site.refused(site.first.backup_id, target_name="twice")
    assert f"at {early}" in told and f"at {late}" in told


def test_immediate_is_the_end_of_the_backup_that_is_named(site: Site) -> None:
    for backup in (site.first, site.second):
        found = site.resolve(backup.backup_id, target_immediate=True)
        assert found.backup == backup and found.wal.last_segment == backup.end_wal
        assert found.last_before is None or found.last_before.lsn < backup.end_lsn
    assert f"usable are {site.first.backup_id}" in site.refused("20200101T000000", target_immediate=True)


def test_no_target_is_the_end_of_the_archive(site: Site) -> None:
    found = site.resolve()
    assert found.last_before == site.commits[-1] and found.first_after is None
    assert found.backup == site.second and found.target == RecoveryTarget(timeline=2)
    held = site.held()
    names = list(held.chain(site.second).backwards())
    assert (found.wal.segments, found.wal.last_segment) == (len(names), names[0])
    assert found.wal.replayed_bytes == len(names) << 20
    assert 0 < found.wal.stored_bytes == sum(held.listing.segment(name).size for name in names)  # type: ignore[union-attr]


def test_beyond_a_gap_a_target_is_refused_or_reached_from_a_later_backup(site: Site) -> None:
    in_the_gap = next(c for c in reversed(site.commits) if c.lsn < site.second.begin_lsn)
    lost = in_the_gap.segment
    before = next(c for c in reversed(site.commits) if c.segment < lost)
    with site.s3.without(f"targets/{NAME}/wals/{lost[:16]}/{lost}.gz"):
        site = site.again()
        assert site.resolve(target_time=site.commits[-1].committed_at - MICROSECOND).backup == site.second
        told = site.refused(target_time=in_the_gap.committed_at)
        assert f"target_xid {before.xid}" in told and f"base backup {site.second.backup_id} ends" in told
        assert site.resolve(target_time=before.committed_at - MICROSECOND).backup == site.first
        assert f"LSN {in_the_gap.lsn} can't be reached" in site.refused(target_lsn=in_the_gap.lsn)
        assert site.resolve().backup == site.second
        assert f"segment {lost} is missing" in site.refused(site.first.backup_id)


def test_reading_is_bounded(site: Site) -> None:
    with pytest.raises(ObjectStoreError, match="not found in the 2 segments that were read") as error:
        site.again().resolve(target_name="never", look_back=2)
    assert error.value.reason == "TargetTooFarBack"
    with pytest.raises(BaseBackupMissing):
        resolve(ArchiveSnapshot.read(site.store, [], NAME), RecoveryTarget())


# -- what is broken, and how ---------------------------------------------------------------------


def broken(site: Site, *, later: timedelta = timedelta(hours=1)) -> list[tuple[str, str, int, str]]:
    held = site.held()
    under_way = uploading(site.store, NAME)
    found = broken_wal(held, site.first, now=datetime.now(UTC) + later, under_way=under_way)
    return [(item.first_segment, item.last_segment, item.segments, str(item.state)) for item in found]


def test_each_gap_has_its_first_and_last_segment_and_a_state(site: Site) -> None:
    names = list(reversed(list(site.once.chain(site.first).backwards())))
    lost = names[3:9]
    keys = {name: f"targets/{NAME}/wals/{name[:16]}/{name}.gz" for name in lost}
    assert broken(site) == []
    bodies = {name: site.s3.take(key) for name, key in keys.items()}
    upload = {"Bucket": BUCKET, "Key": keys[lost[1]]}
    upload["UploadId"] = site.s3.client.create_multipart_upload(**upload)["UploadId"]
    site.s3.put(keys[lost[3]], b"")
    site.s3.put(keys[lost[4]].replace(".gz", ".partial.gz"), b"x")
    site.s3.put(keys[lost[5]].removesuffix(".gz"), b"short")
    try:
        told = [
            (lost[0], lost[0], 1, "lost"),
            (lost[1], lost[1], 1, "uploading"),
            (lost[2], lost[2], 1, "lost"),
            (lost[3], lost[3], 1, "zero-length"),
            (lost[4], lost[4], 1, "partial"),
            (lost[5], lost[5], 1, "damaged"),
        ]
        assert broken(site) == told
        site.s3.client.abort_multipart_upload(**upload)
        assert broken(site)[0] == (lost[0], lost[2], 3, "lost")
        # What follows has only just come: uploads in parallel end out of order.
        assert [item[3] for item in broken(site, later=timedelta())] == ["delayed", "zero-length", "partial", "damaged"]
    finally:
        for name, body in bodies.items():
            for ending in ("", ".partial.gz", ".gz"):
                site.s3.client.delete_object(Bucket=BUCKET, Key=keys[name].removesuffix(".gz") + ending)
            site.s3.put(keys[name], body)
    assert broken(site) == []


def test_a_sample_is_bounded_and_finds_a_flipped_bit_in_any_record(site: Site) -> None:
    stretch = site.once.stretch(site.first)
    whole = sample(stretch, most=stretch.last - stretch.first + 1)
    assert not whole.damaged and len(whole.segments) == stretch.last - stretch.first + 1
    few = sample(stretch, most=3)
    assert len(few.segments) == 3 and stretch.reach.last_segment in few.segments
    assert len(sample(stretch, most=9, most_bytes=1 << 20).segments) == 1
    name = site.first.end_wal
    key = f"targets/{NAME}/wals/{name[:16]}/{name}.gz"
    with site.s3.without(key) as body:
        data = bytearray(gzip.decompress(body))
        data[(site.first.end_lsn.value - 40) % len(data)] ^= 1
        site.s3.put(key, gzip.compress(data))
        (item,) = sample(site.held().stretch(site.first), most=2).damaged
        assert item.first_segment == name and "checksum is wrong" in item.why and item.state == "damaged"


# -- the window ----------------------------------------------------------------------------------


def look(site: Site, *, samples: int = 0) -> Reachable:
    return reachable(site.held(), now=datetime.now(UTC) + timedelta(hours=1), samples=samples)


def test_a_healthy_archive_has_one_window_and_nothing_to_do(site: Site) -> None:
    found = look(site, samples=2)
    assert [reach.backup_id for reach in found.backups] == [site.first.backup_id, site.second.backup_id]
    assert all(reach.newest == site.commits[-1] and not reach.problem for reach in found.backups)
    assert found.backups[0].latest_lsn == site.last_record
    (period,) = found.periods
    assert (period.first, period.last) == (site.first.end_time, site.commits[-1].committed_at - MICROSECOND)
    assert found.newest == site.commits[-1] and len(found.sampled) == 2
    assert found.todo == () and found.gaps == () and found.damaged == ()
    assert Reachable.model_validate_json(found.model_dump_json()) == found


def test_a_gap_parts_the_window_and_says_what_to_do(site: Site) -> None:
    cut = next(c for c in reversed(site.commits) if c.lsn < site.second.begin_lsn)
    before = next(c for c in reversed(site.commits) if c.segment < cut.segment)
    with site.s3.without(f"targets/{NAME}/wals/{cut.segment[:16]}/{cut.segment}.gz"):
        found = look(site)
    assert [period.last for period in found.periods] == [
        before.committed_at - MICROSECOND,
        site.commits[-1].committed_at - MICROSECOND,
    ]
    assert found.periods[1].first == site.second.end_time
    assert found.backups[0].problem and not found.backups[1].problem
    (gap,) = found.gaps
    assert gap.broken.first_segment == cut.segment and gap.broken.state == "lost" and gap.after <= gap.before
    assert found.todo == (f"{gap.broken}. {gap.broken.todo}",)


def test_a_missing_history_file_leaves_its_timeline_unlinked(site: Site) -> None:
    with site.s3.without(f"targets/{NAME}/wals/00000002.history.gz"):
        found = look(site)
    assert found.unlinked == (2,) and any("00000002.history" in line for line in found.todo)


def test_g10_the_end_of_the_archive_is_pinned_to_the_newest_commit(site: Site) -> None:
    """What the run itself writes while people confirm (the database set read only) is not recovered with the rest."""
    end = site.resolve()
    pinned = _pinned(site.once, end, RecoveryTarget(), "")
    assert end.target.target_lsn is None and end.last_before is not None
    assert pinned.target.target_lsn == end.last_before.lsn and pinned.last_before == end.last_before
    assert (pinned.backup, pinned.timeline) == (end.backup, end.timeline)
    asked = RecoveryTarget(target_lsn=end.last_before.lsn)
    assert _pinned(site.once, pinned, asked, "") is pinned
