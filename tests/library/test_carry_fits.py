"""Whether a database can be transferred: room on every volume, measured on what is transferred, and watched; versions; whose sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api
from tests.library.fix_integrity import Server, run

from drillbook import kube as k8s
from drillbook.errors import UpstreamError
from drillbook.kube import Kube, workloads
from drillbook.postgres.client import Database
from drillbook.profile import load_site
from drillbook.profile.schema import Tenant
from drillbook.steps.cutover.swap_check import unfit_extensions
from drillbook.steps.cutover.transfer_watch import TransferWatch
from drillbook.swap.disk_space import DATA, WAL, FreeSpace, Needs
from drillbook.swap.superuser import Superuser

GIB = 2**30
NAMES = count(1)


def room(holds: str, free: float, pod: str = "pg-1") -> FreeSpace:
    volume = pod if holds == DATA else f"{pod}-wal" if holds == WAL else f"{pod}-tbs-{holds}"
    return FreeSpace(pod=pod, free_bytes=int(free * GIB), volume=volume, holds=holds, capacity_bytes=100 * GIB)


@pytest.mark.parametrize(
    ("rooms", "short"),
    [
        ([room(DATA, 26)], []),
        ([room(DATA, 20)], ["pg-1 (data)"]),
        ([room(DATA, 26), room(DATA, 20, "pg-2")], ["pg-2 (data)"]),
        ([room(DATA, 22), room(WAL, 7)], []),  # the WAL has its own bound
        ([room(DATA, 22), room(WAL, 5)], ["pg-1-wal (WAL)"]),
        ([room(DATA, 26), room("fast", 20)], []),
        ([room(DATA, 26), room("fast", 10)], ["pg-1-tbs-fast (fast)"]),
    ],
)
def test_g05_every_volume_has_its_own_bound(rooms: list[FreeSpace], short: list[str]) -> None:
    tablespaces = (("pg_default", 12 * GIB),) + (
        (("fast", 8 * GIB),) if any(one.holds == "fast" for one in rooms) else ()
    )
    faults = Needs(tablespaces=tablespaces, wal_bytes=1 * GIB).faults(rooms)
    assert [next(name for name in short if name in fault) for fault in faults] == short


def test_g05_what_is_carried_is_measured_on_the_copy(server: Server, superuser: Superuser) -> None:
    """TRUNCATE of the damaged database leaves little: what was recovered is what counts."""
    name = f"carry{next(NAMES)}"
    with server.superuser("postgres") as db:
        run(db, f"create database {name}")
    with server.superuser(name) as db:
        run(db, "create table large as select n, repeat('x', 200) as t from generate_series(1, 100000) n")
        run(db, "create index on large (t, n)")
        (full,) = [row["bytes"] for row in superuser.ask(name, "cutover_sizes")]
        real = db.ask_text("select pg_database_size(current_database())")[0][0]
        assert 0.9 * int(real) < full < int(real)
        run(db, "truncate large")
        assert superuser.ask(name, "cutover_sizes")[0]["bytes"] < full / 2


@dataclass
class Watched:
    """A context of a run: the profile's limits, what is shown, and a session on the source."""

    server: Server
    site: Any
    shown: list[str] = field(default_factory=list)

    @property
    def recorder(self) -> Any:
        return SimpleNamespace(progress=self.shown.append)

    @contextmanager
    def source(self) -> Iterator[Database]:
        with self.server.superuser("postgres") as db:
            yield db


@pytest.fixture
def watched(server: Server, tmp_path: Any) -> Watched:
    profile = tmp_path / "shop.yaml"
    profile.write_text(
        "name: shop\nenvironment: test\ncluster: {namespace: databases, name: shop-db}\nlimits: {step: 1m}\n"
        "tenants: [{database: shop, app_role: shop_app}]\n"
    )
    return Watched(server, load_site(profile))


def test_g05_carrying_is_held_at_the_reserve_and_goes_on_when_there_is_room(
    watched: Watched, superuser: Superuser
) -> None:
    free = [50.0, 4.0, 4.0, 30.0]
    watch = TransferWatch(
        watched,
        None,
        superuser,
        rooms=lambda: ([room(DATA, free.pop(0)), room(WAL, 60)], []),
        usual_seconds=0.0,
        look_seconds=0.0,
    )  # type: ignore[arg-type]
    assert [watch(1000) for _ in range(4)] == [True, False, False, True]
    assert (
        "must stay" in watched.shown[1]
        and "held" not in watched.shown[3]
        and "longer than predicted" in watched.shown[3]
    )


