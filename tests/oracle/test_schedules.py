"""Scenario 03's schedules, without a lab: the controller is called as its queue would, by a clock that follows the recording."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from recorded import Object, Seen, watched
from story import told

from drillbook_lab.api import cnpg_registry
from drillbook_lab.operator.context import Operator, Settings
from drillbook_lab.operator.scheduled_backup import ScheduledBackups

KINDS = ("ScheduledBackup", "Backup")


class Played:
    """The recorded people and Backups act on a registry; the lab's controller does the rest."""

    def __init__(self) -> None:
        self.registry = cnpg_registry()
        self.seen: list[Seen] = []
        self.now = datetime.min.replace(tzinfo=UTC)
        self._due: dict[str, datetime] = {}
        settings = Settings(Path(), "18.0", clock=lambda: self.now)
        nobody: Any = None  # no pods are run
        self._controller = ScheduledBackups(Operator(self.registry, nobody, settings))
        self.registry.subscribe(self._note)

    def _note(self, what: str, obj: Object) -> None:
        if obj["kind"] in (*KINDS, "Event"):
            self.seen.append(Seen(self.now, what, obj["kind"], obj))
        if obj["kind"] == "ScheduledBackup" and what != "DELETED":
            self._due[obj["metadata"]["name"]] = self.now

    def until(self, moment: datetime) -> None:
        """Look at every schedule whose time has come until then."""
        while due := sorted((at, name) for name, at in self._due.items() if at <= moment):
            at, name = due[0]
            self.now = max(self.now, at)
            del self._due[name]
            delay = asyncio.run(self._controller.reconcile("rec-03-schedule", name))
            if delay is not None:
                self._due[name] = min(
                    self._due.get(name, datetime.max.replace(tzinfo=at.tzinfo)), self.now + timedelta(seconds=delay)
                )
        self.now = moment

    def act(self, entry: Seen) -> None:
        """What the recording shows of people's doings, and what became of the Backups."""
        meta = entry.obj["metadata"]
        place = (entry.kind, meta["namespace"], meta["name"])
        if entry.kind == "Backup":
            if entry.what == "MODIFIED" and "status" in entry.obj:
                self.registry.update({**self.registry.get(*place), "status": entry.obj["status"]}, subresource="status")
        elif entry.what == "ADDED":
            kept = {key: meta[key] for key in ("name", "namespace")}
            self.registry.create({**{key: entry.obj[key] for key in ("apiVersion", "kind", "spec")}, "metadata": kept})
        elif entry.what == "DELETED":
            self.registry.delete(*place)
            self._due.pop(meta["name"], None)
        elif entry.obj["spec"] != (known := self.registry.get(*place))["spec"]:
            self.registry.update({**known, "spec": entry.obj["spec"]})


def statuses(entries: list[Seen]) -> dict[str, list[Object]]:
    """Each schedule's status in its order, and each scheduled Backup's labels."""
    found: dict[str, list[Object]] = {}
    for entry in entries:
        meta = entry.obj["metadata"]
        if (
            entry.kind == "ScheduledBackup"
            and (status := entry.obj.get("status"))
            and status not in found.get(meta["name"], [])
        ):
            found.setdefault(meta["name"], []).append(status)
        if entry.kind == "Backup" and entry.what == "ADDED":
            found[meta["name"]] = [meta.get("labels") or {}]
    return found


def test_recorded_schedules_make_the_same_backups_at_the_same_times(recordings: Path) -> None:
    """Names, labels, owners, every time in the status, and the events: also of the slot that a suspension missed."""
    about = ("ScheduledBackup", "Backup")
    real = [
        entry
        for entry in watched(recordings / "03-schedule")
        if entry.kind in KINDS or (entry.kind == "Event" and entry.obj["involvedObject"]["kind"] == "ScheduledBackup")
    ]
    lab = Played()
    lab.registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rec-03-schedule"}})
    for entry in real:
        if entry.kind in about:
            lab.until(entry.at)
            lab.act(entry)
    lab.until(real[-1].at)
    assert statuses(lab.seen) == statuses(real)
    ours, theirs = told(lab.seen).tracks, told(real).tracks
    events = {track: entries for track, entries in theirs.items() if track.endswith(": events")}
    assert len(events) == 4
    assert {track: ours.get(track) for track in events} == events
