"""Every container of an application is pointed elsewhere and back, by whatever way it is given the address: on a real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api

from drillbook import kube as k8s
from drillbook.engine import undo
from drillbook.engine.observations import Observations
from drillbook.engine.step import Context
from drillbook.errors import PreconditionError
from drillbook.evidence import Masker
from drillbook.kube import Kube
from drillbook.profile import load_site
from drillbook.steps.cutover.application import Addressed, addressed, promises, readdress

PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: default, name: shop}}
tenants:
  - database: shop
    app_role: shop_app
    application: {{namespace: default, deployment: {deployment}, address_variable: URL}}
"""
NUMBERS = count(1)
OLD, NEW = "shop-rw.default.svc", "shop2-rw.default.svc"
MAIN = {"env": [{"name": "URL", "value": f"jdbc:postgresql://{OLD}:5432/shop"}]}


class App:
    """Its own Deployment, with the Secret ``<name>`` and the ConfigMap ``<name>`` that its containers may refer to."""

    def __init__(self, api: Api, kube: Kube, folder: Path) -> None:
        self.kube, self.name = kube, f"web{next(NUMBERS)}"
        path = folder / f"{self.name}.yaml"
        path.write_text(PROFILE.format(kubeconfig=api.kubeconfig, deployment=self.name), encoding="utf-8")
        seen = Observations(folder, Masker())
        self.ctx = Context(
            site=load_site(path), run_id="20261101T101500Z-1a2b3c", mode="apply", recorder=seen, mask=seen.masker.add
        )
        place = {"name": self.name, "namespace": "default"}
        uri = f"postgresql://shop_app:longenough@{OLD}:5432/shop"
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": place,
                "stringData": {"uri": uri, "FLYWAY_URL": uri, "key": "longenough"},
            }
        )
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": place,
                "data": {"host": OLD, "FLYWAY_URL": OLD, "color": "red"},
            }
        )

    def deploy(self, containers: list[dict[str, Any]], inits: list[dict[str, Any]]) -> None:
        named = [
            [{"name": f"{word}{number}", "image": "x"} | one for number, one in enumerate(some)]
            for word, some in (("c", containers), ("i", inits))
        ]
        labels = {"app": self.name}
        self.kube.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": self.name, "namespace": "default"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": named[0], **({"initContainers": named[1]} if inits else {})},
                    },
                },
            }
        )

    def found(self) -> Addressed:
        (one,) = addressed(self.ctx, "shop", "shop2")[0]
        return one

    def texts(self) -> str:
        """All that the application's objects say."""
        spec = self.kube.get(k8s.DEPLOYMENT, "default", self.name) or {}
        settings = self.kube.get(k8s.CONFIG_MAP, "default", self.name) or {}
        return json.dumps(
            [spec["spec"]["template"]["spec"], settings["data"], self.kube.secret("default", self.name)], sort_keys=True
        )


@pytest.fixture
def app(api: Api, kube: Kube, tmp_path: Path) -> Iterator[App]:
    made = App(api, kube, tmp_path)
    yield made
    made.ctx.close()


def ref(kind: str, key: str, name: str) -> dict[str, Any]:
    return {kind: {"name": name, "key": key}}


WAYS = {
    "env": {"env": [{"name": "URL", "value": f"postgresql://{OLD}/shop"}]},
    "another variable": {
        "env": [{"name": "FLYWAY_URL", "value": f"jdbc:postgresql://{OLD}/shop"}, {"name": "COLOR", "value": "red"}]
    },
    "valueFrom Secret": {"env": [{"name": "URL", "valueFrom": ref("secretKeyRef", "uri", "NAME")}]},
    "valueFrom ConfigMap": {"env": [{"name": "PGHOST", "valueFrom": ref("configMapKeyRef", "host", "NAME")}]},
    "envFrom Secret": {"envFrom": [{"secretRef": {"name": "NAME"}}]},
    "envFrom ConfigMap": {"envFrom": [{"configMapRef": {"name": "NAME"}, "prefix": "DB_"}]},
}


