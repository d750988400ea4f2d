"""Why a recovery hangs, fails or is slow, by what Kubernetes, CloudNativePG, barman and PostgreSQL say of it; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from drillbook.model import Frozen, parse_instant, show_seconds
from drillbook.steps.preflight.readiness import HEALTHY
from drillbook.steps.recovery.copy import UNRECOVERABLE
from drillbook.steps.troubleshoot.answer import Cause

UNKNOWN_PLUGIN = "Cluster cannot proceed to reconciliation due to an unknown plugin being required"
INVALID = "Invalid cluster definition"
NO_DISK = "Not enough disk space"
NEW_REPLICA = "Creating a new replica"
STANDS_STILL = timedelta(minutes=2)
"""No segment for so long, while replay has not ended, is no longer a slow one."""
SETTLES = timedelta(seconds=60)
"""What Kubernetes reports of a pod or volume that is younger than this is still under way."""


class Progress(Frozen):
    """How far the newest attempt is, by its own log and the archive's listing; ``left`` and ``missing`` only if it was read."""

    doing: str = "no attempt has begun"
    begun: datetime | None = None  # the newest attempt's first line
    server: bool = False  # PostgreSQL was started
    redo_done: bool = False
    segments: int = 0
    last_segment: str = ""
    last_at: datetime | None = None
    seconds: float = 0.0  # from the first restored segment to the last
    paused: str = ""
    left: int | None = None  # segments in the archive after the last one that was restored: the most that is replayed
    missing: str = ""  # a segment that was asked for in vain, while later ones of its timeline are in the archive

    @property
    def per_second(self) -> float:
        """Segments a second; 0 if fewer than two were seen."""
        return (self.segments - 1) / self.seconds if self.segments > 1 and self.seconds > 0 else 0.0


