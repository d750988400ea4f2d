"""Hibernation: the pods go, the volumes stay, backups are refused, and the Cluster comes back as it was."""

from __future__ import annotations

from fix_clusters import HEALTHY, SmallCluster
from fix_lab import CNPG, CORE, condition, until

HIBERNATION = "cnpg.io/hibernation"


def test_a_cluster_sleeps_and_wakes(small: SmallCluster) -> None:
    claim, reasons = small.claim(), set()

    def asleep() -> bool:
        found = [c for c in small.status.get("conditions") or () if c["type"] == HIBERNATION]
        reasons.update(c["reason"] for c in found)
        return any(c["status"] == "True" for c in found)

    small.annotate(hibernation="on")
    until(asleep)
    assert reasons <= {"DeletingPods", "WaitingPodsDeletion", "Hibernated"}
    assert small.pod() is None
    assert small.claim()["metadata"]["uid"] == claim["metadata"]["uid"]
    status = small.status
    assert (status["phase"], status["readyInstances"], status["instances"]) == (HEALTHY, 0, 1)
    endpoints = small.lab.get(f"{CORE}/{small.namespace}/endpoints/small-rw")
    assert not endpoints.get("subsets")

    backup = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "asleep"},
        "spec": {
            "cluster": {"name": "small"},
            "method": "plugin",
            "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
        },
    }
    small.lab.create(f"{CNPG}/{small.namespace}/backups", backup)
    until(lambda: small.lab.get(f"{CNPG}/{small.namespace}/backups/asleep").get("status", {}).get("phase") == "failed")
    refused = small.lab.get(f"{CNPG}/{small.namespace}/backups/asleep")
    assert refused["status"]["error"] == "cannot backup a hibernated cluster"
    assert "ClusterIsHibernated" in {event["reason"] for event in small.events("Backup", "asleep")}

    small.annotate(hibernation="off")
    until(lambda: small.is_healthy() and small.answers())
    assert small.app("SELECT count(*) FROM kept") == [(100,)]
    assert condition(small.object, HIBERNATION) == ""


def test_who_is_not_well_is_not_put_to_sleep(small: SmallCluster) -> None:
    other = SmallCluster(small.lab, small.namespace, "unwell")
    spec = {"instances": 1, "storage": {"size": "1Gi", "storageClass": "no-such-class"}}
    meta = {"name": "unwell", "annotations": {HIBERNATION: "on"}}
    body = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": meta, "spec": spec}
    small.lab.create(f"{CNPG}/{small.namespace}/clusters", body)

    def reason() -> str:
        found = [c["reason"] for c in other.status.get("conditions") or () if c["type"] == HIBERNATION]
        return found[0] if found else ""

    until(lambda: reason() == "WaitingForHealthy")
    claims = f"{CORE}/{small.namespace}/persistentvolumeclaims/unwell-1"
    until(lambda: small.lab.find(claims))
    assert small.lab.get(claims)["status"]["phase"] == "Pending"
    until(lambda: "ProvisioningFailed" in {e["reason"] for e in small.events("PersistentVolumeClaim", "unwell-1")})
    assert small.lab.find(f"{CORE}/{small.namespace}/secrets/unwell-ca")
    small.lab.delete(other.path)
    until(lambda: small.lab.find(f"{CORE}/{small.namespace}/secrets/unwell-ca") is None)
    until(lambda: small.lab.find(claims) is None)
