"""Recovery targets: times in CNPG's forms, and which base backup serves a target (contract, section 2)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drillbook_lab.agent.spec import TargetSpec

_TIME = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})(?P<separator>[T ])(?P<clock>\d{2}:\d{2}:\d{2})(?P<fraction>\.\d+)?"
    r"(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?"
)


def parse_time(text: str) -> datetime.datetime:
    """A target time as an instant; one without a zone is UTC. ValueError names a form that CNPG doesn't take."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"not a recovery target time: {text!r}")
    zone = found["zone"] or "Z"
    if zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        zone = f"{zone[0]}{digits[:2]}:{digits[2:]}"
    fraction = (found["fraction"] or ".0")[:7].ljust(7, "0")
    return datetime.datetime.fromisoformat(f"{found['day']}T{found['clock']}{fraction}{zone.replace('Z', '+00:00')}")


def to_postgres_time(text: str) -> str:
    """What goes into recovery_target_time: RFC 3339 gets an explicit offset, PostgreSQL's own form stays as it is.

    The latter without a zone is then read in the server's time zone, while the base backup was chosen as if it were
    UTC: CNPG's behaviour, kept.
    """
    found = _TIME.fullmatch(text)
    if found is None or found["separator"] == " ":
        return text
    return parse_time(text).strftime("%Y-%m-%d %H:%M:%S.%f%z")


def parse_lsn(text: str) -> int:
    """`X/Y` as a position."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


@dataclass(frozen=True)
class Backup:
    """An entry of barman's catalogue that is complete: it has a beginning and an end."""

    backup_id: str
    name: str
    begin_at: datetime.datetime
    end_at: datetime.datetime
    begin_wal: str
    end_wal: str
    begin_lsn: str
    end_lsn: str
    timeline: int
    system_id: str


class NoBackup(Exception):
    """No base backup serves the target."""


def catalogue(listing: dict[str, Any]) -> list[Backup]:
    """The complete backups of `barman-cloud-backup-list --format json`, oldest first.

    Complete means begin and end time are there: CNPG does not look at barman's status field.
    """
    complete = [entry for entry in listing.get("backups_list", []) if entry.get("begin_time") and entry.get("end_time")]
    return sorted((_backup(entry) for entry in complete), key=lambda backup: backup.end_at)


def _backup(entry: dict[str, Any]) -> Backup:
    return Backup(
        backup_id=entry["backup_id"],
        name=entry.get("backup_name") or "",
        begin_at=_barman_time(entry, "begin_time"),
        end_at=_barman_time(entry, "end_time"),
        begin_wal=entry["begin_wal"],
        end_wal=entry.get("end_wal") or "",
        begin_lsn=entry.get("begin_xlog") or "",
        end_lsn=entry.get("end_xlog") or "0/0",
        timeline=int(entry["timeline"]),
        system_id=str(entry.get("systemid") or ""),
    )


def _barman_time(entry: dict[str, Any], name: str) -> datetime.datetime:
    if iso := entry.get(name + "_iso"):
        return datetime.datetime.fromisoformat(iso)
    try:
        moment = datetime.datetime.fromisoformat(entry[name])
    except ValueError:
        moment = datetime.datetime.strptime(entry[name], "%a %b %d %H:%M:%S %Y")  # noqa: DTZ007 - made aware below
    return moment if moment.tzinfo else moment.astimezone()


def choose(backups: Sequence[Backup], target: TargetSpec | None) -> Backup:
    """The base backup that CNPG would take for this target."""
    target = target or TargetSpec()
    if target.backup_id:
        for backup in backups:
            if backup.backup_id == target.backup_id:
                return backup
        raise NoBackup(f"no backup found with ID {target.backup_id}")
    candidates = list(backups)
    if target.target_tli and target.target_tli != "latest":
        candidates = [backup for backup in candidates if backup.timeline == int(target.target_tli)]
    if target.target_time:
        instant = parse_time(target.target_time)
        candidates = [backup for backup in candidates if backup.end_at <= instant]
    elif target.target_lsn:
        position = parse_lsn(target.target_lsn)
        candidates = [backup for backup in candidates if parse_lsn(backup.end_lsn) < position]
    if not candidates:
        raise NoBackup("no target backup found")
    return candidates[-1]
