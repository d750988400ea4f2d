"""Deleting the cluster that a full restore put aside: that one, and only while nothing relies on it; on a real API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api

from drillbook import kube as k8s
from drillbook.engine.observations import Observations
from drillbook.engine.step import Context
from drillbook.errors import KubernetesError, NotReady, PreconditionError
from drillbook.evidence import Masker
from drillbook.kube import Kube
from drillbook.manifests.replacement import MADE_BY
from drillbook.profile import load_site
from drillbook.steps.cutover.repoint import FENCE, HANDED_OVER
from drillbook.steps.preflight.instances import FENCED
from drillbook.steps.undo.drop_cluster import DropKeptCluster, KeptCluster, kept_cluster, note_of
from drillbook.steps.undo.full_restore import UNDONE_BY

PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: {namespace}, name: {serving}}}
tenants:
  - database: shop
    app_role: shop_app
    application: {{namespace: {namespace}, deployment: web, address_variable: URL}}
"""
NUMBERS = count(1)
OLD, NEW, RUN, UNDO = "shop", "shop-20261101101500", "20261101T101500Z-1a2b3c", "20261108T101500Z-4d5e6f"
SNAPSHOTS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "volumesnapshots.snapshot.storage.k8s.io"},
    "spec": {
        "group": "snapshot.storage.k8s.io",
        "scope": "Namespaced",
        "names": {
            "kind": "VolumeSnapshot",
            "listKind": "VolumeSnapshotList",
            "plural": "volumesnapshots",
            "singular": "volumesnapshot",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


class Restored:
    """A namespace as a full restore left it: the old cluster fenced, the replacement in service, and the run's note."""

    def __init__(self, api: Api, kube: Kube, folder: Path, *, undone: bool) -> None:
        self.api, self.kube, self.folder, self.namespace = api, kube, folder, f"put-aside-{next(NUMBERS)}"
        self.opened: list[Context] = []
        self.kept, self.serving = (NEW, OLD) if undone else (OLD, NEW)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        uids = {name: self.cluster(name, labels={MADE_BY: RUN} if name == NEW else {}) for name in (OLD, NEW)}
        self.uid, self.serving_uid = uids[self.kept], uids[self.serving]
        kube.patch(k8s.CLUSTER, self.namespace, self.kept, {"metadata": {"annotations": {FENCED: '["*"]'}}})
        labels = {"app": "web"}
        self.make(
            "apps/v1",
            "Deployment",
            "web",
            spec={
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [
                            {"name": "main", "image": "x", "env": [{"name": "URL", "value": f"{self.serving}-rw"}]}
                        ]
                    },
                },
            },
        )
        data = {
            "run": RUN,
            "source": f"{self.namespace}/{OLD}",
            "replacement": NEW,
            "server_name": NEW,
            HANDED_OVER: "{}",
            FENCE: json.dumps([{"name": OLD, "uid": uids[OLD]}]),
        }
        self.make(
            "v1",
            "ConfigMap",
            f"{NEW}-run",
            labels={MADE_BY: RUN},
            data=data | ({UNDONE_BY: json.dumps(UNDO)} if undone else {}),
        )

    def make(self, api_version: str, kind: str, name: str, *, labels: Any = None, owner: str = "", **body: Any) -> str:
        meta: dict[str, Any] = {"name": name, "namespace": self.namespace} | ({"labels": labels} if labels else {})
        if owner:
            meta["ownerReferences"] = [
                {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "name": "x", "uid": owner}
            ]
        return str(
            self.kube.create({"apiVersion": api_version, "kind": kind, "metadata": meta, **body})["metadata"]["uid"]
        )

    def cluster(self, name: str, labels: dict[str, str]) -> str:
        uid = self.make(
            "postgresql.cnpg.io/v1", "Cluster", name, labels=labels, spec={"instances": 1, "storage": {"size": "1Gi"}}
        )
        self.healthy(name, "Cluster in healthy state")
        return uid

    def healthy(self, name: str, phase: str) -> None:
        self.kube.patch(k8s.CLUSTER, self.namespace, name, {"status": {"phase": phase}}, subresource="status")

    def context(self) -> Context:
        path = self.folder / f"{self.namespace}.yaml"
        path.write_text(
            PROFILE.format(kubeconfig=self.api.kubeconfig, namespace=self.namespace, serving=self.serving),
            encoding="utf-8",
        )
        seen = Observations(self.folder, Masker())
        self.opened.append(Context(site=load_site(path), run_id="r", mode="apply", recorder=seen, mask=seen.masker.add))
        return self.opened[-1]

    def found(self, run: str = RUN) -> KeptCluster:
        ctx = self.context()
        note = note_of(ctx, run)
        assert note is not None
        return kept_cluster(ctx, note)

    def point(self, deployment: dict[str, Any]) -> None:
        spec = {"template": {"spec": {"containers": [{"name": "main", "image": "x", **deployment}]}}}
        self.kube.patch(k8s.DEPLOYMENT, self.namespace, "web", {"spec": spec})


@pytest.fixture(params=[False, True], ids=["restore", "undo"])
def restored(api: Api, kube: Kube, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Restored]:
    made = Restored(api, kube, tmp_path, undone=request.param)
    yield made
    for ctx in made.opened:
        ctx.close()


