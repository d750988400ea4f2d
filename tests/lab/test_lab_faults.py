"""Each fault breaks the real thing, is seen to break it, and is undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fix_lab import RunningLab, condition, until

from drillbook_lab import faults, faultstore
from drillbook_lab.errors import LabError


@contextmanager
def broken(lab: RunningLab, name: str) -> Iterator[str]:
    did = faults.inject(lab.home, name)
    try:
        yield did
    finally:
        faults.mend(lab.home, name)
    assert name not in faults.in_force(lab.home)


def switch_wal(lab: RunningLab) -> str:
    """A commit, then the end of its segment; the segment's name."""
    lab.drill_sql("CREATE TABLE IF NOT EXISTS noise (at timestamptz)")
    lab.drill_sql("INSERT INTO noise VALUES (now())")
    ((name,),) = lab.drill_sql("SELECT pg_walfile_name(pg_switch_wal())")
    return str(name)


def archived(lab: RunningLab) -> list[str]:
    return faultstore.bucket(lab.home).keys("wals/")


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


def test_a_torn_backup_is_half_as_long(lab: RunningLab) -> None:
    bucket = faultstore.bucket(lab.home)
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


def test_a_store_that_is_down_answers_nobody(lab: RunningLab) -> None:
    with broken(lab, "store-down"), pytest.raises(Exception, match=r"(?i)connection"):
        archived(lab)
    assert archived(lab)


def test_the_drills_key_alone_is_denied(lab: RunningLab) -> None:
    with broken(lab, "drill-denied"):
        state = json.loads((lab.home.s3 / "faults.json").read_text())
        admin = json.loads((lab.home.s3 / "admin.json").read_text())
        assert state["deny_keys"] == [admin["drill_key"]]


def test_a_fault_is_injected_once_and_undone_once(lab: RunningLab) -> None:
    with broken(lab, "store-slow"), pytest.raises(LabError, match="in force already"):
        faults.inject(lab.home, "store-slow")
    with pytest.raises(LabError, match="not in force"):
        faults.mend(lab.home, "store-slow")
