"""Facts about a Cluster's life: what it is made of, what it says of itself, and what goes with it."""

from __future__ import annotations

from typing import Any

from drillbook import kube as k8s
from drillbook.conformance.environment import HEALTHY, ProbeEnvironment
from drillbook.conformance.probe import CantAsk, Differs, probe
from drillbook.errors import KubernetesError
from drillbook.postgres.client import SQL, by_parameters_only

_APP_KEYS = {"username", "user", "password", "dbname", "host", "port", "pgpass", "uri", "jdbc-uri"}
_CHECKPOINT = "SELECT timeline_id, system_identifier FROM pg_control_checkpoint(), pg_control_system()"


def _name(ground: ProbeEnvironment) -> str:
    return str(ground.cluster["metadata"]["name"])


def _status(ground: ProbeEnvironment) -> dict[str, Any]:
    return dict(ground.now(ground.cluster).get("status") or {})


def _conditions(obj: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in (obj.get("status") or {}).get("conditions") or ()}


def _secret_keys(ground: ProbeEnvironment, name: str) -> set[str]:
    found = ground.kube.get(k8s.SECRET, ground.namespace, name)
    if found is None:
        raise Differs(f"there is no Secret {name}")
    return set(found.get("data") or {})


@probe(
    "Clusters",
    "a Cluster that is ready says so as phase `Cluster in healthy state` and condition Ready",
    needs="cluster",
)
def healthy_is_a_phase_and_a_condition(ground: ProbeEnvironment) -> str:
    ready = _conditions(ground.now(ground.cluster)).get("Ready") or {}
    if ready.get("status") != "True":
        raise Differs(f"the phase is {HEALTHY!r}, Ready is {ready.get('status', 'absent')}")
    return f"{HEALTHY}; Ready True ({ready.get('reason')})"


@probe(
    "Clusters",
    "the status names the primary, the timeline and the system identifier that PostgreSQL has",
    needs="cluster",
)
def the_status_tells_what_postgres_is(ground: ProbeEnvironment) -> str:
    status = _status(ground)
    timeline, system = ground.sql(_CHECKPOINT).split("|")
    told = (str(status.get("timelineID")), str(status.get("systemID")))
    if told != (timeline, system):
        raise Differs(f"status: timeline {told[0]}, system {told[1]}; PostgreSQL: {timeline}, {system}")
    return f"primary {status.get('currentPrimary')}, timeline {timeline}, system {system}"


@probe("Clusters", "the application's Secret is <cluster>-app with user, password and addresses", needs="cluster")
def the_app_secret_has_its_keys(ground: ProbeEnvironment) -> str:
    missing = _APP_KEYS - _secret_keys(ground, f"{_name(ground)}-app")
    if missing:
        raise Differs(f"without {', '.join(sorted(missing))}")
    entries = ground.kube.secret(ground.namespace, f"{_name(ground)}-app")
    if entries["host"].partition(".")[0] != f"{_name(ground)}-rw":
        raise Differs(f"its host is {entries['host']}")
    return f"user {entries['username']}, database {entries['dbname']}, host {entries['host']}"


@probe(
    "Clusters",
    "with enableSuperuserAccess there is <cluster>-superuser for user postgres, with dbname `*`",
    needs="cluster",
)
def the_superuser_secret_is_made(ground: ProbeEnvironment) -> str:
    entries = ground.kube.secret(ground.namespace, f"{_name(ground)}-superuser")
    if (entries.get("username"), entries.get("dbname")) != ("postgres", "*"):
        raise Differs(f"user {entries.get('username')}, dbname {entries.get('dbname')}")
    return "user postgres, dbname *"


@probe("Clusters", "the Services are <cluster>-rw, -ro and -r; -rw selects the primary by label", needs="cluster")
def services_select_by_role(ground: ProbeEnvironment) -> str:
    selectors = {}
    for ending in ("rw", "ro", "r"):
        found = ground.kube.get(k8s.SERVICE, ground.namespace, f"{_name(ground)}-{ending}")
        if found is None:
            raise Differs(f"there is no Service {_name(ground)}-{ending}")
        selectors[ending] = found["spec"].get("selector") or {}
    if selectors["rw"].get("cnpg.io/instanceRole") != "primary":
        raise Differs(f"-rw selects {selectors['rw']}")
    return f"-rw selects {selectors['rw']}"


