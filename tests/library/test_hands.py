"""Who else holds what a cut changes, and a node that nobody can ask: on a real API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.fix_apiserver import Api

import drillbook_lab
from drillbook import kube as k8s
from drillbook.engine.observations import Observations
from drillbook.engine.step import Context
from drillbook.evidence import Masker
from drillbook.evidence.facts import Facts
from drillbook.kube import Kube
from drillbook.kube.reconcilers import TRACKING, UNSYNCED, reconcilers_on
from drillbook.model import ClusterRef
from drillbook.profile import load_site
from drillbook.steps.cutover.fence import FenceOldCluster
from drillbook.steps.preflight import pausing
from drillbook.steps.preflight.instances import away_words, between_attempts, server_runs
from drillbook.steps.preflight.old_cluster import OldCluster

PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: default, name: shop-db}}
tenants: [{{database: shop, app_role: shop_app}}]
"""
CRDS = Path(drillbook_lab.__file__).parent / "crds"
SYNCS = {"automated": {"selfHeal": True}}
SPECS: dict[str, dict[str, Any]] = {
    "Deployment": {"replicas": 1},
    "Pooler": {"pgbouncer": {}},
    "Cluster": {"instances": 1},
    "ScheduledBackup": {"suspend": False},
}


@pytest.fixture
def ctx(api: Api, tmp_path: Path) -> Iterator[Context]:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE.format(kubeconfig=api.kubeconfig), encoding="utf-8")
    told = Observations(tmp_path, Masker())
    made = Context(
        site=load_site(path), run_id="20261101T101500Z-1a2b3c", mode="apply", recorder=told, mask=told.masker.register
    )
    yield made
    made.close()


def thing(kind: str, name: str = "shop", **meta: Any) -> dict[str, Any]:
    body = {"data": {"url": "eA=="}} if kind == "Secret" else {"spec": SPECS[kind]}
    return {"kind": kind, "metadata": {"name": name, "namespace": "default", **meta}, **body}


@pytest.fixture
def argo(api: Api, kube: Kube) -> Iterator[None]:
    """An Application that holds everything called shop, and syncs by itself."""
    api.registry.register_crd(yaml.safe_load((CRDS / "optional" / "application.yaml").read_text(encoding="utf-8")))
    if kube.get(k8s.NAMESPACE, "", "argocd") is None:
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}})
    made = kube.create(
        {
            "apiVersion": k8s.APPLICATION.api_version,
            "kind": "Application",
            "metadata": {"name": "shop", "namespace": "argocd"},
            "spec": {
                "project": "default",
                "syncPolicy": SYNCS,
                "source": {"repoURL": "https://git.example/shop"},
                "destination": {"server": "https://kubernetes.default.svc", "namespace": "default"},
            },
        }
    )
    own = [{"kind": kind, "namespace": "default", "name": "shop"} for kind in (*SPECS, "Secret")]
    kube.patch(k8s.APPLICATION, "argocd", "shop", {"status": {"resources": own}})
    yield
    kube.delete(k8s.APPLICATION, "argocd", "shop", uid=made["metadata"]["uid"])


KINDS = ["Deployment", "Secret", "Pooler", "Cluster", "ScheduledBackup"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "mark",
    [
        {"annotations": {TRACKING: "shop:apps/Deployment:default/shop"}},
        {"labels": {"app.kubernetes.io/instance": "shop"}},
        {"labels": {"argocd.argoproj.io/instance": "shop"}},
    ],
)
def test_s13_argo_cd_is_known_by_either_mark_and_paused(
    kube: Kube, argo: None, ctx: Context, kind: str, mark: dict[str, Any]
) -> None:
    (hand,) = reconcilers_on(kube, thing(kind, **mark))
    assert (hand.acts, hand.pausable, hand.in_the_way) == (True, True, False)
    pausing.pause(ctx, [thing(kind, **mark)])
    found = kube.get(k8s.APPLICATION, "argocd", "shop") or {}
    assert found["spec"]["syncPolicy"].get("automated") is None and UNSYNCED["spec"]
    (promise,) = pausing.paused(ctx)
    assert promise.name == "shop"


@pytest.mark.parametrize(
    "mark",
    [
        {"labels": {"app.kubernetes.io/instance": "another"}},  # Helm sets it too
        {"labels": {"app.kubernetes.io/name": "shop"}},
    ],
)
def test_s13_a_label_alone_is_nobodys_word(kube: Kube, argo: None, mark: dict[str, Any]) -> None:
    assert reconcilers_on(kube, thing("Deployment", **mark)) == []
    assert reconcilers_on(kube, thing("Deployment", name="elses", labels={"app.kubernetes.io/instance": "shop"})) == []


def owner(api: str, kind: str) -> dict[str, Any]:
    return {"ownerReferences": [{"apiVersion": api, "kind": kind, "name": "shop", "uid": "u", "controller": True}]}


