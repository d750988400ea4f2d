"""Which base backups retention deletes, and when: CloudNativePG's ``retentionPolicy`` as barman carries it out.

``30d``, ``4w`` or ``3m`` (a month has 31 days) keeps every complete backup that ended within the period, and the
newest one before it; what is older goes, with the WAL that only it needed. A backup with barman's keep annotation
stays, and so do all while nothing newer is complete. The plugin deletes by a timer, so at any moment, not only after
a backup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from drillbook.archive.catalogue import Entry

_POLICY = re.compile(r"([1-9][0-9]*)([dwm])")
_DAYS = {"d": 1, "w": 7, "m": 31}


def retention_period(policy: str) -> timedelta | None:
    """The period of a ``retentionPolicy``; ``None`` for "", which deletes nothing. ValueError: it is no such thing."""
    if not policy:
        return None
    found = _POLICY.fullmatch(policy)
    if found is None:
        raise ValueError(f"retentionPolicy {policy!r} is not a number of days, weeks or months such as 30d")
    return timedelta(days=int(found[1]) * _DAYS[found[2]])


def deleted_at(entries: Sequence[Entry], policy: str) -> dict[str, datetime]:
    """When retention may delete each of the complete backups, by its id; those that it keeps for now are left out.

    A backup may go from the moment on at which a newer complete one has left the period.
    """
    period = retention_period(policy)
    if period is None:
        return {}
    # barman goes by the id, which is the time at which the backup began.
    complete = sorted((entry for entry in entries if entry.backup), key=lambda entry: entry.backup_id)
    found = {}
    for at, entry in enumerate(complete):
        newer = [other.backup.end_time for other in complete[at + 1 :] if other.backup]
        if newer and not entry.kept:
            found[entry.backup_id] = min(newer) + period
    return found


def deleted_during(entries: Sequence[Entry], policy: str, *, now: datetime, seconds: float) -> dict[str, str]:
    """The backups that retention may delete within ``seconds`` from ``now``, each with the sentence that says so."""
    end = now + timedelta(seconds=seconds)
    return {
        backup_id: (
            f"retention ({policy}) may delete it "
            + ("at any moment" if at <= now else f"from {at.isoformat(timespec='seconds')} on")
            + ": the next newer backup ends outside the period then"
        )
        for backup_id, at in deleted_at(entries, policy).items()
        if at <= end
    }
