"""A whole lab for the tests of this folder: one daemon a session, with little data and short delays."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import yaml
from tests.standing import Standing

from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise

CNPG = "/apis/postgresql.cnpg.io/v1/namespaces"
BARMAN = "/apis/barmancloud.cnpg.io/v1/namespaces"
CORE = "/api/v1/namespaces"
BATCH = "/apis/batch/v1/namespaces"
PATIENCE_SECONDS = 300.0

T = TypeVar("T")


class RunningLab:
    """A lab that is up, seen through its API server with a context's token."""

    def __init__(self, home: LabHome, context: str = "lab-admin") -> None:
        self.home = home
        self.state = home.state()
        config = yaml.safe_load(home.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server = cluster["server"]
        self._token = next(user["user"]["token"] for user in config["users"] if user["name"] == context)
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())

    def as_(self, context: str) -> RunningLab:
        """The same lab with another context's rights."""
        return RunningLab(self.home, context)

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """One request: status code and answer."""
        request = urllib.request.Request(  # noqa: S310 - the lab's own address
            self._server + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content_type},
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        try:
            with opener.open(request, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def get(self, path: str) -> Any:
        """An object or list that must be there."""
        code, found = self.call("GET", path)
        assert code == 200, found
        return found

    def find(self, path: str) -> Any | None:
        """An object, or None."""
        code, found = self.call("GET", path)
        return found if code == 200 else None

    def create(self, path: str, body: Any) -> Any:
        """Create an object."""
        code, made = self.call("POST", path, body)
        assert code == 201, made
        return made

    def patch(self, path: str, body: Any) -> Any:
        """Merge-patch an object."""
        code, changed = self.call("PATCH", path, body, "application/merge-patch+json")
        assert code == 200, changed
        return changed

    def delete(self, path: str) -> None:
        """Delete an object."""
        code, answer = self.call("DELETE", path)
        assert code in (200, 202), answer

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """A Secret's values."""
        data = self.get(f"{CORE}/{namespace}/secrets/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def source(self) -> Any:
        """The site's cluster."""
        return self.get(f"{CNPG}/{self.state['namespace']}/clusters/{self.state['cluster']}")

    def sql(self, role: str, password: str, database: str, query: str, *, pod: Any = None) -> list[tuple[Any, ...]]:
        """A query at a pod's own address, as a role with its password."""
        if pod is None:
            pod = self.get(f"{CORE}/{self.state['namespace']}/pods/{self.state['cluster']}-1")
        with psycopg.connect(
            host=pod["status"]["podIP"], port=5432, user=role, password=password, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def drill_sql(self, query: str, database: str = "drillbook") -> list[tuple[Any, ...]]:
        """A query as the drill's own role on the source."""
        password = self.secret(self.state["drillbook_namespace"], "drillbook-sql")["password"]
        return self.sql("drillbook", password, database, query)


def until(what: Callable[[], T]) -> T:
    """Wait until a question has a true answer; the bound only keeps a broken lab from hanging the tests."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if found := what():
            return found
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.05)


def condition(obj: Any, kind: str) -> str:
    """A condition's status, or an empty text."""
    for entry in (obj.get("status") or {}).get("conditions") or ():
        if entry["type"] == kind:
            return str(entry["status"])
    return ""


STANDING = Standing(Path(__file__).parent)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> RunningLab:
    """The first site with hardly any data, for all files of the folder; everything of it is gone at the end."""
    return STANDING.get("lab", lambda: _running(LabHome(tmp_path_factory.mktemp("lab") / "home")))


def _running(home: LabHome) -> Iterator[RunningLab]:
    argv = supervise.daemon_command(home, "first", 1.0, "--job-retry-seconds", "0.1")
    daemon = supervise.start(home, argv, detached=True)
    try:
        supervise.follow(home, daemon, lambda _: None)
        yield RunningLab(home)
    finally:
        supervise.down(home)
        daemon.wait(30)
    assert not Path(home.state_file).exists()
