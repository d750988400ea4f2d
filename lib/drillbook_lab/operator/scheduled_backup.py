"""ScheduledBackups: a Backup for each slot of the clock, at most one for all the slots that were missed.

Everything is decided from the object's own status: a slot is due once it is between the last look and now. So after
a downtime, or a suspension, the first of the missed slots is made up for, and the others are passed over.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.schedules import BadSchedule, Schedule, parse
from drillbook_lab.operator import objects
from drillbook_lab.operator.context import Operator

log = logging.getLogger(__name__)

PARENT_LABEL = "cnpg.io/scheduled-backup"
_DONE = ("completed", "failed")
# What a Backup takes over from its schedule.
_INHERITED = ("cluster", "method", "target", "online", "onlineConfiguration", "pluginConfiguration")


class ScheduledBackups:
    """Reconciles ScheduledBackup objects."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Make the Backup that is due, if one is; the answer is when the next one will be."""
        scheduled = self._operator.find("ScheduledBackup", namespace, name)
        if scheduled is None or scheduled["metadata"].get("deletionTimestamp"):
            return None
        try:
            schedule = parse(scheduled["spec"]["schedule"])
        except BadSchedule as why:  # stored while the webhook was switched off
            self._operator.set_status(scheduled, {"error": f"spec.schedule: {why}"})
            return None
        if (scheduled.get("status") or {}).get("error"):
            scheduled = self._operator.set_status(scheduled, {"error": None})
        if scheduled["spec"].get("suspend"):
            return None
        if self._has_unfinished_child(scheduled):
            return self._operator.settings.schedule_recheck_seconds
        now = self._operator.settings.clock()
        last_check = (scheduled.get("status") or {}).get("lastCheckTime")
        if last_check is None:
            return self._first_look(scheduled, schedule, now)
        slot = schedule.next(_instant(last_check))
        if slot is None:
            return None
        if now < slot:
            return (slot - now).total_seconds()
        return self._create(scheduled, schedule, slot, now, immediate=False)

    def _first_look(self, scheduled: Object, schedule: Schedule, now: datetime) -> float | None:
        if scheduled["spec"].get("immediate"):
            self._operator.event(scheduled, "BackupSchedule", f"Scheduled immediate backup now: {_printed(now)}")
            return self._create(scheduled, schedule, now, now, immediate=True)
        self._operator.set_status(scheduled, {"lastCheckTime": _stamp(now)})
        slot = schedule.next(now)
        if slot is None:
            return None
        self._operator.event(scheduled, "BackupSchedule", f"Scheduled first backup by {_printed(slot)}")
        return (slot - now).total_seconds()

    def _has_unfinished_child(self, scheduled: Object) -> bool:
        meta = scheduled["metadata"]
        children = self._operator.registry.list("Backup", meta["namespace"], labels=f"{PARENT_LABEL}={meta['name']}")
        return any((child.get("status") or {}).get("phase") not in _DONE for child in children)

    def _create(
        self, scheduled: Object, schedule: Schedule, slot: datetime, now: datetime, *, immediate: bool
    ) -> float | None:
        owner = self._owner(scheduled)
        backup = _backup(scheduled, slot, owner, immediate=immediate)
        try:
            self._operator.registry.create(backup)
        except ApiError as refusal:
            if refusal.code == 409:  # made by an earlier look that came no further: its name says which slot
                log.info("%s is there already", backup["metadata"]["name"])
            else:
                self._operator.event(
                    scheduled, "BackupCreation", f"Error while creating backup object: {refusal}", kind="Warning"
                )
                return self._operator.settings.schedule_recheck_seconds
        following = schedule.next(now)
        changes = {
            "lastCheckTime": _stamp(now),
            "lastScheduleTime": _stamp(slot),
            "nextScheduleTime": _stamp(following) if following else None,
        }
        self._operator.set_status(scheduled, changes)
        if following is None:
            return None
        self._operator.event(scheduled, "BackupSchedule", f"Next backup scheduled by {_printed(following)}")
        return (following - now).total_seconds()

    def _owner(self, scheduled: Object) -> Object | None:
        chosen = scheduled["spec"].get("backupOwnerReference", "none")
        if chosen == "self":
            return scheduled
        if chosen == "cluster":
            meta = scheduled["metadata"]
            return self._operator.registry.get("Cluster", meta["namespace"], scheduled["spec"]["cluster"]["name"])
        return None


def _backup(scheduled: Object, slot: datetime, owner: Object | None, *, immediate: bool) -> Object:
    meta, spec = scheduled["metadata"], scheduled["spec"]
    made: Object = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {
            "name": f"{meta['name']}-{slot:%Y%m%d%H%M%S}",
            "namespace": meta["namespace"],
            "labels": {
                "cnpg.io/cluster": spec["cluster"]["name"],
                PARENT_LABEL: meta["name"],
                "cnpg.io/immediateBackup": "true" if immediate else "false",
            },
        },
        "spec": {key: spec[key] for key in _INHERITED if key in spec},
    }
    if owner is not None:
        made["metadata"]["ownerReferences"] = [objects.owner_reference(owner)]
    return made


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _printed(moment: datetime) -> str:
    """As Go prints a time: events have it so."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
