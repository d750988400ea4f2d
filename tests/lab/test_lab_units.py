"""The controllers' parts that need no process: the queue, builders, certificates, the home's lock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome
from drillbook_lab.operator import certs, object_store, objects
from drillbook_lab.operator.context import Settings, with_condition
from drillbook_lab.operator.queue import Handler, WorkQueue
from drillbook_lab.site import deploy, manifests, site


def cluster(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"},
        "spec": {"instances": 1, "storage": {"size": "1Gi"}, **spec},
    }


def drive(handler: Handler, use: Callable[[WorkQueue], None], looks: int) -> None:
    """Use a queue until it has looked so often, and a moment longer: it must not look once more."""

    async def main() -> None:
        done, calls = asyncio.Event(), 0

        async def counted(namespace: str, name: str) -> float | None:
            nonlocal calls
            calls += 1
            try:
                return await handler(namespace, name)
            finally:
                if calls >= looks:
                    done.set()

        queue = WorkQueue({"Thing": counted})
        use(queue)
        await asyncio.wait_for(done.wait(), 60)
        await asyncio.sleep(0.1)
        await queue.close()

    asyncio.run(main())


def test_a_burst_of_events_is_one_more_look() -> None:
    looks: list[str] = []
    queues: list[WorkQueue] = []

    def burst(queue: WorkQueue) -> None:
        queues.append(queue)
        for _ in range(50):
            queue.add("Thing", "ns", "a")

    async def look(_: str, name: str) -> None:
        looks.append(name)
        if len(looks) == 1:
            burst(queues[0])  # while it is under way

    drive(look, burst, looks=2)
    assert looks == ["a", "a"]


def test_a_key_is_never_looked_at_twice_at_once() -> None:
    busy, together = set[str](), []

    async def look(_: str, name: str) -> float | None:
        together.append(name in busy)
        busy.add(name)
        await asyncio.sleep(0.01)
        busy.discard(name)
        return 0.001 if len(together) < 5 else None

    drive(look, lambda queue: queue.add("Thing", "ns", "a"), looks=5)
    assert together == [False] * 5


def test_a_handler_that_fails_is_called_again() -> None:
    calls: list[int] = []

    async def look(_: str, __: str) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("not yet")

    drive(look, lambda queue: queue.add("Thing", "ns", "a"), looks=3)
    assert len(calls) == 3


def test_a_server_certificate_is_good_for_every_service_name() -> None:
    ca = certs.make_ca("orders")
    names = objects.server_names(cluster(certificates={"serverAltDNSNames": ["db.example"]}))
    leaf = x509.load_pem_x509_certificate(certs.make_leaf(ca, "orders-rw", names).certificate)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
    stated = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"orders-rw", "orders-ro.shop.svc", "orders-r.shop.svc.cluster.local", "db.example"} <= set(
        stated.get_values_for_type(x509.DNSName)
    )


def test_an_app_secret_has_every_key_that_applications_read() -> None:
    secret = objects.user_secret(cluster(), "orders-app", "orders", "s3cr3t", "orders", "app")
    assert secret["type"] == "kubernetes.io/basic-auth"
    assert set(secret["stringData"]) == {
        "username",
        "user",
        "password",
        "dbname",
        "host",
        "port",
        "pgpass",
        "uri",
        "jdbc-uri",
        "fqdn-uri",
        "fqdn-jdbc-uri",
    }
    assert secret["metadata"]["labels"]["cnpg.io/userType"] == "app"


def test_recovery_without_database_and_owner_means_the_spurious_app() -> None:
    recovery = cluster(bootstrap={"recovery": {"source": "x"}})
    assert objects.application(recovery) == ("app", "app")
    assert objects.app_secret_name(recovery) == "orders-app"


def test_a_plugin_source_without_server_name_reads_the_new_clusters_folder() -> None:
    plugin = {"name": objects.PLUGIN, "parameters": {"barmanObjectName": "store"}}
    entry = {"name": "from", "plugin": plugin}
    use = object_store.source_use(cluster(bootstrap={"recovery": {"source": "from"}}, externalClusters=[entry]))
    assert use is not None and use.server_name == "orders"


def test_an_in_tree_source_without_server_name_reads_the_entrys_folder() -> None:
    entry = {"name": "from", "barmanObjectStore": {"destinationPath": "s3://b/p"}}
    use = object_store.source_use(cluster(bootstrap={"recovery": {"source": "from"}}, externalClusters=[entry]))
    assert use is not None and use.server_name == "from"


def test_a_disabled_plugin_archives_nothing_but_its_store_must_exist() -> None:
    entry = {"name": objects.PLUGIN, "enabled": False, "isWALArchiver": True, "parameters": {"barmanObjectName": "s"}}
    quiet = cluster(plugins=[entry])
    assert object_store.archive_use(quiet) is None
    assert object_store.needed_stores(quiet) == {"s"}


def test_a_conditions_transition_time_moves_only_with_its_status() -> None:
    first = with_condition([], "Ready", False, "A", "a")
    first[0]["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    same = with_condition(first, "Ready", False, "B", "b")
    assert (same[0]["lastTransitionTime"], same[0]["reason"]) == ("2020-01-01T00:00:00Z", "B")
    assert with_condition(same, "Ready", True, "C", "c")[0]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("profile", site.profiles())
def test_a_site_is_complete_and_names_no_namespace_of_another(profile: str) -> None:
    chosen = site.load(profile)
    rendered = str([*deploy.manifests(chosen), manifests.cluster(chosen, "postgresql:18")])
    others = [site.load(name) for name in site.profiles() if name != profile]
    for other in others:
        for name in (other.source_namespace, other.cluster, other.store.name):
            assert f"'{name}'" not in rendered
    assert abs(sum(tenant.share for tenant in chosen.tenants) - 1) < 1e-9
    for tenant in chosen.tenants:
        assert "CREATE SCHEMA" in site.script(tenant.data)


def test_credentials_do_not_show_in_a_repr() -> None:
    chosen = site.load("first")
    drawn = manifests.Credentials.draw(chosen)
    shown = repr(drawn)
    hidden = [drawn.sql, drawn.cluster_key.secret, drawn.drill_key.secret, *drawn.tenants.values()]
    assert not [secret for secret in hidden if secret in shown]


def test_one_lab_a_home(tmp_path: Path) -> None:
    home = LabHome(tmp_path / "lab")
    lock = home.lock()
    with pytest.raises(LabError, match="a lab runs in this home already"):
        home.lock()
    assert home.is_running()
    lock.release()
    assert not home.is_running()


def test_clearing_a_home_leaves_foreign_files(tmp_path: Path) -> None:
    home = LabHome(tmp_path)
    (tmp_path / "pods").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    home.write_state({"socket_dir": str(tmp_path)})
    home.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_store_is_looked_for_later_each_time_up_to_a_limit() -> None:
    settings = Settings(Path(), "18.6", store_retry_longest_seconds=1000.0)
    waits = [settings.store_retry(misses) for misses in range(1, 25)]
    assert waits[0] == 0.005
    assert all(later == min(2 * earlier, 1000.0) for earlier, later in itertools.pairwise(waits))
    assert waits[17] == 655.36, "the longest gap that was recorded"
    assert waits[-1] == 1000.0
