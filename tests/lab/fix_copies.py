"""Copies of the lab's source cluster in the drill namespace: their manifests, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fix_lab import BARMAN, BATCH, CNPG, CORE, RunningLab, until

DRILLS = "drillbook-drills"
PLUGIN = "barman-cloud.cloudnative-pg.io"


def copy(lab: RunningLab, name: str, store: str = "source", target: dict[str, Any] | None = None, **spec: Any) -> Any:
    """A quarantined copy's manifest: no plugins, no backup, the owner's password kept."""
    backup = lab.get(f"{CNPG}/cnpg-system/backups")["items"][0]["status"]["backupId"]
    recovery = {
        "source": "origin",
        "database": "synergyflow",
        "owner": "synergyflow_app",
        "secret": {"name": "copy-login"},
        "recoveryTarget": target or {"backupID": backup, "targetImmediate": True},
    }
    parameters = {"barmanObjectName": store, "serverName": "shared-postgres"}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "instances": 1,
            "storage": {"size": "1Gi"},
            "bootstrap": {"recovery": recovery},
            "externalClusters": [{"name": "origin", "plugin": {"name": PLUGIN, "parameters": parameters}}],
            **spec,
        },
    }


def reference(key: str) -> dict[str, str]:
    return {"name": "drillbook-archive-reader", "key": key}


def store(lab: RunningLab, name: str, **configuration: Any) -> Any:
    credentials = {"accessKeyId": reference("AWS_ACCESS_KEY_ID"), "secretAccessKey": reference("AWS_SECRET_ACCESS_KEY")}
    return {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {"name": name},
        "spec": {
            "configuration": {
                "destinationPath": "s3://synergyflow-backups/postgres",
                "endpointURL": lab.state["endpoint"],
                "s3Credentials": credentials,
                "wal": {"maxParallel": 2},
                **configuration,
            }
        },
    }


@pytest.fixture
def origin(lab: RunningLab) -> Iterator[RunningLab]:
    """The lab with an ObjectStore and a login Secret for copies in the drill namespace."""
    login = lab.secret("drillbook", "app-login-synergyflow")
    lab.create(f"{BARMAN}/{DRILLS}/objectstores", store(lab, "source"))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "copy-login"},
        "stringData": login,
        "type": "kubernetes.io/basic-auth",
    }
    lab.create(f"{CORE}/{DRILLS}/secrets", secret)
    yield lab
    for cluster in lab.get(f"{CNPG}/{DRILLS}/clusters")["items"]:
        lab.delete(f"{CNPG}/{DRILLS}/clusters/{cluster['metadata']['name']}")
    until(lambda: not lab.get(f"{CORE}/{DRILLS}/persistentvolumeclaims")["items"])
    lab.delete(f"{BARMAN}/{DRILLS}/objectstores/source")
    lab.delete(f"{CORE}/{DRILLS}/secrets/copy-login")


def cluster(lab: RunningLab, name: str) -> Any:
    return lab.get(f"{CNPG}/{DRILLS}/clusters/{name}")


def phase(lab: RunningLab, name: str) -> str:
    return str((cluster(lab, name).get("status") or {}).get("phase", ""))


def job_failed(lab: RunningLab, name: str) -> Any:
    """The recovery Job of a Cluster, once a pod of it has failed."""
    job = lab.find(f"{BATCH}/{DRILLS}/jobs/{name}-1-full-recovery")
    return job if job is not None and (job.get("status") or {}).get("failed", 0) >= 1 else None


def job_pods(lab: RunningLab, name: str) -> list[Any]:
    """The pods of that Job, oldest first; of two that were created in the same second the ended one is the older."""
    found = lab.get(f"{CORE}/{DRILLS}/pods?labelSelector=job-name={name}-1-full-recovery")["items"]
    return sorted(
        found, key=lambda pod: (str(pod["metadata"]["creationTimestamp"]), pod["status"].get("phase") != "Failed")
    )


def log_lines(lab: RunningLab, pod: Any, *containers: str) -> list[dict[str, Any]]:
    """What the containers of a recovery Job's pod have logged, the job's own and the plugin's, in the order of time."""
    found: list[dict[str, Any]] = []
    for container in containers or ("full-recovery", "plugin-barman-cloud"):
        (log,) = lab.home.path("pods").glob(f"{DRILLS}_{pod['metadata']['name']}_*/logs/{container}.log")
        found += [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(found, key=lambda line: str(line["ts"]))


def said(lines: list[dict[str, Any]]) -> list[str]:
    """Each line's text with its reason; of a PostgreSQL record, the record's."""
    return [
        str((line.get("record") or {}).get("message") or f"{line['msg']} {line.get('error', '')}") for line in lines
    ]
