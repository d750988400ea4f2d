"""ResourceQuota and LimitRange: refusals in Kubernetes' words, and the count of what is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fix_apiserver import Api, Object

from drillbook_lab.api import ApiError


def quota(**hard: str) -> Object:
    spec = {"hard": {name.replace("__", "/").replace("_", "."): amount for name, amount in hard.items()}}
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "default"},
        "spec": spec,
    }


def ranges(**item: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"limits": [item]},
    }


def pod(name: str, **resources: Any) -> Object:
    container = {"name": "main", "image": "none", "resources": resources}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container]},
    }


def claim(name: str, size: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ApiError) as refused:
        call()
    assert refused.value.code == 403
    return refused.value.message


def used(api: Api, **wanted: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        status = api.do(api.registry.get, "ResourceQuota", "default", "q").get("status") or {}
        if {name: (status.get("used") or {}).get(name.replace("_", ".")) for name in wanted} == wanted:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.01)


def test_counts_are_held_to_and_given_back(api: Api) -> None:
    api.do(api.registry.create, quota(pods="2", count__jobs_batch="0"))
    for name in ("a", "b"):
        api.do(api.registry.create, pod(name))
    used(api, pods="2")
    said = refusal(lambda: api.do(api.registry.create, pod("c")))
    assert said == 'pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2'
    api.pod_phase("a", "Succeeded")  # has ended: it takes nothing any more
    api.do(api.registry.create, pod("c"))
    api.do(api.registry.delete, "Pod", "default", "b")
    used(api, pods="1")
    api.do(api.registry.delete, "ResourceQuota", "default", "q")
    for name in "defg":
        api.do(api.registry.create, pod(name))


def test_storage_counts_by_size_when_it_is_asked_for_and_when_it_grows(api: Api) -> None:
    api.do(api.registry.create, quota(requests_storage="3Gi", persistentvolumeclaims="5"))
    api.do(api.registry.create, claim("one", "2Gi"))
    said = refusal(lambda: api.do(api.registry.create, claim("two", "1536Mi")))
    assert said == (
        'persistentvolumeclaims "two" is forbidden: exceeded quota: q, requested: requests.storage=1536Mi, '
        "used: requests.storage=2Gi, limited: requests.storage=3Gi"
    )
    used(api, requests_storage="2Gi", persistentvolumeclaims="1")


def test_compute_has_to_be_told_and_fits(api: Api) -> None:
    api.do(api.registry.create, quota(requests_cpu="1", limits_memory="1Gi"))
    said = refusal(lambda: api.do(api.registry.create, pod("silent")))
    assert (
        said
        == 'pods "silent" is forbidden: failed quota: q: must specify limits.memory for: main; requests.cpu for: main'
    )
    api.do(api.registry.create, pod("fits", requests={"cpu": "600m"}, limits={"memory": "512Mi"}))
    said = refusal(lambda: api.do(api.registry.create, pod("more", requests={"cpu": "500m"}, limits={"memory": "1Mi"})))
    assert "requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1" in said
    used(api, requests_cpu="600m", limits_memory="512Mi")


def test_a_limit_range_gives_defaults_and_holds_to_its_bounds(api: Api) -> None:
    api.do(
        api.registry.create,
        ranges(
            type="Container",
            default={"cpu": "500m"},
            defaultRequest={"cpu": "100m"},
            max={"cpu": "1"},
            min={"cpu": "50m"},
        ),
    )
    made = api.do(api.registry.create, pod("plain"))
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    said = refusal(lambda: api.do(api.registry.create, pod("large", limits={"cpu": "2"})))
    assert said == 'pods "large" is forbidden: maximum cpu usage per Container is 1, but limit is 2'
    said = refusal(lambda: api.do(api.registry.create, pod("small", requests={"cpu": "10m"})))
    assert said == 'pods "small" is forbidden: minimum cpu usage per Container is 50m, but request is 10m'


def test_a_limit_range_bounds_volumes(api: Api) -> None:
    api.do(api.registry.create, ranges(type="PersistentVolumeClaim", max={"storage": "1Gi"}))
    said = refusal(lambda: api.do(api.registry.create, claim("wide", "2Gi")))
    assert said == (
        'persistentvolumeclaims "wide" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, '
        "but request is 2Gi"
    )
    api.do(api.registry.create, claim("narrow", "1Gi"))
