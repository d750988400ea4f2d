"""Connection settings are changed by a canary; a worse one is taken back by itself, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, children, until
from test_check_connections import POOLER, limited, pooler

from drillbook import kube as k8s
from drillbook.manifests.canary import CANARY
from drillbook_lab.operator import pooler_config

NOTEBOOK = ROOT / "runbooks" / "change-connections.ipynb"
UNDO = NOTEBOOK.with_stem("undo-change-connections")
POOL = "SPRING_DATASOURCE_HIKARI_MAXIMUMPOOLSIZE"
TENANT, ROLE = "synergyflow", "synergyflow_app"
SECONDS = "5"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def rights(drill_lab: DrillLab) -> Iterator[None]:
    lab = drill_lab
    with lab.changing():
        yield
        for run in lab.folders(NOTEBOOK):
            if not (run / "SHA256SUMS").exists():  # a test that has failed leaves no run waiting for the next one
                lab.drillbook("abandon", run.name)


def deployment(lab: DrillLab) -> dict[str, Any]:
    app = lab.site.tenants[0].application
    assert app is not None
    found = lab.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment)
    assert found is not None
    return found


def as_declared(lab: DrillLab) -> str:
    """Everything that somebody declares around the application and its limits, and the names of its Deployments."""
    app = lab.site.tenants[0].application
    assert app is not None
    cluster = lab.admin.get(k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name) or {}
    poolers = lab.admin.list(k8s.POOLER, lab.site.cluster.namespace)
    deployments = lab.admin.list(k8s.DEPLOYMENT, app.namespace)
    limits = lab.sql("postgres", "select rolname, rolconnlimit from pg_roles where rolcanlogin order by 1")
    shown = [
        [item["metadata"]["name"], item["metadata"]["uid"], item["metadata"].get("labels"), item["spec"]]
        for item in [*deployments, *poolers, cluster]
    ]
    return json.dumps([shown, limits], sort_keys=True)


def canaries(lab: DrillLab) -> list[str]:
    app = lab.site.tenants[0].application
    assert app is not None
    kinds = (k8s.DEPLOYMENT, k8s.POD)
    return [item["metadata"]["name"] for kind in kinds for item in lab.admin.list(kind, app.namespace, labels=CANARY)]


def pool_of(lab: DrillLab) -> str:
    env = deployment(lab)["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(entry["value"] for entry in env if entry["name"] == POOL))


def undone(lab: DrillLab, run: Drill) -> Drill:
    return lab.go_on(lab.run(UNDO, of_run=run.folder.name, watched_seconds="2"))


def test_k15_a_smaller_pool_goes_by_one_pod_to_all_and_back_by_the_runs_id(drill_lab: DrillLab) -> None:
    lab = drill_lab
    with managed(lab):
        before = as_declared(lab)
        run = lab.run(NOTEBOOK, variables=f"{POOL}=12", role_limit="60", watched_seconds=SECONDS)
        assert (run.code, as_declared(lab)) == (3, before), run.said
        limit = lab.go_on(run)
        assert (limit.code, rolconnlimit(lab), canaries(lab)) == (3, "60", []), limit.said
        first = lab.go_on(limit)
        assert first.code == 3 and len(canaries(lab)) == 2 and pool_of(lab) == "20", first.said
        assert first.check("canary")["verdict"] == "VERIFIED"
        done = lab.go_on(first)
        assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
        assert (canaries(lab), pool_of(lab), rolconnlimit(lab)) == ([], "12", "60")
        assert lab.drillbook("verify", done.folder.name).returncode == 0
        back = undone(lab, done)
        assert (back.code, back.verdict) == (0, "VERIFIED"), back.said
        assert as_declared(lab) == before
    again = lab.drillbook("undo", done.folder.name)
    assert again.returncode == 4 and f"undone by run {back.folder.name}" in again.stdout + again.stderr


def confirmed(lab: DrillLab, **parameters: str) -> Drill:
    """A run after its first gate was passed."""
    return lab.go_on(lab.run(NOTEBOOK, **{"watched_seconds": SECONDS} | parameters))


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        pytest.param(f"{POOL}=1", "pool saturation", id="a pool of one"),
        pytest.param(f"{POOL}=12,APP_DELAY_MS=60", "latency", id="added latency", marks=pytest.mark.soak),
        pytest.param(
            f"{POOL}=12,APP_LEAKS_EVERY=50", "leaked connections", id="leaking connections", marks=pytest.mark.soak
        ),
        pytest.param(f"{POOL}=12,APP_API=nonsense", "restarts", id="never ready", marks=pytest.mark.soak),
    ],
)
def test_k15_a_worse_canary_is_removed_by_itself_and_nothing_is_left(
    drill_lab: DrillLab, worse: str, missed: str
) -> None:
    lab = drill_lab
    before, version = as_declared(lab), deployment(lab)["metadata"]["generation"]
    done = confirmed(lab, variables=worse, watched_seconds="20")  # a leak takes some seconds to be one
    assert (done.code, done.verdict) == (1, "FAILED"), done.said
    assert missed in done.headline, done.headline
    assert (as_declared(lab), canaries(lab)) == (before, [])
    assert deployment(lab)["metadata"]["generation"] == version, "the application's own Deployment was never touched"
    assert lab.drillbook("verify", done.folder.name).returncode == 0


@pytest.mark.soak
def test_k15_a_rolling_update_that_turns_bad_is_put_back_by_itself(drill_lab: DrillLab) -> None:
    lab = drill_lab
    before = as_declared(lab)
    first = confirmed(lab, variables=f"{POOL}=11")
    assert first.code == 3, first.said
    # What the canary could not know: somebody lowers the role's limit meanwhile, and no new pod gets a connection.
    with limited(lab, 3):
        done = lab.go_on(first)
    assert (done.code, done.verdict) == (1, "FAILED"), done.said
    assert "restarts" in done.headline, done.headline
    assert (as_declared(lab), canaries(lab)) == (before, [])


@contextmanager
def labelled(lab: DrillLab, label: str, value: str) -> Iterator[None]:
    """The application's Deployment with one label more, as another controller marks what it holds."""
    meta = deployment(lab)["metadata"]
    place = k8s.DEPLOYMENT, meta["namespace"], meta["name"]
    lab.admin.patch(*place, {"metadata": {"labels": {label: value}}})
    try:
        yield
    finally:
        lab.admin.patch(*place, {"metadata": {"labels": {label: None}}})