@probe("Clusters", "the primary's pod is <cluster>-N and labelled with its cluster, instance and role", needs="cluster")
def pods_are_labelled(ground: ProbeEnvironment) -> str:
    pod = ground.kube.get(k8s.POD, ground.namespace, str(_status(ground).get("currentPrimary")))
    if pod is None:
        raise Differs("currentPrimary names no pod")
    labels = pod["metadata"]["labels"]
    wanted = {
        "cnpg.io/cluster": _name(ground),
        "cnpg.io/instanceName": pod["metadata"]["name"],
        "cnpg.io/podRole": "instance",
        "cnpg.io/instanceRole": "primary",
    }
    wrong = {key: labels.get(key) for key, value in wanted.items() if labels.get(key) != value}
    if wrong:
        raise Differs(f"labels: {wrong}")
    if "postgres" not in [one["name"] for one in pod["spec"]["containers"]]:
        raise Differs("no container is named postgres")
    return f"{pod['metadata']['name']}, container postgres"


@probe("Clusters", "the data volume's claim has the pod's name and the Cluster as its owner", needs="cluster")
def claims_are_owned(ground: ProbeEnvironment) -> str:
    name = f"{_name(ground)}-1"
    claim = ground.kube.get(k8s.PVC, ground.namespace, name)
    if claim is None:
        raise Differs(f"there is no claim {name}")
    owners = [one["uid"] for one in claim["metadata"].get("ownerReferences") or ()]
    if ground.cluster["metadata"]["uid"] not in owners:
        raise Differs("the Cluster does not own it")
    annotations = claim["metadata"].get("annotations") or {}
    if "cnpg.io/nodeSerial" not in annotations:
        raise Differs(f"no annotation cnpg.io/nodeSerial; it has {', '.join(sorted(annotations)) or 'none'}")
    return f"{name}, serial {annotations['cnpg.io/nodeSerial']}"


