"""What a control plane that was away costs a recovery: sessions wait for it, and a log that was lost is done without."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server, running

from drillbook.engine.step import Context, NullRecorder
from drillbook.kube import Kube
from drillbook.model import ClusterRef, Lsn
from drillbook.postgres.client import SQL, Address, Database
from drillbook.profile import load_site
from drillbook.steps.recovery.own_history import own_end

NAME = "away"


@pytest.fixture
def ctx(api: Api, tmp_path: Path) -> Iterator[Context]:
    """A step's context, whose Cluster is one of the API server's objects."""
    path = tmp_path / "site.yaml"
    path.write_text(
        f"name: shop\nenvironment: test\nkubernetes: {{kubeconfig: {api.kubeconfig}, context: lab-admin}}\n"
        f"cluster: {{namespace: default, name: {NAME}}}\ntenants: [{{database: shop, app_role: shop_app}}]\n",
        encoding="utf-8",
    )
    made = Context(site=load_site(path), run_id="run", mode="plan", recorder=NullRecorder(), mask=lambda secret: None)
    yield made
    made.close()


@pytest.mark.parametrize(
    "draining",
    [
        pytest.param(False, marks=pytest.mark.long, id="connections are broken"),
        pytest.param(True, marks=pytest.mark.soak, id="nobody new is let in"),
    ],
)
def test_g02_a_session_waits_for_a_control_plane_that_is_away(
    api: Api, kube: Kube, ctx: Context, server: Server, draining: bool
) -> None:
    """Also where requests on an open connection are still answered, so that an answer says nothing about new ones."""
    pod = f"{NAME}-{'draining' if draining else 'broken'}"
    api.pod(pod)
    assert ctx.kube.server_version()
    api.run(api.serving.go_away(draining=draining))
    back = threading.Timer(25, lambda: api.run(api.serving.come_back()))
    back.start()
    begun = time.monotonic()
    try:
        with ctx.kube.forward("default", pod, server.address.port) as forward:
            address = Address(forward.host, forward.port, why=forward.why)
            with ctx._session(address, user=SUPERUSER, password=PASSWORD, dbname="postgres") as db:
                assert db.ask_one(SQL("select 1 as one"))["one"] == 1
    finally:
        back.join()
    assert time.monotonic() - begun > 20, "it was not away at all"


@pytest.fixture
def promoted(api: Api, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that was a standby and is a primary, as the Cluster's only instance."""
    with running(tmp_path / "source") as source, source.standby(tmp_path / "promoted") as server:
        server.sql("postgres", "select pg_promote(true)")
        api.pods.ports[5432] = server.address.port
        monkeypatch.setenv(
            "PGDATA", str(server.pgdata)
        )  # a command in the API server's pods has this process's environment
        entries = {
            key: base64.b64encode(value.encode()).decode()
            for key, value in (("username", SUPERUSER), ("password", PASSWORD))
        }
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"{NAME}-superuser", "namespace": "default"},
                "data": entries,
            }
        )
        kube.create(
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Cluster",
                "metadata": {"name": NAME, "namespace": "default"},
                "spec": {"instances": 1, "storage": {"size": "1Gi"}},
            }
        )
        api.do(
            api.registry.create,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{NAME}-1", "namespace": "default"},
                "spec": {"containers": [{"name": "postgres", "image": "none"}]},
            },
        )
        api.pod_phase(f"{NAME}-1", "Running")
        _primary(api, f"{NAME}-1")
        yield server
        del api.pods.ports[5432]


def _primary(api: Api, pod: str) -> None:
    found = api.do(api.registry.get, "Cluster", "default", NAME)
    api.do(api.registry.update, {**found, "status": {"currentPrimary": pod}}, subresource="status")


def test_g02_where_a_recovery_ended_is_read_from_its_own_history_file(api: Api, ctx: Context, promoted: Server) -> None:
    ref = ClusterRef(namespace="default", name=NAME)
    (history,) = (promoted.pgdata / "pg_wal").glob("*.history")
    switched = history.read_text().split()[1]
    assert history.name == "00000002.history"
    with promoted.superuser("postgres") as db:
        segment = _one(db, f"select '00000001' || substr(pg_walfile_name('{switched}'), 9) as name")
    assert own_end(ctx, ref) == (Lsn(switched), segment)
    # What can't be read is not guessed.
    history.rename(history.with_suffix(".aside"))
    assert own_end(ctx, ref) is None
    _primary(api, "nobody")
    assert own_end(ctx, ref) is None


def _one(db: Database, query: str) -> Any:
    return db.ask_one(SQL(query))["name"]
