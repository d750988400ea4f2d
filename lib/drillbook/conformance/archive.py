"""Facts about archiving and backups: what the API says of them, and what then is in the bucket."""

from __future__ import annotations

import re
from typing import Any

from drillbook import kube as k8s
from drillbook.archive import catalogue
from drillbook.conformance.environment import ProbeEnvironment
from drillbook.conformance.probe import Differs, probe

_STATUS = ("backupId", "backupName", "beginWal", "endWal", "beginLSN", "endLSN", "startedAt", "stoppedAt", "instanceID")
_IN_TREE_ONLY = ("destinationPath", "endpointURL", "serverName", "s3Credentials")


def _name(ground: ProbeEnvironment) -> str:
    return str(ground.cluster["metadata"]["name"])


def _status(ground: ProbeEnvironment) -> dict[str, Any]:
    status = dict(ground.backup.get("status") or {})
    if status.get("phase") != "completed":
        raise Differs(f"the Backup is {status.get('phase')}: {status.get('error', '')}")
    return status


def _keys(ground: ProbeEnvironment, prefix: str) -> list[str]:
    return [item.key for item in ground.bucket.list(prefix)]


def _switch(ground: ProbeEnvironment) -> str:
    """Finish the current segment for real, and say which it was."""
    segment = ground.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    ground.sql("SELECT txid_current()")
    ground.sql("SELECT pg_switch_wal()")
    return segment


# What the operator tells of every new Cluster, whatever holds it back.
ORDINARY = frozenset({"CreatingPodDisruptionBudget", "CreatingServiceAccount", "CreatingRole"})


@probe(
    "Archiving", "the plugin archives under the Cluster's own name unless serverName says otherwise", needs="archive"
)
def the_server_name_is_the_clusters(ground: ProbeEnvironment) -> str:
    prefix = f"{_name(ground)}/wals/"
    _switch(ground)
    keys = ground.until(f"objects below {prefix}", lambda: _keys(ground, prefix))
    return f"{len(keys)} objects below {prefix}"


@probe(
    "Archiving", "a finished segment comes to wals/<16 hex>/<24 hex>, and ContinuousArchiving is True", needs="archive"
)
def segments_lie_in_their_folder(ground: ProbeEnvironment) -> str:
    segment = _switch(ground)
    prefix = f"{_name(ground)}/wals/{segment[:16]}/{segment}"
    keys: list[str] = ground.until(f"an object {prefix}…", lambda: _keys(ground, prefix), seconds=180)

    def archiving(found: dict[str, Any]) -> bool:
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any(one["type"] == "ContinuousArchiving" and one["status"] == "True" for one in conditions)

    ground.wait(ground.cluster, archiving, "condition ContinuousArchiving", seconds=60)
    return keys[0]


@probe("Archiving", "pg_stat_archiver tells the newest archived segment", needs="archive")
def the_archiver_tells_its_last_segment(ground: ProbeEnvironment) -> str:
    segment = _switch(ground)

    def told() -> str:
        last = ground.sql("SELECT last_archived_wal FROM pg_stat_archiver")
        return last if last[:24] >= segment else ""

    return str(ground.until(f"last_archived_wal {segment}", told, seconds=180))


@probe(
    "Backups",
    "a plugin Backup goes through `started` to `completed`, and its status says what was saved",
    needs="archive",
)
def backups_tell_what_they_saved(ground: ProbeEnvironment) -> str:
    status = _status(ground)
    missing = [key for key in _STATUS if not status.get(key)]
    if missing:
        raise Differs(f"its status lacks {', '.join(missing)}")
    if not re.fullmatch(r"\d{8}T\d{6}", status["backupId"]):
        raise Differs(f"backupId is {status['backupId']}")
    filled = [key for key in _IN_TREE_ONLY if status.get(key)]
    if filled:
        raise Differs(f"its status has {', '.join(filled)}, which only in-tree backups have")
    return f"{status['backupId']}, {status['beginLSN']} to {status['endLSN']}, by {status['instanceID'].get('podName')}"


@probe("Backups", "while it runs LastBackupSucceeded is False (BackupStarted); afterwards it is True", needs="archive")
def the_cluster_tells_of_its_last_backup(ground: ProbeEnvironment) -> str:
    _status(ground)

    def told(found: dict[str, Any]) -> bool:
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any(one["type"] == "LastBackupSucceeded" and one["status"] == "True" for one in conditions)

    ground.wait(ground.cluster, told, "condition LastBackupSucceeded", seconds=60)
    return "True"


@probe("Backups", "a Backup's events are Starting and Completed", needs="archive")
def backups_have_events(ground: ProbeEnvironment) -> str:
    _status(ground)

    def seen() -> list[str]:
        found = ground.events(ground.backup)
        return found if {"Starting", "Completed"} <= set(found) else []

    return ", ".join(ground.until("events Starting and Completed", seen, seconds=30))


