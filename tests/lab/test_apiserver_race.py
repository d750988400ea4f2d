"""Many writers and many watchers at once: nothing lost, nothing doubled, nothing kept indefinitely."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fix_apiserver import ADMIN, Api, cleanly
from kubernetes import client, config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from drillbook_lab.api import ApiError, Registry

WRITERS, ROUNDS = 8, 25
MAPS = "/api/v1/namespaces/default/configmaps"


def session(api: Api) -> aiohttp.ClientSession:
    trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
    connector = aiohttp.TCPConnector(limit=0, ssl=trust)
    return aiohttp.ClientSession(api.url, headers={"Authorization": f"Bearer {ADMIN}"}, connector=connector)


def counter(value: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "counter", "namespace": "default"},
        "data": {"value": str(value)},
    }


async def watched(http: aiohttp.ClientSession, since: str, last: int) -> list[tuple[str, int]]:
    """What one watcher sees until the counter has its last value: (resource version, value)."""
    seen = []
    async with http.get(MAPS, params={"watch": "1", "resourceVersion": since}) as response:
        async for line in response.content:
            event = json.loads(line)
            assert event["type"] == "MODIFIED", event
            obj = event["object"]
            seen.append((obj["metadata"]["resourceVersion"], int(obj["data"]["value"])))
            if seen[-1][1] == last:
                return seen
    raise AssertionError(f"the watch ended after {seen[-1:]}")


async def adds(http: aiohttp.ClientSession, conflicts: list[int]) -> None:
    """One writer: read, add one, write; when somebody was quicker, again."""
    for _ in range(ROUNDS):
        while True:
            async with http.get(f"{MAPS}/counter") as response:
                obj = await response.json()
            obj["data"]["value"] = str(int(obj["data"]["value"]) + 1)
            async with http.put(f"{MAPS}/counter", json=obj) as response:
                await response.read()
                if response.status == 200:
                    break
                assert response.status == 409
                conflicts.append(1)


@pytest.mark.parametrize("watchers", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_eight_writers_and_many_watchers_agree(api: Api, watchers: int) -> None:
    made = api.do(api.registry.create, counter(0))
    conflicts: list[int] = []

    async def go() -> list[list[tuple[str, int]]]:
        async with session(api) as http:
            since = made["metadata"]["resourceVersion"]
            watching = [asyncio.create_task(watched(http, since, WRITERS * ROUNDS)) for _ in range(watchers)]
            await asyncio.gather(*(adds(http, conflicts) for _ in range(WRITERS)))
            return await asyncio.wait_for(asyncio.gather(*watching), 120)

    seen = asyncio.run(cleanly(go()))
    first = seen[0]
    assert [value for _, value in first] == list(range(1, WRITERS * ROUNDS + 1))
    versions = [int(version) for version, _ in first]
    assert versions == sorted(set(versions))
    assert all(other == first for other in seen)
    assert conflicts  # or nothing was raced for


def test_memory_is_flat_over_ten_thousand_writes() -> None:
    registry = Registry()
    made = registry.create({**counter(0), "data": {"value": "0", "more": "x" * 2000}})

    def write(times: int) -> None:
        nonlocal made
        for _ in range(times):
            made["data"]["value"] = str(int(made["data"]["value"]) + 1)
            made = registry.update(made)

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    write(9_000)  # the history is full from here on
    before = resident()
    write(10_000)
    assert resident() - before < 16 << 20  # of 20 MB that were written, and as much again as JSON


def test_the_history_is_bounded_by_its_bytes() -> None:
    registry = Registry()
    made = registry.create({**counter(0), "data": {"value": "x" * 500_000}})
    first = registry.version
    for number in range(100):
        made["metadata"]["labels"] = {"n": str(number)}
        made = registry.update(made)
    with pytest.raises(ApiError, match="too old resource version") as refused:
        registry.follow("ConfigMap", since=first)
    assert refused.value.code == 410
    registry.follow("ConfigMap", since=registry.version - 1).close()


@pytest.mark.soak
def test_a_lease_has_one_leader_and_hands_over(api: Api) -> None:
    """The official client's own leader election, on a Lease: one leads, and when it gives up, the other."""
    leading: list[str] = []
    enough = {name: threading.Event() for name in ("one", "two")}

    def elect(name: str) -> None:
        with config.new_client_from_config(str(api.kubeconfig), context="lab-admin") as connection:
            lock = LeaseLock("leader", "default", name)
            lock.api_instance = client.CoordinationV1Api(connection)

            def lead() -> None:
                leading.append(name)
                enough[name].wait(60)
                raise RuntimeError("had enough")  # the client's way to stop leading

            wanted = electionconfig.Config(
                lock,
                lease_duration=8,
                renew_deadline=7,
                retry_period=1,
                onstarted_leading=lead,
                onstopped_leading=lambda: None,
            )
            leaderelection.LeaderElection(wanted).run()

    candidates = {name: threading.Thread(target=elect, args=(name,)) for name in enough}
    for thread in candidates.values():
        thread.start()

    def until_led(times: int) -> str:
        deadline = time.monotonic() + 60
        while len(leading) < times:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return leading[-1]

    first = until_led(1)
    assert api.do(api.registry.get, "Lease", "default", "leader")["spec"]["holderIdentity"] == first
    enough[first].set()
    candidates[first].join(60)
    second = until_led(2)
    assert {first, second} == {"one", "two"}
    lease = api.do(api.registry.get, "Lease", "default", "leader")["spec"]
    assert lease["holderIdentity"] == second
    enough[second].set()
    candidates[second].join(60)
    assert leading == [first, second]
