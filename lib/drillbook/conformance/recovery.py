"""Facts about recovery: its Job, its log, where it stops, and what it says when it can't."""

from __future__ import annotations

import json
from typing import Any

from drillbook import kube as k8s
from drillbook.conformance.environment import ProbeEnvironment
from drillbook.conformance.probe import Differs, probe
from drillbook.postgres.recovery_log import RecoveryLog

_CONTAINER = "full-recovery"
_SIDECAR = "plugin-barman-cloud"


def _name(ground: ProbeEnvironment) -> str:
    return str(ground.cluster["metadata"]["name"])


def _backup_id(ground: ProbeEnvironment) -> str:
    status = ground.backup.get("status") or {}
    if status.get("phase") != "completed":
        raise Differs(f"the Backup is {status.get('phase')}: {status.get('error', '')}")
    return str(status["backupId"])


def _archived(ground: ProbeEnvironment) -> str:
    """Make sure that everything until now is in the archive, with a commit behind it; the LSN before that commit."""
    _backup_id(ground)
    here = ground.sql("SELECT pg_current_wal_lsn()")
    ground.sql("SELECT txid_current()")
    segment = ground.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    ground.sql("SELECT pg_switch_wal()")
    prefix = f"{_name(ground)}/wals/{segment[:16]}/{segment}"
    ground.until(f"the object {prefix}", lambda: list(ground.bucket.list(prefix)), seconds=180)
    return here


def _pod(ground: ProbeEnvironment, cluster: dict[str, Any]) -> dict[str, Any]:
    """The recovery Job's first pod, once it runs or has run."""
    selector = f"job-name={cluster['metadata']['name']}-1-full-recovery"

    def started() -> dict[str, Any] | None:
        pods = ground.kube.list(k8s.POD, ground.namespace, labels=selector)
        begun = [one for one in pods if (one.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")]
        return begun[0] if begun else None

    found: dict[str, Any] = ground.until("the recovery Job's pod", started)
    return found


def _log(ground: ProbeEnvironment, cluster: dict[str, Any]) -> str:
    """The first attempt's whole log, followed until its container ends; then what the plugin's own container said."""
    pod = _pod(ground, cluster)
    name = pod["metadata"]["name"]
    with ground.kube.follow_log(
        ground.namespace, name, _CONTAINER, timeout_seconds=ground.options.wait_seconds
    ) as stream:
        text = "\n".join(stream)
    if any(one["name"] == _SIDECAR for one in pod["spec"].get("initContainers") or ()):
        text = f"{ground.kube.log(ground.namespace, name, _SIDECAR)}\n{text}"
    return text


def _failure(ground: ProbeEnvironment, cluster: dict[str, Any], words: str) -> str:
    """What the Job says on failing: the named words, and a Job that counts the failure."""
    made = ground.make(cluster)
    try:
        text = _log(ground, made)
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"{made['metadata']['name']}-1-full-recovery", "namespace": ground.namespace},
        }
        ground.wait(job, lambda one: int((one.get("status") or {}).get("failed") or 0) >= 1, "a failed attempt")
        lines = [line for line in text.splitlines() if words in line]
        if not lines:
            said = RecoveryLog()
            for line in text.splitlines():
                said.feed(line)
            raise Differs(f"its log does not say {words!r}; it says {said.cause!r}")
        phase = (ground.now(made).get("status") or {}).get("phase")
        if phase != "Setting up primary":
            raise Differs(f"it says so, but after one failure the phase is {phase!r}")
        return f"said {words!r}; Job failed 1, phase still {phase}"
    finally:
        ground.remove(made)


@probe(
    "Recovery",
    "a recovery is a Job <cluster>-1-full-recovery whose container full-recovery logs JSON lines with PostgreSQL's records; it promotes to a new timeline",
    needs="archive",
)
def recovery_is_a_job_with_a_log(ground: ProbeEnvironment) -> str:
    lsn = _archived(ground)
    name = ground.name("r")
    wanted = ground.recovering(
        name, "source", server_name=_name(ground), recoveryTarget={"targetLSN": lsn, "backupID": _backup_id(ground)}
    )
    made = ground.make(wanted)
    try:
        text = _log(ground, made)
        said = RecoveryLog()
        for line in text.splitlines():
            said.feed(line)
        if not any(json.loads(line).get("logger") == "postgres" for line in text.splitlines() if line.startswith("{")):
            raise Differs("no line of the log has logger: postgres")
        if said.redo_started_at is None or said.promoted_at is None:
            raise Differs(f"the log tells no redo or no promotion; last cause {said.cause!r}")
        found = ground.healthy(made)
        before = int(ground.sql("SELECT timeline_id FROM pg_control_checkpoint()"))
        after = int(found["status"].get("timelineID") or 0)
        if after <= before:
            raise Differs(f"the copy's timeline is {after}, the source's {before}")
        return f"redo, promotion, timeline {before} → {after}; {said.segments} segments restored"
    finally:
        ground.remove(made)


