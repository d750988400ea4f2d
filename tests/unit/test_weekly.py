"""The week's checks, each by what makes it fail: a day without a backup, a schedule that never fires, retention that does not work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fix_wal import NOON, Memory, Wal

from drillbook.archive.folder import read_folder
from drillbook.engine.step import Context, NullRecorder
from drillbook.model import Verdict
from drillbook.profile import load_site
from drillbook.steps.archive.reading import ArchiveReading
from drillbook.steps.archive.weekly import BackupEachDay, go_time, schedule_faults

DAY = timedelta(days=1)
CTX = Context(
    site=load_site(str(Path(__file__).parents[2] / "sites" / "synergyflow.yaml")),
    run_id="",
    mode="plan",
    recorder=NullRecorder(),
    mask=lambda _: None,
)


def reading(*days_ago: float) -> ArchiveReading:
    """An archive with a base backup so many days before noon each."""
    store, wal = Memory(), Wal()
    for days in sorted(days_ago, reverse=True):
        at = NOON - timedelta(days=days)
        store.backup(wal, at)
        store.archive(wal.switch(), at + timedelta(minutes=1))
    return ArchiveReading(location="s3://x", read_at=NOON, folders=(read_folder(store, "pg", now=NOON),))


@pytest.mark.parametrize(
    ("days_ago", "verdict", "said"),
    [
        ((0.4, 1.4, 2.4, 3.4), Verdict.VERIFIED, "3 of 3"),
        ((0.4, 2.4, 3.4), Verdict.FAILED, "2 of 3; none from"),
        ((1.4, 2.4, 3.4), Verdict.FAILED, "2 of 3; none from"),
        ((0.1,), Verdict.VERIFIED, "1 of 1"),
        ((), Verdict.FAILED, "no usable base backup"),
    ],
)
def test_i17_a_day_without_a_backup_is_named(days_ago: tuple[float, ...], verdict: Verdict, said: str) -> None:
    (check,) = BackupEachDay(reading(*days_ago)).observe(CTX)
    assert (check.verdict, check.observed.startswith(said)) == (verdict, True), check
    assert ("the archive begins at" in check.reason) == (days_ago == (0.1,))


def scheduled(schedule: str, **spec: Any) -> dict[str, Any]:
    return {"spec": {"schedule": schedule, "cluster": {"name": "c"}} | spec}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (scheduled("0 0 2 * * *"), ""),
        (scheduled("0 30 */6 * * *"), ""),
        (scheduled("@daily"), ""),
        (scheduled("@every 12h"), ""),
        (scheduled("0 0 2 * * *", suspend=True), "suspended"),
        (scheduled("0 2 * * *"), "has 5 fields: CloudNativePG's have six"),
        (scheduled("0 0 2 * * 0"), "between two backups"),
        (scheduled("0 0 2 1 * *"), "between two backups"),
        (scheduled("0 0 2 * * 1-5"), "between two backups"),
        (scheduled("@weekly"), "between two backups"),
        (scheduled("0 0 2 30 2 *"), "can't be read"),
        (scheduled("a b c d e f"), "can't be read"),
    ],
)
def test_i17_d5_what_keeps_a_schedule_from_a_backup_each_day(item: dict[str, Any], said: str) -> None:
    faults = schedule_faults(item, DAY, datetime(2026, 11, 2, 12, tzinfo=UTC))
    assert said in "; ".join(faults) if said else not faults, faults


def test_i17_an_expiration_is_read_as_go_prints_it() -> None:
    assert go_time("2027-02-01 10:00:00 +0000 UTC") == datetime(2027, 2, 1, 10, tzinfo=UTC)
    assert go_time("soon") is None and go_time(None) is None
