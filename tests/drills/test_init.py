"""``drillbook init``: a cluster that nobody has prepared is drilled by what it wrote, applied in the order of APPLY.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_drills import NOTEBOOK, PATIENCE_SECONDS, ROOT, DrillLab

from drillbook import kube as k8s
from drillbook.profile import Site, load_site

pytestmark = pytest.mark.long

NAMESPACE, CLUSTER, DATABASE = "parcel-dbs", "parcels", "parcels"
PLUGIN = "barman-cloud.cloudnative-pg.io"
DATA = """
set role parcels_owner;
create table public.event_publication
  (id int primary key, publication_date timestamptz not null default now(), completion_date timestamptz);
insert into public.event_publication (id) select generate_series(1, 5);
create schema depot;
create table depot.parcels (id int primary key, weight numeric not null);
insert into depot.parcels select n, n / 7.0 from generate_series(1, 500) n;
"""


def psql(lab: DrillLab, database: str, text: str) -> None:
    argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-f", "-"]
    done = lab.admin.exec(NAMESPACE, f"{CLUSTER}-1", "postgres", argv, stdin=text.encode(), timeout_seconds=60)
    assert done.exit_code == 0, done.error_text


def waited(lab: DrillLab, kind: k8s.Kind, name: str, what: Callable[[dict[str, Any]], bool]) -> None:
    lab.admin.wait(
        kind,
        NAMESPACE,
        name,
        lambda found: found is not None and what(found),
        timeout_seconds=PATIENCE_SECONDS,
        what=f"{kind} {name}",
    )


def make_quiet_cluster(lab: DrillLab) -> None:
    """Its own Cluster namespace, ObjectStore and Secret, with one base backup and nobody who writes."""
    source = lab.site.cluster
    theirs = lab.admin.get(k8s.CLUSTER, source.namespace, source.name) or {}
    (store,) = lab.admin.list(k8s.OBJECT_STORE, source.namespace)
    configuration = store["spec"]["configuration"]
    key = lab.admin.get(k8s.SECRET, source.namespace, configuration["s3Credentials"]["accessKeyId"]["name"]) or {}
    credentials = {
        "accessKeyId": {"name": "parcels-bucket", "key": "AWS_ACCESS_KEY_ID"},
        "secretAccessKey": {"name": "parcels-bucket", "key": "AWS_SECRET_ACCESS_KEY"},
    }
    meta = {"namespace": NAMESPACE}
    spec = {
        "instances": 1,
        "imageName": theirs["spec"]["imageName"],
        # A class that keeps its volumes: copies need another one.
        "storage": {"size": "1Gi", "storageClass": theirs["spec"]["storage"]["storageClass"] + "-retain"},
        "bootstrap": {"initdb": {"database": DATABASE, "owner": "parcels_owner"}},
        "plugins": [{"name": PLUGIN, "isWALArchiver": True, "parameters": {"barmanObjectName": "parcels-store"}}],
    }
    for item in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "parcels-bucket", **meta},
            "type": "Opaque",
            "data": key["data"],
        },
        {
            "apiVersion": "barmancloud.cnpg.io/v1",
            "kind": "ObjectStore",
            "metadata": {"name": "parcels-store", **meta},
            "spec": {
                "configuration": {
                    **configuration,
                    "destinationPath": configuration["destinationPath"] + "/parcels",
                    "s3Credentials": credentials,
                }
            },
        },
        {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": CLUSTER, **meta}, "spec": spec},
    ):
        lab.admin.create(item)
    waited(lab, k8s.CLUSTER, CLUSTER, lambda found: found.get("status", {}).get("phase") == "Cluster in healthy state")
    psql(lab, DATABASE, DATA)
    backup = {"cluster": {"name": CLUSTER}, "method": "plugin", "pluginConfiguration": {"name": PLUGIN}}
    lab.admin.create(
        {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": {"name": "first", **meta}, "spec": backup}
    )
    waited(lab, k8s.BACKUP, "first", lambda found: found.get("status", {}).get("phase") == "completed")


@dataclass(frozen=True)
class Prepared:
    lab: DrillLab
    folder: Path
    site: Site
    commands: tuple[str, ...]


@pytest.fixture(scope="module", params=["never seen before", pytest.param("the second site", marks=pytest.mark.soak)])
def prepared(
    request: pytest.FixtureRequest, second_lab: DrillLab, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """init has run, and what it wrote is applied by the very commands of APPLY.md, in their order."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    lab = second_lab
    chosen = f"{lab.site.cluster.namespace}/{lab.site.cluster.name}"
    if request.param == "never seen before":
        make_quiet_cluster(lab)
        chosen = f"{NAMESPACE}/{CLUSTER}"
    folder = tmp_path_factory.mktemp("init") / "site"
    mine = ["--kubeconfig", str(lab.home / "kubeconfig"), "--context", "lab-admin"]
    done = lab.drillbook("init", "--yes", "--cluster", chosen, "--out", str(folder), *mine)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = (folder / "APPLY.md").read_text().partition("## Then")[0]
    commands = tuple(re.findall(r"^```sh\n(.*?)\n^```", steps, re.MULTILINE | re.DOTALL))
    for command in commands:
        ran = subprocess.run(
            ["bash", "-ec", f"set -o pipefail\n{command}"],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return Prepared(lab, folder, load_site(str(folder / "site.yaml")), commands)


def test_f12_doctor_finds_nothing_missing(prepared: Prepared) -> None:
    done = prepared.lab.drillbook("doctor", "--site", str(prepared.folder / "site.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    if prepared.site.cluster.name == CLUSTER:
        (tenant,) = prepared.site.tenants
        assert "public.event_publication" in tenant.pending_events
        assert set(tenant.digest_tables) == {"depot.parcels", "public.event_publication"}
        assert prepared.site.copy_.storage_class and not prepared.site.copy_.storage_class.endswith("-retain")


def test_f14_the_first_drill_is_verified(prepared: Prepared) -> None:
    run = prepared.lab.drill(site=prepared.folder / "site.yaml")
    assert run.code == 0 and run.verdict == "VERIFIED", run.said
    namespace = prepared.site.drill_namespace
    left = [
        item
        for kind in (k8s.CLUSTER, k8s.SECRET, k8s.PVC)
        for item in prepared.lab.admin.list(kind, namespace, labels="cnpg.io/cluster")
    ]
    assert left == []


def test_f15_the_sites_that_were_there_before_lose_no_right(prepared: Prepared) -> None:
    done = prepared.lab.drillbook("run", str(NOTEBOOK), "--site", str(prepared.lab.profile))
    assert done.returncode == 0, done.stdout + done.stderr


def test_f15_a_person_is_the_service_account_with_the_kubeconfig_that_was_written(prepared: Prepared) -> None:
    with k8s.Kube.open(str(prepared.folder / "kubeconfig.yaml"), prepared.site.kubernetes.context) as kube:
        assert kube.whoami().username == f"system:serviceaccount:{prepared.site.drillbook_namespace}:drillbook"


def test_several_clusters_a_strange_name_and_a_folder_that_is_there_are_refused(prepared: Prepared) -> None:
    """Each names what there is; the first site's cluster is there from the beginning."""
    init = ["init", "--yes", "--kubeconfig", str(prepared.lab.home / "kubeconfig"), "--context", "lab-admin"]
    theirs = f"{prepared.lab.site.cluster.namespace}/{prepared.lab.site.cluster.name}"
    new = prepared.folder.with_name("another")
    refused = [(["--cluster", f"{NAMESPACE}/nobody"], theirs), (["--cluster", "nobody"], "NAMESPACE/NAME")]
    if prepared.lab.admin.get(k8s.CLUSTER, NAMESPACE, CLUSTER):
        refused.append(([], f"{NAMESPACE}/{CLUSTER}"))
    for more, said in refused:
        done = prepared.lab.drillbook(*init, "--out", str(new), *more)
        assert done.returncode == 4 and said in done.stderr, done.stderr
    done = prepared.lab.drillbook(*init, "--out", str(prepared.folder), "--cluster", theirs)
    assert done.returncode == 4 and "is there already" in done.stderr, done.stderr
    assert not new.exists()


def test_no_secret_was_written(prepared: Prepared) -> None:
    """But the token, which the last command of APPLY.md has written, for its owner alone."""
    assert (prepared.folder / "token").stat().st_mode & 0o077 == 0
    texts = {path: path.read_text() for path in prepared.folder.rglob("*") if path.is_file() and path.name != "token"}
    places = {prepared.site.cluster.namespace, prepared.site.drillbook_namespace, prepared.site.drill_namespace}
    for namespace in places:
        for item in prepared.lab.admin.list(k8s.SECRET, namespace):
            for key, value in prepared.lab.admin.secret(namespace, item["metadata"]["name"]).items():
                if re.search("password|uri|pgpass|SECRET|KEY_ID|key$", key):
                    assert not [path.name for path, text in texts.items() if value in text]
    assert yaml.safe_load(texts[prepared.folder / "kubeconfig.yaml"])["users"][0]["user"] == {"tokenFile": "token"}
