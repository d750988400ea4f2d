"""What a CronJob may not say: an expression that can't be read, a time zone that there isn't, a name too long for its Jobs."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schedules import BadSchedule, parse_standard
from drillbook_lab.api.schema import bad_value

_LONGEST_NAME = 52
_POLICIES = ("Allow", "Forbid", "Replace")


def cron_job_faults(obj: Object) -> list[Fault]:
    """All of them at once."""
    meta, spec, found = obj["metadata"], obj.get("spec") or {}, []
    if len(meta.get("name", "")) > _LONGEST_NAME:
        found.append(bad_value("metadata.name", meta["name"], f"must be no more than {_LONGEST_NAME} characters"))
    try:
        parse_standard(str(spec.get("schedule") or ""))
    except BadSchedule as why:
        found.append(bad_value("spec.schedule", spec.get("schedule") or "", str(why)))
    if zone := spec.get("timeZone"):
        try:
            ZoneInfo(str(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            found.append(bad_value("spec.timeZone", zone, f"unknown time zone {zone}"))
    policy = spec.get("concurrencyPolicy")
    if policy not in _POLICIES:
        known = ", ".join(f'"{one}"' for one in _POLICIES)
        refused = f'Unsupported value: "{policy}": supported values: {known}'
        found.append(Fault("spec.concurrencyPolicy", refused, "FieldValueNotSupported"))
    return found
