"""What a run has learned: one typed model, from the steps to the journal and back."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from drillbook.evidence.facts import Achieved, Facts, NotedBackup, TenantLoss, facts
from drillbook.evidence.judge import objectives


def test_what_is_noted_comes_back_equal_from_the_journal() -> None:
    learned = Facts(
        achieved=Achieved(recovery_seconds=12.5, pitr_seconds=None),
        backup=NotedBackup.model_validate({"backup_id": "20261101T020000", "chosen": "newest usable"}),
        copy_={"ref": {"namespace": "a", "name": "b"}},
        losses=(TenantLoss(database="shop", commits=3),),
    )
    events = [{"type": "fact", "name": name, "value": value} for name, value in learned.json_values().items()]
    assert {event["name"] for event in events} == {"achieved", "backup", "copy", "losses"}
    assert facts(events) == learned
    assert learned.json_values()["backup"] == {"backup_id": "20261101T020000", "chosen": "newest usable"}


def test_a_later_fact_replaces_an_earlier_one_and_leaves_the_others() -> None:
    both = Facts(answer="NO", claim="c").and_(Facts(answer="YES"))
    assert (both.answer, both.claim) == ("YES", "c")


def test_what_another_version_noted_is_left_out() -> None:
    events = [
        {"type": "fact", "name": "of a later version", "value": 1},
        {"type": "fact", "name": "outage", "value": "was text once"},
        {"type": "fact", "name": "answer", "value": "YES"},
    ]
    found = facts(events)
    assert (found.answer, found.outage) == ("YES", None)


def test_a_misspelt_fact_is_refused() -> None:
    with pytest.raises(ValidationError):
        Facts(archived_buy="plugin")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("achieved", "point"),
    [({"recovery_seconds": 1.0}, 60.0), ({"recovery_seconds": 1.0, "recovery_point_seconds": 5.0}, 5.0)],
)
def test_the_archive_lag_is_the_recovery_point_where_none_was_measured(
    achieved: dict[str, float], point: float
) -> None:
    events = [
        {"type": "opened", "objectives": {"rpo_seconds": 300}},
        {"type": "fact", "name": "achieved", "value": achieved},
        {"type": "fact", "name": "archive_lag", "value": {"seconds": 60.0}},
    ]
    assert {row["name"]: row["achieved_seconds"] for row in objectives(events)}["recovery point"] == point
