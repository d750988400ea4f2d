"""Why backups fail or are not made, by what CloudNativePG, the plugin and barman say of it: one cause, with its evidence and its fix; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from drillbook.model import Frozen, parse_instant, show_instant, show_seconds
from drillbook.steps.archive.weekly import schedule_faults
from drillbook.steps.troubleshoot.answer import SIDECAR, Cause, ObjectPatch

DONE = {"completed", "failed", "invalid backup definition"}
WAITS_FOR_WAL = "walArchivingFailing"
UNKNOWN_PLUGIN = "Cluster cannot proceed to reconciliation due to an unknown plugin being required"
NO_DISK = "Not enough disk space"


class Seen(Frozen):
    """What was read at one instant. ``words``: what barman and the sidecar last said, "" if that is not known."""

    now: datetime
    cluster: dict[str, Any]
    backups: tuple[dict[str, Any], ...]  # of this cluster, oldest first
    schedules: tuple[dict[str, Any], ...]
    object_store: str  # the name of the plugin's ObjectStore, "" for in-tree
    object_store_there: bool
    words: str = ""
    patience: timedelta = timedelta(minutes=10)  # how long a Backup may be under way before it counts as stuck
    every: timedelta = timedelta(hours=24)

    @property
    def name(self) -> str:
        return str(self.cluster["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.cluster["metadata"].get("namespace", ""))

    @property
    def phase(self) -> str:
        return str((self.cluster.get("status") or {}).get("phase", ""))

    @property
    def archiving(self) -> dict[str, Any]:
        """The condition ContinuousArchiving; empty while there is none."""
        conditions = (self.cluster.get("status") or {}).get("conditions") or []
        return next((one for one in conditions if one["type"] == "ContinuousArchiving"), {})


def symptoms(seen: Seen) -> list[str]:
    """What is wrong with the backups, in words; empty: nothing is, and the trouble is somewhere else."""
    found = []
    last = seen.backups[-1] if seen.backups else None
    if last and _phase(last) in ("failed", "invalid backup definition"):
        found.append(f"Backup {_name(last)} {_phase(last)}: {_status(last).get('error') or 'no reason given'}")
    found += [f"Backup {_name(one)} is {_phase(one) or 'pending'} since {_since(one)}" for one in _stuck(seen)]
    if seen.archiving.get("status") == "False":
        found.append(f"WAL is not archived: {seen.archiving.get('message') or 'no reason given'}")
    ended = [_status(one).get("stoppedAt") for one in seen.backups if _phase(one) == "completed"]
    times = [parse_instant(at) for at in ended if at]
    if not times:
        found.append("no Backup has completed")
    elif seen.now - max(times) > seen.every:
        found.append(f"the newest Backup completed {show_seconds((seen.now - max(times)).total_seconds())} ago")
    if not any(not schedule_faults(one, seen.every, seen.now) for one in seen.schedules):
        found.append("no ScheduledBackup will make the next one in time")
    if seen.phase.startswith((UNKNOWN_PLUGIN, NO_DISK)):
        found.append(f"the Cluster is in phase {seen.phase!r}")
    # What is broken and has not failed yet will: the next Backup, the next segment.
    return found or [f"nothing has failed yet, but will: {cause.name}" for _, cause in checked(seen) if cause]


def checked(seen: Seen) -> list[tuple[str, Cause | None]]:
    """Each thing that can be the cause, in the order in which one hides the next; None: it is in order."""
    return [(name, look(seen)) for name, look in _LOOKS.items()]


def _hibernated(seen: Seen) -> Cause | None:
    annotations = seen.cluster["metadata"].get("annotations") or {}
    if annotations.get("cnpg.io/hibernation") != "on":
        return None
    fix = f"kubectl annotate cluster {seen.name} -n {seen.namespace} --overwrite cnpg.io/hibernation=off"
    merge = {"metadata": {"annotations": {"cnpg.io/hibernation": "off"}}}
    patch = ObjectPatch(kind="Cluster", namespace=seen.namespace, name=seen.name, merge=merge)
    return Cause(name="the cluster is hibernated", seen="annotation cnpg.io/hibernation=on", fix=fix, patch=patch)


def _plugin(seen: Seen) -> Cause | None:
    if not seen.phase.startswith(UNKNOWN_PLUGIN):
        return None
    named = ", ".join(str(one.get("name")) for one in seen.cluster["spec"].get("plugins") or ())
    fix = "install the plugin in the operator's namespace, or take its name out of the Cluster's spec.plugins"
    return Cause(name="a plugin is not there", seen=f"{seen.phase}; spec.plugins: {named}", fix=fix)


def _object_store(seen: Seen) -> Cause | None:
    if not seen.object_store or seen.object_store_there:
        return None
    fix = f"apply the manifest of ObjectStore {seen.object_store} again, in the Cluster's namespace"
    return Cause(name="the ObjectStore is not there", seen=f"barmanObjectName {seen.object_store}: not found", fix=fix)


def _disk(seen: Seen) -> Cause | None:
    if not seen.phase.startswith(NO_DISK) and not re.search("No space left on device", seen.words):
        return None
    fix = "enlarge spec.storage.size; never delete WAL from pg_wal by hand"
    return Cause(name="the volume is full", seen=seen.phase if seen.phase.startswith(NO_DISK) else seen.words, fix=fix)


def _no_section(seen: Seen) -> Cause | None:
    last = seen.backups[-1] if seen.backups else {}
    said = str(_status(last).get("error", "")) if _status(last).get("phase") == "failed" else ""
    if "no backup section" not in said:
        return None
    fix = "a Cluster that archives by the plugin needs `method: plugin` and pluginConfiguration in Backup and ScheduledBackup"
    return Cause(name="the Backup's method is not the Cluster's", seen=said, fix=fix)


def _says(pattern: str, name: str, fix: str) -> Callable[[Seen], Cause | None]:
    """A cause that barman or the sidecar names; only while archiving or the newest Backup fails."""

    def look(seen: Seen) -> Cause | None:
        failing = seen.archiving.get("status") == "False" or (seen.backups and _phase(seen.backups[-1]) == "failed")
        texts = [
            seen.words,
            str(seen.archiving.get("message", "")),
            *(str(_status(one).get("error", "")) for one in seen.backups[-3:]),
        ]
        said = next((text for text in texts if re.search(pattern, text, re.IGNORECASE)), "")
        return Cause(name=name, seen=said[:300], fix=fix) if failing and said else None

    return look


def _archiving(seen: Seen) -> Cause | None:
    if seen.archiving.get("status") != "False":
        return None
    said = str(seen.archiving.get("message", "no reason given"))
    waiting = [_name(one) for one in seen.backups if _phase(one) == WAITS_FOR_WAL]
    words = said + (f"; waiting for it: {', '.join(waiting)}" if waiting else "")
    primary = (seen.cluster.get("status") or {}).get("currentPrimary") or f"{seen.name}-1"
    container = SIDECAR if seen.object_store else "postgres"
    fix = f"read why: kubectl logs {primary} -n {seen.namespace} -c {container}"
    return Cause(name="WAL archiving fails", seen=words, fix=fix)


def _queue(seen: Seen) -> Cause | None:
    stuck = _stuck(seen)
    if not stuck or seen.archiving.get("status") == "False":
        return None
    behind = [_name(one) for one in seen.backups if _phase(one) in ("", "pending") and one is not stuck[0]]
    words = f"{_name(stuck[0])} is {_phase(stuck[0]) or 'pending'} since {_since(stuck[0])}, while archiving works"
    words += f"; behind it: {', '.join(behind)}" if behind else ""
    fix = f"kubectl delete backup {_name(stuck[0])} -n {seen.namespace}"
    return Cause(name="a Backup blocks those after it", seen=words, fix=fix)


def _schedule(seen: Seen) -> Cause | None:
    wrong = {_name(one): schedule_faults(one, seen.every, seen.now) for one in seen.schedules}
    if any(not faults for faults in wrong.values()):
        return None
    if not wrong:
        return Cause(
            name="nothing schedules backups",
            seen=f"no ScheduledBackup names {seen.name}",
            fix="apply one, with six fields: 0 0 2 * * *",
        )
    name, faults = next(iter(wrong.items()))
    suspended = faults == ["suspended"]
    merge: dict[str, Any] = {"spec": {"suspend": False} if suspended else {"schedule": "0 0 2 * * *"}}
    # When backups are to be made is a decision; that a schedule runs again is none.
    patch = ObjectPatch(kind="ScheduledBackup", namespace=seen.namespace, name=name, merge=merge) if suspended else None
    fix = f"kubectl patch scheduledbackup {name} -n {seen.namespace} --type merge -p '{json.dumps(merge)}'"
    return Cause(
        name="the schedule makes none",
        seen="; ".join(f"{one}: {', '.join(what)}" for one, what in wrong.items()),
        fix=fix,
        patch=patch,
    )


_LOOKS: Mapping[str, Callable[[Seen], Cause | None]] = {
    "hibernation": _hibernated,
    "plugin": _plugin,
    "object store object": _object_store,
    "volume": _disk,
    "method of the backup": _no_section,
    "archive folder": _says(
        "Expected empty archive",
        "the archive's folder holds another cluster's WAL",
        "give this Cluster a serverName of its own; never set skipEmptyWalArchiveCheck over another's archive",
    ),
    "barman's programs": _says(
        r"executable file not found|barman-cloud-\S+: (command )?not found",
        "the image has no barman-cloud programs",
        "use an image that has them, or archive by the Barman Cloud Plugin",
    ),
    "bucket": _says(
        "NoSuchBucket|bucket does not exist", "the bucket is not there", "create it, or correct destinationPath"
    ),
    "key": _says(
        r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|\b403\b|Forbidden",
        "the object store refuses the cluster's key",
        "put a valid key into the Secret that the ObjectStore names, with the rights to list, get, put and delete",
    ),
    "address": _says(
        "Could not connect|Connection refused|Connection was closed|timed out|Name or service not known|no such host|EndpointConnectionError",
        "the object store can't be reached from the cluster",
        "check endpointURL, DNS and the NetworkPolicy of the Cluster's namespace",
    ),
    "WAL archiving": _archiving,
    "queue": _queue,
    "schedule": _schedule,
}


def _stuck(seen: Seen) -> Sequence[dict[str, Any]]:
    """Backups that are under way too long, or wait for WAL archiving; oldest first."""
    return [
        one
        for one in seen.backups
        if _phase(one) == WAITS_FOR_WAL or (_phase(one) not in DONE and seen.now - _begun(one) > seen.patience)
    ]


def _status(item: Mapping[str, Any]) -> dict[str, Any]:
    return dict(item.get("status") or {})


def _phase(item: Mapping[str, Any]) -> str:
    return str(_status(item).get("phase") or "")


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _begun(item: Mapping[str, Any]) -> datetime:
    return parse_instant(_status(item).get("startedAt") or item["metadata"]["creationTimestamp"])


def _since(item: Mapping[str, Any]) -> str:
    return show_instant(_begun(item))


__all__ = ["Seen", "checked", "symptoms"]