@pytest.mark.soak
def test_k15_what_does_not_fit_is_refused_with_every_fault_before_anything(drill_lab: DrillLab) -> None:
    lab = drill_lab
    before = as_declared(lab)
    run = lab.run(NOTEBOOK, variables=f"{POOL}=15", mode="plan")
    assert run.code == 4 and "binds" in run.said, run.said
    assert "rolling update of the application: 60 wanted, 50 served" in run.said
    with labelled(lab, "kustomize.toolkit.fluxcd.io/name", "apps"):
        every = lab.run(
            NOTEBOOK,
            variables=f"{POOL}=none,SPRING_DATASOURCE_URL=jdbc:x,word,API_TOKEN=x",
            role_limit="80",
            pooler_parameters="default_pool_size=5",
        )
    for fault in (
        "another controller would revert this change of Deployment synergyflow/synergyflow-backend: Flux apps",
        f"{POOL} wants a whole number above 0",
        "SPRING_DATASOURCE_URL is the address",
        "'word' is no NAME=VALUE",
        "API_TOKEN is or holds a secret",
        "role synergyflow_app is not managed by Cluster",
        "has no Pooler of type rw",
    ):
        assert fault in every.said, every.said
    assert (as_declared(lab), canaries(lab)) == (before, [])


def killed_while_it_watches(lab: DrillLab, run: Drill) -> None:
    """Confirm, wait until the canary is watched, and kill every process of the run."""
    argv = [sys.executable, "-m", "drillbook", "resume", run.folder.name, "--confirm", run.of("waiting")[-1]["phrase"]]
    process = subprocess.Popen(argv, cwd=ROOT, env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(canaries(lab)) == 2 or process.poll() is not None, "the canary is there")
    app = lab.site.tenants[0].application
    assert app is not None
    until(
        lambda: any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for pod in lab.admin.list(k8s.POD, app.namespace, labels=CANARY)
            for condition in (pod.get("status") or {}).get("conditions") or []
        ),
        "the canary is ready, and so it is watched",
    )
    assert process.poll() is None, "it ended before it was killed"
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["resumed", "abandoned"])
def test_k15_killed_in_the_middle_of_the_watch_it_goes_on_or_leaves_nothing(drill_lab: DrillLab, ending: str) -> None:
    lab = drill_lab
    before = as_declared(lab)
    run = lab.run(NOTEBOOK, variables=f"{POOL}=12", watched_seconds=SECONDS)
    killed_while_it_watches(lab, run)
    first = canaries(lab)
    if ending == "resumed":
        told = lab.drillbook("resume", run.folder.name)
        assert told.returncode == 3, told.stdout + told.stderr
        assert canaries(lab) == first, "its own canary was found, and no second one was made"
        run = Drill(3, run.folder, told.stdout)
        assert run.check("canary")["verdict"] == "VERIFIED"
    done = lab.drillbook("abandon", run.folder.name)
    assert done.returncode in (0, 2), done.stdout + done.stderr
    until(lambda: canaries(lab) == [], "the canary is gone")
    assert as_declared(lab) == before


