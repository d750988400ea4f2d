"""CloudNativePG's admission webhooks, kind by kind: the rules that its CRDs don't hold.

On a real cluster they live in the operator. A denial lists every fault at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drillbook_lab.apiserver import clusterrules, targetrules
from drillbook_lab.apiserver.errors import Fault, Object
from drillbook_lab.apiserver.schedules import count_fields, schedule_fault


def _nothing(obj: Object) -> None:
    return None


def _silent(obj: Object) -> list[str]:
    return []


@dataclass(frozen=True)
class Rules:
    """What a webhook does to one kind."""

    webhook: str
    faults: Callable[[Object, Object | None], list[Fault]]
    """Everything the object breaks; the second argument is the stored object, on an update."""
    default: Callable[[Object], None] = _nothing
    """Write into the object, in place, what its author left out."""
    warnings: Callable[[Object], list[str]] = _silent
    """What is allowed but should be known."""


def switched_off(obj: Object) -> bool:
    """An annotation on the object turns its webhook off, as the real operator allows."""
    return (obj["metadata"].get("annotations") or {}).get("cnpg.io/validation") == "disabled"


def _backup_faults(new: Object, old: Object | None) -> list[Fault]:
    spec = new["spec"]
    if spec["method"] == "plugin" and not spec.get("pluginConfiguration"):
        why = 'Invalid value: "": cannot be empty when the backup method is plugin'
        return [Fault("spec.pluginConfiguration", why)]
    if spec["method"] != "plugin" and spec.get("pluginConfiguration"):
        why = 'Invalid value: "object": goes with the backup method plugin only'
        return [Fault("spec.pluginConfiguration", why)]
    return []


def _scheduled_faults(new: Object, old: Object | None) -> list[Fault]:
    fault = schedule_fault(new["spec"]["schedule"])
    return [*([fault] if fault else []), *_backup_faults(new, old)]


def _scheduled_warnings(obj: Object) -> list[str]:
    schedule = obj["spec"]["schedule"]
    if count_fields(schedule) != 5:
        return []
    return [
        f"Schedule parameter may not have the right number of arguments (usually six arguments are needed): "
        f"'{schedule}' has five, and the first is the second of the minute"
    ]


def _cluster_faults(new: Object, old: Object | None) -> list[Fault]:
    return [*clusterrules.faults(new, old), *targetrules.faults(new)]


_RULES: dict[tuple[str, str], Rules] = {
    ("postgresql.cnpg.io", "Cluster"): Rules(
        "vcluster.cnpg.io", _cluster_faults, clusterrules.default, clusterrules.warnings
    ),
    ("postgresql.cnpg.io", "Backup"): Rules("vbackup.cnpg.io", _backup_faults),
    ("postgresql.cnpg.io", "ScheduledBackup"): Rules(
        "vscheduledbackup.cnpg.io", _scheduled_faults, warnings=_scheduled_warnings
    ),
}


def rules_for(group: str, kind: str) -> Rules | None:
    """The webhook of a kind, if it has one."""
    return _RULES.get((group, kind))
