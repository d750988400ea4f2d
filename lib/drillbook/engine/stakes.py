"""What a destructive section is about, in a few rows: run, tenant, target, what is undone, lost and out of service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drillbook.model import TARGET_PARAMETERS, Lsn, RecoveryTarget
from drillbook.report.cards import readable

Rows = list[tuple[str, str]]
_SHOWN = 3


def stakes(opened: Mapping[str, Any], parameters: Mapping[str, Any], seen: Callable[[str], Any]) -> Rows:
    """The rows that are above a plan, from the run's opening, its parameters and the facts that its steps noted.

    They are for the reader: a phrase confirms the run, its parameters and the plan, and no count that may change.
    """
    cluster = opened.get("cluster") or {}
    rows = [
        ("run", str(opened.get("run_id", ""))),
        ("cluster", "/".join(str(cluster.get(key, "")) for key in ("namespace", "name"))),
        ("tenant", str(parameters.get("database", ""))),
        ("runbook", str(opened.get("runbook", ""))),
        *_target(parameters, seen("target") or {}),
        *_damage(parameters, seen("damage") or {}, seen("target") or {}),
    ]
    return [(name, readable(value)) for name, value in rows if value]


def _target(parameters: Mapping[str, Any], resolved: Mapping[str, Any]) -> Rows:
    if not TARGET_PARAMETERS.keys() & parameters.keys():
        return []
    wanted, backup_id = RecoveryTarget.asked(parameters)
    rows = [("target", f"{wanted}{f' {backup_id}' if backup_id else ''}")]
    last = resolved.get("last_before")
    return rows + ([("last commit kept", f"XID {last['xid']} at {last['committed_at']}")] if last else [])


def _damage(parameters: Mapping[str, Any], damage: Mapping[str, Any], target: Mapping[str, Any]) -> Rows:
    """The transactions that did damage, by whether this target leaves them out: after a target nothing is replayed."""
    found = [one for one in damage.get("found") or () if one["weight"]]
    if not target or not damage:
        return []
    if database := parameters.get("database"):  # the other databases stay as they are
        found = [one for one in found if one["database"] == database]
    first = target.get("first_after")
    undone = [one for one in found if first and Lsn(one["lsn"]) >= Lsn(first["lsn"])]
    kept = [one for one in found if one not in undone]
    rows = [("undone", _words(undone))] if undone else []
    if kept:
        rows.append(("NOT undone", f"{_words(kept)}: the target is after it, so recovery brings it back"))
    return rows or [("undone", "no damage was found in the time that was searched")]


def _words(found: Sequence[Mapping[str, Any]]) -> str:
    words = [f"XID {one['xid']} at {one['committed_at']} ({one['database']}: {one['what']})" for one in found[:_SHOWN]]
    return "; ".join(words) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


__all__ = ["stakes"]