@probe(
    "Recovery",
    "a target by LSN is inclusive: what was committed before it is there, what came later is not",
    needs="archive",
)
def a_target_is_a_boundary(ground: ProbeEnvironment) -> str:
    _backup_id(ground)
    ground.sql("CREATE TABLE IF NOT EXISTS probe_boundary (word text)")
    ground.sql("INSERT INTO probe_boundary VALUES ('before')")
    lsn = _archived(ground)
    ground.sql("INSERT INTO probe_boundary VALUES ('after')")
    _archived(ground)
    name = ground.name("b")
    wanted = ground.recovering(name, "source", server_name=_name(ground), recoveryTarget={"targetLSN": lsn})
    made = ground.make(wanted)
    try:
        ground.healthy(made)
        rows = ground.sql("SELECT string_agg(word, ',') FROM probe_boundary", cluster=name)
        if rows != "before":
            raise Differs(f"the copy holds {rows or 'no row'}")
        return "before"
    finally:
        ground.remove(made)


@probe(
    "Recovery", "where recovery names no database, a role and a database `app` are made in the copy", needs="archive"
)
def an_unnamed_database_leaves_a_stray_app(ground: ProbeEnvironment) -> str:
    ground.sql("DROP DATABASE IF EXISTS app")
    lsn = _archived(ground)
    name = ground.name("app")
    wanted = ground.recovering(name, "source", server_name=_name(ground), recoveryTarget={"targetLSN": lsn})
    made = ground.make(wanted)
    try:
        ground.healthy(made)
        if ground.sql("SELECT count(*) FROM pg_database WHERE datname = 'app'", cluster=name) != "1":
            raise Differs("there is no database app in the copy")
        if ground.kube.get(k8s.SECRET, ground.namespace, f"{name}-app") is None:
            raise Differs(f"there is no Secret {name}-app")
        return f"database app and Secret {name}-app were made"
    finally:
        ground.sql("CREATE DATABASE app OWNER app")
        ground.remove(made)


@probe(
    "Recovery",
    "recovery.secret keeps the owner's password: with it the copy takes the password that the Secret has",
    needs="archive",
)
def the_secret_sets_the_owners_password(ground: ProbeEnvironment) -> str:
    lsn = _archived(ground)
    name = ground.name("pw")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": ground.metadata(f"{name}-owner"),
        "stringData": {"username": "app", "password": f"chosen-{ground.suffix}"},
    }
    ground.make(secret)
    wanted = ground.recovering(
        name,
        "source",
        server_name=_name(ground),
        database="app",
        owner="app",
        secret={"name": f"{name}-owner"},
        recoveryTarget={"targetLSN": lsn},
    )
    made = ground.make(wanted)
    try:
        found = ground.healthy(made)
        forward, database = ground.session("app", str(found["status"]["currentPrimary"]), f"{name}-owner")
        database.close()
        forward.__exit__(None, None, None)
        return "the owner logs in with the Secret's password"
    finally:
        ground.remove(made)


@probe(
    "Recovery",
    "without serverName the plugin looks in the folder of the new Cluster's own name, and finds nothing",
    needs="archive",
)
def the_sources_server_name_must_be_given(ground: ProbeEnvironment) -> str:
    _archived(ground)
    return _failure(ground, ground.recovering(ground.name("sn"), _name(ground)), "no target backup found")


@probe("Recovery", "an unknown backupID ends with `no backup found with ID …`", needs="archive")
def unknown_backup_ids_fail(ground: ProbeEnvironment) -> str:
    _archived(ground)
    target = {"backupID": "20010101T000000", "targetImmediate": True}
    wanted = ground.recovering(ground.name("id"), "source", server_name=_name(ground), recoveryTarget=target)
    return _failure(ground, wanted, "no backup found with ID 20010101T000000")


@probe("Recovery", "a time before the first backup's end ends with `no target backup found`", needs="archive")
def times_before_the_first_backup_fail(ground: ProbeEnvironment) -> str:
    _archived(ground)
    target = {"targetTime": "2001-01-01T00:00:00Z"}
    wanted = ground.recovering(ground.name("early"), "source", server_name=_name(ground), recoveryTarget=target)
    return _failure(ground, wanted, "no target backup found")


@probe(
    "Recovery",
    "a time after the newest archived commit ends with `recovery ended before configured recovery target was reached`",
    needs="archive",
)
def times_after_the_newest_commit_fail(ground: ProbeEnvironment) -> str:
    _archived(ground)
    target = {"targetTime": "2199-01-01T00:00:00Z"}
    wanted = ground.recovering(ground.name("late"), "source", server_name=_name(ground), recoveryTarget=target)
    return _failure(ground, wanted, "recovery ended before configured recovery target was reached")


@probe(
    "Recovery",
    "a recovered Cluster that would archive into a used folder is refused before the restore: `Expected empty archive`",
    needs="archive",
)
def used_archives_are_refused(ground: ProbeEnvironment) -> str:
    _archived(ground)
    wanted = ground.recovering(ground.name("used"), "source", server_name=_name(ground))
    wanted["spec"]["plugins"] = ground.archived_by(_name(ground))
    return _failure(ground, wanted, "Expected empty archive")


@probe(
    "Recovery",
    "without a target a recovery promotes at the end of what it can fetch, and says it is healthy",
    needs="archive",
)
def no_target_promotes_where_the_archive_ends(ground: ProbeEnvironment) -> str:
    _archived(ground)
    ground.sql("CREATE TABLE IF NOT EXISTS probe_unarchived (word text)")
    name = ground.name("nt")
    made = ground.make(ground.recovering(name, "source", server_name=_name(ground)))
    try:
        ground.healthy(made)
        there = ground.sql("SELECT to_regclass('probe_unarchived') IS NOT NULL", cluster=name)
        return f"healthy; what was not archived yet is {'there' if there == 't' else 'missing, and nothing says so'}"
    finally:
        ground.remove(made)
