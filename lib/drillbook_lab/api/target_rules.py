"""The rules of a recovery target: which may stand together, and how each is written."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import denied_value

_PATH = "spec.bootstrap.recovery.recoveryTarget"
_EXCLUSIVE = ("targetTime", "targetLSN", "targetName", "targetXID", "targetImmediate")
_ORDER = ("backupID", "targetTLI", "targetXID", "targetName", "targetLSN", "targetTime", "targetImmediate", "exclusive")
_NEEDS_BACKUP = ("targetName", "targetXID", "targetImmediate")

_LSN = re.compile(r"^[0-9A-Fa-f]+/[0-9A-Fa-f]+$")
_TIME = re.compile(
    r"^(?P<date>\d{4}-\d{2}-\d{2})((?P<t>[T ])(?P<clock>\d{2}:\d{2}:\d{2})(\.\d{1,9})?"
    r"(?P<zone>Z|[+-]\d{2}(:?\d{2})?)?)?$"  # a date alone is accepted: midnight
)


def faults(cluster: Object) -> list[Fault]:
    """Everything wrong with a Cluster's recovery target."""
    recovery = (cluster["spec"].get("bootstrap") or {}).get("recovery") or {}
    target = recovery.get("recoveryTarget")
    if target is None:
        return []
    target = {name: target[name] for name in _ORDER if name in target} | target  # as the operator's type has them
    found: list[Fault] = []
    # `targetImmediate: false` counts as given, too.
    given = [name for name in _EXCLUSIVE if name in target]
    if len(given) > 1:
        found.append(denied_value(_PATH, target, "Recovery target options are mutually exclusive"))
    snapshots = recovery.get("volumeSnapshots") is not None
    backup = target.get("backupID")
    if backup and snapshots:
        why = "Cannot specify a backupID when recovering using a DataSource"
        found.append(denied_value(f"{_PATH}.backupID", backup, why))
    needing = [name for name in given if name in _NEEDS_BACKUP]
    if needing and not backup and not snapshots:
        found.append(Fault(_PATH, "Required value: BackupID is missing", "FieldValueRequired"))
    for name, check in _CHECKS.items():
        if name in target and (
            target[name] != "" or name not in ("targetTime", "targetLSN")
        ):  # an empty one counts as none
            why = check(str(target[name]))
            if why:
                # The webhook tells these two at the target as a whole.
                path = _PATH if name in ("targetTime", "targetLSN") else f"{_PATH}.{name}"
                found.append(denied_value(path, target if name == "targetTLI" else target[name], why))
    return found


def _time(text: str) -> str:
    form = "The format of TargetTime is invalid"
    found = _TIME.match(text)
    if not found:
        return form
    # With a T the zone is RFC 3339's: Z or ±HH:MM.
    if found["t"] == "T" and found["zone"] not in (None, "Z") and ":" not in found["zone"]:
        return form
    try:
        datetime.strptime(f"{found['date']} {found['clock'] or '00:00:00'}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007  (only parsed)
    except ValueError:
        return form
    return ""


def _lsn(text: str) -> str:
    return "" if _LSN.match(text) else "Invalid TargetLSN"


def _xid(text: str) -> str:
    valid = text.isascii() and text.isdigit() and int(text) < 2**32
    return "" if valid else "recovery target xid must be a non-negative 32-bit integer"


def _name(text: str) -> str:
    if len(text.encode()) >= 64:
        return "recovery target name must be shorter than 64 bytes"
    control = any(ord(c) < 32 or ord(c) == 127 for c in text)
    return "recovery target name must not contain ASCII control characters" if control else ""


def _timeline(text: str) -> str:
    valid = text in ("", "latest") or (text.isascii() and text.isdigit() and int(text) >= 1)
    return "" if valid else "recovery target timeline can be set to 'latest' or a positive integer"


_CHECKS: dict[str, Any] = {
    "targetTime": _time,
    "targetLSN": _lsn,
    "targetXID": _xid,
    "targetName": _name,
    "targetTLI": _timeline,
}
