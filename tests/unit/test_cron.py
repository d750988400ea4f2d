"""Cron expressions with a second: what CloudNativePG makes of them, slot by slot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook_lab.api.schedules import BadSchedule, count_fields, parse


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("0 0 2 * * *", "2026-03-01T02:00:00", "2026-03-02T02:00:00"),
        ("0 0 2 * * *", "2026-03-01T01:59:59.999999", "2026-03-01T02:00:00"),
        ("*/5 * * * * *", "2026-03-01T00:00:57", "2026-03-01T00:01:00"),
        ("7/20 * * * * *", "2026-03-01T00:00:27", "2026-03-01T00:00:47"),
        ("0 30 8-10/2 * * *", "2026-03-01T08:30:00", "2026-03-01T10:30:00"),
        ("0 0 0 31 * *", "2026-01-31T00:00:00", "2026-03-31T00:00:00"),
        ("0 0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 12 * * MON-fri", "2026-03-06T12:00:00", "2026-03-09T12:00:00"),
        ("0 0 0 1 JAN,jul *", "2026-01-02T00:00:00", "2026-07-01T00:00:00"),
        ("59 59 23 31 12 *", "2026-12-31T23:59:59", "2027-12-31T23:59:59"),
        ("0 0 0 ? * ?", "2026-03-01T00:00:00", "2026-03-02T00:00:00"),
        ("0,,30 * * * * *", "2026-03-01T00:00:00", "2026-03-01T00:00:30"),
        ("@daily", "2026-03-01T00:00:00", "2026-03-02T00:00:00"),
        ("@weekly", "2026-03-02T00:00:00", "2026-03-08T00:00:00"),
        ("@yearly", "2026-03-02T00:00:00", "2027-01-01T00:00:00"),
        ("@hourly", "2026-03-01T10:00:00", "2026-03-01T11:00:00"),
        ("@every 1h30m", "2026-03-01T10:00:07.5", "2026-03-01T11:30:07"),
        ("@every 1ms", "2026-03-01T10:00:07", "2026-03-01T10:00:08"),
        ("@every 1.9s", "2026-03-01T10:00:07", "2026-03-01T10:00:08"),
    ],
)
def test_the_next_slot(schedule: str, after: str, expected: str) -> None:
    assert parse(schedule).next(at(after)) == at(expected)


def test_five_fields_begin_with_the_second_all_the_same() -> None:
    nightly = parse("0 2 * * *")
    slots = [at("2026-03-01T00:00:00")]
    for _ in range(3):
        slots.append(nightly.next(slots[-1]) or slots[-1])
    assert slots[1:] == [at(f"2026-03-01T0{hour}:02:00") for hour in range(3)]
    assert count_fields("0 2 * * *") == 5


def test_two_restricted_days_are_met_by_either_a_star_by_both() -> None:
    # 2026-03-13 is a Friday.
    assert parse("0 0 0 13 * 5").next(at("2026-03-01T00:00:00")) == at("2026-03-06T00:00:00")
    assert parse("0 0 0 */12 * 5").next(at("2026-03-01T00:00:00")) == at("2026-03-13T00:00:00")


@pytest.mark.parametrize("never", ["0 0 0 30 2 *", ", * * * * *", "* * , * * *", "* * * * , *", "* * * , * ,"])
def test_a_slot_that_never_comes(never: str) -> None:
    assert parse(never).next(at("2026-03-01T00:00:00")) is None


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("", "Empty spec string"),
        ("* * * *", "found 4"),
        ("0 0 2 * * * *", "found 7"),
        ("60 * * * * *", r"End of range \(60\) above maximum \(59\)"),
        ("0 0 0 0 * *", r"Beginning of range \(0\) below minimum \(1\)"),
        ("0 0 0 * * 7", r"above maximum \(6\)"),
        ("0 5-1 * * * *", "beyond end of range"),
        ("0 */0 * * * *", "positive number"),
        ("0 1-2-3 * * * *", "Too many hyphens"),
        ("0 1/2/3 * * * *", "Too many slashes"),
        ("0 x * * * *", "Failed to parse int from x"),
        ("@sometimes", "Unrecognized descriptor"),
        ("@every soon", "Failed to parse duration"),
        ("@every", "Unrecognized descriptor"),
    ],
)
def test_what_cant_be_read_is_said(schedule: str, why: str) -> None:
    with pytest.raises(BadSchedule, match=why):
        parse(schedule)


@given(
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 23),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_a_daily_slot_is_later_by_at_most_a_day_and_is_its_own_predecessors(
    second: int, minute: int, hour: int, moment: datetime
) -> None:
    schedule, after = parse(f"{second} {minute} {hour} * * *"), moment.replace(tzinfo=UTC)
    slot = schedule.next(after)
    assert slot is not None
    assert after < slot <= after + timedelta(days=1)
    assert (slot.hour, slot.minute, slot.second) == (hour, minute, second)
    assert schedule.next(slot - timedelta(microseconds=1)) == slot
