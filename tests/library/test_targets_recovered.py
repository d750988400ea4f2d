"""PostgreSQL itself recovers to what was resolved, and to nothing later: barman's archive, random load, twenty times."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fix_archive import ACCESS_KEY, BUCKET, S3, SECRET_KEY, Server, running_s3
from fix_recovery import Recovery

from drillbook.archive import ArchiveSnapshot, S3Store, catalogue, reachable, resolve
from drillbook.errors import TargetOutsideWindow
from drillbook.model import Lsn, RecoveryTarget

DESTINATION, NAME = "s3://archive/recovered", "pg"
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def archived() -> Iterator[tuple[S3, Server]]:
    with running_s3() as s3:
        server = Server(s3, DESTINATION, NAME)
        try:
            server.start()
            server.sql("CREATE TABLE load (xid xid8 DEFAULT pg_current_xact_id(), filler text)")
            yield s3, server
        finally:
            server.remove()


def load(server: Server, chance: random.Random, seconds: float) -> None:
    """Several sessions at once: commits, rollbacks, savepoints and prepared transactions of every length."""
    end = time.monotonic() + seconds

    def session(seed: int, number: int) -> None:
        mine = random.Random(seed)  # noqa: S311 - a load, not a secret
        with server.connect() as connection:
            while time.monotonic() < end:
                connection.execute("BEGIN")
                insert = "INSERT INTO load (filler) SELECT repeat('x', %s) FROM generate_series(1, %s)"
                connection.execute(insert, (mine.randrange(400), mine.randrange(1, 40)))
                kind = mine.randrange(10)
                if kind == 0:
                    connection.execute("SAVEPOINT s")
                    connection.execute(insert, (10, 1))
                    connection.execute("RELEASE s")
                if kind == 1:
                    connection.execute("ROLLBACK")
                elif kind == 2:
                    connection.execute(f"PREPARE TRANSACTION 'p{number}'".encode())
                    connection.execute(f"COMMIT PREPARED 'p{number}'".encode())
                else:
                    connection.execute("COMMIT")
                time.sleep(mine.random() * 0.02)

    threads = [
        threading.Thread(target=session, args=(chance.randrange(1 << 30), number))
        for number in range(chance.randrange(1, 4))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("rounds", [pytest.param(4, marks=pytest.mark.long), pytest.param(20, marks=pytest.mark.soak)])
def test_the_newest_commit_is_the_border_of_what_can_be_reached(archived: tuple[S3, Server], rounds: int) -> None:
    """By time to 1 µs before it, to it by LSN and by XID; what is later is refused, and PostgreSQL would have failed.

    Three recoveries a round; in every fourth round what is later is tried on PostgreSQL itself.
    """
    s3, server = archived
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)  # noqa: S311
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    recovery: Recovery | None = None
    try:
        for number in range(rounds):
            if number % 5 == 0:
                server.backup("--gzip")
            load(server, chance, chance.uniform(0.1, 0.8))
            server.switch()
            backups = catalogue(store, NAME).usable
            held = ArchiveSnapshot.read(store, backups, NAME, system_id=backups[0].system_id)
            newest = resolve(held, RecoveryTarget()).last_before
            assert newest is not None
            by_time = resolve(held, RecoveryTarget(target_time=newest.committed_at - MICROSECOND))
            by_lsn = resolve(held, RecoveryTarget(target_lsn=newest.lsn))
            by_xid = resolve(held, RecoveryTarget(target_xid=newest.xid))
            assert by_time.backup == by_lsn.backup == by_xid.backup
            if recovery is None or recovery.backup_id != by_time.backup.backup_id:
                if recovery is not None:
                    recovery.remove()
                recovery = Recovery.of(server, by_time.backup.backup_id)
            what = f"seed {seed}, round {number}, {newest}"
            recovery.fetch(held)
            assert recovery.reaches(by_time, newest.xid) is False, what
            assert recovery.reaches(by_lsn, newest.xid) is True, what
            assert recovery.reaches(by_xid, newest.xid) is True, what
            last = next(scan.last_record for _, scan in held.stretch(backups[-1]).backwards() if scan.last_record)
            later = [
                RecoveryTarget(target_time=newest.committed_at),
                RecoveryTarget(target_time=newest.committed_at + timedelta(hours=1)),
                RecoveryTarget(target_lsn=Lsn(last.value + 1)),
                RecoveryTarget(target_xid=newest.xid + 1000),
            ]
            for wanted in later:
                with pytest.raises(TargetOutsideWindow, match="nearest"):
                    resolve(held, wanted)
            if number % 4 == 3:
                # Not the newest commit's own time: a rollback after it would stop PostgreSQL there as well.
                beyond = later[1 + number // 4 % 3]
                assert recovery.reaches(by_time.model_copy(update={"target": beyond}), newest.xid) is None, what
    finally:
        if recovery is not None:
            recovery.remove()
        store.close()


def snapshot(store: S3Store, name: str) -> ArchiveSnapshot:
    backups = catalogue(store, name).usable
    return ArchiveSnapshot.read(store, backups, name, system_id=backups[0].system_id)


def leave(s3: S3, name: str, last: str) -> None:
    """Another server's folder with what the archive held when ``last`` was its newest segment."""
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"recovered/{NAME}/")
    for key in [item["Key"] for page in pages for item in page["Contents"]]:
        if "/wals/" not in key or key.rpartition("/")[2][:24] <= last:
            to = key.replace(f"recovered/{NAME}/", f"recovered/{name}/", 1)
            s3.client.copy_object(Bucket=BUCKET, Key=to, CopySource={"Bucket": BUCKET, "Key": key})


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_i17_what_is_said_to_be_recoverable_is_what_a_restore_shows(archived: tuple[S3, Server]) -> None:
    """The cluster is lost at twenty random moments: a restore has every commit until the one that is named, and no other."""
    s3, server = archived
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)  # noqa: S311
    server.sql("ALTER SYSTEM SET track_commit_timestamp = on")
    server.stop()
    server.start()
    server.backup("--gzip")
    for _ in range(12):
        load(server, chance, chance.uniform(0.2, 0.6))
        server.switch()
    with server.connect() as connection:
        asked = connection.execute("SELECT DISTINCT xid::text::bigint, pg_xact_commit_timestamp(xid::xid) FROM load")
        committed = {int(xid): at for xid, at in asked}
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    try:
        first = catalogue(store, NAME).usable[0]
        names = [segment.name for segment in snapshot(store, NAME).listing.segments()]
        for number in range(20):
            last = chance.choice([name for name in names if name > first.end_wal])
            leave(s3, f"lost-{number}", last)
            held = snapshot(store, f"lost-{number}")
            until = reachable(held, now=datetime.now(UTC)).newest
            assert until is not None
            recovery = Recovery.of(server, first.backup_id)
            try:
                recovery.fetch(held)
                restored = recovery.to_the_end()
            finally:
                recovery.remove()
            expected = {xid for xid, at in committed.items() if at <= until.committed_at}
            assert restored == expected, f"seed {seed}, cut after {last}: {len(restored ^ expected)} commits off"
    finally:
        store.close()
