"""Cron expressions as CloudNativePG reads them: six fields, the first is the second.

Five fields are accepted too, and mean something else than in a crontab, since they too
begin with the second.
"""

from __future__ import annotations

import re

from drillbook_lab.apiserver.errors import Fault
from drillbook_lab.apiserver.schema import bad_value

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# (lowest, highest, names that count from the lowest)
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"^@every (\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"^(?P<low>\*|\?|\w+)(-(?P<high>\w+))?(/(?P<step>\d+))?$")


def count_fields(schedule: str) -> int:
    """How many fields an expression has; 0 for a descriptor such as `@daily`."""
    return 0 if schedule.startswith("@") else len(schedule.split())


def schedule_fault(schedule: str) -> Fault | None:
    """What is wrong with an expression, if anything is."""
    why = _wrong(schedule)
    return bad_value("spec.schedule", schedule, why) if why else None


def _wrong(schedule: str) -> str:
    if schedule.startswith("@"):
        known = schedule in _DESCRIPTORS or _EVERY.match(schedule)
        return "" if known else "unrecognized descriptor"
    fields = schedule.split()
    if len(fields) not in (5, 6):
        return f"expected 5 or 6 fields, found {len(fields)}"
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=False):
        for part in text.split(","):
            if not _valid(part, low, high, names):
                return f"{name}: {part!r} is not a number, range or step between {low} and {high}"
    return ""


def _valid(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    found = _PART.match(part)
    if not found or found["step"] == "0":
        return False
    if found["low"] in ("*", "?"):
        return found["high"] is None
    start = _number(found["low"], low, names)
    end = start if found["high"] is None else _number(found["high"], low, names)
    return start is not None and end is not None and low <= start <= end <= high


def _number(text: str, low: int, names: tuple[str, ...]) -> int | None:
    if text.isdigit():
        return int(text)
    return names.index(text.lower()) + low if text.lower() in names else None
