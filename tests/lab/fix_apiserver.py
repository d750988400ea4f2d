"""A whole API server for a test: on its own port, in its own thread, with pods that are real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from drillbook_lab.api import (
    Registry,
    Serving,
    TokenDirectory,
    build_server,
    cnpg_registry,
    serve,
    write_kubeconfig,
)

Object = dict[str, Any]
T = TypeVar("T")

ADMIN, DRILL = "admin-token", "drill-token"


async def drained() -> list[object]:
    """Wait for this loop's closed connections to be gone: TLS says farewell after `close`. What stays is reported."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    for _ in range(500):
        if len(selector.get_map()) <= 1:  # the loop's own wake-up pipe
            return []
        await asyncio.sleep(0.01)
    return list(selector.get_map().values())


async def cleanly(work: Coroutine[Any, Any, T]) -> T:
    """A client's work, and then no socket of its own left behind."""
    try:
        return await work
    finally:
        await drained()


class ShellPods:
    """A PodRuntime whose containers are shells on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[int, int] = {}

    def log_path(self, namespace: str, pod: str, container: str | None) -> Path:
        path = self.folder / f"{namespace}.{pod}.{container}.log"
        if not path.exists():
            raise KeyError(pod)
        return path

    async def exec(
        self, namespace: str, pod: str, container: str | None, command: list[str], *, stdin: bool, tty: bool
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *([sys.executable, "-m", "drillbook_lab.terminal"] if tty else []),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def connect(self, namespace: str, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.ports.get(port, port))


class Api:
    """A server that runs, and what a test needs of it."""

    def __init__(self, folder: Path, registry: Registry | None = None) -> None:
        self.folder = folder
        self.registry = registry or cnpg_registry()
        self.pods = ShellPods(folder)
        self.audit = folder / "audit.jsonl"
        self.tokens = TokenDirectory()
        self.tokens.add(ADMIN, "lab-admin", ["system:masters"])
        self.tokens.add(DRILL, "system:serviceaccount:drillbook:drillbook")
        self.kubeconfig = folder / "kubeconfig"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="apiserver", daemon=True)
        self._serving: Serving | None = None

    def start(self) -> None:
        self._thread.start()
        app = build_server(self.registry, self.pods, self.tokens, audit=self.audit)
        self._serving = self.run(serve(app, self.folder / "tls"))
        contexts = {"lab": DRILL, "lab-admin": ADMIN}
        write_kubeconfig(self.kubeconfig, self.url, self.serving.tls.ca_pem, contexts, "lab-admin")

    def stop(self) -> None:
        try:
            self.run(self.serving.close())
            left = self.run(drained())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        assert not left, f"the server left open: {left}"

    @property
    def serving(self) -> Serving:
        assert self._serving is not None
        return self._serving

    @property
    def url(self) -> str:
        return self.serving.url

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def do(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a verb of the registry where it lives: on the server's loop."""

        async def call() -> Any:
            return verb(*args, **options)

        return self.run(call())

    def audited(self) -> list[Object]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def pod(self, name: str, *, log: bytes = b"", labels: dict[str, str] | None = None) -> Object:
        """A pod that runs, with one container `main` and a log."""
        self.do(
            self.registry.create,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
                "spec": {"containers": [{"name": "main", "image": "none"}]},
            },
        )
        (self.folder / f"default.{name}.main.log").write_bytes(log)
        return self.pod_phase(name, "Running")

    def pod_phase(self, name: str, phase: str) -> Object:
        ready = phase == "Running"
        status = {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "none",
                    "imageID": "",
                    "ready": ready,
                    "restartCount": 0,
                    "state": {"running": {}} if ready else {"terminated": {"exitCode": 0, "reason": "Completed"}},
                }
            ],
        }
        patched: Object = self.do(self.registry.patch, "Pod", "default", name, {"status": status}, subresource="status")
        return patched


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API server of this test's own."""
    server = Api(tmp_path)
    server.start()
    yield server
    server.stop()


class Kubectl:
    """The real kubectl against that server, with its own cache."""

    def __init__(self, api: Api, program: str) -> None:
        self._base = [program, "--kubeconfig", str(api.kubeconfig), "--cache-dir", str(api.folder / "cache")]
        self.env = {"PATH": os.environ["PATH"], "HOME": str(api.folder)}

    def __call__(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        done = subprocess.run(
            [*self._base, *args], input=stdin, capture_output=True, text=True, timeout=60, env=self.env
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"kubectl {' '.join(args)} ended with {done.returncode}: {said}"
        return said

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._base, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env
        )


@pytest.fixture
def kubectl(api: Api) -> Kubectl:
    """kubectl as `lab-admin`; skips where the program is missing."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    return Kubectl(api, program)


@pytest.fixture
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A TCP server that says what it heard, in capitals; its port, and what came in."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(65536):
                heard.append(data)
                connection.sendall(data.upper())

    thread = threading.Thread(target=serve_one)
    thread.start()
    yield server.getsockname()[1], heard
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def cluster(name: str = "orders", **spec: Any) -> Object:
    """A small Cluster, as an engineer would write it."""
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"instances": 1, "storage": {"size": "1Gi"}, **spec},
    }
