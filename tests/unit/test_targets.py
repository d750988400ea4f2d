"""The target parameters: what is accepted, every fault at once, and the fields that CloudNativePG gets."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from drillbook.engine.parameters import faults_of
from drillbook.manifests.recovery import recovery_target
from drillbook.model import AskedTarget, BaseBackup, Lsn, RecoveryTarget, parse_instant

UNSET = dict.fromkeys(("target_time", "target_lsn", "target_xid", "target_name", "target_immediate"), "")
NOON = datetime(2026, 11, 1, 12, 0, 0, 5, tzinfo=UTC)
BACKUP = BaseBackup(
    backup_id="20261101T020000",
    server_name="pg",
    status="DONE",
    begin_time=NOON,
    end_time=NOON,
    begin_wal="000000010000000000000003",
    end_wal="000000010000000000000003",
    begin_lsn=Lsn("0/3000028"),
    end_lsn=Lsn("0/3000100"),
    timeline=1,
    system_id="7",
    pg_version=160000,
    segment_bytes=16 << 20,
    size_bytes=1,
    cluster_size_bytes=1,
    compression="gzip",
    location="s3://archive/pg/base/20261101T020000",
)

KINDS: list[tuple[dict[str, Any], RecoveryTarget, dict[str, Any]]] = [
    (
        {"target_time": "2026-11-01T13:00:00.000005+01:00"},
        RecoveryTarget(target_time=NOON),
        {"targetTime": "2026-11-01T12:00:00.000005Z"},
    ),
    ({"target_lsn": "1/aB"}, RecoveryTarget(target_lsn=Lsn("1/AB")), {"targetLSN": "1/AB"}),
    ({"target_xid": 4711}, RecoveryTarget(target_xid=4711), {"targetXID": "4711"}),
    ({"target_xid": str((5 << 32) + 4711)}, RecoveryTarget(target_xid=4711), {"targetXID": "4711"}),
    (
        {"target_name": "before the deployment"},
        RecoveryTarget(target_name="before the deployment"),
        {"targetName": "before the deployment"},
    ),
    ({"target_immediate": "20261101T020000"}, RecoveryTarget(target_immediate=True), {"targetImmediate": True}),
    ({}, RecoveryTarget(), {}),
]


@pytest.mark.parametrize(("given", "target", "sent"), KINDS)
def test_each_kind_is_read_and_sent_by_cloudnativepgs_names(
    given: dict[str, Any], target: RecoveryTarget, sent: dict[str, Any]
) -> None:
    assert faults_of(UNSET | given) == []
    asked = AskedTarget.of(UNSET | given)
    assert asked == AskedTarget(target=target, backup_id=given.get("target_immediate", ""))
    resolved = asked.target.model_copy(update={"timeline": 2, "exclusive": True})
    assert recovery_target(resolved, BACKUP) == {
        "backupID": BACKUP.backup_id,
        "targetTLI": "2",
        "exclusive": True,
        **sent,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_time", "yesterday"),
        ("target_time", "2026-11-01 12:00:00"),
        ("target_lsn", "3000028"),
        ("target_lsn", "0/123456789"),
        ("target_lsn", "x/1"),
        ("target_xid", "2"),
        ("target_xid", "-5"),
        ("target_xid", "12a"),
        ("target_xid", str(1 << 64)),
        ("target_name", "n" * 64),
        ("target_name", "two\nlines"),
        ("target_immediate", "../other"),
        ("target_immediate", "true false"),
    ],
)
def test_what_is_no_target_is_a_fault_by_name(name: str, value: str) -> None:
    (fault,) = faults_of(UNSET | {name: value})
    assert fault.startswith(f"{name}: not a") or "no time zone" in fault


def test_all_faults_are_told_at_once_and_two_targets_are_one() -> None:
    faults = faults_of({"target_time": "soon", "target_lsn": "0/1", "target_xid": "x", "reason": "fun"})
    assert [fault.partition(":")[0] for fault in faults] == [
        "target_time",
        "target_xid",
        "reason",
        "target_time, target_lsn, target_xid",
    ]


AS_LOGGED = datetime(2025, 10, 23, 12, 53, 28, 106000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2025-10-23 12:53:28.106 UTC",
        "2025-10-23 12:53:28.106 utc",
        "2025-10-23 12:53:28.106 GMT",
        "2025-10-23 12:53:28.106UTC",
        "2025-10-23T12:53:28.106Z",
        "2025-10-23t12:53:28.106z",
        "2025-10-23 12:53:28.106z",
        "2025-10-23 12:53:28,106Z",
        "2025-10-23 12:53:28.106000999Z",
        "2025-10-23 14:53:28.106+02",
        "2025-10-23 14:53:28.106 +02",
        "2025-10-23 14:53:28.106 +0200",
        "2025-10-23 14:53:28.106+02:00",
        "2025-10-23 18:23:28.106+05:30",
        "2025-10-23 07:53:28.106-05",
        "20251023T125328.106Z",
        "  2025-10-23 12:53:28.106 UTC\n",
    ],
)
def test_b27_times_as_logs_print_them_are_read(text: str) -> None:
    assert parse_instant(text) == AS_LOGGED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2025-10-23 12:53:28.106", "read as UTC it is 2025-10-23T12:53:28.106000Z: write it with a zone"),
        ("2025-10-23", "read as UTC it is 2025-10-23T00:00:00Z"),
        ("2025-10-23 12:53:28 CEST", "the zone 'CEST' has no one offset: write the offset instead, e.g. +02:00"),
        ("2025-10-23 12:53:28 Europe/Berlin", "the zone 'Europe/Berlin' has no one offset"),
        ("2025-10-23 24:00:00Z", "write 2025-10-24T00:00:00 with the zone"),
        ("2025-12-31 24:00 UTC", "write 2026-01-01T00:00:00 with the zone"),
        ("1761224008", "read as the time since 1970 it is 2025-10-23T12:53:28Z: write it so"),
        ("1761224008106", "it is 2025-10-23T12:53:28.106000Z: write it so"),
        ("23/Oct/2025:12:53:28 +0000", "expected e.g. 2026-11-01T10:15:00Z"),
        ("10/11/2025 12:53", "expected e.g. 2026-11-01T10:15:00Z"),
        ("now", "expected e.g. 2026-11-01T10:15:00Z"),
    ],
)
def test_b27_what_can_be_read_in_several_ways_is_refused_and_says_how_to_write_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_instant(text)
