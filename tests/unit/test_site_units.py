"""Durations, sizes and expected answers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.profile import Expectation, parse_duration, show_duration, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("1h30m", 5400), ("2d", 172_800), ("0.5s", 0.5), (" 1m ", 60)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "45", "m", "1m1h", "1.5h", "-1m", "0m", 45, None, True])
def test_what_is_not_a_duration_above_zero_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=4000)))
def test_a_duration_that_is_shown_reads_back_as_itself(value: timedelta) -> None:
    assert parse_duration(show_duration(value)) == value


@pytest.mark.parametrize(("text", "count"), [("1Gi", 2**30), ("1G", 10**9), ("1.5Ki", 1536), ("12", 12)])
def test_a_size_is_read_as_kubernetes_reads_it(text: str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "1GB", "Gi", "-1Gi", "1 Gi"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("expected", "answer", "met"),
    [
        ({"equals": 0}, 0, True),
        ({"equals": 0}, 1, False),
        ({"equals": "open"}, "open", True),
        ({"equals": True}, 1, False),
        ({"equals": False}, False, True),
        ({"at_least": 5}, 5, True),
        ({"at_least": 5}, 4, False),
        ({"at_most": 5}, 5, True),
        ({"at_most": 5}, 6, False),
        ({"at_least": 5}, None, False),
        ({"at_most": 5}, "4", False),
    ],
)
def test_an_answer_is_held_against_what_was_expected(expected: dict[str, object], answer: object, met: bool) -> None:
    assert Expectation(**expected).met_by(answer) is met


def test_an_expectation_reads_as_a_phrase() -> None:
    assert [str(Expectation(**e)) for e in ({"equals": 0}, {"at_least": 1}, {"at_most": 9})] == [
        "0",
        "at least 1",
        "at most 9",
    ]
