"""What a phrase confirms: a plan, and what the run was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.engine.gate import Section, subject
from drillbook.evidence import gates

GIVEN = {"database": "synergyflow", "target_time": "2026-11-28T09:00:00Z", "target_xid": ""}


def section(run: str = "r1", **changes: str) -> Section:
    return Section("Block writes", "postgres", (), subject(run, GIVEN | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_time": "2026-11-28T09:00:01Z"},
        {"target_time": ""},
        {"target_time": "", "target_xid": "4711"},
        {"database": "gitlab"},
        {"run": "r2"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_f11_equal_measures_for_another_target_tenant_or_run_have_another_phrase(changes: dict[str, str]) -> None:
    assert section(**changes).phrase != section().phrase
    assert section().phrase == section().phrase


def test_f11_a_section_that_has_begun_keeps_the_digest_that_was_confirmed() -> None:
    begun = Section("Block writes", "postgres", (), subject("r1", GIVEN), begun="0123456789abcdef")
    assert (begun.digest, begun.phrase) == ("0123456789abcdef", "postgres 01234567")


def test_f11_the_subject_names_what_was_given_a_value() -> None:
    assert subject("r1", GIVEN) == {"run": "r1"} | {name: value for name, value in GIVEN.items() if value}


def confirmed(title: str, *digests: str) -> dict[str, Any]:
    return {
        "type": "confirmed",
        "section": title,
        "digest": "d",
        "steps": [{"digest": one} for one in digests],
        "approvals": [],
    }


@pytest.mark.parametrize(
    ("events", "stands"),
    [
        ([confirmed("Stop", "a", "b"), {"type": "retargeted"}], True),
        ([confirmed("Stop", "a", "b")], False),
        ([{"type": "retargeted"}, confirmed("Stop", "a", "b")], False),
        ([confirmed("Stop", "a", "c"), {"type": "retargeted"}], False),
        ([confirmed("Cut", "a", "b"), {"type": "retargeted"}], False),
    ],
    ids=["before the target changed", "same target", "after it changed", "another plan", "another section"],
)
def test_f11_measures_that_stand_are_not_asked_for_again_when_the_target_changes(
    events: list[dict[str, Any]], stands: bool
) -> None:
    assert (gates.confirmed_for_another_target(events, "Stop", ["a", "b"]) is not None) is stands
