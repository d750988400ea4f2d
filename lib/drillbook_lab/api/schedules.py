"""Cron expressions as CloudNativePG reads them (robfig/cron 1.2): six fields, the first is the second.

Five fields are accepted too, and mean something else than in a crontab, since they too begin with the second and
only the day of the week is missing. A `*` with a step still counts as a star: then day of month *and* day of week
must fit, where two restricted fields are satisfied by either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from drillbook_lab.api.errors import Fault
from drillbook_lab.api.schema import bad_value

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# (name, lowest, highest, names that count from the lowest)
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_EVERY = "@every "
_DURATION = re.compile(r"(?P<sign>[+-]?)(?P<parts>(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_YEARS_AHEAD = 5


class BadSchedule(ValueError):
    """An expression that can't be read: why."""


class Schedule(Protocol):
    """When something is due."""

    def next(self, after: datetime) -> datetime | None:
        """The first slot later than an instant, in its time zone; None if there isn't one in the next five years."""


@dataclass(frozen=True)
class Every:
    """`@every`: a fixed delay from whenever one asks, whole seconds, at least one."""

    delay: timedelta

    def next(self, after: datetime) -> datetime | None:
        """That much later, on the second."""
        return after.replace(microsecond=0) + self.delay


@dataclass(frozen=True)
class Field:
    """The values that one field admits."""

    values: frozenset[int]
    star: bool = False


@dataclass(frozen=True)
class Slots:
    """An expression of six fields."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def next(self, after: datetime) -> datetime | None:
        """Field by field from the largest: each one that doesn't fit is moved on, and all below it start again."""
        if not all(field.values for field in (self.second, self.minute, self.hour, self.month)):
            return None  # "," is read as no value at all: five years of seconds need not be gone through
        moment = after.replace(microsecond=0) + timedelta(seconds=1)
        last_year = moment.year + _YEARS_AHEAD
        while moment.year <= last_year:
            if moment.month not in self.month.values:
                moment = _midnight(moment).replace(day=1) + timedelta(days=32)
                moment = moment.replace(day=1)
            elif not self._fits_day(moment):
                moment = _midnight(moment) + timedelta(days=1)
            elif moment.hour not in self.hour.values:
                moment = moment.replace(minute=0, second=0) + timedelta(hours=1)
            elif moment.minute not in self.minute.values:
                moment = moment.replace(second=0) + timedelta(minutes=1)
            elif moment.second not in self.second.values:
                moment += timedelta(seconds=1)
            else:
                return moment
        return None

    def _fits_day(self, moment: datetime) -> bool:
        day = moment.day in self.day.values
        weekday = moment.isoweekday() % 7 in self.weekday.values
        return (day and weekday) if self.day.star or self.weekday.star else (day or weekday)


def count_fields(schedule: str) -> int:
    """How many fields an expression has; 0 for a descriptor such as `@daily`."""
    return 0 if schedule.startswith("@") else len(schedule.split())


def schedule_fault(schedule: str) -> Fault | None:
    """What is wrong with an expression, if anything is."""
    try:
        parse(schedule)
    except BadSchedule as why:
        return bad_value("spec.schedule", schedule, str(why))
    return None


def parse(schedule: str) -> Schedule:
    """Read an expression; `BadSchedule` says what can't be read."""
    if not schedule:
        raise BadSchedule("Empty spec string")
    if schedule.startswith("@"):
        return _descriptor(schedule)
    fields = schedule.split()
    if len(fields) not in (5, 6):
        raise BadSchedule(f"Expected 5 to 6 fields, found {len(fields)}: {schedule}")
    fields = [*fields, "*"][:6]
    return Slots(*(_field(text, *place) for text, place in zip(fields, _FIELDS, strict=True)))


def parse_standard(schedule: str) -> Schedule:
    """Read a CronJob's expression: the five fields of a crontab, or a descriptor."""
    if schedule.startswith("@"):
        return parse(schedule)
    if count_fields(schedule) != 5:
        raise BadSchedule(f"expected exactly 5 fields, found {count_fields(schedule)}: {schedule}")
    return parse(f"0 {schedule}")


def _descriptor(text: str) -> Schedule:
    if text in _DESCRIPTORS:
        return parse(_DESCRIPTORS[text])
    found = _DURATION.fullmatch(text.removeprefix(_EVERY)) if text.startswith(_EVERY) else None
    if found is not None:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(found["parts"]))
        if found["sign"] == "-":
            seconds = -seconds
        return Every(timedelta(seconds=max(1, int(seconds))))
    if text.startswith(_EVERY):
        raise BadSchedule(f"Failed to parse duration {text}")
    raise BadSchedule(f"Unrecognized descriptor: {text}")


def _field(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> Field:
    values: set[int] = set()
    star = False
    for part in filter(None, text.split(",")):
        try:
            found, is_star = _part(part, low, high, names)
        except BadSchedule as why:
            raise BadSchedule(str(why)) from None
        values |= found
        star = star or is_star
    return Field(frozenset(values), star)


def _part(part: str, low: int, high: int, names: tuple[str, ...]) -> tuple[set[int], bool]:
    span, *steps = part.split("/")
    ends = span.split("-")
    if len(ends) > 2:
        raise BadSchedule(f"Too many hyphens: {part}")
    if len(steps) > 1:
        raise BadSchedule(f"Too many slashes: {part}")
    star = ends[0] in ("*", "?")
    if star:
        start, end = low, high
    else:
        start = _number(ends[0], low, names)
        # "N/step" means "N-highest/step".
        end = _number(ends[1], low, names) if len(ends) == 2 else high if steps else start
    step = _number(steps[0], low, ()) if steps else 1
    if start < low:
        raise BadSchedule(f"Beginning of range ({start}) below minimum ({low}): {part}")
    if end > high:
        raise BadSchedule(f"End of range ({end}) above maximum ({high}): {part}")
    if start > end:
        raise BadSchedule(f"Beginning of range ({start}) beyond end of range ({end}): {part}")
    if step == 0:
        raise BadSchedule(f"Step of range should be a positive number: {part}")
    return set(range(start, end + 1, step)), star


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    if text.isascii() and text.isdigit():
        return int(text)
    raise BadSchedule(f"Failed to parse int from {text}")


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0)