@contextmanager
def managed(lab: DrillLab) -> Iterator[None]:
    """The application's role is managed by the Cluster, for a while."""
    namespace, name = lab.site.cluster.namespace, lab.site.cluster.name
    cluster = lab.admin.get(k8s.CLUSTER, namespace, name) or {}
    roles = cluster["spec"]["managed"]["roles"]
    own = {"name": ROLE, "ensure": "present", "login": True, "connectionLimit": 50}
    lab.admin.patch(k8s.CLUSTER, namespace, name, {"spec": {"managed": {"roles": [*roles, own]}}})

    def state(word: str) -> bool:
        found = lab.admin.get(k8s.CLUSTER, namespace, name) or {}
        return ROLE in ((found.get("status") or {}).get("managedRolesStatus") or {}).get("byStatus", {}).get(word, [])

    try:
        until(lambda: state("reconciled"), "the role is managed")
        yield
    finally:
        lab.admin.patch(k8s.CLUSTER, namespace, name, {"spec": {"managed": {"roles": roles}}})
        until(lambda: state("not-managed"), "the role is as before")


def rolconnlimit(lab: DrillLab) -> str:
    return lab.sql("postgres", f"select rolconnlimit from pg_roles where rolname = '{ROLE}'")


@pytest.mark.soak
@pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY)
def test_k15_limits_behind_the_application_are_changed_verified_and_taken_back(drill_lab: DrillLab) -> None:
    lab = drill_lab
    pgbouncer = {"poolMode": "transaction", "parameters": {"default_pool_size": "10"}}
    with managed(lab), pooler(lab, instances=2, pgbouncer=pgbouncer):
        before = as_declared(lab)
        run = lab.run(
            NOTEBOOK, variables="", role_limit="90", pooler_parameters="default_pool_size=20,max_db_connections=25"
        )
        assert (run.code, as_declared(lab)) == (3, before), run.said
        done = lab.go_on(run)
        assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
        assert rolconnlimit(lab) == "90"
        word = done.check("PgBouncer's own word")
        assert word["verdict"] == "VERIFIED" and "2 instances have them; 20 + 20 = 40" in word["observed"], word
        assert done.check("canary")["verdict"] == "n/a"
        back = undone(lab, done)
        assert (back.code, back.verdict) == (0, "VERIFIED"), back.said
        assert (as_declared(lab), rolconnlimit(lab)) == (before, "50")


@pytest.mark.soak
def test_k15_without_a_pgbouncer_that_runs_only_its_own_word_is_unproven(drill_lab: DrillLab) -> None:
    lab = drill_lab
    namespace = lab.site.cluster.namespace
    # Somebody else's Service of the name: CloudNativePG makes no PgBouncer, as where none is installed.
    meta = {"name": POOLER, "namespace": namespace}
    ports = [{"port": 5432}]
    service = lab.admin.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}})
    spec = {"cluster": {"name": lab.site.cluster.name}, "type": "rw", "pgbouncer": {"poolMode": "transaction"}}
    made = lab.admin.create({"apiVersion": "postgresql.cnpg.io/v1", "kind": "Pooler", "metadata": meta, "spec": spec})
    try:
        with managed(lab):
            run = lab.run(NOTEBOOK, variables="", role_limit="85", pooler_parameters="default_pool_size=20")
            done = lab.go_on(run)
            assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
            word = done.check("PgBouncer's own word")
            assert (word["verdict"], word["required"]) == ("UNPROVEN", False) and "runs no PgBouncer" in word["reason"]
            assert undone(lab, done).code == 0
    finally:
        lab.admin.delete(k8s.POOLER, namespace, POOLER, uid=made["metadata"]["uid"])
        lab.admin.delete(k8s.SERVICE, namespace, POOLER, uid=service["metadata"]["uid"])
