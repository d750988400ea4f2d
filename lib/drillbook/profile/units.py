"""Durations and sizes as people write them in a profile: ``45m``, ``1h30m``, ``10Gi``."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")
_POWERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", start=1)
}


def parse_duration(value: Any) -> timedelta:
    """A duration above zero from text such as ``90s``, ``45m``, ``1h30m`` or ``2d``; a bare number is refused."""
    if isinstance(value, timedelta):
        found = value
    else:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or not any(match.groups()):
            raise ValueError(f"{value!r} is not a duration (write for example 90s, 45m, 1h30m or 2d)")
        parts = zip(match.groups(), _UNITS.values(), strict=True)
        found = timedelta(seconds=sum(float(number) * unit for number, unit in parts if number))
    if found <= timedelta(0):
        raise ValueError(f"{show_duration(found)} is not a duration above zero")
    return found


def show_duration(value: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back as ``value``; ``0s`` for nothing."""
    seconds = Decimal(value // timedelta(microseconds=1)) / 1_000_000
    text = ""
    for letter, unit in _UNITS.items():
        if letter == "s":
            break
        count, seconds = divmod(seconds, unit)
        text += f"{int(count)}{letter}" if count else ""
    return text + (f"{seconds.normalize():f}s" if seconds or not text else "")


def size_bytes(text: str) -> int:
    """The bytes in a Kubernetes quantity: ``1Gi`` is 2**30, ``1G`` is 10**9; raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size (write for example 500Mi or 10Gi)")
    return int(Decimal(match[1]) * _POWERS[match[2] or ""])


def _size_or_unset(value: Any) -> Any:
    if isinstance(value, str) and value and size_bytes(value) <= 0:
        raise ValueError(f"{value!r} is not a size above zero")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(show_duration, return_type=str)]
"""A duration above zero; a ``timedelta`` in code, text such as ``45m`` in a profile and in JSON."""

Size = Annotated[str, BeforeValidator(_size_or_unset)]
"""A Kubernetes quantity of bytes, kept as written; ``""`` is unset."""
