"""Services: an address that stays, names for who is in a pod, and the way to the pods that are ready."""

from __future__ import annotations

import socket
from typing import Any

import psycopg
import pytest
from fix_clusters import SmallCluster, kubectl
from fix_lab import CORE, until

pytestmark = pytest.mark.soak

NAMES = ("small-rw", "small-rw.small", "small-rw.small.svc", "small-rw.small.svc.cluster.local")


def service(small: SmallCluster, name: str) -> Any:
    return small.lab.get(f"{CORE}/small/services/{name}")


def through(small: SmallCluster, host: str, query: str) -> list[tuple[Any, ...]]:
    password = small.lab.secret("small", "small-app")["password"]

    def connected() -> psycopg.Connection[Any] | None:
        try:
            return psycopg.connect(host=host, port=5432, user="app", password=password, dbname="app")
        except psycopg.OperationalError:  # a service follows its pods' readiness a moment later
            return None

    with until(connected) as connection:  # type: ignore[union-attr]
        return connection.execute(query.encode()).fetchall()


def test_every_name_leads_to_the_primary_from_inside_a_pod(small: SmallCluster) -> None:
    uri = small.lab.secret("small", "small-app")["uri"]
    for name in NAMES:
        found = small.exec("getent", "hosts", name).stdout.split()[0]
        assert found == service(small, "small-rw")["spec"]["clusterIP"]
    done = small.exec("psql", uri, "-XAtc", "SELECT count(*) FROM kept")
    assert done.stdout.strip() == "100"
    assert small.exec("printenv", "SMALL_RW_SERVICE_PORT").stdout.strip() == "5432"
    # The short name is good at home only, and outside of pods there are no names at all.
    pod = f"{small.lab.state['cluster']}-1"
    elsewhere = ("-n", small.lab.state["namespace"], "exec", pod, "-c", "postgres", "--", "getent", "hosts")
    assert kubectl(small.lab, *elsewhere, "small-rw.small").stdout
    assert kubectl(small.lab, *elsewhere, "small-rw", check=False).returncode == 2
    try:
        socket.getaddrinfo(NAMES[1], 5432)
    except socket.gaierror:
        return
    raise AssertionError("a pod's name resolves outside of pods")


def test_endpoints_follow_labels_and_readiness(small: SmallCluster) -> None:
    pod = small.pod()
    assert pod is not None
    endpoints = small.lab.get(f"{CORE}/small/endpoints/small-rw")
    (subset,) = endpoints["subsets"]
    assert [entry["ip"] for entry in subset["addresses"]] == [pod["status"]["podIP"]]
    slices = small.lab.get("/apis/discovery.k8s.io/v1/namespaces/small/endpointslices")["items"]
    mine = [s for s in slices if s["metadata"]["labels"]["kubernetes.io/service-name"] == "small-rw"]
    assert [e["addresses"] for e in mine[0]["endpoints"]] == [[pod["status"]["podIP"]]]
    assert not small.lab.get(f"{CORE}/small/endpoints/small-ro").get("subsets")  # there is no replica

    address = service(small, "small-rw")["spec"]["clusterIP"]
    assert through(small, address, "SELECT count(*) FROM kept") == [(100,)]
    small.annotate(fencedInstances='["*"]')

    def refused() -> bool:
        try:
            socket.create_connection((address, 5432), 5).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused)  # nobody is ready: as on a cluster, nobody listens
    ready = small.lab.get(f"{CORE}/small/endpoints/small-rw")["subsets"][0]
    assert "addresses" not in ready and ready["notReadyAddresses"]
    small.annotate(fencedInstances=None)
    until(lambda: small.is_healthy() and small.answers() and not refused())
    assert service(small, "small-rw")["spec"]["clusterIP"] == address
    assert through(small, address, "SELECT count(*) FROM kept") == [(100,)]


def test_a_service_of_ones_own_follows_its_selector(small: SmallCluster) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "alias"},
        "spec": {
            "ports": [{"name": "pg", "port": 6432, "targetPort": "postgresql"}],
            "selector": {"cnpg.io/cluster": "nobody"},
        },
    }
    small.lab.create(f"{CORE}/small/services", body)
    address = until(lambda: service(small, "alias")["spec"].get("clusterIP"))
    small.lab.patch(f"{CORE}/small/services/alias", {"spec": {"selector": {"cnpg.io/cluster": "small"}}})

    def greets() -> bool:
        """PostgreSQL's own answer to a request for TLS."""
        try:
            with socket.create_connection((address, 6432), 5) as client:
                client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
                return client.recv(1) in (b"N", b"S")
        except OSError:
            return False

    until(greets)
    open_one = socket.create_connection((address, 6432), 5)
    small.lab.delete(f"{CORE}/small/services/alias")
    until(lambda: not greets())
    open_one.settimeout(30)
    try:
        assert open_one.recv(1) == b""
    except ConnectionResetError:
        pass  # cut, and told so
    finally:
        open_one.close()
    until(lambda: small.lab.find(f"{CORE}/small/endpoints/alias") is None)


def test_a_lost_pod_takes_its_connections_with_it(small: SmallCluster) -> None:
    pod = small.pod()
    assert pod is not None
    password = small.lab.secret("small", "small-app")["password"]
    address = service(small, "small-rw")["spec"]["clusterIP"]
    with psycopg.connect(host=address, user="app", password=password, dbname="app", autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        small.lab.delete(f"{CORE}/small/pods/small-1")
        until(lambda: (small.pod() or pod)["metadata"]["uid"] != pod["metadata"]["uid"])
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError:
            pass
        else:
            raise AssertionError("a session outlived its server")
    until(lambda: small.is_healthy() and small.answers())
    assert through(small, address, "SELECT count(*) FROM kept") == [(100,)]
