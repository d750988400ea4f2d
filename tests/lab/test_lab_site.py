"""The site that `lab up` builds: what is there is real, and a drill's account may do little with it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from fix_lab import BARMAN, BATCH, CNPG, CORE, RunningLab, condition, until

from drillbook_lab.api.shipped import served_crds


def test_the_source_is_healthy_and_archives(lab: RunningLab) -> None:
    source = lab.source()
    assert source["status"]["phase"] == "Cluster in healthy state"
    assert source["status"]["currentPrimary"] == "shared-postgres-1"
    assert {condition(source, kind) for kind in ("Ready", "Initialized", "ContinuousArchiving")} == {"True"}
    assert source["status"]["timelineID"] == 1
    assert source["status"]["systemID"].isdigit()


def test_the_first_backup_is_complete_and_its_window_is_known(lab: RunningLab) -> None:
    (backup,) = lab.get(f"{CNPG}/cnpg-system/backups")["items"][:1]
    status = backup["status"]
    assert status["phase"] == "completed"
    assert status["beginWal"] <= status["endWal"]
    assert status["pluginMetadata"]["timeline"] == "1"
    assert "destinationPath" not in status  # a plugin's backup doesn't say
    store = lab.get(f"{BARMAN}/cnpg-system/objectstores/shared-postgres-store")
    window = store["status"]["serverRecoveryWindow"]["shared-postgres"]
    assert window["firstRecoverabilityPoint"] == status["stoppedAt"]


def test_the_lab_serves_the_definitions_that_the_environment_names(lab: RunningLab) -> None:
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for wanted in served_crds():
        found = lab.get(f"{definitions}/{wanted['metadata']['name']}")
        assert found["spec"]["versions"] == wanted["spec"]["versions"]


def test_completed_jobs_and_their_logs_are_gone(lab: RunningLab) -> None:
    assert lab.get(f"{BATCH}/cnpg-system/jobs")["items"] == []


def test_the_objects_of_a_cluster_have_cnpgs_names(lab: RunningLab) -> None:
    namespace = f"{CORE}/cnpg-system"
    for name in ("shared-postgres-rw", "shared-postgres-ro", "shared-postgres-r"):
        assert lab.get(f"{namespace}/services/{name}")["spec"]["ports"][0]["port"] == 5432
    claim = lab.get(f"{namespace}/persistentvolumeclaims/shared-postgres-1")
    assert claim["metadata"]["annotations"]["cnpg.io/pvcStatus"] == "ready"
    assert claim["metadata"]["labels"]["cnpg.io/pvcRole"] == "PG_DATA"
    pod = lab.get(f"{namespace}/pods/shared-postgres-1")
    assert pod["metadata"]["labels"]["cnpg.io/instanceRole"] == "primary"
    assert {"shared-postgres-ca", "shared-postgres-server", "shared-postgres-replication"} <= {
        secret["metadata"]["name"] for secret in lab.get(f"{namespace}/secrets")["items"]
    }
    # The site brings its own application secret, so none is generated.
    assert lab.find(f"{namespace}/secrets/shared-postgres-app") is None


@pytest.mark.parametrize(
    ("database", "owner", "table"),
    [
        ("synergyflow", "synergyflow_app", "synergyflow_incidents.incidents"),
        ("gitlab", "gitlab_app", "gitlab.issues"),
        ("harbor", "harbor_app", "harbor.artifact"),
    ],
)
def test_every_tenant_can_log_in_and_has_rows(lab: RunningLab, database: str, owner: str, table: str) -> None:
    login = lab.secret("drillbook", f"app-login-{database}")
    assert login["username"] == owner
    ((rows,),) = lab.sql(owner, login["password"], database, f"SELECT count(*) FROM {table}")
    assert rows > 100


def test_the_drill_role_reads_tables_and_nothing_more(lab: RunningLab) -> None:
    assert lab.drill_sql("SELECT count(*) > 0 FROM synergyflow_incidents.incidents", "synergyflow") == [(True,)]
    with pytest.raises(psycopg.Error):
        lab.drill_sql("DELETE FROM synergyflow_incidents.worklogs", "synergyflow")
    assert lab.drill_sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    roles = lab.source()["status"]["managedRolesStatus"]
    assert {"drillbook", "gitlab_app", "harbor_app"} <= set(roles["byStatus"]["reconciled"])


def test_a_managed_roles_password_follows_its_secret_and_is_not_logged(lab: RunningLab) -> None:
    path = f"{CORE}/cnpg-system/secrets/drillbook-sql"
    password = lab.secret("cnpg-system", "drillbook-sql")["password"]
    lab.patch(path, {"stringData": {"password": "another-one"}})

    def works() -> bool:
        try:
            return bool(lab.sql("drillbook", "another-one", "drillbook", "SELECT true"))
        except psycopg.OperationalError:
            return False

    until(works)
    lab.patch(path, {"stringData": {"password": password}})
    until(lambda: _logs_in(lab))
    for file in (lab.home.log, *lab.home.path("pods").glob("*/logs/*.log")):
        assert "another-one" not in file.read_text(errors="replace")


def _logs_in(lab: RunningLab) -> bool:
    try:
        return bool(lab.drill_sql("SELECT true"))
    except psycopg.OperationalError:
        return False


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{CNPG}/cnpg-system/clusters/shared-postgres", 200),
        (f"{CNPG}/cnpg-system/backups", 200),
        (f"{CORE}/cnpg-system/secrets", 403),
        (f"{CORE}/cnpg-system/secrets/aws-backup-credentials", 403),
        (f"{CORE}/drillbook/secrets/drillbook-sql", 200),
        (f"{CORE}/kube-system", 200),
        (f"{CORE}/cnpg-system/pods/shared-postgres-1", 200),
        ("/apis/storage.k8s.io/v1/storageclasses", 200),
        (f"{CORE}/drillbook-drills/persistentvolumeclaims", 200),
    ],
)
def test_the_drills_account_is_bound_by_the_shipped_rbac(lab: RunningLab, path: str, code: int) -> None:
    assert lab.as_("lab").call("GET", path)[0] == code


def test_no_command_runs_in_the_sources_pod_for_the_drills_account(lab: RunningLab) -> None:
    path = f"{CORE}/cnpg-system/pods/shared-postgres-1/exec?command=id&stdout=true"
    assert lab.as_("lab").call("POST", path)[0] == 403


def test_every_request_is_in_the_audit_log(lab: RunningLab) -> None:
    lab.as_("lab").call("GET", f"{CORE}/cnpg-system/secrets")
    # Anyone else who lives in the lab asks, too: ours is among the last.
    lines = [json.loads(line) for line in lab.home.audit.read_text().splitlines()[-50:]]
    assert ("system:serviceaccount:drillbook:drillbook", "list", "secrets", 403) in [
        (line["user"], line["verb"], line["resource"], line["code"]) for line in lines
    ]


def test_writers_commit_in_every_tenant(lab: RunningLab) -> None:
    def commits() -> dict[str, int]:
        query = "SELECT datname, xact_commit FROM pg_stat_database WHERE datname IN ('synergyflow', 'gitlab', 'harbor')"
        return dict(lab.drill_sql(query))

    before = commits()
    until(lambda: all(now > before[name] for name, now in commits().items()))


def test_a_deleted_pods_processes_are_gone_before_its_object(lab: RunningLab) -> None:
    path = f"{CORE}/cnpg-system/pods/shared-postgres-1"
    pod = lab.get(path)
    uid = pod["metadata"]["uid"]
    (folder,) = lab.home.path("volumes").glob("cnpg-system_shared-postgres-1_*")
    postmaster = int((folder / "pgdata" / "postmaster.pid").read_text().split()[0])
    assert _is(postmaster, "postgres")
    lab.delete(path)
    until(lambda: (lab.find(path) or {}).get("metadata", {}).get("uid") != uid)
    assert not _is(postmaster, "postgres")
    # The operator recreates it: same volume, same address.
    until(lambda: condition(lab.find(path) or {}, "Ready") == "True" and condition(lab.source(), "Ready") == "True")
    assert lab.get(path)["status"]["podIP"] == pod["status"]["podIP"]
    until(lambda: _logs_in(lab))


def _is(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except OSError:
        return False
