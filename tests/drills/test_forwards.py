"""Two hundred port-forwards at once to a running lab's PostgreSQL, by the product's own client: nothing is left of them."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from fix_drills import DrillLab, until

from drillbook import kube as k8s
from drillbook.errors import KubernetesError
from drillbook_lab.addresses import free_port

pytestmark = pytest.mark.long

MANY = 200
# The default executor of an event loop starts a thread when it has none to spare, and keeps it.
POOL = min(32, (os.cpu_count() or 1) + 4)
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


def left(pid: int | str) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def descendants(pid: int) -> int:
    """How many processes come from this one; PostgreSQL has one for each connection."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    known = {pid}
    while more := {child for child, parent in parents.items() if parent in known} - known:
        known |= more
    return len(known)


def test_two_hundred_forwards_leave_no_descriptor_thread_or_process(drill_lab: DrillLab) -> None:
    daemon = next(int(entry["pid"]) for entry in drill_lab.processes() if entry["what"] == "labd")
    namespace, pod = drill_lab.site.cluster.namespace, f"{drill_lab.site.cluster.name}-1"

    def ask(count: int) -> int:
        """Forward as often, have each answered while all of them are open, and close them; processes at the height."""
        with k8s.Kube.open(str(drill_lab.home / "kubeconfig"), "lab-admin") as kube, contextlib.ExitStack() as stack:
            lines = []
            for _ in range(count):
                forward = stack.enter_context(kube.forward(namespace, pod, 5432))
                line = socket.create_connection((forward.host, forward.port), timeout=120)
                lines.append(stack.enter_context(contextlib.closing(line)))
            for line in lines:
                line.sendall(_SSL_REQUEST)
            assert {line.recv(1) for line in lines} <= {b"N", b"S"}
            return descendants(daemon)

    ask(2)  # what stays for good is there from here on
    mine, threads = left("self")[0], threading.active_count()
    until(lambda: descendants(daemon) < MANY, "no crowd before")
    before = left(daemon)
    assert ask(MANY) >= MANY, "each is its own connection"
    until(lambda: descendants(daemon) < MANY, "the servers for them have ended")
    until(lambda: left(daemon)[0] <= before[0] + 2 and left(daemon)[1] <= before[1] + POOL, "the daemon is as it was")
    until(lambda: left("self")[0] <= mine and threading.active_count() <= threads, "and so are we")


def test_f10_a_server_on_the_pods_localhost_is_reached_by_a_forward_to_its_own_pod_only(drill_lab: DrillLab) -> None:
    """As the node does it: localhost in the pod. Nobody else reaches it, not at the pod's address and not through another pod."""
    namespace, port = drill_lab.site.cluster.namespace, free_port()
    env = {
        "SERVER_ADDRESS": "127.0.0.1",
        "SERVER_PORT": str(port),
        "SPRING_DATASOURCE_URL": "jdbc:postgresql://127.0.0.1:1/none",
        "SPRING_DATASOURCE_HIKARI_INITIALIZATIONFAILTIMEOUT": "-1",
    }
    container = {
        "name": "app",
        "image": "drillbook-lab/sample-app",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    drill_lab.admin.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "inward", "namespace": namespace},
            "spec": {"containers": [container]},
        }
    )

    def alive(pod: str) -> int:
        with (
            k8s.Kube.open(str(drill_lab.home / "kubeconfig"), "lab-admin") as kube,
            kube.forward(namespace, pod, port) as forward,
        ):
            line = http.client.HTTPConnection(forward.host, forward.port, timeout=10)
            try:
                line.request("GET", "/livez")
                return line.getresponse().status
            except (OSError, http.client.HTTPException, KubernetesError):
                return 0
            finally:
                line.close()

    try:
        until(lambda: alive("inward") == 200, "the pod's own server answers")
        assert alive(f"{drill_lab.site.cluster.name}-1") == 0
        address = (drill_lab.admin.get(k8s.POD, namespace, "inward") or {})["status"]["podIP"]
        with socket.socket() as line:
            assert line.connect_ex((address, port)) != 0
    finally:
        drill_lab.admin.delete(
            k8s.POD,
            namespace,
            "inward",
            uid=(drill_lab.admin.get(k8s.POD, namespace, "inward") or {})["metadata"]["uid"],
        )
