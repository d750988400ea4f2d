"""Readiness names what a Cluster's phase does not say, before anything is asked of its database."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api

from drillbook import kube as k8s
from drillbook.cli.doctor import NullRecorder
from drillbook.engine.step import Context
from drillbook.errors import NotReady, RunbookError
from drillbook.kube import Kube
from drillbook.model import ClusterRef, Verdict, show_instant
from drillbook.profile import load_site
from drillbook.steps.cutover.containment import CheckRecoveryReadiness
from drillbook.steps.preflight.old_cluster import ReadOldCluster
from drillbook.steps.preflight.readiness import CheckReadiness, NothingElseRunning, SourceCluster

HEALTHY = {"phase": "Cluster in healthy state", "readyInstances": 1, "timelineID": 1}
ARCHIVER = {
    "name": "barman-cloud.cloudnative-pg.io",
    "isWALArchiver": True,
    "parameters": {"barmanObjectName": "store"},
}
SITES = [{"name": name, "connectionParameters": {"host": name}} for name in ("other", "leader", "follower", "here")]


def context(api: Api, folder: Path, name: str, more: str = "") -> Context:
    path = folder / "site.yaml"
    path.write_text(
        f"name: shop\nenvironment: test\nkubernetes: {{kubeconfig: {api.kubeconfig}, context: lab-admin}}\n"
        f"cluster: {{namespace: default, name: {name}}}\ntenants: [{{database: shop, app_role: shop_app}}]\n{more}",
        encoding="utf-8",
    )
    return Context(site=load_site(path), run_id="run", mode="plan", recorder=NullRecorder(), mask=lambda secret: None)


@contextlib.contextmanager
def cluster(kube: Kube, name: str, spec: dict[str, Any], status: dict[str, Any], **annotations: str) -> Iterator[None]:
    meta = {
        "name": name,
        "namespace": "default",
        "annotations": {f"cnpg.io/{key}": value for key, value in annotations.items()},
    }
    made = kube.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Cluster",
            "metadata": meta,
            "spec": {"instances": 1, "imageName": "reg/pg:16.8", "storage": {"size": "1Gi"}, **spec},
        }
    )
    kube.patch(k8s.CLUSTER, "default", name, {"status": HEALTHY | status}, subresource="status")
    try:
        yield
    finally:
        kube.delete(k8s.CLUSTER, "default", name, uid=made["metadata"]["uid"])


def faults_of(api: Api, folder: Path, name: str, more: str = "", step: Any = None) -> list[str]:
    ctx = context(api, folder, name, more)
    try:
        with pytest.raises(NotReady) as refused:
            (step or CheckReadiness()).do(ctx)
    finally:
        ctx.close()
    return refused.value.faults


RECOVERY = {"bootstrap": {"pg_basebackup": {"source": "other"}}, "externalClusters": SITES}


@pytest.mark.parametrize("step", [CheckReadiness(), ReadOldCluster()], ids=["drill", "full restore"])
@pytest.mark.parametrize(
    ("replica", "says"),
    [
        ({"enabled": True, "source": "other"}, "replica cluster of other"),
        ({"primary": "leader", "source": "other"}, "replica cluster of leader"),
        ({"primary": "leader", "self": "here", "source": "other"}, "replica cluster of leader"),
        ({"enabled": False, "source": "other"}, ""),
        ({"primary": "follower", "source": "other"}, ""),
        ({"primary": "here", "self": "here", "source": "other"}, ""),
    ],
)
def test_b36_a_replica_cluster_is_refused_by_name(
    api: Api, kube: Kube, tmp_path: Path, replica: dict[str, Any], says: str, step: Any
) -> None:
    # Another fault, so that either step ends here where it isn't a replica.
    with cluster(kube, "follower", {"replica": replica, **RECOVERY, "plugins": [ARCHIVER]}, {}):
        ctx = context(api, tmp_path, "follower", "identity: {system_identifier: '1'}\n")
        kube.patch(k8s.CLUSTER, "default", "follower", {"status": {"systemID": "2"}}, subresource="status")
        with pytest.raises(NotReady) as refused:
            step.do(ctx)
        ctx.close()
    assert any("replica cluster" in fault for fault in refused.value.faults) is bool(says)
    assert not says or says in str(refused.value)
    if isinstance(step, CheckReadiness) and says:
        assert len(refused.value.faults) == 1, "before anything else is asked"


@pytest.mark.parametrize(
    ("annotations", "status", "says"),
    [
        ({"hibernation": "on"}, {}, "it is hibernated"),
        (
            {},
            {
                "conditions": [
                    {
                        "type": "cnpg.io/hibernation",
                        "status": "True",
                        "reason": "Hibernated",
                        "message": "",
                        "lastTransitionTime": "2026-11-01T00:00:00Z",
                    }
                ]
            },
            "it is hibernated",
        ),
        ({"fencedInstances": '["*"]'}, {"currentPrimary": "asleep-1"}, "its primary asleep-1 is fenced"),
        ({"fencedInstances": '["asleep-1"]'}, {"currentPrimary": "asleep-1"}, "its primary asleep-1 is fenced"),
        ({}, {"conditions": []}, "ObjectStore default/store does not exist"),
        ({"fencedInstances": '["asleep-2"]'}, {}, "ObjectStore default/store does not exist"),
    ],
)
def test_b36_a_source_that_is_healthy_by_its_phase_alone_is_named(
    api: Api, kube: Kube, tmp_path: Path, annotations: dict[str, str], status: dict[str, Any], says: str
) -> None:
    with cluster(kube, "asleep", {"plugins": [ARCHIVER]}, status, **annotations):
        assert any(says in fault for fault in faults_of(api, tmp_path, "asleep"))


@pytest.mark.parametrize("there", [False, True])
def test_b16_a_pull_secret_is_asked_for_in_the_drill_namespace(
    api: Api, kube: Kube, tmp_path: Path, there: bool
) -> None:
    if kube.get(k8s.NAMESPACE, "", "drillbook-drills") is None:
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "drillbook-drills"}})
    if there:
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "pull", "namespace": "drillbook-drills"},
                "stringData": {".dockerconfigjson": "{}"},
            }
        )
    with cluster(kube, "pulls", {"imagePullSecrets": [{"name": "pull"}], "plugins": [ARCHIVER]}, {}):
        found = faults_of(api, tmp_path, "pulls")
    assert any("Secret drillbook-drills/pull does not exist" in fault for fault in found) is not there


def test_b11_an_account_that_is_not_there_is_named(api: Api, kube: Kube, tmp_path: Path) -> None:
    more = "archive: {reader_secret: null, identity: {service_account: reader}}\n"
    with cluster(kube, "account", {"plugins": [ARCHIVER]}, {}):
        found = faults_of(api, tmp_path, "account", more)
    assert any("ServiceAccount drillbook-drills/reader" in fault for fault in found)


def test_b09_the_class_of_every_volume_is_looked_up(api: Api, kube: Kube, tmp_path: Path) -> None:
    spec = {
        "storage": {"pvcTemplate": {"storageClassName": "moon", "resources": {"requests": {"storage": "1Gi"}}}},
        "walStorage": {"size": "1Gi", "storageClass": "mars"},
        "plugins": [ARCHIVER],
    }
    with cluster(kube, "classes", spec, {}):
        found = faults_of(api, tmp_path, "classes")
    assert [
        name for name in ("moon", "mars") if any(f"StorageClass {name} does not exist" in fault for fault in found)
    ] == ["moon", "mars"]


@pytest.mark.parametrize(
    ("phase", "hours", "verdict", "says"),
    [
        ("started", 500, Verdict.VERIFIED, "delete it"),
        ("running", 500, Verdict.VERIFIED, "delete it"),
        ("", 0, Verdict.FAILED, "is pending"),
        ("started", 1, Verdict.FAILED, "is started since"),
        ("completed", 500, Verdict.VERIFIED, ""),
    ],
)
def test_b34_a_backup_that_was_left_unfinished_is_reported_with_its_age_and_holds_up_nothing(
    api: Api, kube: Kube, tmp_path: Path, phase: str, hours: int, verdict: Verdict, says: str
) -> None:
    begun = show_instant(datetime.now(UTC) - timedelta(hours=hours))
    name = f"left-{phase or 'new'}-{hours}"
    made = kube.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"cluster": {"name": name}, "method": "plugin", "pluginConfiguration": {"name": ARCHIVER["name"]}},
        }
    )
    if phase:
        kube.patch(k8s.BACKUP, "default", name, {"status": {"phase": phase, "startedAt": begun}}, subresource="status")
    ctx = context(api, tmp_path, name)
    source = SourceCluster(
        ref=ClusterRef(namespace="default", name=name),
        uid="u",
        system_id="1",
        timeline=1,
        primary="p",
        server_name=name,
        location="s3://b",
        server_version=160000,
        image="i",
        storage_class="",
    )
    (check,) = NothingElseRunning(source).observe(ctx)
    ctx.close()
    kube.delete(k8s.BACKUP, "default", name, uid=made["metadata"]["uid"])
    assert check.verdict is verdict, check
    told = json.dumps([check.observed, *map(list, check.details)])
    assert says in told and (not says or name in told)
    assert "delete it" not in told or begun in told


@pytest.mark.parametrize("emergency", [True, False])
@pytest.mark.parametrize(
    ("ready", "target", "serves"), [("True", "hurt-1", True), ("False", "hurt-1", False), ("True", "hurt-2", False)]
)
def test_s21_a_recovery_takes_a_cluster_whose_primary_serves_though_a_replica_is_made_again(
    api: Api, kube: Kube, tmp_path: Path, emergency: bool, ready: str, target: str, serves: bool
) -> None:
    status = {"phase": "Creating a new replica", "currentPrimary": "hurt-1", "targetPrimary": target}
    spec = {"storage": {"size": "1Gi", "storageClass": "keeps"}}
    step = CheckRecoveryReadiness("shop") if emergency else CheckReadiness()
    made = [
        kube.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "keeps"},
                "provisioner": "x",
                "reclaimPolicy": "Retain",
            }
        ),
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "hurt-1", "namespace": "default"},
                "spec": {"containers": [{"name": "postgres", "image": "shell"}]},
            }
        ),
    ]
    kube.patch(
        k8s.POD,
        "default",
        "hurt-1",
        {"status": {"conditions": [{"type": "Ready", "status": ready}]}},
        subresource="status",
    )
    with cluster(kube, "hurt", spec, status):
        found: list[str] = []
        ctx = context(api, tmp_path, "hurt", "identity: {system_identifier: '1'}\n")
        try:
            step.do(ctx)
        except NotReady as refused:
            found = refused.faults
        except RunbookError:
            found = []  # it went on, as far as the database, which none exists of here
        finally:
            ctx.close()
    for one, kind in zip(made, (k8s.STORAGE_CLASS, k8s.POD), strict=True):
        kube.delete(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"], uid=one["metadata"]["uid"])
    told = "\n".join(found)
    assert ("Creating a new replica" in told) is not (emergency and serves)
    assert ("reclaimPolicy Retain" in told) is not emergency