@pytest.mark.parametrize(
    ("kind", "meta", "who"),
    [
        ("Secret", owner("external-secrets.io/v1", "ExternalSecret"), "ExternalSecret default/shop"),
        ("Secret", owner("bitnami.com/v1alpha1", "SealedSecret"), "SealedSecret default/shop"),
        ("Secret", owner("secrets.hashicorp.com/v1beta1", "VaultStaticSecret"), "VaultStaticSecret default/shop"),
        ("Secret", {"labels": {"reconcile.external-secrets.io/managed": "true"}}, "External Secrets"),
        ("Secret", {"annotations": {"sealedsecrets.bitnami.com/managed": "true"}}, "Sealed Secrets"),
        (
            "Secret",
            {"managedFields": [{"manager": "kustomize-controller", "fieldsV1": {"f:data": {}}}]},
            "Flux (kustomize-controller)",
        ),
        ("Deployment", owner("shop.example/v1", "Shop"), "Shop default/shop"),
        ("Pooler", owner("shop.example/v1", "Shop"), "Shop default/shop"),
        ("ScheduledBackup", {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}, "Flux shop"),
    ],
)
def test_s13_whoever_writes_it_again_is_named(kube: Kube, kind: str, meta: dict[str, Any], who: str) -> None:
    (hand,) = reconcilers_on(kube, thing(kind, **meta))
    assert hand.who == who and hand.in_the_way


@pytest.mark.parametrize("kind", KINDS)
def test_s13_what_nobody_else_holds_is_free(kube: Kube, kind: str) -> None:
    own = {"managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:replicas": {}}, "f:data": {}}}]}
    assert reconcilers_on(kube, thing(kind, **own)) == []
    assert reconcilers_on(kube, thing(kind, **owner("postgresql.cnpg.io/v1", "Cluster"))) == []


# -- a node that is lost
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(kube: Kube) -> Iterator[OldCluster]:
    """An instance whose pod is Running indefinitely on a node that the control plane has lost."""
    node = kube.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}, "spec": {}})
    kube.patch(
        k8s.NODE,
        "",
        "node-b",
        {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
        subresource="status",
    )
    labels = {"cnpg.io/cluster": "shop-db", "cnpg.io/podRole": "instance"}
    pod = kube.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "shop-db-1", "namespace": "default", "labels": labels},
            "spec": {"nodeName": "node-b", "containers": [{"name": "postgres", "image": "shell"}]},
        }
    )
    kube.patch(k8s.POD, "default", "shop-db-1", {"status": {"phase": "Running"}}, subresource="status")
    yield OldCluster.model_construct(
        ref=ClusterRef(namespace="default", name="shop-db"), uid="u", primary="shop-db-1", gone=False
    )
    kube.delete(k8s.POD, "default", "shop-db-1", uid=pod["metadata"]["uid"])
    kube.delete(k8s.NODE, "", "node-b", uid=node["metadata"]["uid"])


def test_g12_on_a_lost_node_a_server_counts_as_running_until_somebody_says_that_it_is_down(
    ctx: Context, lost: OldCluster
) -> None:
    assert server_runs(ctx, lost, "shop-db-1")
    assert "node node-b of instance shop-db-1 does not answer" in away_words(ctx, lost, "shop-db-1")
    notes = " ".join(FenceOldCluster(lost).plan(ctx).notes)
    assert "node-b" in notes and "out-of-service" in notes
    assert not server_runs(ctx, lost, "shop-db-1", down_because="its power supply burnt")
    ctx.recorder.note(Facts(node_is_down_because="its power supply burnt"))
    assert not server_runs(ctx, lost, "shop-db-1")
    assert "said to be down: burnt" in " ".join(FenceOldCluster(lost, node_is_down_because="burnt").plan(ctx).notes)


def test_g12_the_taint_of_kubernetes_says_it_as_well(ctx: Context, lost: OldCluster) -> None:
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    ctx.kube.patch(k8s.NODE, "", "node-b", {"spec": {"taints": [taint]}})
    assert not server_runs(ctx, lost, "shop-db-1")


@pytest.mark.parametrize(
    ("state", "down"),
    [
        ({"waiting": {"reason": "CrashLoopBackOff"}}, True),
        ({"terminated": {"exitCode": 1}}, True),
        ({"running": {"startedAt": "2026-11-28T00:00:00Z"}}, False),
        ({}, False),
    ],
)
def test_bug_16_the_containers_state_says_that_no_server_runs_not_the_words_of_an_error(
    state: dict[str, Any], down: bool
) -> None:
    others = {"name": "bootstrap-controller", "state": {"terminated": {"exitCode": 0}}}
    assert between_attempts({"status": {"containerStatuses": [others, {"name": "postgres", "state": state}]}}) is down
    assert not between_attempts(None)


def test_g12_a_word_is_of_no_use_where_the_node_answers(ctx: Context, lost: OldCluster) -> None:
    ctx.kube.patch(
        k8s.NODE, "", "node-b", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status"
    )
    assert away_words(ctx, lost, "shop-db-1") == "" and "node-b" not in " ".join(FenceOldCluster(lost).plan(ctx).notes)