@probe(
    "Backups",
    "the bucket holds base/<backupId>/ with backup.info and data.tar…, and its end WAL follows",
    needs="archive",
)
def backups_lie_in_the_bucket(ground: ProbeEnvironment) -> str:
    status = _status(ground)
    found = catalogue(ground.bucket, _name(ground)).find(status["backupId"])
    if found is None:
        raise Differs(f"the catalogue of {_name(ground)} has no usable {status['backupId']}")
    told = (str(found.begin_lsn), str(found.end_lsn), found.begin_wal, found.end_wal)
    said = (status["beginLSN"], status["endLSN"], status["beginWal"], status["endWal"])
    if told != said:
        raise Differs(f"backup.info says {told}, the Backup's status {said}")
    prefix = f"{_name(ground)}/wals/{found.end_wal[:16]}/{found.end_wal}"
    _switch(ground)
    ground.until(f"the end WAL at {prefix}", lambda: _keys(ground, prefix), seconds=400)
    return f"{found.objects} data objects, {found.size_bytes} bytes, {found.compression or 'not compressed'}"


@probe(
    "Backups",
    "the ObjectStore's status tells the first recoverability point: the end of the oldest backup",
    needs="archive",
)
def the_store_tells_its_window(ground: ProbeEnvironment) -> str:
    status = _status(ground)
    store = {"kind": "ObjectStore", "apiVersion": "barmancloud.cnpg.io/v1"}
    store["metadata"] = {"name": ground.store_name, "namespace": ground.namespace}  # type: ignore[assignment]

    def window() -> dict[str, Any]:
        found = ground.now(store).get("status") or {}
        return dict((found.get("serverRecoveryWindow") or {}).get(_name(ground)) or {})

    seen = ground.until("a window of this server", window, seconds=120)
    first, stopped = str(seen.get("firstRecoverabilityPoint")), str(status["stoppedAt"])
    if first[:19] != stopped[:19]:
        raise Differs(f"it is {first}, the backup ended at {stopped}")
    return f"{first}"


@probe(
    "Backups",
    "on a Cluster with the plugin a Backup without `method: plugin` fails: no backup section",
    needs="archive",
)
def the_method_must_be_named(ground: ProbeEnvironment) -> str:
    wanted = ground.backup_object(ground.name("m"), _name(ground), method=None)
    made = ground.ended(ground.make(wanted))
    status = made["status"]
    error = str(status.get("error", ""))
    if status["phase"] != "failed" or not ("no backup section" in error or "no barmanObjectStore section" in error):
        raise Differs(f"{status['phase']}: {status.get('error', '')}")
    return f"failed: {status['error']}"


@probe("Backups", "one backup of a Cluster runs at a time; the next waits", needs="archive")
def backups_wait_for_each_other(ground: ProbeEnvironment) -> str:
    _status(ground)
    first = ground.make(ground.backup_object(ground.name("s1"), _name(ground)))
    second = ground.make(ground.backup_object(ground.name("s2"), _name(ground)))
    one, two = ground.ended(first)["status"], ground.ended(second)["status"]
    if (one["phase"], two["phase"]) != ("completed", "completed"):
        raise Differs(f"{one['phase']} {one.get('error', '')}, {two['phase']} {two.get('error', '')}")
    if str(two["startedAt"]) < str(one["stoppedAt"]):
        raise Differs(f"the second began at {two['startedAt']}, the first ended at {one['stoppedAt']}")
    return f"the first ended {one['stoppedAt']}, the second began {two['startedAt']}"


@probe("Backups", "deleting a Backup object leaves the bucket as it is", needs="archive")
def deleting_a_backup_keeps_its_data(ground: ProbeEnvironment) -> str:
    made = ground.ended(ground.make(ground.backup_object(ground.name("x"), _name(ground))))
    backup_id = str(made["status"].get("backupId"))
    ground.remove(made)
    if catalogue(ground.bucket, _name(ground)).find(backup_id) is None:
        raise Differs(f"{backup_id} is no longer in the catalogue")
    return f"{backup_id} is still there"


@probe("Backups", "a backup taken on a primary leaves the restore point barman_<backupId>", needs="archive")
def backups_leave_a_restore_point(ground: ProbeEnvironment) -> str:
    status = _status(ground)
    name = ground.name("rp")
    made = ground.make(
        ground.recovering(
            name,
            "source",
            server_name=_name(ground),
            recoveryTarget={"backupID": status["backupId"], "targetName": f"barman_{status['backupId']}"},
        )
    )
    try:
        _switch(ground)  # the restore point is behind the backup's end: its segment must be archived
        ground.healthy(made)
        return f"recovered to barman_{status['backupId']}"
    finally:
        ground.remove(made)


@probe(
    "Clusters",
    "a missing ObjectStore holds a Cluster back without a phase, a Job, or an event that names the cause",
    needs="cluster",
)
def a_missing_store_stalls_silently(ground: ProbeEnvironment) -> str:
    made = ground.make(ground.recovering(ground.name("ms"), "source", server_name="source", store=ground.name("no")))
    try:
        found: list[str] = []

        def moved() -> bool:
            status = ground.now(made).get("status") or {}
            jobs = ground.kube.list(k8s.JOB, ground.namespace, labels=f"cnpg.io/cluster={made['metadata']['name']}")
            found[:] = [
                str(status.get("phase", "")),
                *(event for event in ground.events(made) if event not in ORDINARY),
                *(job["metadata"]["name"] for job in jobs),
            ]
            return any(found)

        try:
            ground.until("nothing", moved, seconds=20)
        except Differs:
            return "20 s without phase, Job, or an event that names the cause"
        raise Differs(f"seen: {', '.join(filter(None, found))}")
    finally:
        ground.remove(made)
