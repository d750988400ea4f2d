"""Deployments and ReplicaSets on a real lab: rollouts of pods that are real processes, and what their status says."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fix_clusters import kubectl, namespace
from fix_lab import CORE, RunningLab, condition, until
from fix_workloads import APPS, Workload, owners

from drillbook_lab.faults import catalogue as faults

pytestmark = pytest.mark.soak

Object = dict[str, Any]
POOL = "SPRING_DATASOURCE_HIKARI_MAXIMUMPOOLSIZE"


@pytest.fixture(scope="module")
def space(lab: RunningLab) -> Iterator[str]:
    yield namespace(lab, "workloads")
    lab.delete(f"{CORE}/workloads")


@pytest.fixture
def idle(lab: RunningLab, space: str, request: pytest.FixtureRequest) -> Workload:
    """A Deployment of the test's own, whose pods never run."""
    return Workload(lab, space, request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-"))


def test_set_env_rolls_the_pods_one_after_the_other(backend: Workload) -> None:
    before = {pod["metadata"]["uid"] for pod in backend.ready()}
    assert "env updated" in backend.kubectl("set", "env", f"deploy/{backend.name}", f"{POOL}=7")
    said = backend.kubectl("rollout", "status", f"deploy/{backend.name}", "--timeout=120s")
    assert "successfully rolled out" in said
    until(lambda: backend.settled(3))
    pods = backend.pods()
    assert not before & {pod["metadata"]["uid"] for pod in pods}
    assert {backend.env(pod)[POOL] for pod in pods} == {"7"}
    assert {owners(pod)[0]["name"] for pod in pods} == {backend.sets()[-1]["metadata"]["name"]}
    until(lambda: backend.endpoints() == {pod["status"]["podIP"] for pod in pods})
    status = backend.object["status"]
    assert status["observedGeneration"] == backend.object["metadata"]["generation"]
    assert (status["replicas"], status["updatedReplicas"], status["availableReplicas"]) == (3, 3, 3)
    assert backend.reason("Progressing") == "NewReplicaSetAvailable"
    # With 25 % of 3, one surge and none missing: never fewer than three were available.
    scaled = [
        event["message"]
        for event in backend.lab.get(f"{CORE}/{backend.namespace}/events")["items"]
        if event["reason"] == "ScalingReplicaSet"
    ]
    assert any("from 3 to 2" in text for text in scaled)
    assert "CHANGE-CAUSE" in backend.kubectl("rollout", "history", f"deploy/{backend.name}")
    newest = len(backend.sets())
    assert "rolled back" in backend.kubectl("rollout", "undo", f"deploy/{backend.name}")
    backend.kubectl("rollout", "status", f"deploy/{backend.name}", "--timeout=120s")
    assert len(backend.sets()) == newest  # the older template's own ReplicaSet has become the newest revision
    assert {backend.env(pod)[POOL] for pod in backend.ready()} == {"20"}


def test_scaled_to_nothing_its_processes_are_gone(backend: Workload) -> None:
    pids = [int(process["pid"]) for process in processes(backend)]
    assert len(pids) == 3
    assert "scaled" in backend.kubectl("scale", f"deploy/{backend.name}", "--replicas=0", "--current-replicas=3")
    until(lambda: not backend.pods())
    assert not any(alive(pid) for pid in pids)
    assert backend.endpoints() == set()
    until(lambda: backend.object["status"].get("replicas") is None)
    assert condition(backend.object, "Available") == "True"  # none are wanted, none are missing


def test_a_killed_pod_is_started_again_and_a_deleted_one_made_anew(backend: Workload) -> None:
    victim = processes(backend)[0]
    name = victim["what"].rpartition("/")[2]
    os.kill(int(victim["pid"]), signal.SIGKILL)
    until(lambda: restarts(backend, name) == 1)
    until(lambda: backend.settled(3))
    backend.lab.delete(f"{CORE}/{backend.namespace}/pods/{name}")
    until(lambda: backend.settled(3) and name not in {pod["metadata"]["name"] for pod in backend.pods()})


def test_a_rollout_that_can_not_be_stays_half_way_and_keeps_serving(backend: Workload) -> None:
    backend.lab.patch(backend.path, {"spec": {"progressDeadlineSeconds": 2}})
    backend.kubectl("set", "image", f"deploy/{backend.name}", "app=registry.lab.internal/no/such:1")
    until(lambda: backend.reason("Progressing") == "ProgressDeadlineExceeded")
    assert len(backend.ready()) == 3 and len(backend.pods()) == 4
    said = kubectl(
        backend.lab, "-n", backend.namespace, "rollout", "status", f"deploy/{backend.name}", check=False
    ).stderr
    assert "exceeded its progress deadline" in said
    backend.kubectl("rollout", "undo", f"deploy/{backend.name}")
    until(lambda: backend.settled(3) and backend.reason("Progressing") == "NewReplicaSetAvailable")
    backend.lab.patch(backend.path, {"spec": {"progressDeadlineSeconds": 600}})


def test_what_never_runs_is_counted_as_it_is(idle: Workload) -> None:
    idle.create()
    until(lambda: (idle.object.get("status") or {}).get("replicas") == 2)
    assert idle.object["status"]["unavailableReplicas"] == 2 and "readyReplicas" not in idle.object["status"]
    assert condition(idle.object, "Available") == "False"
    until(lambda: all((pod["status"].get("containerStatuses") or [{}])[0].get("state") for pod in idle.pods()))
    waiting = idle.pods()[0]["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ErrImagePull" and "somebody/else:1" in waiting["message"]


def test_paused_it_scales_but_rolls_nothing_out(idle: Workload) -> None:
    idle.create()
    until(lambda: len(idle.pods()) == 2)
    idle.kubectl("rollout", "pause", f"deploy/{idle.name}")
    idle.kubectl("set", "image", f"deploy/{idle.name}", "main=somebody/else:2")
    idle.scale(3)
    until(lambda: len(idle.pods()) == 3)
    assert len(idle.sets()) == 1 and idle.reason("Progressing") == "DeploymentPaused"
    idle.kubectl("rollout", "resume", f"deploy/{idle.name}")
    until(lambda: len(idle.sets()) == 2)
    first = idle.sets()[-1]["metadata"]["name"]
    idle.kubectl("rollout", "restart", f"deploy/{idle.name}")
    until(lambda: idle.sets()[-1]["metadata"]["name"] != first)


def test_recreate_waits_for_the_old_pods_to_be_gone(idle: Workload) -> None:
    idle.create(strategy={"type": "Recreate"})
    until(lambda: len(idle.pods()) == 2)
    old = {pod["metadata"]["uid"] for pod in idle.pods()}
    idle.kubectl("set", "image", f"deploy/{idle.name}", "main=somebody/else:2")
    until(lambda: len(idle.pods()) == 2 and not old & {pod["metadata"]["uid"] for pod in idle.pods()})


@pytest.mark.parametrize("way", ["background", "foreground", "orphan"])
def test_deleted(idle: Workload, way: str) -> None:
    workload = Workload(idle.lab, idle.namespace, f"deleted-{way}")
    workload.create()
    until(lambda: len(workload.pods()) == 2)
    sets, pods = (
        f"{APPS}/{idle.namespace}/replicasets",
        f"{CORE}/{idle.namespace}/pods?labelSelector=app%3D{workload.name}",
    )
    workload.kubectl("delete", "deploy", workload.name, f"--cascade={way}")
    until(lambda: idle.lab.find(workload.path) is None)
    if way != "orphan":
        until(lambda: not idle.lab.get(pods)["items"])
        return
    (left,) = [obj for obj in idle.lab.get(sets)["items"] if obj["metadata"]["name"].startswith(workload.name)]
    assert not owners(left) and len(idle.lab.get(pods)["items"]) == 2
    workload.create()  # it finds them again and makes no others
    until(lambda: [obj["metadata"]["uid"] for obj in workload.sets()] == [left["metadata"]["uid"]])
    assert len(workload.pods()) == 2


def test_a_quota_that_refuses_pods_is_told_until_there_is_room(idle: Workload) -> None:
    space = namespace(idle.lab, "workloads-quota")
    workload = Workload(idle.lab, space, "many")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}, "spec": {"hard": {"pods": "1"}}}
    idle.lab.create(f"{CORE}/{space}/resourcequotas", quota)
    workload.create()
    until(lambda: workload.reason("ReplicaFailure") == "FailedCreate")
    assert len(workload.pods()) == 1
    idle.lab.patch(f"{CORE}/{space}/resourcequotas/pods", {"spec": {"hard": {"pods": "5"}}})
    until(lambda: len(workload.pods()) == 2 and workload.reason("ReplicaFailure") == "")
    idle.lab.delete(f"{CORE}/{space}")


def processes(backend: Workload) -> list[Object]:
    """The application's real processes."""
    found = faults.control(backend.lab.home, {"op": "status"})["processes"]
    return [entry for entry in found if entry["what"].startswith(f"pod {backend.namespace}/") and entry["pid"]]


def restarts(backend: Workload, name: str) -> int:
    pod = backend.lab.get(f"{CORE}/{backend.namespace}/pods/{name}")
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
