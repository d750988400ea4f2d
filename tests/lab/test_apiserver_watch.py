"""Watches: too old, too slow, bookmarks, and across a restart of the server."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fix_apiserver import ADMIN, Api, Kubectl, cleanly

from drillbook_lab.api import ApiError, Registry, cnpg_registry
from drillbook_lab.api.persistence import Journal

MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def first_events(api: Api, count: int, **query: str) -> list[dict[str, Any]]:
    """The first events of a watch."""

    async def go() -> list[dict[str, Any]]:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        seen: list[dict[str, Any]] = []
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as http,
            http.get(api.url + MAPS, params={"watch": "1", **query}, ssl=trust) as response,
        ):
            async for line in response.content:
                seen.append(json.loads(line))
                if len(seen) == count:
                    break
        return seen

    return asyncio.run(asyncio.wait_for(cleanly(go()), 60))


def write(registry: Registry, times: int, size: int = 1) -> None:
    for number in range(times):
        registry.patch("ConfigMap", "default", "m", {"data": {"value": f"{number}", "more": "x" * size}})


def test_a_version_that_is_too_old_is_told_as_410(tmp_path: Path) -> None:
    server = Api(tmp_path, Registry(history=10))
    server.start()
    try:
        old = server.do(server.registry.create, config_map("m"))["metadata"]["resourceVersion"]
        server.do(write, server.registry, 20)
        (event,) = first_events(server, 1, resourceVersion=old)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    finally:
        server.stop()


def test_a_slow_watcher_is_dropped_with_410_and_nobody_else(tmp_path: Path) -> None:
    """It doesn't read: what is meant for it piles up to a bound, and then it has to list again."""
    server = Api(tmp_path, Registry(watcher_limit=50))
    server.start()
    server.do(server.registry.create, config_map("m"))

    async def go() -> tuple[list[str], int]:
        trust = ssl.create_default_context(cafile=str(server.serving.tls.ca))
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}, read_bufsize=2**14) as http:
            slow = await http.get(server.url + MAPS, params={"watch": "1"}, ssl=trust)
            await slow.content.readline()
            quick = await http.get(server.url + MAPS, params={"watch": "1"}, ssl=trust)
            await quick.content.readline()

            seen, lines = 0, _lines(quick)
            for _ in range(40):
                # Ten at a time: who reads them is never far behind, no matter who doesn't is in the end.
                await asyncio.to_thread(server.do, write, server.registry, 10, 100_000)
                batch = seen + 10
                while seen < batch:
                    seen += json.loads(await anext(lines))["type"] == "MODIFIED"
            events = [line async for line in _lines(slow)]
            quick.close()
            slow.close()
            return events, seen

    try:
        events, seen = asyncio.run(asyncio.wait_for(cleanly(go()), 120))
    finally:
        server.stop()
    assert seen == 400
    last = json.loads(events[-1])
    assert (last["type"], last["object"]["code"]) == ("ERROR", 410)
    assert len(events) < 400


async def _lines(response: aiohttp.ClientResponse) -> Any:
    """Lines longer than the client's buffer."""
    pending = b""
    async for chunk in response.content.iter_any():
        *complete, pending = (pending + chunk).split(b"\n")
        for line in complete:
            yield line


def test_a_bookmark_closes_a_watch(api: Api) -> None:
    api.do(api.registry.create, config_map("m"))
    added, bookmark = first_events(api, 2, allowWatchBookmarks="true", timeoutSeconds="1")
    assert added["type"] == "ADDED"
    assert bookmark["type"] == "BOOKMARK"
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(added["object"]["metadata"]["resourceVersion"])


def test_a_restart_keeps_every_object_and_version_and_no_history(tmp_path: Path) -> None:
    before = cnpg_registry()
    assert before.keep(Journal(tmp_path / "registry.db")) is False
    before.create(config_map("m"))
    before.create(config_map("gone"))
    before.delete("ConfigMap", "default", "gone")
    write(before, 3)
    kept = {
        (obj["kind"], obj["metadata"]["name"]): obj for kind in before.resources() for obj in before.list(kind.kind)
    }
    # Not closed: a killed process closes nothing.
    after = cnpg_registry()
    assert after.keep(Journal(tmp_path / "registry.db")) is True
    found = {(obj["kind"], obj["metadata"]["name"]): obj for kind in after.resources() for obj in after.list(kind.kind)}
    assert found == kept
    assert after.version == before.version
    assert {kind.kind for kind in after.resources()} == {kind.kind for kind in before.resources()}
    with pytest.raises(ApiError) as refused:
        after.follow("ConfigMap", since=before.version - 1)
    assert refused.value.code == 410
    after.follow("ConfigMap", since=before.version).close()
    owner = after.get("ConfigMap", "default", "m")
    dependent = config_map("dependent")
    dependent["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": owner["metadata"]["uid"]}
    ]
    after.create(dependent)
    third = cnpg_registry()
    third.keep(Journal(tmp_path / "registry.db"))
    third.delete("ConfigMap", "default", "m")  # owners are known again
    assert not third.list("ConfigMap", "default")


def test_kubectl_deletes_by_cascade(api: Api, kubectl: Kubectl) -> None:
    """--cascade=orphan leaves the dependents, foreground takes them before their owner."""

    def family(name: str) -> None:
        owner = api.do(api.registry.create, config_map(name))
        child = config_map(f"{name}-child")
        child["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": name,
                "uid": owner["metadata"]["uid"],
                "blockOwnerDeletion": True,
            }
        ]
        api.do(api.registry.create, child)

    family("a")
    kubectl("delete", "configmap", "a", "--cascade=orphan")
    child = api.do(api.registry.get, "ConfigMap", "default", "a-child")
    assert "ownerReferences" not in child["metadata"]
    family("b")
    held = api.do(api.registry.patch, "ConfigMap", "default", "b-child", {"metadata": {"finalizers": ["test/held"]}})
    assert held["metadata"]["finalizers"]
    kubectl("delete", "configmap", "b", "--cascade=foreground", "--wait=false")
    owner = api.do(api.registry.get, "ConfigMap", "default", "b")
    assert owner["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert api.do(api.registry.get, "ConfigMap", "default", "b-child")["metadata"]["deletionTimestamp"]
    api.do(api.registry.patch, "ConfigMap", "default", "b-child", {"metadata": {"finalizers": None}})
    assert "b" not in kubectl("get", "configmaps", "-o", "name").replace("configmap/a-child", "")
