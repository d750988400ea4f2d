"""What happened, without what is never the same twice: times, ids, addresses, generated names.

A story is a set of tracks. A track is one object's one aspect (a Cluster's phase, a pod's readiness, an object's
events, ...) as the ordered sequence of what it was; the same thing again in succession is reported once.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from recorded import Object, Seen

# Of a cluster's machinery, not of the operator: no lab has them, and no client waits for them.
_LEFT_OUT = {"Endpoints", "EndpointSlice", "PersistentVolume", "ReplicaSet", "Deployment", "Namespace"}
_GIVEN = {"s3-creds"}  # was there before the scenario began
# Likewise; and whether a probe fell into the moment in which a server wasn't there is chance.
_NODE_EVENTS = {
    "Scheduled",
    "Pulled",
    "Pulling",
    "Created",
    "Started",
    "FailedScheduling",
    "FailedMount",
    "ProvisioningSucceeded",
    "FailedToUpdateEndpoint",
    "Unhealthy",
}
_NORMAL = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d( UTC)?))?( m=[+-][\d.]+)?"), "<time>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b"), "<address>"),
)


@dataclass
class Story:
    """The tracks, by name, in the order in which they began."""

    tracks: dict[str, list[str]] = field(default_factory=dict)

    def tell(self, track: str, what: str) -> None:
        """One more entry of a track, unless it is what was last stated there."""
        entries = self.tracks.setdefault(track, [])
        if not entries or entries[-1] != what:
            entries.append(what)

    def forget(self, pattern: str) -> None:
        """Leave out the entries whose `track: entry` matches."""
        for track, entries in self.tracks.items():
            entries[:] = [entry for entry in entries if not re.fullmatch(pattern, f"{track}: {entry}")]

    @property
    def facts(self) -> int:
        return sum(len(entries) for entries in self.tracks.values())


class Names:
    """Generated names as what made them and a number: the pods of a Job, the Backups of a schedule."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, obj: Object) -> str:
        """The object's name; one that was generated is numbered when it is first met."""
        name = str(obj["metadata"]["name"])
        if name in self._known:
            return self._known[name]
        labels = obj["metadata"].get("labels") or {}
        base = (labels.get("job-name") if obj["kind"] == "Pod" else None) or (
            labels.get("cnpg.io/scheduled-backup") if obj["kind"] == "Backup" else None
        )
        if not base:
            return name
        self._counts[base] = self._counts.get(base, 0) + 1
        self._known[name] = f"{base}#{self._counts[base]}"
        return self._known[name]

    def within(self, text: str) -> str:
        """A text with the known names in it replaced, and all that is never the same twice."""
        for name, known in self._known.items():
            text = text.replace(name, known)
        for pattern, word in _NORMAL:
            text = pattern.sub(word, text)
        return " ".join(text.split())


def told(entries: Iterable[Seen]) -> Story:
    """The story of a watch."""
    story, names = Story(), Names()
    for entry in entries:
        if entry.kind == "Event":
            _event(story, names, entry.obj)
        elif entry.kind not in _LEFT_OUT and entry.obj["metadata"]["name"] not in _GIVEN:
            _object(story, names, entry)
    for track, entries in story.tracks.items():
        if track.startswith("Pod ") and track.endswith(": events"):
            entries.sort()  # the containers of a pod are stopped at once
    return story


def _event(story: Story, names: Names, event: Object) -> None:
    about = event["involvedObject"]
    if event["reason"] in _NODE_EVENTS or about["kind"] in _LEFT_OUT:
        return
    name = names.within(about["name"])
    track = f"{about['kind']} {name}: events"
    said = f"{event.get('type')} {event['reason']}: {names.within(event.get('message', ''))}"
    if said not in story.tracks.get(track, []):  # counted, or another instance of it
        story.tell(track, said)


def _object(story: Story, names: Names, entry: Seen) -> None:
    obj, meta = entry.obj, entry.obj["metadata"]
    subject = f"{entry.kind} {names.of(obj)}"
    if entry.what == "ADDED":
        if cluster := _cluster(entry.kind, meta):
            story.tell(f"order of creation for {cluster}", subject)
        story.tell(f"{subject}: labels", names.within(json.dumps(_labels(meta), sort_keys=True)))
    if entry.what == "DELETED":
        story.tell(f"{subject}: life", "gone")
        return
    owners = ", ".join(f"{owner['kind']} {owner['name']}" for owner in meta.get("ownerReferences") or ()) or "nobody"
    story.tell(f"{subject}: life", "is to go" if meta.get("deletionTimestamp") else f"belongs to {owners}")
    for aspect, what in _aspects(entry.kind, obj):
        story.tell(f"{subject}: {aspect}", names.within(what))