@probe("Clusters", "exec in container postgres is the database's superuser by peer, and PGDATA is set", needs="cluster")
def exec_is_superuser(ground: ProbeEnvironment) -> str:
    seen = ground.sql("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
    if seen != "postgres|t":
        raise Differs(f"it is {seen}")
    pod = str(_status(ground).get("currentPrimary"))
    variable = ground.kube.exec(ground.namespace, pod, "postgres", ["printenv", "PGDATA"], timeout_seconds=30)
    actual = ground.sql("SHOW data_directory")
    if variable.text.strip() != actual:
        raise Differs(f"PGDATA is {variable.text.strip() or 'not set'}, the server's directory {actual}")
    return f"postgres; PGDATA {actual}"


@probe("Clusters", "a command's exit code and both its outputs come back from exec", needs="cluster")
def exec_returns_the_exit_code(ground: ProbeEnvironment) -> str:
    pod = str(_status(ground).get("currentPrimary"))
    argv = by_parameters_only(["psql", "-X", "-v", "ON_ERROR_STOP=1", "-Atc", "SELECT no_such_column"])
    answer = ground.kube.exec(ground.namespace, pod, "postgres", argv, timeout_seconds=30)
    if answer.exit_code != 1 or "no_such_column" not in answer.error_text:
        raise Differs(f"exit code {answer.exit_code}, stderr {answer.error_text.strip()[:120]!r}")
    fed = ground.kube.exec(ground.namespace, pod, "postgres", ["cat"], stdin=b"fed\n", timeout_seconds=30)
    if fed.text != "fed\n":
        raise Differs(f"standard input came back as {fed.text[:40]!r}")
    return "1 with the message on stderr; standard input is read to its end"


@probe(
    "Clusters", "a port-forward reaches PostgreSQL, where the application's user logs in with SCRAM", needs="cluster"
)
def port_forward_reaches_postgres(ground: ProbeEnvironment) -> str:
    name = _name(ground)
    forward, database = ground.session(name, str(_status(ground).get("currentPrimary")), f"{name}-app")
    try:
        row = database.ask(SQL("SELECT current_user AS who, current_database() AS db, version() AS v"))[0]
        hba = ground.sql("SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules WHERE type = 'host'")
    finally:
        database.close()
        forward.__exit__(None, None, None)
    if "scram-sha-256" not in hba:
        raise Differs(f"the methods of host rules are {hba}")
    return f"{row['who']} in {row['db']}"


@probe(
    "Clusters", "archive_mode is on, archive_timeout 5 min, wal_level logical, data checksums as asked", needs="cluster"
)
def fixed_settings(ground: ProbeEnvironment) -> str:
    names = "'archive_mode', 'archive_timeout', 'wal_level', 'wal_segment_size'"
    rows = ground.sql(f"SELECT name, setting FROM pg_settings WHERE name IN ({names}) ORDER BY 1")  # noqa: S608
    found = dict(row.split("|") for row in rows.splitlines())
    wrong = {
        key: found.get(key)
        for key, value in {"archive_mode": "on", "archive_timeout": "300", "wal_level": "logical"}.items()
        if found.get(key) != value
    }
    if wrong:
        raise Differs(f"{wrong}")
    return ", ".join(f"{key} {value}" for key, value in found.items())


@probe(
    "Clusters",
    "once a Cluster is healthy its finished bootstrap Jobs are deleted, and their logs with them",
    needs="cluster",
)
def finished_jobs_are_deleted(ground: ProbeEnvironment) -> str:
    name = _name(ground)

    def gone() -> bool:
        return not ground.kube.list(k8s.JOB, ground.namespace, labels=f"cnpg.io/cluster={name}")

    ground.until("the Jobs' removal", gone, seconds=120)
    return "none left"


@probe(
    "Clusters",
    "fencing stops PostgreSQL and keeps the pod, which is then not Ready; lifting it brings it back",
    needs="cluster",
)
def fencing_stops_postgres_only(ground: ProbeEnvironment) -> str:
    cluster, pod = ground.cluster, str(_status(ground).get("currentPrimary"))
    before = (ground.kube.get(k8s.POD, ground.namespace, pod) or {})["metadata"]["uid"]
    fence = {"metadata": {"annotations": {"cnpg.io/fencedInstances": f'["{pod}"]'}}}
    lift = {"metadata": {"annotations": {"cnpg.io/fencedInstances": None}}}
    name = cluster["metadata"]["name"]
    ground.kube.patch(k8s.CLUSTER, ground.namespace, name, fence)
    try:

        def fenced() -> bool:
            found = ground.kube.get(k8s.POD, ground.namespace, pod) or {}
            return (_conditions(found).get("Ready") or {}).get("status") == "False" and not _answers(ground, pod)

        ground.until("the pod not Ready and PostgreSQL stopped", fenced, seconds=180)
        after = ground.kube.get(k8s.POD, ground.namespace, pod)
        if after is None or after["metadata"]["uid"] != before:
            raise Differs("the pod was replaced")
        # The data directory can be read while the server is down: pg_checksums is run like this.
        control = ground.kube.exec(ground.namespace, pod, "postgres", ["pg_controldata"], timeout_seconds=60)
        if control.exit_code:
            raise Differs(f"pg_controldata in the fenced pod: {control.error_text.strip()[:120]}")
    finally:
        ground.kube.patch(k8s.CLUSTER, ground.namespace, name, lift)
    ground.until("PostgreSQL back", lambda: _answers(ground, pod), seconds=300)
    ground.healthy(cluster)
    return "stopped, same pod, commands still run in it; back after lifting"


@probe("Clusters", "a ready claim that is shrunk in the spec is refused", needs="cluster")
def storage_can_not_shrink(ground: ProbeEnvironment) -> str:
    smaller = {"spec": {"storage": {"size": "1Mi"}}}
    return f"refused: {ground.refusal_of_patch(ground.cluster, smaller)}"


@probe("Clusters", "ContinuousArchiving is True also where nothing is archived at all", needs="cluster")
def archiving_is_true_without_an_archive(ground: ProbeEnvironment) -> str:
    made = ground.healthy(ground.make(ground.cluster_object(ground.name("none"))))
    try:
        name = made["metadata"]["name"]
        ground.sql("SELECT pg_switch_wal()", cluster=name)
        ground.sql("SELECT txid_current()", cluster=name)
        ground.sql("SELECT pg_switch_wal()", cluster=name)
        found = ground.wait(
            made, lambda one: "ContinuousArchiving" in _conditions(one), "condition ContinuousArchiving", seconds=120
        )
        condition = _conditions(found)["ContinuousArchiving"]
        if condition["status"] != "True":
            raise Differs(f"{condition['status']}: {condition.get('message')}")
        return f"True: {condition.get('message')}"
    finally:
        ground.remove(made)


@probe("Clusters", "with a Cluster go its pods, its claims and the Secrets that the operator made", needs="cluster")
def deletion_takes_the_volumes(ground: ProbeEnvironment) -> str:
    made = ground.healthy(ground.make(ground.cluster_object(ground.name("gone"))))
    name = made["metadata"]["name"]
    ground.remove(made)
    label = f"cnpg.io/cluster={name}"

    def left() -> list[str]:
        found = []
        for kind in (k8s.POD, k8s.PVC, k8s.JOB):
            found += [
                f"{kind.kind} {one['metadata']['name']}" for one in ground.kube.list(kind, ground.namespace, label)
            ]
        if ground.kube.get(k8s.SECRET, ground.namespace, f"{name}-app") is not None:
            found.append(f"Secret {name}-app")
        return found

    ground.until("nothing of it left", lambda: not left(), seconds=300)
    return "pods, claims, Jobs and Secrets are gone"


@probe(
    "Clusters",
    "a plugin that is not installed stops a Cluster before any Job, with a phase that says so",
    needs="cluster",
)
def unknown_plugins_stop_a_cluster(ground: ProbeEnvironment) -> str:
    wanted = ground.cluster_object(ground.name("plug"), plugins=[{"name": "nobody.example.org"}])
    made = ground.make(wanted)
    try:
        phase = "Cluster cannot proceed to reconciliation due to an unknown plugin being required"
        ground.wait(made, lambda one: (one.get("status") or {}).get("phase") == phase, f"phase {phase!r}", seconds=60)
        _no_job(ground, made)
        return phase
    finally:
        ground.remove(made)


@probe("Clusters", "a Service of a Cluster's that somebody else owns stops its reconciliation", needs="cluster")
def foreign_services_stop_a_cluster(ground: ProbeEnvironment) -> str:
    name = ground.name("svc")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": ground.metadata(f"{name}-rw"),
        "spec": {"ports": [{"port": 5432}], "selector": {"app": "nobody"}},
    }
    ground.make(service)
    made = ground.make(ground.cluster_object(name))
    try:
        found = ground.wait(
            made, lambda one: bool((one.get("status") or {}).get("phase")), "a phase that says so", seconds=60
        )
        status = found["status"]
        if status["phase"] != "Unable to create required cluster objects":
            raise Differs(f"phase {status['phase']!r}: {status.get('phaseReason', '')}")
        return f"{status['phase']}: {status.get('phaseReason', '')}"
    finally:
        ground.remove(made)


def _answers(ground: ProbeEnvironment, pod: str) -> bool:
    try:
        argv = by_parameters_only(["psql", "-X", "-Atc", "SELECT 1"])
        answer = ground.kube.exec(ground.namespace, pod, "postgres", argv, timeout_seconds=30)
    except KubernetesError as error:
        if error.status == 403:
            raise CantAsk(error.what) from error
        return False
    return answer.exit_code == 0


def _no_job(ground: ProbeEnvironment, cluster: dict[str, Any]) -> None:
    found = ground.kube.list(k8s.JOB, ground.namespace, labels=f"cnpg.io/cluster={cluster['metadata']['name']}")
    if found:
        raise Differs(f"there is a Job {found[0]['metadata']['name']}")
