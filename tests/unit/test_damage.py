"""What the search for the damage says of the part of the archive that it could not read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drillbook.model import Lsn, Verdict, parse_instant, show_instant
from drillbook.report.cards import step_card
from drillbook.steps.archive.damage import Candidate, DamageCandidates, judged

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
