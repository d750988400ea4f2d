"""Facts about what the API accepts: judged by server-side dry runs, so nothing is made but a Backup that never runs."""

from __future__ import annotations

from typing import Any

from drillbook import kube as k8s
from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.conformance.environment import ProbeEnvironment
from drillbook.conformance.probe import CantAsk, Differs, probe
from drillbook.errors import KubernetesError, RunInProgress

_TARGETS = {
    "targetTime": "2026-01-01T00:00:00Z",
    "targetLSN": "0/3000000",
    "targetName": "before",
    "targetXID": "1000",
    "targetImmediate": True,
}


def _recovery(ground: ProbeEnvironment, **target: Any) -> dict[str, Any]:
    return ground.recovering(ground.name("t"), "source", server_name="source", store="any-store", recoveryTarget=target)


def _parameters(ground: ProbeEnvironment, **parameters: str) -> dict[str, Any]:
    return ground.cluster_object(ground.name("p"), postgresql={"parameters": parameters})


def _named(words: str, said: str) -> str:
    """The refusal, if it names what it is about."""
    if words.lower() not in said.lower():
        raise Differs(f"refused, but without naming {words}: {said}")
    return f"refused: {said}"


@probe("API", "Cluster, Backup, ScheduledBackup, Pooler and ObjectStore are served at the versions that we send")
def kinds_are_served(ground: ProbeEnvironment) -> str:
    kinds = (k8s.CLUSTER, k8s.BACKUP, k8s.SCHEDULED_BACKUP, k8s.POOLER, k8s.OBJECT_STORE)
    missing = []
    for kind in kinds:
        try:
            ground.kube.list(kind, ground.namespace)
        except KubernetesError as error:
            if error.status != 404:
                raise
            missing.append(f"{kind.kind} ({kind.api_version})")
    if missing:
        raise Differs(f"not served: {', '.join(missing)}")
    return ", ".join(f"{kind.kind} {kind.api_version}" for kind in kinds)


@probe(
    "API", "who asks is answered by the server itself (SelfSubjectReview), and what it may do (SelfSubjectAccessReview)"
)
def the_server_says_who_we_are(ground: ProbeEnvironment) -> str:
    actor = ground.kube.whoami()
    if not actor.username:
        raise Differs("the server names no user")
    allowed = ground.kube.can_i("create", k8s.CLUSTER, namespace=ground.namespace)
    return f"{actor.username}; may{'' if allowed else ' not'} create clusters here"


@probe("API", "a dry run is judged in full and stores nothing")
def a_dry_run_stores_nothing(ground: ProbeEnvironment) -> str:
    name = ground.name("dry")
    stored = ground.accepted(ground.cluster_object(name))
    if ground.kube.get(k8s.CLUSTER, ground.namespace, name) is not None:
        raise Differs("the Cluster of a dry run is there")
    return f"judged with uid {'set' if stored['metadata'].get('uid') else 'unset'}, not stored"


@probe("API", "a field that does not exist is refused by name when fields are validated strictly")
def unknown_fields_are_refused(ground: ProbeEnvironment) -> str:
    return _named("recovery", ground.refusal(ground.cluster_object(ground.name("u"), recovery={"source": "x"})))


@probe("API", "an object's name can't be changed")
def names_can_not_be_changed(ground: ProbeEnvironment) -> str:
    made = ground.make(_config_map(ground, "name"))
    return f"refused: {ground.refusal_of_patch(made, {'metadata': {'name': ground.name('other')}})}"


@probe("API", "an update with an old resourceVersion is refused with 409")
def stale_updates_conflict(ground: ProbeEnvironment) -> str:
    made = ground.make(_config_map(ground, "stale"))
    name, old = made["metadata"]["name"], made["metadata"]["resourceVersion"]
    ground.kube.patch(k8s.CONFIG_MAP, ground.namespace, name, {"data": {"a": "2"}})
    swap = {"metadata": {"resourceVersion": old}, "data": {"a": "3"}}
    try:
        ground.kube.patch(k8s.CONFIG_MAP, ground.namespace, name, swap)
    except KubernetesError as error:
        if error.status == 409:
            return "409"
        raise
    raise Differs("the older version won")