def _cluster(kind: str, meta: Object) -> str:
    """Which Cluster an object was made for; "" for what a person made."""
    owner: str = next((entry["name"] for entry in meta.get("ownerReferences") or () if entry["kind"] == "Cluster"), "")
    return owner or (meta.get("labels") or {}).get("cnpg.io/cluster", "") if kind not in ("Backup", "Secret") else owner


def _labels(meta: Object) -> Object:
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if "controller-uid" not in key}
    return {key: "<version>" if key == "app.kubernetes.io/version" else value for key, value in labels.items()}


def _aspects(kind: str, obj: Object) -> Iterator[tuple[str, str]]:
    status: Any = obj.get("status") or {}
    match kind:
        case "Cluster":
            if status.get("phase"):
                yield "phase", " / ".join(filter(None, [status["phase"], status.get("phaseReason")]))
            for key in ("targetPrimary", "currentPrimary", "timelineID"):
                if status.get(key):
                    yield key, str(status[key])
            yield from _conditions(status)
        case "Backup" | "Database":
            if status.get("phase"):
                yield "phase", " / ".join(filter(None, [status["phase"], status.get("error")]))
            if "applied" in status:
                yield "applied", f"{status['applied']} {status.get('message', '')}"
            yield "status fields", ", ".join(sorted(status))
        case "ScheduledBackup":
            yield "status fields", ", ".join(sorted(status))
        case "ObjectStore":
            for server, window in (status.get("serverRecoveryWindow") or {}).items():
                yield f"window of {server}", ", ".join(sorted(window))
        case "Job":
            yield "failed", str(status.get("failed") or 0)
            yield from _conditions(status)
        case "Pod":
            if "job-name" in (obj["metadata"].get("labels") or {}):
                if status.get("phase") in ("Succeeded", "Failed"):  # what came before may be too short to be reported
                    yield "phase", str(status["phase"])
                return
            yield "phase", str(status.get("phase") or "Pending")
            yield "ready", next((c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"), "False")
            yield (
                "restarts",
                str(max((c.get("restartCount", 0) for c in status.get("containerStatuses") or ()), default=0)),
            )
            yield "role", str((obj["metadata"].get("labels") or {}).get("cnpg.io/instanceRole", "none"))
        case "PersistentVolumeClaim":
            yield "phase", str(status.get("phase") or "Pending")
            yield "state", str((obj["metadata"].get("annotations") or {}).get("cnpg.io/pvcStatus", ""))
            yield "role", str((obj["metadata"].get("labels") or {}).get("cnpg.io/instanceRole", "none"))
        case "Lease":
            yield "holder", str((obj.get("spec") or {}).get("holderIdentity") or "nobody")
        case "PodDisruptionBudget":
            yield "budget", json.dumps({key: obj["spec"].get(key) for key in ("minAvailable", "maxUnavailable")})


def _conditions(status: Object) -> Iterator[tuple[str, str]]:
    present = {entry["type"]: entry for entry in status.get("conditions") or ()}
    for kind, entry in present.items():
        yield f"condition {kind}", f"{entry['status']} {entry.get('reason', '')}: {entry.get('message', '')}"


def differences(real: Story, lab: Story) -> list[str]:
    """Every single difference: the track, and `there:` what only the operator told, `here:` what only the lab did."""
    found = []
    for track in [*real.tracks, *(name for name in lab.tracks if name not in real.tracks)]:
        theirs, ours = real.tracks.get(track, []), lab.tracks.get(track, [])
        matcher = difflib.SequenceMatcher(a=theirs, b=ours, autojunk=False)
        for how, a1, a2, b1, b2 in matcher.get_opcodes():
            if how != "equal":
                found += [f"{track} | there: {entry}" for entry in theirs[a1:a2]]
                found += [f"{track} | here: {entry}" for entry in ours[b1:b2]]
    return found