class RecoverySeen(Frozen):
    """What was read at one instant. ``words``: why the newest attempt that failed did so, "" if none has said."""

    now: datetime
    cluster: dict[str, Any]
    job: dict[str, Any] | None = None  # the Job that makes the first instance, or the one that makes a replica
    pods: tuple[dict[str, Any], ...] = ()
    claims: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()  # warnings of the Cluster, its Jobs, pods and claims; oldest first
    object_store: str = ""  # the ObjectStore that the plugin restores from
    object_store_there: bool = True
    backup: str = ""  # bootstrap.recovery.backup, with what is wrong with it
    words: str = ""
    progress: Progress = Progress()
    expected: timedelta = timedelta(hours=1)
    expected_by: str = "objectives.recovery_time"

    @property
    def name(self) -> str:
        return str(self.cluster["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.cluster["metadata"]["namespace"])

    @property
    def phase(self) -> str:
        return str((self.cluster.get("status") or {}).get("phase", ""))

    @property
    def age(self) -> timedelta:
        return self.now - parse_instant(self.cluster["metadata"]["creationTimestamp"])

    @property
    def late(self) -> bool:
        return self.age > self.expected

    @property
    def failed(self) -> int:
        """How many attempts have failed."""
        counted = int(((self.job or {}).get("status") or {}).get("failed") or 0)
        return max(counted, len([1 for pod in self.pods if (pod.get("status") or {}).get("phase") == "Failed"]))


def symptoms(seen: RecoverySeen) -> list[str]:
    """What is wrong with the recovery, in words; empty: it is finished, or within what was expected."""
    if seen.phase == HEALTHY:
        return []
    found = []
    if seen.phase.startswith(UNRECOVERABLE):
        found.append(
            f"CloudNativePG has given up: {(seen.cluster.get('status') or {}).get('phaseReason') or seen.phase}"
        )
    if seen.failed:
        found.append(
            f"{seen.failed} attempt{'s have' if seen.failed > 1 else ' has'} failed: {seen.words or 'no reason given'}"
        )
    if seen.late:
        took, wanted = show_seconds(seen.age.total_seconds()), show_seconds(seen.expected.total_seconds())
        found.append(f"it takes {took}, and was to take at most {wanted} ({seen.expected_by})")
    # What is broken and has not failed yet will.
    return found or [f"nothing has failed yet, but will: {cause.name}" for _, cause in checked(seen) if cause]


def checked(seen: RecoverySeen) -> list[tuple[str, Cause | None]]:
    """Each thing that can be the cause, in the order in which one hides the next; None: it is in order."""
    if seen.phase == HEALTHY:
        return [(name, None) for name in _LOOKS]
    return [(name, look(seen)) for name, look in _LOOKS.items()]


def again(seen: RecoverySeen) -> str:
    """The command after which the operator begins again with what is there now."""
    job = seen.job["metadata"]["name"] if seen.job else f"{seen.name}-1-full-recovery"
    return f"kubectl delete job -n {seen.namespace} {job}"


def _remake(seen: RecoverySeen) -> str:
    return f"remove Cluster {seen.name} (a run's own: `drillbook cleanup`) and recover into a new one"


# -- what keeps the recovery from beginning --------------------------------------------------------------------------


def _annotation(key: str, value: str, name: str, undo: str) -> Callable[[RecoverySeen], Cause | None]:
    def look(seen: RecoverySeen) -> Cause | None:
        if (seen.cluster["metadata"].get("annotations") or {}).get(key) != value:
            return None
        fix = f"kubectl annotate cluster -n {seen.namespace} {seen.name} --overwrite {key}{undo}"
        return Cause(name=name, seen=f"annotation {key}={value}", fix=fix)

    return look


def _definition(seen: RecoverySeen) -> Cause | None:
    if seen.phase != INVALID:
        return None
    said = str((seen.cluster.get("status") or {}).get("phaseReason") or seen.phase)
    return Cause(name="the Cluster's definition is refused", seen=said, fix="correct the fields that it names")


def _plugin(seen: RecoverySeen) -> Cause | None:
    if not seen.phase.startswith(UNKNOWN_PLUGIN):
        return None
    fix = "install the plugin in the operator's namespace, or correct the name in externalClusters and spec.plugins"
    return Cause(name="a plugin is not there", seen=seen.phase, fix=fix)


def _object_store(seen: RecoverySeen) -> Cause | None:
    if not seen.object_store or seen.object_store_there:
        return None
    fix = (
        f"apply ObjectStore {seen.object_store} in namespace {seen.namespace}, then change the Cluster (an annotation is "
        "enough): the operator does not watch ObjectStores, and asks again only after minutes"
    )
    return Cause(name="the ObjectStore is not there", seen=f"barmanObjectName {seen.object_store}: not found", fix=fix)


def _backup_object(seen: RecoverySeen) -> Cause | None:
    if not seen.backup:
        return None
    fix = "recover from externalClusters with recoveryTarget.backupID: it needs no Backup object"
    return Cause(
        name="the Backup that is named can't be recovered from", seen=seen.backup, fix=f"{_remake(seen)}; {fix}"
    )


def _quota(seen: RecoverySeen) -> Cause | None:
    said = _event(seen, "exceeded quota|must specify|is forbidden")
    running = any((pod.get("status") or {}).get("phase") in ("Pending", "Running", "Succeeded") for pod in seen.pods)
    if not said or running:
        return None
    return Cause(
        name="a quota or policy of the namespace refuses it", seen=said, fix="raise the ResourceQuota, or ask for less"
    )


def _claim(seen: RecoverySeen) -> Cause | None:
    waiting = [one for one in seen.claims if (one.get("status") or {}).get("phase") == "Pending"]
    if not waiting:
        return None
    name = waiting[0]["metadata"]["name"]
    said = _event(seen, "", of=name)
    if not said and seen.now - parse_instant(waiting[0]["metadata"]["creationTimestamp"]) < SETTLES:
        return None
    class_ = waiting[0]["spec"].get("storageClassName") or "the default"
    words = f"PersistentVolumeClaim {name} is Pending (StorageClass {class_}): {said or 'no event says why'}"
    fix = f"correct copy.storage_class in the profile, or the StorageClass; a claim's class can't be changed: {_remake(seen)}"
    return Cause(name="the volume is not provisioned", seen=words, fix=fix)


def _node(seen: RecoverySeen) -> Cause | None:
    for pod in seen.pods:
        for one in (pod.get("status") or {}).get("conditions") or ():
            if one["type"] == "PodScheduled" and one["status"] == "False" and seen.now - _born(pod) > SETTLES:
                words = f"pod {pod['metadata']['name']}: {one.get('message') or one.get('reason')}"
                fix = "make room on a node, or ask for less: spec.resources, spec.affinity, tolerations"
                return Cause(name="no node takes the pod", seen=words, fix=fix)
    return None


def _image(seen: RecoverySeen) -> Cause | None:
    for pod, reason, message in _waiting(seen):
        if re.search("ImagePull|InvalidImageName|ErrImage", reason):
            fix = "correct copy.image in the profile, the registry's Secret (imagePullSecrets), or the way to the registry"
            return Cause(name="the image can't be pulled", seen=f"pod {pod}: {reason}: {message}", fix=fix)
    return None


def _pod(seen: RecoverySeen) -> Cause | None:
    for pod, reason, message in _waiting(seen):
        if re.search("CreateContainer|RunContainer|CrashLoopBackOff", reason):
            fix = f"kubectl describe pod -n {seen.namespace} {pod}"
            return Cause(name="the pod can't start", seen=f"pod {pod}: {reason}: {message}", fix=fix)
    said = _event(seen, "FailedMount|FailedAttachVolume|Multi-Attach")
    if said and not seen.progress.begun:
        return Cause(name="the pod can't start", seen=said, fix="free the volume, or wait for the node that holds it")
    return None


# -- why an attempt fails --------------------------------------------------------------------------------------------


def _says(
    pattern: str, name: str, fix: str, after: Callable[[RecoverySeen], str] | None = None
) -> Callable[[RecoverySeen], Cause | None]:
    """A cause that barman, the sidecar or PostgreSQL names; ``after``: what is to be done once it is fixed."""

    def look(seen: RecoverySeen) -> Cause | None:
        if not re.search(pattern, seen.words, re.IGNORECASE):
            return None
        return Cause(name=name, seen=seen.words[:400], fix=fix + (f"; then {after(seen)}" if after else ""))

    return look


def _disk(seen: RecoverySeen) -> Cause | None:
    full = seen.phase.startswith(NO_DISK)
    if not full and not re.search("(?i)no space left on device|could not extend file|Errno 28", seen.words):
        return None
    aside = " Each attempt that failed has left its data directory on the volume." if seen.failed > 1 else ""
    fix = f"set copy.storage_size in the profile larger than base backup and WAL together; {_remake(seen)}"
    return Cause(name="the volume is full", seen=(seen.phase if full else seen.words) + aside, fix=fix)


def _segment(seen: RecoverySeen) -> Cause | None:
    if not seen.progress.missing:
        return None
    words = f"WAL segment {seen.progress.missing} is not in the archive, and later ones are"
    fix = (
        "look for it in pg_wal of the source's instances and archive it again; else recover from a newer base backup, or to "
        "a target before the gap: check-recovery-window shows both"
    )
    return Cause(name="a WAL segment is missing", seen=words, fix=fix)


def _job(seen: RecoverySeen) -> Cause | None:
    if not seen.failed and not seen.phase.startswith(UNRECOVERABLE):
        return None
    pods = [str(pod["metadata"]["name"]) for pod in seen.pods] or ["(its pods are gone)"]
    words = f"failed attempts: {seen.failed}; the last said: {seen.words or 'nothing that could be read'}"
    return Cause(
        name="the job fails again and again",
        seen=words,
        fix=f"read why: kubectl logs -n {seen.namespace} {pods[-1]} --all-containers; once it is fixed: {again(seen)}",
    )


# -- what makes it slow ----------------------------------------------------------------------------------------------


def _paused(seen: RecoverySeen) -> Cause | None:
    progress = seen.progress
    if not progress.paused or progress.redo_done:
        return None
    if "insufficient parameter" in progress.paused:
        fix = f"give the new Cluster at least the source's max_connections, max_worker_processes and locks; {_remake(seen)}"
        return Cause(name="replay waits: settings are smaller than the source's", seen=progress.paused, fix=fix)
    fix = "select pg_wal_replay_resume(); as superuser in the pod, by the one who paused it"
    return Cause(
        name="replay is paused", seen=f"{progress.paused}, after segment {progress.last_segment or 'none'}", fix=fix
    )


def _replay(seen: RecoverySeen) -> Cause | None:
    progress = seen.progress
    if not seen.late or not progress.server or progress.redo_done or seen.phase == NEW_REPLICA:
        return None
    still = seen.now - (progress.last_at or progress.begun or seen.now)
    if still > STANDS_STILL:
        words = f"since {show_seconds(still.total_seconds())} no segment has come after {progress.last_segment or 'the start'}"
        fix = "look at the object store and the way to it: each segment is a download of its own"
        return Cause(name="replay stands still", seen=words, fix=fix)
    words = f"{progress.segments} segments replayed, the last {progress.last_segment}"
    if progress.per_second:
        words += f", {progress.per_second:.2g} a second"
    if progress.left is not None:
        words += f"; at most {progress.left} left"
        if progress.per_second:
            words += f", {show_seconds(progress.left / progress.per_second)} at this rate"
    fix = "wait, it moves; next time wal.maxParallel in the ObjectStore, and base backups more often, shorten it"
    return Cause(name="replay is slow, and moves", seen=words, fix=fix)


def _fetch(seen: RecoverySeen) -> Cause | None:
    progress = seen.progress
    if not seen.late or not progress.begun or progress.server or seen.phase == NEW_REPLICA:
        return None
    took = show_seconds((seen.now - progress.begun).total_seconds())
    fix = "look at the way to the object store and the volume's speed; check-recovery-window measures the store's from here"
    return Cause(name="the base backup is still being fetched", seen=f"since {took}, without an error", fix=fix)


def _end(seen: RecoverySeen) -> Cause | None:
    if not seen.late:
        return None
    if seen.phase == NEW_REPLICA:
        reason = (seen.cluster.get("status") or {}).get("phaseReason") or "the primary serves"
        fix = "wait: pg_basebackup copies the whole cluster; the primary is usable by now"
        return Cause(name="a replica is being made", seen=f"{seen.phase}: {reason}", fix=fix)
    if not seen.progress.redo_done:
        return None
    fix = (
        f"wait for the checkpoint at the end of recovery; then kubectl describe cluster -n {seen.namespace} {seen.name}"
    )
    return Cause(
        name="replay has ended, and the Cluster is not up", seen=f"{seen.progress.doing}; phase {seen.phase!r}", fix=fix
    )


def _begin(seen: RecoverySeen) -> Cause | None:
    if not seen.late or seen.progress.begun or seen.failed or seen.phase == NEW_REPLICA:
        return None
    words = f"no attempt has begun; phase {seen.phase!r}, {'its Job is there' if seen.job else 'there is no Job'}"
    return Cause(name="the operator has not begun", seen=words, fix="look at the operator's own pod and log")


_LOOKS: Mapping[str, Callable[[RecoverySeen], Cause | None]] = {
    "reconciliation": _annotation(
        "cnpg.io/reconciliationLoop", "disabled", "reconciliation of the Cluster is switched off", "=enabled"
    ),
    "hibernation": _annotation("cnpg.io/hibernation", "on", "the Cluster is hibernated", "=off"),
    "definition": _definition,
    "plugin": _plugin,
    "object store object": _object_store,
    "Backup object": _backup_object,
    "quota": _quota,
    "volume claim": _claim,
    "node": _node,
    "image": _image,
    "pod": _pod,
    "room on the volume": _disk,
    "Secret": _says(
        r'secrets "[^"]+" not found|missing key \S+, inside secret|no credentials defined',
        "the Secret with the store's key is not there, or lacks an entry",
        "put the key into the Secret that the ObjectStore names",
        again,
    ),
    "archive folder": _says(
        "Expected empty archive",
        "the recovered Cluster would archive into a folder that is in use",
        "give it a serverName of its own in spec.plugins; never set skipEmptyWalArchiveCheck over another's archive",
        _remake,
    ),
    "bucket": _says(
        "NoSuchBucket|bucket does not exist",
        "the bucket is not there",
        "correct destinationPath in the ObjectStore",
        again,
    ),
    "storage class of the backup": _says(
        "InvalidObjectState|storage class",
        "the base backup is in a cold storage class",
        "request its restore from the archive class and wait for it",
        again,
    ),
    "key": _says(
        r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|\b403\b|Forbidden",
        "the object store refuses the recovery's key",
        "put a valid key into the Secret that the ObjectStore names, with the rights to list and get",
        again,
    ),
    "address": _says(
        "Could not connect|Connection refused|Connection was closed|timed out|Name or service not known|no such host|"
        "EndpointConnectionError|Connection reset",
        "the object store can't be reached from the recovery",
        "check endpointURL, DNS and the NetworkPolicy of the recovery's namespace",
        again,
    ),
    "backup in the catalogue": _says(
        "no backup found with ID|no target backup found",
        "no base backup fits",
        "compare serverName and destinationPath with the source's, and the backupID or target with check-recovery-window",
        _remake,
    ),
    "first WAL": _says(
        "first needed WAL",
        "the WAL in which the base backup begins is missing",
        "this base backup can't be recovered: choose another one",
        _remake,
    ),
    "base backup's data": _says(
        "Barman cloud restore exception|unexpected end of data|ReadError|CRC check failed|not a gzip file",
        "the base backup is damaged",
        "choose an older or newer one; check-recovery-window reads which are whole",
        _remake,
    ),
    "WAL segment": _segment,
    "target": _says(
        "recovery ended before configured recovery target was reached|before consistent recovery point",
        "the archive does not reach the target",
        "choose a target with a commit after it in the archive (check-recovery-window names the last), or commit and switch "
        "WAL on the source: the next attempt replays more",
        _remake,
    ),
    "settings": _says(
        "insufficient parameter settings",
        "settings are smaller than the source's",
        "give the new Cluster at least the source's max_connections, max_worker_processes and locks",
        _remake,
    ),
    "attempts": _job,
    "start": _begin,
    "pause": _paused,
    "base backup's speed": _fetch,
    "replay's speed": _replay,
    "end": _end,
}


def _waiting(seen: RecoverySeen) -> Iterator[tuple[str, str, str]]:
    """Pod, reason and message of each container that waits."""
    for pod in seen.pods:
        status = pod.get("status") or {}
        for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            if state := (one.get("state") or {}).get("waiting"):
                yield str(pod["metadata"]["name"]), str(state.get("reason", "")), str(state.get("message", ""))


def _event(seen: RecoverySeen, pattern: str, *, of: str = "") -> str:
    """What the newest fitting warning says; ``of`` an object by name."""
    for event in reversed(seen.events):
        name, said = event["involvedObject"].get("name", ""), f"{event.get('reason', '')}: {event.get('message', '')}"
        if (not of or name == of) and re.search(pattern, said):
            return f"{event['involvedObject'].get('kind', '')} {name}: {said}"[:400]
    return ""


def _born(item: Mapping[str, Any]) -> datetime:
    return parse_instant(item["metadata"]["creationTimestamp"])


__all__ = ["Progress", "RecoverySeen", "again", "checked", "symptoms"]