@probe("API", "what an owner owns is collected after the owner's deletion")
def owned_objects_are_collected(ground: ProbeEnvironment) -> str:
    owner = ground.make(_config_map(ground, "owner"))
    child = _config_map(ground, "child")
    child["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    ]
    child = ground.make(child)
    ground.remove(owner)
    name = child["metadata"]["name"]
    ground.until(
        "the owned object's removal",
        lambda: ground.kube.get(k8s.CONFIG_MAP, ground.namespace, name) is None,
        seconds=60,
    )
    return "gone"


@probe("API", "a deletion with a UID spares another object of the same name")
def deletion_respects_the_uid(ground: ProbeEnvironment) -> str:
    made = ground.make(_config_map(ground, "uid"))
    other = "00000000-0000-4000-8000-000000000000"
    try:
        ground.kube.delete(k8s.CONFIG_MAP, ground.namespace, made["metadata"]["name"], uid=other)
    except KubernetesError as error:
        if error.status == 409:
            ground.now(made)
            return "409, and the object stands"
        raise
    raise Differs("it was deleted")


@probe("API", "a Cluster's stored spec holds more than was sent: defaults are written into it")
def defaults_are_written_into_the_spec(ground: ProbeEnvironment) -> str:
    spec = ground.accepted(ground.cluster_object(ground.name("d")))["spec"]
    added = sorted(set(spec) - {"instances", "storage", "imageName"})
    if not (spec.get("bootstrap") or {}).get("initdb"):
        raise Differs(f"bootstrap.initdb is not among what was added: {', '.join(added) or 'nothing'}")
    initdb = spec["bootstrap"]["initdb"]
    if (initdb.get("database"), initdb.get("owner")) != ("app", "app"):
        raise Differs(f"database and owner are {initdb.get('database')}, {initdb.get('owner')}")
    return f"added: {', '.join(added)}; database app, owner app"


@probe("Targets", "a recovery has at most one of targetTime, targetLSN, targetName, targetXID and targetImmediate")
def one_target_only(ground: ProbeEnvironment) -> str:
    return f"refused: {ground.refusal(_recovery(ground, targetTime=_TARGETS['targetTime'], targetLSN='0/3000000'))}"


@probe("Targets", "targetImmediate: false counts as a target that is set")
def target_immediate_false_counts(ground: ProbeEnvironment) -> str:
    return f"refused: {ground.refusal(_recovery(ground, targetTime=_TARGETS['targetTime'], targetImmediate=False))}"


@probe("Targets", "targetName, targetXID and targetImmediate need a backupID; targetTime and targetLSN don't")
def some_targets_need_a_backup_id(ground: ProbeEnvironment) -> str:
    for name in ("targetName", "targetXID", "targetImmediate"):
        ground.refusal(_recovery(ground, **{name: _TARGETS[name]}))
        ground.accepted(_recovery(ground, **{name: _TARGETS[name], "backupID": "20260101T000000"}))
    for name in ("targetTime", "targetLSN"):
        ground.accepted(_recovery(ground, **{name: _TARGETS[name]}))
    return "three are refused without it and accepted with it, two are accepted without it"


@probe("Targets", "a target is inclusive; `exclusive` exists, `inclusive` does not")
def exclusive_is_the_field(ground: ProbeEnvironment) -> str:
    ground.accepted(_recovery(ground, targetLSN="0/3000000", exclusive=True))
    return _named("inclusive", ground.refusal(_recovery(ground, targetLSN="0/3000000", inclusive=True)))


@probe(
    "Targets", "targetTime is accepted as RFC 3339 and in PostgreSQL's form, with fraction and zone; not as any text"
)
def target_time_forms(ground: ProbeEnvironment) -> str:
    forms = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2026-01-01 00:00:00.5+00", "2026-01-01T00:00:00")
    for form in forms:
        ground.accepted(_recovery(ground, targetTime=form))
    return f"{len(forms)} forms accepted; yesterday {ground.refusal(_recovery(ground, targetTime='yesterday'))}"


@probe("Targets", "targetTLI is `latest` or a number; `current` is refused")
def target_timeline_forms(ground: ProbeEnvironment) -> str:
    for value in ("latest", "2"):
        ground.accepted(_recovery(ground, targetLSN="0/3000000", targetTLI=value))
    return f"refused: {ground.refusal(_recovery(ground, targetLSN='0/3000000', targetTLI='current'))}"


@probe("Targets", "targetLSN is X/Y in hexadecimal")
def target_lsn_form(ground: ProbeEnvironment) -> str:
    return f"refused: {ground.refusal(_recovery(ground, targetLSN='12345'))}"


@probe("Admission", "a Cluster bootstraps in one way only")
def one_bootstrap_only(ground: ProbeEnvironment) -> str:
    wanted = _recovery(ground, targetLSN="0/3000000")
    wanted["spec"]["bootstrap"]["initdb"] = {"database": "app", "owner": "app"}
    return f"refused: {ground.refusal(wanted)}"


@probe("Admission", "a recovery source that externalClusters does not have is refused")
def the_recovery_source_must_exist(ground: ProbeEnvironment) -> str:
    wanted = _recovery(ground, targetLSN="0/3000000")
    wanted["spec"]["bootstrap"]["recovery"]["source"] = "nobody"
    return _named("nobody", ground.refusal(wanted))


@probe("Admission", "a Cluster's name has at most 50 characters")
def cluster_names_are_short(ground: ProbeEnvironment) -> str:
    ground.accepted(ground.cluster_object("a" * 50))
    return f"refused: {ground.refusal(ground.cluster_object('a' * 51))}"


@probe(
    "Admission",
    "archive_command, restore_command and recovery_target… can't be given as parameters; archive_mode is overwritten with on; archive_timeout can be given",
)
def some_parameters_are_refused(ground: ProbeEnvironment) -> str:
    ground.accepted(_parameters(ground, archive_timeout="1min"))
    stored = ground.accepted(_parameters(ground, archive_mode="off"))["spec"]["postgresql"]["parameters"][
        "archive_mode"
    ]
    if stored != "on":
        raise Differs(f"archive_mode off is stored as {stored}")
    names, said = ("archive_command", "restore_command", "recovery_target_time"), ""
    for name in names:
        try:
            said = _named(name, ground.refusal(_parameters(ground, **{name: "other"})))
        except Differs as how:
            raise Differs(f"{name}: {how}") from how
    return f"{len(names)} {said}"


@probe("Admission", "an ObjectStore with a serverName is refused by its own rule: the Cluster's plugin entry has it")
def object_stores_have_no_server_name(ground: ProbeEnvironment) -> str:
    configuration = {
        "destinationPath": "s3://bucket/path",
        "serverName": "x",
        "s3Credentials": {"inheritFromIAMRole": True},
    }
    wanted = {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": ground.metadata(ground.name("o")),
        "spec": {"configuration": configuration},
    }
    return _named("serverName", ground.refusal(wanted))


@probe("Admission", "two enabled WAL archivers are refused, and so is one next to spec.backup.barmanObjectStore")
def one_archiver_only(ground: ProbeEnvironment) -> str:
    entry = {"name": BARMAN_PLUGIN, "isWALArchiver": True, "parameters": {"barmanObjectName": "any-store"}}
    two = ground.cluster_object(ground.name("w"), plugins=[entry, entry | {"name": "other.example.org"}])
    ground.refusal(two)
    in_tree = {"destinationPath": "s3://bucket/path", "s3Credentials": {"inheritFromIAMRole": True}}
    both = ground.cluster_object(ground.name("w"), plugins=[entry], backup={"barmanObjectStore": in_tree})
    return f"both refused, the second: {ground.refusal(both)}"


@probe("Admission", "a retention policy is a number and d, w or m")
def retention_has_a_form(ground: ProbeEnvironment) -> str:
    def store(policy: str) -> dict[str, Any]:
        configuration = {"destinationPath": "s3://bucket/path", "s3Credentials": {"inheritFromIAMRole": True}}
        return {
            "apiVersion": "barmancloud.cnpg.io/v1",
            "kind": "ObjectStore",
            "metadata": ground.metadata(ground.name("r")),
            "spec": {"configuration": configuration, "retentionPolicy": policy},
        }

    ground.accepted(store("30d"))
    return f"refused: {ground.refusal(store('30 days'))}"


@probe("Schedules", "a schedule with five fields is accepted (its first field then means seconds)")
def five_fields_are_accepted(ground: ProbeEnvironment) -> str:
    def scheduled(schedule: str) -> dict[str, Any]:
        spec = {
            "schedule": schedule,
            "cluster": {"name": "nobody"},
            "method": "plugin",
            "pluginConfiguration": {"name": BARMAN_PLUGIN},
        }
        return {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "ScheduledBackup",
            "metadata": ground.metadata(ground.name("s")),
            "spec": spec,
        }

    ground.accepted(scheduled("0 0 2 * * *"))
    ground.accepted(scheduled("0 2 * * *"))
    return f"six and five fields accepted; four: {ground.refusal(scheduled('0 2 * *'))}"


@probe("Backups", "a Backup's spec can't be changed once it is made")
def backup_specs_are_immutable(ground: ProbeEnvironment) -> str:
    made = ground.make(ground.backup_object(ground.name("i"), "nobody"))
    try:
        return f"refused: {ground.refusal_of_patch(made, {'spec': {'target': 'primary'}})}"
    finally:
        ground.remove(made)


@probe("Backups", "a Backup of a Cluster that is not there waits; it does not fail")
def backups_wait_for_their_cluster(ground: ProbeEnvironment) -> str:
    made = ground.make(ground.backup_object(ground.name("n"), "nobody"))
    try:
        seen: set[str] = set()

        def settled() -> bool:
            seen.add(str((ground.now(made).get("status") or {}).get("phase", "")))
            return "pending" in seen

        try:
            ground.until("phase pending", settled, seconds=30)
        except Differs:
            if seen != {""}:
                raise
        if seen - {"", "pending"}:
            raise Differs(f"its phases were {', '.join(sorted(seen))}")
        return f"phases seen: {', '.join(sorted(phase or '(empty)' for phase in seen))}"
    finally:
        ground.remove(made)


@probe("API", "a status sent to the main endpoint is ignored: it is its own subresource")
def status_is_a_subresource(ground: ProbeEnvironment) -> str:
    made = ground.make(ground.backup_object(ground.name("st"), "nobody"))
    try:
        merge = {"status": {"phase": "completed"}}
        changed = ground.kube.patch(k8s.BACKUP, ground.namespace, made["metadata"]["name"], merge)
        if (changed.get("status") or {}).get("phase") == "completed":
            raise Differs("the phase was taken")
        return "ignored"
    finally:
        ground.remove(made)


@probe("API", "a Lease can be taken by one holder only")
def leases_exclude(ground: ProbeEnvironment) -> str:
    name = ground.name("l")
    if not ground.kube.can_i("create", k8s.LEASE, namespace=ground.namespace):
        raise CantAsk("no right to create leases in this namespace")
    try:
        with ground.kube.lease(ground.namespace, name, "first", ttl_seconds=30):
            try:
                ground.kube.lease(ground.namespace, name, "second", ttl_seconds=30).release()
            except RunInProgress as refused:
                return f"refused: {refused}"
        raise Differs("two holders at once")
    finally:
        lease = ground.kube.get(k8s.LEASE, ground.namespace, name)
        if lease is not None:
            ground.remove(lease)


def _config_map(ground: ProbeEnvironment, what: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": ground.metadata(ground.name(what)),
        "data": {"a": "1"},
    }
