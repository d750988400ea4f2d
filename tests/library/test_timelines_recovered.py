"""What PostgreSQL itself does with other servers' timelines, and with a timeline whose history was never archived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fix_archive import ACCESS_KEY, S3, SECRET_KEY, Server, running_s3
from fix_recovery import Recovery

from drillbook.archive import ArchiveSnapshot, S3Store, catalogue, read_folder, resolve
from drillbook.model import RecoveryTarget

DESTINATION, NAME = "s3://archive/timelines", "pg"
WRITE = (
    "WITH x AS (INSERT INTO load (filler) VALUES ('x') RETURNING 1) SELECT pg_current_xact_id()::text::bigint FROM x"
)
NOW = "SELECT clock_timestamp()"


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


@pytest.mark.long
def test_b01_b03_postgresql_recovers_on_the_clusters_own_timeline(archived: tuple[S3, Server]) -> None:
    """A stranger's timeline 2, then an own timeline 2 whose history is not in the archive."""
    s3, server = archived
    store = S3Store.open(
        DESTINATION, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )
    server.backup("--gzip")
    server.sql(WRITE)
    server.switch()
    server.stop()
    stranger = server.twin()
    try:
        stranger.promote_to_new_timeline()
        stranger.sql(WRITE)
        stranger.switch()
    finally:
        stranger.remove()
    server.start()
    [server.sql(WRITE) for _ in range(3)]
    ours, between = server.sql(WRITE), server.sql(NOW)
    server.sql(WRITE)
    server.switch()

    def held(timeline: int) -> ArchiveSnapshot:
        return ArchiveSnapshot.read(store, catalogue(store, NAME).usable, NAME, timeline=timeline)

    own = held(1)
    found = resolve(own, RecoveryTarget(target_time=between))
    assert found.target.timeline == 1 and found.last_before and found.last_before.xid == ours
    recovery = Recovery.of(server, found.backup.backup_id)
    try:
        recovery.fetch(own)
        assert recovery.reaches(found, ours) is True
        latest = found.model_copy(update={"target": RecoveryTarget()})
        assert recovery.reaches(latest, ours) is False, "PostgreSQL's default follows the stranger"
    finally:
        recovery.remove()
    assert [
        item.state
        for item in read_folder(store, NAME, timeline=1, now=datetime.now(UTC) + timedelta(hours=1)).survey.damages
    ] == ["stray timeline"]

    for key in s3.keys(f"timelines/{NAME}/wals/00000002"):
        s3.take(key)
    server.promote_to_new_timeline()
    server.sql(WRITE)
    server.switch()
    for key in s3.keys(f"timelines/{NAME}/wals/00000002.history"):
        s3.take(key)
    server.backup("--gzip")
    last = server.sql(WRITE)
    server.switch()
    lone = held(2)
    found = resolve(lone, RecoveryTarget(target_xid=last))
    assert (found.timeline, found.target.timeline, found.backup.timeline) == (2, None, 2)
    recovery = Recovery.of(server, found.backup.backup_id)
    try:
        recovery.fetch(lone)
        assert recovery.reaches(found, last) is True
        numbered = found.model_copy(update={"target": found.target.model_copy(update={"timeline": 2})})
        assert recovery.reaches(numbered, last, refusal="recovery target timeline 2 does not exist") is None
    finally:
        recovery.remove()
        store.close()
