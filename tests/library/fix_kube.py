"""The lab's API server and clients of it; and a link to it that can be cut and restored."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.fix_apiserver import Api

from drillbook.kube import Kube


class Link:
    """A TCP relay in front of a port: ``cut`` closes what is open and refuses what comes, ``restore`` ends that."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._whole = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self._start(self._listen)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    continue
                self.accepted += 1
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self._open |= {near, far}
            self._start(self._relay, near, far)
            self._start(self._relay, far, near)

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end({source, sink})

    def _end(self, sockets: set[socket.socket]) -> None:
        with self._lock:
            ending = sockets & self._open
            self._open -= ending
        for one in ending:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def cut(self) -> None:
        with self._lock:
            self._whole = False
            ending = set(self._open)
        self._end(ending)

    def restore(self) -> None:
        with self._lock:
            self._whole = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API server with real processes as pods."""
    server = Api(tmp_path_factory.mktemp("api"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kube(api: Api) -> Iterator[Kube]:
    """A client of it that may do everything."""
    with Kube.open(str(api.kubeconfig), "lab-admin") as client:
        yield client


@pytest.fixture
def link(api: Api) -> Iterator[Link]:
    """A link to the API server that can be cut."""
    relay = Link(api.serving.port)
    yield relay
    relay.close()


@pytest.fixture
def linked(api: Api, link: Link, tmp_path: Path) -> Iterator[Kube]:
    """A client that reaches the API server over ``link``."""
    config = tmp_path / "kubeconfig"
    config.write_text(api.kubeconfig.read_text().replace(f":{api.serving.port}", f":{link.port}"))
    with Kube.open(str(config), "lab-admin") as client:
        yield client


def config_map(name: str, **data: str) -> dict[str, object]:
    """A ConfigMap of namespace default."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}
