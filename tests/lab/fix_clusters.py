"""Small Clusters of a test's own on the session's lab, and kubectl as a user has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fix_lab import CNPG, CORE, STANDING, RunningLab, condition, until

Object = dict[str, Any]
HEALTHY = "Cluster in healthy state"


@dataclass
class SmallCluster:
    """A Cluster of one or more instances in its own namespace."""

    lab: RunningLab
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"{CNPG}/{self.namespace}/clusters/{self.name}"

    @property
    def object(self) -> Object:
        found: Object = self.lab.get(self.path)
        return found

    @property
    def status(self) -> Object:
        return dict(self.object.get("status") or {})

    def pod(self, number: int = 1) -> Object | None:
        found: Object | None = self.lab.find(f"{CORE}/{self.namespace}/pods/{self.name}-{number}")
        return found

    def claim(self, number: int = 1) -> Object:
        found: Object = self.lab.get(f"{CORE}/{self.namespace}/persistentvolumeclaims/{self.name}-{number}")
        return found

    def annotate(self, **values: str | None) -> None:
        named = {f"cnpg.io/{key}": value for key, value in values.items()}
        self.lab.patch(self.path, {"metadata": {"annotations": named}})

    def is_ready(self, number: int = 1) -> bool:
        return condition(self.pod(number) or {}, "Ready") == "True"

    def is_healthy(self) -> bool:
        return self.status.get("phase") == HEALTHY and self.is_ready()

    def app(self, query: str) -> list[tuple[Any, ...]]:
        """A query as the application's role, at the pod's own address."""
        password = self.lab.secret(self.namespace, f"{self.name}-app")["password"]
        return self.lab.sql("app", password, "app", query, pod=self.pod())

    def answers(self) -> bool:
        try:
            return self.app("SELECT true") == [(True,)]
        except (psycopg.Error, TypeError):
            return False

    def create(self, **spec: Any) -> SmallCluster:
        self.lab.create(
            f"{CNPG}/{self.namespace}/clusters",
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Cluster",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {"instances": 1, "storage": {"size": "1Gi"}, **spec},
            },
        )
        until(lambda: self.is_healthy() and self.answers())
        return self

    def exec(self, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A command in the first instance's pod."""
        return kubectl(
            self.lab, "-n", self.namespace, "exec", f"{self.name}-1", "-c", "postgres", "--", *command, **more
        )

    def events(self, kind: str, name: str) -> list[Object]:
        found = self.lab.get(f"{CORE}/{self.namespace}/events")["items"]
        return [e for e in found if (e["involvedObject"]["kind"], e["involvedObject"]["name"]) == (kind, name)]

    def metrics(self) -> dict[str, float]:
        """A scrape at the pod's own address: the samples by name and labels."""
        pod = self.pod()
        assert pod is not None
        return scraped(
            urllib.request.urlopen(f"http://{pod['status']['podIP']}:9187/metrics", timeout=60).read().decode()
        )


def scraped(text: str) -> dict[str, float]:
    """The samples of an exposition, by name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def kubectl(lab: RunningLab, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The real client, as the lab's administrator."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    argv = ["kubectl", "--kubeconfig", str(lab.home.kubeconfig), "--context", "lab-admin"]
    env = {**os.environ, "HOME": str(lab.home.root)}
    done = subprocess.run(
        [*argv, *arguments], capture_output=True, text=True, check=False, env=env, timeout=120, stdin=subprocess.DEVNULL
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def namespace(lab: RunningLab, name: str) -> str:
    """A namespace for a test's things."""
    if lab.find(f"{CORE}/{name}") is None:
        lab.create(CORE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def as_json(lab: RunningLab, *arguments: str) -> Any:
    """What kubectl prints as JSON."""
    return json.loads(kubectl(lab, *arguments, "-o", "json").stdout)


@pytest.fixture(scope="module")
def small(lab: RunningLab) -> SmallCluster:
    """One instance, for all files of the folder; a test that changes it puts it back."""
    return STANDING.get("small", lambda: _small(lab))


def _small(lab: RunningLab) -> Iterator[SmallCluster]:
    made = SmallCluster(lab, namespace(lab, "small"), "small").create()
    made.app("CREATE TABLE kept AS SELECT g FROM generate_series(1, 100) AS g")
    yield made
    lab.delete(f"{CORE}/small")