def test_s09_the_cluster_that_was_put_aside_is_deleted_and_no_other(restored: Restored) -> None:
    found = restored.found()
    assert (found.kept.uid, found.serving.name) == (restored.uid, restored.serving)
    if restored.kept == NEW:
        assert restored.found(UNDO).kept.uid == restored.uid  # by the undo's own id too
    ctx, step = restored.context(), DropKeptCluster(found)
    assert [touch.uid for touch in step.plan(ctx).touches] == [restored.uid]
    result = step.do(ctx)
    step.verify(ctx, result)
    assert restored.kube.get(k8s.CLUSTER, restored.namespace, restored.kept) is None
    assert (restored.kube.get(k8s.CLUSTER, restored.namespace, restored.serving) or {})["metadata"][
        "uid"
    ] == restored.serving_uid
    step.do(ctx)  # again, as after a kill


def fence(value: str | None, name: str = "kept") -> Callable[[Restored], None]:
    def change(one: Restored) -> None:
        one.kube.patch(k8s.CLUSTER, one.namespace, getattr(one, name), {"metadata": {"annotations": {FENCED: value}}})

    return change


def pooler(one: Restored) -> None:
    spec = {"cluster": {"name": one.kept}, "instances": 1, "type": "rw", "pgbouncer": {"poolMode": "session"}}
    one.make("postgresql.cnpg.io/v1", "Pooler", "pool", spec=spec)


def snapshot(one: Restored) -> None:
    one.api.registry.register_crd(SNAPSHOTS)
    one.make("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "of-cluster", owner=one.uid, spec={})


def snapshot_of_a_backup(one: Restored) -> None:
    one.api.registry.register_crd(SNAPSHOTS)
    backup = one.make(
        "postgresql.cnpg.io/v1", "Backup", "by-cluster", owner=one.uid, spec={"cluster": {"name": one.kept}}
    )
    one.make("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "of-backup", owner=backup, spec={})


def generated_secret(one: Restored) -> None:
    one.make("v1", "Secret", f"{one.kept}-app", owner=one.uid, stringData={"password": "long enough"})
    env = [
        {"name": "URL", "value": f"{one.serving}-rw"},
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": f"{one.kept}-app", "key": "password"}}},
    ]
    one.point({"env": env})


def another_object(one: Restored) -> None:
    """Somebody deleted the cluster by hand, and made another one of its name."""
    one.kube.delete(k8s.CLUSTER, one.namespace, one.kept, uid=one.uid)
    one.cluster(one.kept, labels={})
    fence('["*"]')(one)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(fence(None), "is not fenced: it may be in service", id="not fenced"),
        pytest.param(fence('["shop-1"]'), "is not fenced", id="one instance is fenced"),
        pytest.param(fence('["*"]', "serving"), "is fenced: it must serve first", id="the other one is fenced"),
        pytest.param(
            lambda one: one.healthy(one.serving, "Failing over"),
            "Failing over: it must serve first",
            id="the other one is not healthy",
        ),
        pytest.param(
            lambda one: setattr(one, "serving", one.kept), "apply logs/git.patch.yaml", id="the profile names it"
        ),
        pytest.param(
            lambda one: one.point({"env": [{"name": "URL", "value": f"{one.kept}-rw"}]}),
            "names a service of",
            id="a client",
        ),
        pytest.param(
            lambda one: one.point(
                {"env": [{"name": "URL", "value": f"{one.serving}-rw"}, {"name": "READ", "value": f"{one.kept}-ro"}]}
            ),
            "names a service of",
            id="a client's second variable",
        ),
        pytest.param(pooler, "Pooler", id="a Pooler"),
        pytest.param(generated_secret, "generated for", id="a generated Secret"),
        pytest.param(snapshot, "VolumeSnapshot", id="a snapshot"),
        pytest.param(snapshot_of_a_backup, "VolumeSnapshot", id="a snapshot of its Backup"),
        pytest.param(another_object, "delete", id="another object of the name"),
    ],
)
def test_s09_a_cluster_on_which_anything_relies_is_not_dropped(
    restored: Restored, change: Callable[[Restored], None], says: str
) -> None:
    if change is another_object:
        says = "is another object" if restored.kept == OLD else "nothing says that"
    change(restored)
    with pytest.raises(NotReady) as refused:
        restored.found()
    assert says in refused.value.what
    assert restored.kube.get(k8s.CLUSTER, restored.namespace, restored.kept) is not None


def test_s09_a_cluster_that_was_put_into_service_at_the_gate_is_not_deleted(restored: Restored) -> None:
    found = restored.found()
    fence(None)(restored)
    with pytest.raises(PreconditionError, match="not fenced any more"):
        DropKeptCluster(found).do(restored.context())
    assert restored.kube.get(k8s.CLUSTER, restored.namespace, restored.kept) is not None


def test_s09_an_object_that_was_changed_since_it_was_read_is_not_deleted(restored: Restored) -> None:
    read = restored.kube.get(k8s.CLUSTER, restored.namespace, restored.kept) or {}
    fence(None)(restored)
    version = read["metadata"]["resourceVersion"]
    with pytest.raises(KubernetesError) as refused:
        restored.kube.delete(k8s.CLUSTER, restored.namespace, restored.kept, uid=restored.uid, resource_version=version)
    assert refused.value.status == 409
    assert restored.kube.get(k8s.CLUSTER, restored.namespace, restored.kept) is not None
