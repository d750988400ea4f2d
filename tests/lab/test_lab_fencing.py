"""Fencing: the server stops, the pod stays, nobody takes over, and what needs a stopped server can be done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fix_clusters import HEALTHY, SmallCluster
from fix_lab import condition, until


@pytest.fixture
def fenced(small: SmallCluster) -> Iterator[SmallCluster]:
    small.annotate(fencedInstances='["small-1"]')
    until(lambda: not small.is_ready() and small.status.get("readyInstances") == 0)
    yield small
    small.annotate(fencedInstances=None)
    until(lambda: small.is_healthy() and small.answers())


@pytest.mark.soak
def test_the_pod_of_a_fenced_instance_stays_without_a_server(fenced: SmallCluster) -> None:
    pod = fenced.pod()
    assert pod is not None and pod["status"]["phase"] == "Running"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    assert not fenced.answers()
    status = fenced.status
    assert status["phase"] == HEALTHY  # it is down on purpose: the operator waits for nothing
    assert status["currentPrimary"] == status["targetPrimary"] == "small-1"
    assert status["instancesStatus"] == {"replicating": ["small-1"]}
    # A tool that refuses a running server does its work there.
    done = fenced.exec("sh", "-c", 'pg_checksums --check -D "$PGDATA"')
    assert "Checksum operation completed" in done.stdout
    metrics = fenced.metrics()
    assert metrics["cnpg_collector_fencing_on"] == 1
    assert metrics['cnpg_collector_up{cluster="small"}'] == 0


@pytest.mark.soak
def test_lifting_brings_the_same_data_back(small: SmallCluster) -> None:
    uid = (small.pod() or {})["metadata"]["uid"]
    small.annotate(fencedInstances='["*"]')
    until(lambda: not small.is_ready())
    small.annotate(fencedInstances='["*", "small-2"]')  # nobody can be taken out of `*` by naming others
    assert not small.answers()
    small.annotate(fencedInstances="[]")
    until(lambda: small.is_healthy() and small.answers())
    assert (small.pod() or {})["metadata"]["uid"] == uid
    assert small.app("SELECT count(*) FROM kept") == [(100,)]
    assert condition(small.object, "Ready") == "True"


@pytest.mark.soak
def test_a_fenced_instance_is_still_fenced_in_a_new_pod(fenced: SmallCluster) -> None:
    pod = fenced.pod()
    assert pod is not None
    fenced.lab.delete(f"/api/v1/namespaces/{fenced.namespace}/pods/small-1")
    until(lambda: (fenced.pod() or pod)["metadata"]["uid"] != pod["metadata"]["uid"])
    until(lambda: (fenced.pod() or {}).get("status", {}).get("phase") == "Running")
    assert not fenced.answers() and not fenced.is_ready()
