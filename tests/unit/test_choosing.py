"""A target that is chosen inside the run belongs to it; a target that brings the damage back is named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from drillbook.archive import ExpectedWal, ResolvedTarget
from drillbook.engine.retargeting import chosen
from drillbook.errors import ParameterError
from drillbook.model import ArchivedCommit, BaseBackup, Lsn, RecoveryTarget, Verdict
from drillbook.steps.archive.damage import Candidate
from drillbook.steps.archive.targets import damage_left_out

AT = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
BACKUP = BaseBackup(
    backup_id="20261101T020000",
    server_name="pg",
    status="DONE",
    begin_time=AT,
    end_time=AT,
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
KNOWN = {"database": "invoices", "target_time": "", "target_xid": "", "target_lsn": "", "target_name": ""}
OPENED: dict[str, Any] = {"type": "opened", "parameters": KNOWN}


def test_users_a5_the_target_is_chosen_inside_the_run() -> None:
    entry = chosen("recover-point-in-time", [OPENED], {"target_time": "2026-11-28T09:00:00Z"}, KNOWN, 4)
    assert entry["n"] == 4 and entry["parameters"] == {
        "target_time": "2026-11-28T09:00:00Z",
        "target_xid": "",
        "target_lsn": "",
        "target_name": "",
    }


def test_users_a5_another_choice_does_the_resolving_step_again() -> None:
    resolved = {"type": "step_started", "n": 4, "step": "ResolveTarget"}
    assert chosen("recover-point-in-time", [OPENED, resolved], {"target_xid": "771"}, KNOWN, 6)["n"] == 4


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"target_time": "yesterday"}, "target_time"),
        ({"target_time": "2026-11-28T09:00:00Z", "target_xid": "1"}, "at most one"),
        ({"database": "gitlab"}, "only a target"),
    ],
)
def test_users_a5_a_choice_that_is_none_is_refused(wanted: dict[str, str], fault: str) -> None:
    with pytest.raises(ParameterError, match=fault):
        chosen("recover-point-in-time", [OPENED], wanted, KNOWN, 4)


def test_users_a5_behind_a_gate_nothing_is_chosen() -> None:
    with pytest.raises(ParameterError, match="confirmed at a gate"):
        chosen("recover-point-in-time", [OPENED, {"type": "confirmed"}], {"target_xid": "771"}, KNOWN, 9)


def commit(lsn: str) -> ArchivedCommit:
    return ArchivedCommit(xid=771, committed_at=AT, lsn=Lsn(lsn), end_lsn=Lsn(lsn), segment="0" * 24)


@pytest.mark.parametrize(
    ("first_after", "verdict", "said"),
    [
        ("0/3000100", Verdict.VERIFIED, "left out"),
        ("0/3000200", Verdict.FAILED, "brings XID 771"),
        ("", Verdict.FAILED, "brings XID 771"),
    ],
)
def test_users_a3_a_target_that_brings_the_damage_back_is_named(first_after: str, verdict: Verdict, said: str) -> None:
    worst = Candidate(
        xid=771, committed_at=AT, lsn=Lsn("0/3000100"), database="invoices", what="12 rows deleted", weight=12
    )
    wal = ExpectedWal(first_segment="0" * 24, last_segment="0" * 24, segments=1, replayed_bytes=0, stored_bytes=0)
    target = ResolvedTarget(
        target=RecoveryTarget(),
        backup=BACKUP,
        wal=wal,
        last_before=None,
        first_after=commit(first_after) if first_after else None,
    )
    check = damage_left_out(worst, target)
    assert (check.verdict, check.required) == (verdict, False) and said in check.observed
