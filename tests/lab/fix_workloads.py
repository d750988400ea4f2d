"""A Deployment on the session's lab, and what a test needs to see of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fix_clusters import kubectl
from fix_lab import CORE, RunningLab, condition, until

APPS = "/apis/apps/v1/namespaces"
Object = dict[str, Any]


@dataclass
class Workload:
    """One Deployment, by its name."""

    lab: RunningLab
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"{APPS}/{self.namespace}/deployments/{self.name}"

    @property
    def object(self) -> Object:
        found: Object = self.lab.get(self.path)
        return found

    def create(self, **spec: Any) -> Workload:
        """A Deployment whose image the lab doesn't have: pods that never run cost nothing."""
        labels = {"app": self.name}
        self.lab.create(
            f"{APPS}/{self.namespace}/deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "main", "image": "somebody/else:1"}]},
                    },
                    **spec,
                },
            },
        )
        return self

    def _all(self, path: str) -> list[Object]:
        found: list[Object] = self.lab.get(path)["items"]
        return sorted(found, key=lambda obj: str(obj["metadata"]["creationTimestamp"]))

    def sets(self) -> list[Object]:
        """Its ReplicaSets, the newest revision last."""
        path = f"{APPS}/{self.namespace}/replicasets"
        uid = self.object["metadata"]["uid"]
        mine = [obj for obj in self._all(path) if uid in {ref["uid"] for ref in owners(obj)}]
        return sorted(mine, key=lambda obj: int(obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))

    def pods(self) -> list[Object]:
        """Every pod that its selector matches, those on their way out too."""
        labels = self.object["spec"]["selector"]["matchLabels"]
        text = ",".join(f"{key}%3D{value}" for key, value in labels.items())
        return self._all(f"{CORE}/{self.namespace}/pods?labelSelector={text}")

    def ready(self) -> list[Object]:
        """Those of them that serve."""
        pods = self.pods()
        return [
            pod for pod in pods if condition(pod, "Ready") == "True" and not pod["metadata"].get("deletionTimestamp")
        ]

    def scale(self, replicas: int) -> None:
        self.lab.patch(f"{self.path}/scale", {"spec": {"replicas": replicas}})

    def settled(self, replicas: int) -> bool:
        """Whether so many pods serve and no other is left."""
        return len(self.ready()) == replicas == len(self.pods())

    def reason(self, kind: str) -> str:
        """Why a condition of it is as it is."""
        conditions = (self.object.get("status") or {}).get("conditions") or ()
        return next((str(entry["reason"]) for entry in conditions if entry["type"] == kind), "")

    def kubectl(self, *arguments: str) -> str:
        return kubectl(self.lab, "-n", self.namespace, *arguments).stdout

    def endpoints(self) -> set[str]:
        """The addresses behind the Service of its name."""
        found = self.lab.get(f"{CORE}/{self.namespace}/endpoints/{self.name}")
        return {entry["ip"] for subset in found.get("subsets") or () for entry in subset.get("addresses") or ()}

    def env(self, pod: Object) -> dict[str, str]:
        """What the pod's spec says of its environment in plain values."""
        return {entry["name"]: entry.get("value", "") for entry in pod["spec"]["containers"][0]["env"]}


def owners(obj: Object) -> list[Object]:
    """Whom an object belongs to."""
    return list(obj["metadata"].get("ownerReferences") or ())


def http(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """One request to the application: status and JSON answer."""
    request = urllib.request.Request(  # noqa: S310 - a lab's own address
        url, method=method, data=None if body is None else json.dumps(body).encode()
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


@pytest.fixture
def backend(lab: RunningLab) -> Iterator[Workload]:
    """The site's own application, three replicas that serve; they are again when the test ends."""
    workload = Workload(lab, "synergyflow", "synergyflow-backend")
    template = workload.object["spec"]["template"]
    until(lambda: workload.settled(3))
    yield workload
    code, answer = lab.call(
        "PATCH",
        workload.path,
        [
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "replace", "path": "/spec/replicas", "value": 3},
        ],
        "application/json-patch+json",
    )
    assert code == 200, answer
    until(lambda: workload.settled(3))
