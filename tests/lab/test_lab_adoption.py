"""Deletion and what it leaves: volumes that are adopted with their data, and volumes that outlive their claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_clusters import SmallCluster, as_json, kubectl, namespace
from fix_lab import BATCH, CORE, RunningLab, condition, until

pytestmark = pytest.mark.soak

VOLUMES = "/api/v1/persistentvolumes"


@pytest.fixture(scope="module")
def home(lab: RunningLab) -> str:
    return namespace(lab, "adoption")


def test_a_new_cluster_of_the_name_returns_the_old_data(lab: RunningLab, home: str) -> None:
    cluster = SmallCluster(lab, home, "heir").create(storage={"size": "1Gi", "storageClass": "lab-directory-retain"})
    cluster.app("CREATE TABLE legacy AS SELECT 42 AS answer")
    claim, system = cluster.claim(), cluster.status["systemID"]
    assert claim["metadata"]["labels"]["cnpg.io/instanceRole"] == "primary"
    kubectl(lab, "-n", home, "delete", "clusters.postgresql.cnpg.io", "heir", "--cascade=orphan")
    until(lambda: lab.find(cluster.path) is None)
    left = cluster.claim()
    assert left["metadata"]["uid"] == claim["metadata"]["uid"] and "ownerReferences" not in left["metadata"]
    assert left["metadata"]["annotations"]["cnpg.io/nodeSerial"] == "1"
    assert cluster.pod() is not None  # its pod is an orphan, too

    cluster.create(storage={"size": "1Gi", "storageClass": "lab-directory-retain"})
    assert cluster.app("SELECT answer FROM legacy") == [(42,)]
    assert cluster.claim()["metadata"]["uid"] == claim["metadata"]["uid"]
    assert cluster.status["systemID"] == system
    assert not [event for event in cluster.events("Job", "heir-1-initdb") if event["count"] > 1]
    assert cluster.claim()["metadata"]["ownerReferences"][0]["uid"] == cluster.object["metadata"]["uid"]

    lab.patch(cluster.path, {"spec": {"storage": {"size": "2Gi"}}})
    until(lambda: cluster.claim()["status"]["capacity"] == {"storage": "2Gi"})

    # Deleted in the ordinary way, everything of it goes; its volume was to be retained.
    lab.delete(cluster.path)
    for path in ("persistentvolumeclaims/heir-1", "pods/heir-1", "services/heir-rw"):
        until(lambda path=path: lab.find(f"{CORE}/{home}/{path}") is None)  # type: ignore[misc]
    assert lab.find(f"{CORE}/{home}/secrets/heir-ca")  # an orphan's secret is used, and never owned again
    assert lab.get(f"{BATCH}/{home}/jobs")["items"] == []
    volume = lab.get(f"{VOLUMES}/{claim['spec']['volumeName']}")
    assert volume["status"]["phase"] == "Released"
    assert (Path(volume["spec"]["hostPath"]["path"]) / "pgdata" / "PG_VERSION").is_file()

    # And it can be had again, once nobody's name is on it.
    lab.patch(f"{VOLUMES}/{volume['metadata']['name']}", {"spec": {"claimRef": None}})
    until(lambda: lab.get(f"{VOLUMES}/{volume['metadata']['name']}")["status"]["phase"] == "Available")
    again = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "again"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "lab-directory-retain",
            "volumeName": volume["metadata"]["name"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    lab.create(f"{CORE}/{home}/persistentvolumeclaims", again)
    until(lambda: lab.get(f"{CORE}/{home}/persistentvolumeclaims/again")["status"].get("phase") == "Bound")
    bound = lab.get(f"{VOLUMES}/{volume['metadata']['name']}")
    assert bound["spec"]["claimRef"]["name"] == "again" and bound["status"]["phase"] == "Bound"
    lab.delete(f"{CORE}/{home}/persistentvolumeclaims/again")
    until(lambda: lab.get(f"{VOLUMES}/{volume['metadata']['name']}")["status"]["phase"] == "Released")
    lab.delete(f"{VOLUMES}/{volume['metadata']['name']}")
    until(lambda: lab.find(f"{VOLUMES}/{volume['metadata']['name']}") is None)


def test_the_heir_knows_who_was_primary(lab: RunningLab, home: str) -> None:
    cluster = SmallCluster(lab, home, "pair").create(instances=2)
    until(lambda: cluster.status.get("readyInstances") == 2 and cluster.is_healthy())
    cluster.app("CREATE TABLE legacy AS SELECT 42 AS answer")
    now = cluster.status["currentPrimaryTimestamp"]
    moved = {"targetPrimary": "pair-2", "targetPrimaryTimestamp": now, "phase": "Switchover in progress"}
    lab.patch(f"{cluster.path}/status", {"status": moved})
    until(lambda: cluster.status.get("currentPrimary") == "pair-2")
    until(lambda: cluster.claim(2)["metadata"]["labels"].get("cnpg.io/instanceRole") == "primary")
    until(lambda: cluster.status.get("readyInstances") == 2 and cluster.is_healthy())
    # `*` stops all of them, and nobody takes over.
    cluster.annotate(fencedInstances='["*"]')
    until(lambda: not cluster.is_ready(1) and not cluster.is_ready(2))
    assert cluster.status["targetPrimary"] == "pair-2"
    cluster.annotate(fencedInstances=None)
    until(lambda: cluster.is_healthy() and cluster.is_ready(2))
    # Asleep, and back with the same primary.
    cluster.annotate(hibernation="on")
    until(lambda: condition(cluster.object, "cnpg.io/hibernation") == "True")
    assert cluster.pod(1) is None and cluster.pod(2) is None
    cluster.annotate(hibernation=None)
    until(lambda: cluster.status.get("readyInstances") == 2 and cluster.is_healthy())
    assert cluster.status["currentPrimary"] == "pair-2"

    kubectl(lab, "-n", home, "delete", "clusters.postgresql.cnpg.io", "pair", "--cascade=orphan")
    until(lambda: lab.find(cluster.path) is None)
    cluster.create(instances=2)
    until(lambda: cluster.status.get("readyInstances") == 2)
    assert cluster.status["currentPrimary"] == "pair-2"
    assert cluster.app("SELECT answer, pg_is_in_recovery() FROM legacy") == [(42, True)]
    # The services follow: `-rw` leads to the second instance now, `-ro` to the first.
    for service, number in (("pair-rw", 2), ("pair-ro", 1)):
        pod = cluster.pod(number)
        assert pod is not None
        (subset,) = lab.get(f"{CORE}/{home}/endpoints/{service}")["subsets"]
        assert [entry["ip"] for entry in subset["addresses"]] == [pod["status"]["podIP"]]
    lab.delete(cluster.path)
    until(lambda: cluster.pod(1) is None and cluster.pod(2) is None)


def test_a_claim_grows_and_does_not_shrink(lab: RunningLab, home: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "sized"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    path = f"{CORE}/{home}/persistentvolumeclaims/sized"
    lab.create(f"{CORE}/{home}/persistentvolumeclaims", claim)
    until(lambda: lab.get(path)["status"].get("phase") == "Bound")
    found = lab.get(path)
    assert found["spec"]["storageClassName"] == "lab-directory"  # the default one
    lab.patch(path, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    until(lambda: lab.get(path)["status"]["capacity"] == {"storage": "2Gi"})
    volume = lab.get(f"{VOLUMES}/{found['spec']['volumeName']}")
    assert volume["spec"]["capacity"] == {"storage": "2Gi"}
    code, refused = lab.call(
        "PATCH", path, {"spec": {"resources": {"requests": {"storage": "1Gi"}}}}, "application/merge-patch+json"
    )
    assert code == 422 and "can not be less than status.capacity" in refused["message"]
    code, refused = lab.call("PATCH", path, {"spec": {"storageClassName": "x"}}, "application/merge-patch+json")
    assert code == 422 and "spec is immutable after creation" in refused["message"]
    listed = kubectl(lab, "-n", home, "get", "pv,pvc,sc").stdout
    assert "adoption/sized" in listed and "RECLAIM POLICY" in listed and "lab-directory-retain" in listed
    folder = Path(volume["spec"]["hostPath"]["path"])
    assert folder.is_dir()
    lab.delete(path)
    until(lambda: lab.find(path) is None)
    assert not folder.exists()
    assert lab.find(f"{VOLUMES}/{volume['metadata']['name']}") is None


def test_the_classes_say_what_becomes_of_a_volume(lab: RunningLab) -> None:
    classes = {entry["metadata"]["name"]: entry for entry in as_json(lab, "get", "sc")["items"]}
    assert classes["lab-directory"]["reclaimPolicy"] == "Delete"
    assert classes["lab-directory-retain"]["reclaimPolicy"] == "Retain"