def named(way: Any, name: str) -> Any:
    if isinstance(way, dict):
        return {key: named(value, name) for key, value in way.items()}
    return [named(item, name) for item in way] if isinstance(way, list) else name if way == "NAME" else way


@pytest.mark.parametrize("sort", ["second container", "init container"])
@pytest.mark.parametrize("way", WAYS)
def test_s22_every_container_is_pointed_elsewhere_and_back(app: App, way: str, sort: str) -> None:
    other = named(WAYS[way], app.name)
    app.deploy([MAIN, other] if sort == "second container" else [MAIN], [] if sort == "second container" else [other])
    before = app.texts()
    places = {(place.kind, place.key) for place in app.found().places}
    assert len(places) >= 2 or way == "env"
    assert readdress(app.ctx, app.found(), "shop", "shop2", wait=False)
    for place in app.found().places:
        assert "shop2-rw" in place.value and "shop-rw" not in place.value
    assert app.found().services_of("shop") == []
    # Back by the procedure, as the undo runbook goes; a Secret's value can't be put back in another way.
    readdress(app.ctx, app.found(), "shop2", "shop", wait=False)
    assert app.texts() == before


@pytest.mark.parametrize("way", ["env", "another variable", "valueFrom ConfigMap", "envFrom ConfigMap"])
def test_s22_what_was_changed_is_put_back_by_its_promises_too(app: App, way: str) -> None:
    app.deploy([MAIN, named(WAYS[way], app.name)], [named(WAYS[way], app.name)])
    before = app.texts()
    readdress(app.ctx, app.found(), "shop", "shop2", wait=False)
    assert app.texts() != before
    for promise in promises(app.ctx, app.found()):
        undo.restore(app.ctx, promise)
    assert app.texts() == before and not app.ctx.recorder.promises()


def test_s22_two_containers_with_different_addresses_are_listed_at_the_gate(app: App) -> None:
    reads = {"env": [{"name": "URL", "value": "postgresql://shop-ro/shop"}]}
    app.deploy([MAIN, reads], [named(WAYS["valueFrom Secret"], app.name)])
    lines = app.found().listed("shop", "shop2")
    assert [line.rpartition(": ")[2] for line in lines] == ["shop-rw", "shop-ro", "shop-rw"]
    assert "container c0" in lines[0] and "container c1" in lines[1] and f"Secret {app.name}, key uri" in lines[2]
    assert "longenough" not in " ".join(lines)  # no value is shown


def test_s22_an_address_in_the_arguments_is_named_as_what_is_left_to_do(app: App) -> None:
    app.deploy([MAIN, {"args": ["--dsn", f"postgresql://{OLD}/shop"]}], [])
    assert "shop-rw in the arguments of container c1: change it by hand" in app.found().listed("shop", "shop2")[-1]


def test_s22_a_container_that_names_no_cluster_is_left_alone(app: App) -> None:
    other = {"env": [{"name": "URL2", "value": "postgresql://elsewhere-rw/shop"}]}
    app.deploy([MAIN, other], [])
    assert len(app.found().listed("shop", "shop2")) == 1
    readdress(app.ctx, app.found(), "shop", "shop2", wait=False)
    assert "elsewhere-rw" in app.texts()


def test_s22_a_variable_that_no_container_has_is_refused(app: App) -> None:
    app.deploy([{"env": [{"name": "OTHER", "value": "x"}]}], [{"env": [{"name": "OTHER", "value": "x"}]}])
    with pytest.raises(PreconditionError) as refused:
        app.found()
    assert "all containers, init containers too" in refused.value.todo


def test_s22_a_secret_that_can_not_be_masked_is_named_and_stops_nothing(app: App) -> None:
    """An entry of another container's Secret that is too short to be masked is none of the recovery's business."""
    short = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{app.name}-short", "namespace": "default"}}
    app.kube.create(short | {"stringData": {"PASSWORD": "abc"}})
    app.deploy([MAIN, {"envFrom": [{"secretRef": {"name": f"{app.name}-short"}}]}], [])
    (unread,) = app.found().by_hand
    assert "can't be read, and may hold an address" in unread and "abc" not in unread
