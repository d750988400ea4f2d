"""The calibration read against a real archive: what it measures, what it may not exceed, and what it says when it can't."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from fix_archive import ACCESS_KEY, SECRET_KEY, Server, running_s3

from drillbook.archive import ArchivedSegment, S3Store, catalogue, wal_names
from drillbook.forecast import CALIBRATED, Work, calibrate, predict
from drillbook.model import BaseBackup

DESTINATION = "s3://archive/site/forecast"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def archive() -> Iterator[tuple[S3Store, BaseBackup, BaseBackup]]:
    """A server's archive with a base backup stored plain and one stored with gzip."""
    with running_s3() as s3:
        server = Server(s3, DESTINATION, "pg")
        try:
            server.start()
            server.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n")
            server.backup()
            server.backup("--gzip")
            server.switch()
            store = S3Store.open(
                DESTINATION, endpoint_url=s3.endpoint_url, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY
            )
            usable = catalogue(store, "pg").usable
            plain = next(backup for backup in usable if not backup.compression)
            packed = next(backup for backup in usable if backup.compression == "gzip")
            yield store, plain, packed
            store.close()
        finally:
            server.remove()


def segments(store: S3Store, backup: BaseBackup) -> list[ArchivedSegment]:
    return list(wal_names(store, "pg", since=backup.begin_wal).segments())


def work(backup: BaseBackup) -> Work:
    return Work(
        stored_bytes=backup.size_bytes,
        data_bytes=backup.cluster_size_bytes,
        compression=backup.compression,
        segments=3,
        segment_bytes=backup.segment_bytes,
    )


def test_a_plain_backup_is_read_and_a_forecast_comes_of_it(archive: tuple[S3Store, BaseBackup, BaseBackup]) -> None:
    store, plain, _ = archive
    found = calibrate(store, plain, segments(store, plain))
    assert found.notes == ()
    assert found.base_read is not None and found.base_read.bytes > 1 << 20
    assert found.base_unpacked is None
    assert found.wal_objects >= 1 and found.wal_read is not None and found.wal_unpack_seconds > 0
    forecast = predict(work(plain), [], found)
    assert (forecast.source, forecast.seconds is None) == (CALIBRATED, False)


def test_a_packed_backup_is_unpacked_in_memory_and_its_ratio_is_seen(
    archive: tuple[S3Store, BaseBackup, BaseBackup],
) -> None:
    store, _, packed = archive
    found = calibrate(store, packed, segments(store, packed))
    assert found.base_unpacked is not None and found.base_unpacked.per_second > 0
    assert found.base_ratio is not None and found.base_ratio > 2
    assert predict(work(packed), [], found).seconds is not None


def test_it_reads_no_more_than_it_may(archive: tuple[S3Store, BaseBackup, BaseBackup]) -> None:
    store, plain, _ = archive
    found = calibrate(store, plain, [], most_bytes=4 << 20)
    assert found.base_read is not None
    assert 4 << 20 <= found.base_read.bytes < 6 << 20 < plain.size_bytes
    assert found.wal_read is None


def test_what_is_not_there_gives_a_note_and_an_unknown_forecast_and_no_error(
    archive: tuple[S3Store, BaseBackup, BaseBackup],
) -> None:
    store, plain, _ = archive
    gone = plain.model_copy(update={"server_name": "nobody", "backup_id": "20200101T000000"})
    found = calibrate(store, gone, [segment._replace(key="nobody/wals/x") for segment in segments(store, plain)])
    assert len(found.notes) == 2
    assert "NoSuchKey" in found.notes[1]
    forecast = predict(work(plain), [], found)
    assert forecast.seconds is None
    assert "nothing of the base backup could be read" in forecast.unknown


@pytest.mark.parametrize(
    ("restarts", "ready", "expected"),
    [
        pytest.param(0, "2026-11-01T10:00:12Z", (7.0, 5.0), id="has run since it was made"),
        pytest.param(1, "2026-11-01T10:00:12Z", (None, None), id="its container was restarted"),
        # The kubelet was away for a while, and the node's pods were not ready meanwhile.
        pytest.param(0, "2026-11-09T03:20:00Z", (7.0, None), id="was not ready for a while"),
    ],
)
def test_pods_tell_how_long_a_start_takes_unless_they_were_restarted(
    archive: tuple[S3Store, BaseBackup, BaseBackup], restarts: int, ready: str, expected: tuple[float, float | None]
) -> None:
    store, plain, _ = archive
    pod = {
        "metadata": {"creationTimestamp": "2026-11-01T10:00:00Z"},
        "status": {
            "containerStatuses": [
                {"restartCount": restarts, "state": {"running": {"startedAt": "2026-11-01T10:00:07Z"}}}
            ],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ready}],
        },
    }
    found = calibrate(store, plain, [], [pod], most_bytes=1)
    assert (found.pod_started_seconds, found.pod_ready_seconds) == expected
    assert all((phase.high or 0) < 3600 for phase in predict(work(plain), [], found).phases)
