"""Waiting for an object through broken connections, and the Lease that keeps two runs apart."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api, cluster
from tests.library.fix_kube import Link, config_map

from drillbook import kube as k8s
from drillbook.errors import KubernetesError, LeaseLost, RunInProgress, StepTimeoutError
from drillbook.kube import Kube


class Pending:
    """Calls that another thread makes one after the other, each when its condition is true."""

    def __init__(self, *calls: tuple[Any, Any]) -> None:
        self._calls = calls
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for ready, call in self._calls:
            deadline = time.monotonic() + 60
            while not ready() and time.monotonic() < deadline:
                time.sleep(0.01)
            call()

    def __enter__(self) -> Pending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def phase(found: dict[str, Any] | None) -> str:
    return "" if found is None else str(found.get("status", {}).get("phase", ""))


def test_a_wait_sees_each_state_once(api: Api, kube: Kube) -> None:
    """From 'none exists' over changes to the wished state; the object is returned as it is then."""
    seen: list[str] = []

    def note(found: dict[str, Any] | None) -> None:
        seen.append("none" if found is None else found["data"]["step"])

    with Pending(
        (lambda: seen == ["none"], lambda: kube.create(config_map("steps", step="1"))),
        (lambda: seen[-1] == "1", lambda: kube.patch(k8s.CONFIG_MAP, "default", "steps", {"data": {"step": "2"}})),
    ):
        found = kube.wait(
            k8s.CONFIG_MAP,
            "default",
            "steps",
            lambda obj: obj is not None and obj["data"]["step"] == "2",
            timeout_seconds=60,
            what="step 2",
            on_change=note,
        )
    assert seen == ["none", "1", "2"]
    assert found == kube.get(k8s.CONFIG_MAP, "default", "steps")


def test_a_wait_for_an_object_to_be_gone(kube: Kube) -> None:
    """Deletion ends in None."""
    uid = kube.create(config_map("going"))["metadata"]["uid"]
    seen: list[object] = []
    with Pending((lambda: seen, lambda: kube.delete(k8s.CONFIG_MAP, "default", "going", uid=uid))):
        assert (
            kube.wait(
                k8s.CONFIG_MAP,
                "default",
                "going",
                lambda obj: obj is None,
                timeout_seconds=60,
                what="it to be gone",
                on_change=seen.append,
            )
            is None
        )


def test_a_wait_outlives_a_cut_connection(kube: Kube, linked: Kube, link: Link) -> None:
    """The change happened while the API server could not be reached: the next list shows it."""
    kube.create(config_map("cut", step="1"))
    seen: list[str] = []

    def while_away() -> None:
        link.cut()
        kube.patch(k8s.CONFIG_MAP, "default", "cut", {"data": {"step": "2"}})
        time.sleep(0.5)
        link.restore()

    with Pending((lambda: seen == ["1"], while_away)):
        found = linked.wait(
            k8s.CONFIG_MAP,
            "default",
            "cut",
            lambda obj: obj is not None and obj["data"]["step"] == "2",
            timeout_seconds=60,
            what="step 2",
            on_change=lambda obj: seen.append(obj["data"]["step"] if obj else "none"),
        )
    assert found is not None
    assert seen == ["1", "2"]


def test_a_wait_that_ends_in_vain_shows_what_was_last_seen(api: Api, kube: Kube) -> None:
    """Phase, reason and conditions are in the error, and the command to look further."""
    kube.create(cluster("stuck"))
    status = {
        "phase": "Setting up primary",
        "phaseReason": "Creating primary instance stuck-1",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ClusterIsNotReady",
                "message": "Cluster Is Not Ready",
                "lastTransitionTime": "2026-11-01T00:00:00Z",
            }
        ],
    }
    kube.patch(k8s.CLUSTER, "default", "stuck", {"status": status}, subresource="status")
    with pytest.raises(StepTimeoutError) as late:
        kube.wait(
            k8s.CLUSTER,
            "default",
            "stuck",
            lambda obj: phase(obj) == "Cluster in healthy state",
            timeout_seconds=3,
            what="the cluster to be healthy",
        )
    assert late.value.what == (
        "waited 3 s for the cluster to be healthy; Cluster default/stuck was last seen as: phase 'Setting up primary' "
        "(Creating primary instance stuck-1); Ready=False (ClusterIsNotReady: Cluster Is Not Ready)"
    )
    assert "kubectl get clusters stuck -n default" in late.value.todo
    with pytest.raises(StepTimeoutError, match="it does not exist"):
        kube.wait(k8s.CLUSTER, "default", "no", lambda obj: obj is not None, timeout_seconds=0.2, what="a cluster")


def test_a_wait_with_nobody_there_is_bounded_too(linked: Kube, link: Link) -> None:
    """The error says that nothing was seen and why."""
    link.cut()
    with pytest.raises(StepTimeoutError, match=r"nothing was seen; lastly .*no answer from"):
        linked.wait(k8s.CONFIG_MAP, "default", "x", lambda obj: True, timeout_seconds=1, what="anything")


def test_a_wait_that_is_forbidden_ends_at_once(api: Api) -> None:
    """Rights do not come by waiting."""
    with Kube.open(str(api.kubeconfig), "lab") as drill, pytest.raises(KubernetesError) as denied:
        drill.wait(k8s.SECRET, "default", "x", lambda obj: True, timeout_seconds=60, what="a Secret")
    assert denied.value.status == 403


def test_what_the_condition_raises_ends_the_wait(kube: Kube) -> None:
    """A failed recovery is reported together, not at the time limit."""

    def failed(_: object) -> bool:
        raise LookupError("the recovery failed")

    with pytest.raises(LookupError):
        kube.wait(k8s.CONFIG_MAP, "default", "x", failed, timeout_seconds=60, what="anything")


def test_conditions_containers_and_finalizers_are_described() -> None:
    """What an operator would look for first."""
    pod = {
        "metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z", "finalizers": ["a/b"]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
            ],
        },
    }
    assert k8s.describe(pod) == (
        "being deleted, held by a/b; phase 'Pending'; container main waiting (ImagePullBackOff: no such image)"
    )
    assert k8s.describe({"metadata": {}, "status": {"failed": 2}}) == "failed 2"
    assert k8s.describe({"metadata": {}}) == "it exists, without a status"


# -- the Lease -----------------------------------------------------------------------------------


def test_a_second_run_is_told_who_holds_the_lease(kube: Kube) -> None:
    """The holder is named; once given back, the Lease can be taken."""
    with kube.lease("default", "drillbook-one", "run-1", ttl_seconds=60) as lease:
        lease.ensure_held()
        with pytest.raises(RunInProgress, match=r"Lease default/drillbook-one is held by run-1 until 20"):
            kube.lease("default", "drillbook-one", "run-2", ttl_seconds=60)
        lease.ensure_held()
    with kube.lease("default", "drillbook-one", "run-2", ttl_seconds=60):
        found = kube.get(k8s.LEASE, "default", "drillbook-one")
    assert found is not None
    assert found["spec"]["holderIdentity"] == "run-2"
    assert found["spec"]["leaseTransitions"] >= 1
    released = kube.get(k8s.LEASE, "default", "drillbook-one")
    assert released is not None and not released["spec"].get("holderIdentity")


def test_one_of_many_gets_the_lease(api: Api) -> None:
    """Eight at once on a Lease that does not exist: one gets it, seven are reported who."""
    leases: list[k8s.Lease] = []
    refused: list[str] = []
    ready = threading.Barrier(8)
    with Kube.open(str(api.kubeconfig), "lab-admin") as kube:

        def take(n: int) -> None:
            ready.wait()
            try:
                leases.append(kube.lease("default", "drillbook-race", f"run-{n}", ttl_seconds=60))
            except RunInProgress as error:
                refused.append(error.what)

        threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = leases
        assert len(refused) == 7
        assert all(f"held by {winner.holder}" in text for text in refused)
        winner.release()


def test_an_expired_lease_is_taken_over_and_its_holder_notices(kube: Kube) -> None:
    """A run that was suspended finds its Lease lost, before it changes anything; releasing it then harms nobody."""
    asleep = kube.lease("default", "drillbook-sleep", "run-asleep", ttl_seconds=1)
    asleep.stop_renewing()  # as a laptop that sleeps
    deadline = time.monotonic() + 60
    while True:
        try:
            awake = kube.lease("default", "drillbook-sleep", "run-awake", ttl_seconds=60)
            break
        except RunInProgress:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with awake:
        with pytest.raises(LeaseLost, match="it is held by run-awake"):
            asleep.ensure_held()
        with pytest.raises(LeaseLost):
            asleep.renew()
        asleep.release()
        awake.ensure_held()


def test_a_lease_is_renewed_while_the_run_lives(kube: Kube) -> None:
    """Well beyond its time to live it is still ours, without a call."""
    ttl = 3  # renewed three times as often: a busy machine may be late by two seconds

    def renewed() -> str:
        return str((kube.get(k8s.LEASE, "default", "drillbook-long") or {})["spec"]["renewTime"])

    with kube.lease("default", "drillbook-long", "run-long", ttl_seconds=ttl) as lease:
        seen, begun = {renewed()}, time.monotonic()
        while len(seen) < 4 or time.monotonic() < begun + ttl + 1:
            assert time.monotonic() < begun + 60, seen
            time.sleep(0.1)
            seen.add(renewed())
        with pytest.raises(RunInProgress):
            kube.lease("default", "drillbook-long", "run-other", ttl_seconds=ttl)
        lease.ensure_held()


def test_an_expired_lease_that_nobody_took_is_still_ours(kube: Kube) -> None:
    """A run that slept past its Lease renews it first, and goes on."""
    lease = kube.lease("default", "drillbook-late", "run-late", ttl_seconds=1)
    lease.stop_renewing()
    time.sleep(2.5)
    before = kube.get(k8s.LEASE, "default", "drillbook-late")
    lease.ensure_held()
    after = kube.get(k8s.LEASE, "default", "drillbook-late")
    assert before is not None and after is not None
    assert after["spec"]["renewTime"] > before["spec"]["renewTime"]
    lease.release()


def test_a_lease_that_was_deleted_is_lost(kube: Kube) -> None:
    """Also when another of the same name and holder was made."""
    lease = kube.lease("default", "drillbook-gone", "run-gone", ttl_seconds=60)
    found = kube.get(k8s.LEASE, "default", "drillbook-gone")
    assert found is not None
    kube.delete(k8s.LEASE, "default", "drillbook-gone", uid=found["metadata"]["uid"])
    again = kube.lease("default", "drillbook-gone", "run-gone", ttl_seconds=60)
    assert not lease.is_mine()
    with pytest.raises(LeaseLost, match="taken again"):
        lease.ensure_held()
    lease.release()
    again.ensure_held()
    again.release()
