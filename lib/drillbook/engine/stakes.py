"""What a destructive section is about, in a few rows: run, tenant, target, what is undone, lost and out of service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drillbook.evidence.facts import Damage, DamagingCommit, Facts, RequestedTarget, TenantLoss
from drillbook.model import TARGET_PARAMETERS, AskedTarget, Lsn, show_seconds, show_span
from drillbook.report.cards import readable

Rows = list[tuple[str, str]]
_SHOWN = 3


def stakes(opened: Mapping[str, Any], parameters: Mapping[str, Any], learned: Facts) -> Rows:
    """The rows that are above a plan, from the run's opening, its parameters and the facts that its steps noted.

    They are for the reader: a phrase confirms the run, its parameters and the plan, and no count that may change.
    """
    cluster = opened.get("cluster") or {}
    rows = [
        ("run", str(opened.get("run_id", ""))),
        ("cluster", "/".join(str(cluster.get(key, "")) for key in ("namespace", "name"))),
        ("tenant", str(parameters.get("database", ""))),
        ("runbook", str(opened.get("runbook", ""))),
        *_target(parameters, learned.target),
        *_damage(parameters, learned.damage, learned.target),
        *_lost(parameters, learned.losses or ()),
        *_time(learned),
    ]
    return [(name, readable(value)) for name, value in rows if value]


def _target(parameters: Mapping[str, Any], resolved: RequestedTarget | None) -> Rows:
    if not TARGET_PARAMETERS.keys() & parameters.keys():
        return []
    rows = [("target", str(AskedTarget.of(parameters)))]
    last = resolved.last_before if resolved else None
    return rows + ([("last commit kept", f"XID {last.xid} at {last.committed_at}")] if last else [])


def _damage(parameters: Mapping[str, Any], damage: Damage | None, target: RequestedTarget | None) -> Rows:
    """The transactions that did damage, by whether this target leaves them out: after a target nothing is replayed."""
    if target is None or damage is None:
        return []
    found = [one for one in damage.found if one.weight]
    if database := parameters.get("database"):  # the other databases stay as they are
        found = [one for one in found if one.database == database]
    first = target.first_after
    undone = [one for one in found if first and Lsn(one.lsn) >= Lsn(first.lsn)]
    kept = [one for one in found if one not in undone]
    rows = [("undone", _words(undone))] if undone else []
    if kept:
        rows.append(("NOT undone", f"{_words(kept)}: the target is after it, so recovery brings it back"))
    return rows or [("undone", "no damage was found in the time that was searched")]


def _lost(parameters: Mapping[str, Any], losses: Sequence[TenantLoss]) -> Rows:
    """The commits after the target, of each database that goes back: they are what leaves service."""
    only = parameters.get("database")
    losing = [one for one in losses if one.commits and only in (None, "", one.database)]
    words = [f"{one.database} {one.commits} commits ({show_seconds(one.seconds)} of work)" for one in losing]
    return [("commits lost from service", "; ".join(words) or "none")] if losses else []


def _time(learned: Facts) -> Rows:
    """How long the recovery takes: as predicted, until the copy has shown it; and the outage, where earlier runs show one."""
    found, took = learned.forecast, learned.achieved.recovery_seconds if learned.achieved else None
    rows = [("the copy was recovered in", show_seconds(took))] if took is not None else []
    if found is None:
        return rows
    if took is None:
        rows.append(("recovery is predicted to take", show_span(found.seconds, found.low, found.high)))
    cuts = [phase for phase in found.phases if phase.name == "cut over"]
    return rows + [("outage of earlier cuts", show_span(one.seconds, one.low, one.high)) for one in cuts]


def _words(found: Sequence[DamagingCommit]) -> str:
    words = [f"XID {one.xid} at {one.committed_at} ({one.database}: {one.what})" for one in found[:_SHOWN]]
    return "; ".join(words) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


__all__ = ["stakes"]
