"""The site's application: a real service with a real pool on the real database, reached as its users reach it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from typing import Any

import pytest
from fix_clusters import kubectl, scraped
from fix_lab import CORE, until
from fix_workloads import Workload, http

from drillbook_lab.site.site import load

pytestmark = pytest.mark.soak

Object = dict[str, Any]
API = "/api/v1/incidents"


def address(backend: Workload) -> str:
    service = backend.lab.get(f"{CORE}/{backend.namespace}/services/{backend.name}")
    return f"http://{service['spec']['clusterIP']}:8080"


def log(backend: Workload) -> list[Object]:
    text = backend.kubectl("logs", f"--selector=app.kubernetes.io/name={backend.name}", "--tail=-1")
    return [json.loads(line) for line in text.splitlines()]


def as_owner(backend: Workload, query: str) -> list[tuple[Any, ...]]:
    tenant = load("first").tenants[0]
    values = backend.lab.secret(backend.namespace, "synergyflow-app-credentials")
    assert values["username"] == tenant.owner
    return backend.lab.sql(tenant.owner, values["password"], tenant.database, query)


def test_health_is_a_query(backend: Workload) -> None:
    code, told = http("GET", address(backend) + "/api/v1/health")
    database = told["components"]["db"]
    assert (code, told["status"], database["status"]) == (200, "UP", "UP")
    assert database["details"]["database"] == "synergyflow" and database["details"]["role"] == "synergyflow_app"
    assert database["details"]["in_recovery"] is False
    assert database["details"]["pool"]["max"] == 20


def test_an_incident_that_is_created_lies_in_the_database(backend: Workload) -> None:
    code, made = http("POST", address(backend) + API, {"title": "the lift's stuck", "priority": "HIGH"})
    assert code == 201, made
    rows = as_owner(backend, f"SELECT title, priority FROM synergyflow_incidents.incidents WHERE id = '{made['id']}'")
    assert rows == [("the lift's stuck", "HIGH")]
    listed = http("GET", address(backend) + f"{API}?limit=50")[1]["items"]
    assert made["incident_id"] in {entry["incident_id"] for entry in listed}
    noted = as_owner(
        backend, "SELECT serialized_event FROM public.event_publication WHERE listener_id = 'notifications'"
    )
    assert any(made["incident_id"] in text for (text,) in noted)


def test_what_the_database_refuses_is_an_answer_and_a_line_in_the_log(backend: Workload) -> None:
    code, told = http("POST", address(backend) + API, {"priority": "whatever"})
    assert code == 400 and told["sqlstate"] == "23514"
    assert http("POST", address(backend) + API, {"nonsense": 1}) == (400, {"error": "unknown fields: nonsense"})
    errors = [line for line in log(backend) if line["level"] == "ERROR" and line.get("sqlstate") == "23514"]
    assert errors and errors[-1]["exception"] == "CheckViolation"


def test_the_pool_is_as_large_as_its_environment_says(backend: Workload) -> None:
    """Its connections are real sessions of its role, under its name, and no password is in the log."""
    sessions = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'synergyflow_app' AND application_name = 'synergyflow-backend' AND client_addr IS NOT NULL"
    )
    until(lambda: as_owner(backend, sessions)[0][0] >= 6)  # two kept open by each
    pod = backend.ready()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{pod['status']['podIP']}:8080/metrics", timeout=30) as answer:
        samples = scraped(answer.read().decode())
    assert samples['hikaricp_connections_max{pool="pool-1"}'] == 20
    assert samples['hikaricp_connections{pool="pool-1"}'] >= 2
    password = backend.lab.secret(backend.namespace, "synergyflow-app-credentials")["password"]
    assert password not in json.dumps(log(backend))
    assert password not in backend.kubectl("get", "deploy,rs,pods,events", "-o", "yaml")


def test_without_its_database_it_is_not_ready_and_says_why(backend: Workload) -> None:
    """The role may no longer log in: sessions end, health is 503, no pod is behind the Service; then all comes back."""
    lab = backend.lab
    pod = f"{lab.state['cluster']}-1"

    def superuser(statement: str) -> None:
        as_superuser(backend, lab.state["namespace"], pod, statement)

    url = f"http://{backend.ready()[0]['status']['podIP']}:8080/api/v1/health"
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'synergyflow-backend'"
    superuser("ALTER ROLE synergyflow_app NOLOGIN")
    try:
        superuser(end)
        until(lambda: not backend.ready())
        until(lambda: backend.endpoints() == set())
        code, told = http("GET", url)
        assert (code, told["status"]) == (503, "DOWN") and told["components"]["db"]["details"]["error"]
        assert any(line["level"] == "ERROR" for line in log(backend))
    finally:
        superuser("ALTER ROLE synergyflow_app LOGIN")
    until(lambda: backend.settled(3))
    until(lambda: http("GET", address(backend) + "/api/v1/health")[0] == 200)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_it_is_reached_through_a_port_forward(backend: Workload) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [
        "kubectl",
        "--kubeconfig",
        str(backend.lab.home.kubeconfig),
        "--context",
        "lab-admin",
        "-n",
        backend.namespace,
    ]
    with subprocess.Popen(
        [*argv, "port-forward", f"svc/{backend.name}", f"{port}:8080"], stdout=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None and "Forwarding" in forward.stdout.readline()
            assert http("GET", f"http://127.0.0.1:{port}/api/v1/health")[1]["status"] == "UP"
        finally:
            forward.terminate()


def as_superuser(backend: Workload, namespace: str, pod: str, statement: str) -> None:
    kubectl(backend.lab, "-n", namespace, "exec", pod, "-c", "postgres", "--", "psql", "-X", "-q", "-c", statement)
