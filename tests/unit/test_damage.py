"""What the search for the damage says of the part of the archive that it could not read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fix_wal import NOON, SYSTEM, Memory, Wal, minutes

from drillbook.model import Lsn, Verdict, parse_instant, show_instant
from drillbook.report.cards import step_card
from drillbook.steps.archive.committed import archived_until
from drillbook.steps.archive.damage import SHOWN, TARGETS, Candidate, DamageCandidates, Files, judged, ranked

NOW = datetime(2026, 11, 28, 2, 12, 24, tzinfo=UTC)
CANDIDATE = Candidate(
    xid=1721,
    committed_at=NOW - timedelta(minutes=5),
    lsn=Lsn(1),
    database="a",
    what="9 rows deleted from b.c",
    weight=9,
)


def found(*items: Candidate, archived: float | None) -> DamageCandidates:
    until = None if archived is None else NOW - timedelta(seconds=archived)
    return DamageCandidates(found=items, since=NOW - timedelta(hours=1), until=NOW, archived_until=until)


@pytest.mark.parametrize(
    ("items", "archived", "verdict"),
    [
        ((), 174.0, Verdict.UNPROVEN),
        ((), -1.0, Verdict.NOT_APPLICABLE),
        ((), None, Verdict.UNPROVEN),
        ((CANDIDATE,), 174.0, Verdict.VERIFIED),
        ((CANDIDATE.model_copy(update={"weight": 0}),), -1.0, Verdict.NOT_APPLICABLE),
    ],
)
def test_users_a1_nothing_is_claimed_of_what_is_not_archived(
    items: tuple[Candidate, ...], archived: float | None, verdict: Verdict
) -> None:
    result = found(*items, archived=archived)
    check = judged(result, len(items), "")
    assert check.verdict is verdict
    said = check.observed + check.reason + str(result.rows())
    assert ("the last 2 min 54 s are not in it" in said) is (archived == 174.0), said


def test_users_a4_the_target_on_the_card_can_be_pasted() -> None:
    name, line = found(CANDIDATE, archived=-1).rows()[-1]
    assert name == "without XID 1721"
    text = line.removeprefix('target_time = "').removesuffix('"')
    assert parse_instant(text) == CANDIDATE.before


def test_users_a4_a_card_keeps_every_digit_of_what_is_to_be_pasted() -> None:
    candidate = CANDIDATE.model_copy(update={"committed_at": CANDIDATE.committed_at + timedelta(microseconds=457)})
    rows = found(candidate, archived=-1).rows()
    card = step_card(n=1, title="Search", status="done", effect="reads", rows=rows)
    assert f'target_time = "{show_instant(candidate.before)}"' in card["text/plain"]
    assert show_instant(candidate.before) in card["text/html"] and ".000456Z" in card["text/html"]


OURS, OTHER, DROPPED = "drillbook", "harbor", "database 16999"
NAMES = {1: "a", 2: OURS, 3: OTHER}


@pytest.mark.parametrize(
    ("database", "ordered"),
    [("a", [DROPPED, "unknown", "a", OTHER]), ("", [OTHER, DROPPED, "unknown", "a"])],
    ids=["one database is to be recovered", "none is named"],
)
def test_d01_the_database_to_recover_comes_first_and_a_drill_is_no_damage(database: str, ordered: list[str]) -> None:
    weights = {"a": 9, OURS: 5000, OTHER: 1000, DROPPED: 50, "unknown": 20}
    given = [CANDIDATE.model_copy(update={"database": name, "weight": rows}) for name, rows in weights.items()]
    found = ranked(given, Files({}, NAMES), database=database, leave_out=OURS)
    assert [item.database for item in found] == ordered


def test_d02_every_transaction_that_may_be_meant_has_a_target_to_paste() -> None:
    items = [CANDIDATE.model_copy(update={"xid": 1721 + n}) for n in range(SHOWN)]
    rows = found(*items, archived=174.0).rows()
    assert [name for name, text in rows if "target_time" in text] == [f"without XID {1721 + n}" for n in range(TARGETS)]
    card = step_card(n=1, title="Search", status="done", effect="reads", rows=rows)
    assert "the last 2 min 54 s are not in it" in card["text/plain"], "no row was cut off"


@pytest.mark.parametrize("timeline", [0, 1], ids=["the cluster can't say its timeline", "it says it"])
@pytest.mark.parametrize("backups", [0, 1])
@pytest.mark.parametrize("segments", [0, 3])
def test_d03_what_is_archived_is_known_to_the_newest_segment(timeline: int, backups: int, segments: int) -> None:
    store, wal = Memory(), Wal()
    for _ in range(backups):
        store.backup(wal, NOON)
    for minute in range(1, segments + 1):
        store.archive(wal.segment((1000 + minute, minutes(minute))), minutes(minute + 0.5))
    ctx: Any = SimpleNamespace(store=store, archive=SimpleNamespace(timeline_in=lambda _, own: own))
    cluster: Any = SimpleNamespace(server_name="pg", system_id=str(SYSTEM), timeline=timeline)
    assert archived_until(ctx, cluster) == (minutes(segments + 0.5) if segments else None)