@pytest.mark.parametrize("holds", [DATA, WAL, "fast"])
def test_g05_carrying_ends_before_any_volume_is_full(watched: Watched, superuser: Superuser, holds: str) -> None:
    rooms = [room(DATA, 50), room(WAL, 50), room("fast", 50, "pg-2")]
    rooms = [one if one.holds != holds else one.model_copy(update={"free_bytes": 2 * GIB}) for one in rooms]
    watch = TransferWatch(watched, None, superuser, rooms=lambda: (rooms, []))  # type: ignore[arg-type]
    with pytest.raises(UpstreamError, match="before a volume is full"):
        watch(1000)


def test_g05_what_can_not_be_looked_into_is_not_filled(watched: Watched, superuser: Superuser) -> None:
    watch = TransferWatch(
        watched, None, superuser, rooms=lambda: ([room(DATA, 50)], ["space of instance pg-2 can't be read"])
    )  # type: ignore[arg-type]
    assert watch(1000) is False and "pg-2 can't be read" in watched.shown[0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"name": "hstore", "schema": "public", "version": "1.8"}, ""),
        ({"name": "hstore", "schema": "public", "version": "1.7"}, ""),  # made in its own version before the dump comes
        ({"name": "hstore", "schema": "ext", "version": "1.8"}, ""),
        ({"name": "hstore", "schema": "ext", "version": "1.7"}, "ALTER EXTENSION hstore UPDATE"),
        ({"name": "hstore", "schema": "public", "version": "1.9"}, "the source's image has 1.7, 1.8"),
        ({"name": "vector", "schema": "public", "version": "0.7"}, "the source's image has none"),
        ({"name": "pg_cron", "schema": "pg_catalog", "version": "1.6"}, "cron.database_name"),
        ({"name": "timescaledb", "schema": "public", "version": "2.17"}, "recover-full-restore"),
    ],
)
def test_s16_what_is_certain_to_fail_is_said_before_the_gate(found: dict[str, Any], said: str) -> None:
    there = [("hstore", "1.7", False), ("hstore", "1.8", True), ("pg_cron", "1.6", True), ("timescaledb", "2.17", True)]
    available = [{"name": name, "version": version, "is_default": default} for name, version, default in there]
    assert [said in why for _, why in unfit_extensions([found], available)] == ([True] if said else [])


def test_s16_the_versions_are_those_of_the_servers(server: Server, superuser: Superuser) -> None:
    name = f"carry{next(NAMES)}"
    with server.superuser("postgres") as db:
        run(db, f"create database {name}")
        available = db.ask("cutover_available")
    older = next(row for row in available if row["name"] == "hstore" and not row["is_default"])
    with server.superuser(name) as db:
        run(db, "create schema ext")
        run(db, f"create extension hstore schema ext version '{older['version']}'")
        assert [what for what, _ in unfit_extensions(db.ask("cutover_versions"), available)] == [
            f"extension hstore {older['version']}"
        ]
        run(db, "alter extension hstore update")
        assert unfit_extensions(db.ask("cutover_versions"), available) == []


APP = {
    "database": "shop",
    "app_role": "shop_app",
    "application": {"namespace": "default", "deployment": "shop", "port": 8080, "pooler": "shop-pool"},
}


def pod(kube: Kube, name: str, address: str, **labels: str) -> None:
    if kube.get(k8s.POD, "default", name) is None:
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": labels},
                "spec": {"containers": [{"name": "main", "image": "shell"}]},
            }
        )
    kube.patch(
        k8s.POD, "default", name, {"status": {"podIP": address, "podIPs": [{"ip": address}]}}, subresource="status"
    )


def test_s11_a_worker_that_shares_the_role_is_found_before_anything_is_carried(api: Api, kube: Kube) -> None:
    if kube.get(k8s.DEPLOYMENT, "default", "shop") is None:
        labels = {"app": "shop"}
        kube.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "shop", "namespace": "default"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "main", "image": "shell"}]},
                    },
                },
            }
        )
    pod(kube, "shop-a", "10.0.0.1", app="shop")
    pod(kube, "shop-pool-a", "10.0.0.2", **{"cnpg.io/poolerName": "shop-pool"})
    pod(kube, "nightly-import", "10.0.0.3", app="import")
    tenant = Tenant.model_validate(APP)

    def found(*sessions: tuple[str, str]) -> list[str]:
        rows = [{"role": role, "address": address, "sessions": 2} for role, address in sessions]
        return workloads.workers(kube, tenant, "default", rows)

    healthy = [
        ("shop_app", "10.0.0.1"),
        ("shop_app", "10.0.0.2"),
        ("exporter", "10.0.0.3"),
        ("shop_app", "192.168.7.7"),
        ("shop_app", ""),
    ]
    assert found(*healthy) == []
    (fault,) = found(*healthy, ("shop_app", "10.0.0.3"))
    assert "pod default/nightly-import has 2 sessions of role shop_app" in fault
