"""Kubernetes quantities: `1Gi`, `500M`, `100m`."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"^\+?(?P<number>\d+(\.\d*)?|\.\d+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
_UNITS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def quantity(text: str) -> Decimal | None:
    """A Kubernetes quantity as a number; None if it isn't one."""
    found = _QUANTITY.match(text)
    if not found:
        return None
    number, unit = Decimal(found["number"]), found["unit"] or ""
    if unit.endswith("i"):
        return number * Decimal(1024) ** ("KMGTPE".index(unit[0]) + 1)
    if unit[:1] in ("e", "E") and len(unit) > 1:
        return number * Decimal(10) ** int(unit[1:])
    return number * Decimal(10) ** _UNITS.get(unit, 0)
