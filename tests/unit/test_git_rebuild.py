"""What a declared Cluster would bring up, by its manifest and what there is: each manifest alone, and the order of refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from drillbook.errors import ParameterError
from drillbook.manifests.declared import Declared, declared_in, load_declared, wanted
from drillbook.manifests.rebuild import Archiving, Folder, Outcome, Reached, Rebuild, World, judge, major_of
from drillbook.model import ClusterRef

REF = ClusterRef(namespace="shop", name="orders")
PLUGIN = "barman-cloud.cloudnative-pg.io"
NEWEST = datetime(2026, 11, 2, 12, tzinfo=UTC)
EMPTY, USED = Folder(wal=False), Folder(wal=True)
WHOLE = Reached(backup_id="20261102T020000", major=18, last=NEWEST, newest=NEWEST, lost_commits=0)


def uses(server: str, store: str = "store") -> dict[str, Any]:
    return {"name": PLUGIN, "parameters": {"barmanObjectName": store, "serverName": server}}


def initdb() -> dict[str, Any]:
    return {"initdb": {"database": "orders", "owner": "orders", "secret": {"name": "login"}}}


def recovery(**target: Any) -> dict[str, Any]:
    section = {"source": "origin", "database": "orders", "owner": "orders", "secret": {"name": "login"}}
    return {"recovery": section | ({"recoveryTarget": target} if target else {})}


def declared(bootstrap: dict[str, Any], to: str = "orders-2", since: str = "orders", **spec: Any) -> Declared:
    annotations = spec.pop("annotations", {})
    made = {
        "instances": 1,
        "storage": {"size": "10Gi"},
        "bootstrap": bootstrap,
        "externalClusters": [{"name": "origin", "plugin": uses(since)}],
        "plugins": [uses(to) | {"isWALArchiver": True}],
    }
    cluster = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "annotations": annotations},
        "spec": made | spec,
    }
    return declared_in([cluster], REF, origin="orders.yaml")


def said(manifest: Declared, **world: Any) -> Rebuild:
    known: dict[str, Any] = {
        "live": {"storage": {"size": "10Gi"}},
        "application": ("orders", "orders", "login"),
        "databases": ("orders",),
        "server_name": "orders",
        "folder": EMPTY,
        "reached": WHOLE,
    }
    return judge(manifest, wanted(manifest), World(**known | world))


SKIP = {"cnpg.io/skipEmptyWalArchiveCheck": "enabled"}
OLD = Reached(backup_id="b", last=NEWEST - timedelta(hours=3), newest=NEWEST, lost_commits=412)
CASES: dict[str, tuple[Rebuild, Outcome, Archiving, str]] = {
    "initdb, fresh": (said(declared(initdb())), Outcome.EMPTY, Archiving.WORKS, "nothing is recovered"),
    "initdb, used serverName": (
        said(declared(initdb(), to="orders"), folder=USED),
        Outcome.EMPTY,
        Archiving.REFUSED,
        "Expected empty archive",
    ),
    "initdb, the check skipped": (
        said(declared(initdb(), to="orders", annotations=SKIP), folder=USED),
        Outcome.EMPTY,
        Archiving.MIXED,
        "AND IT MIXES TWO HISTORIES",
    ),
    "no bootstrap at all": (said(declared({})), Outcome.EMPTY, Archiving.WORKS, "nothing is recovered"),
    "initdb without archiving": (said(declared(initdb(), plugins=[])), Outcome.EMPTY, Archiving.NONE, "no backup"),
    "recovery left in place": (
        said(declared(recovery()), folder=USED, server_name="orders-2"),
        Outcome.REFUSED,
        Archiving.NONE,
        "serverName orders-2 of ObjectStore store, which it is to archive to, holds WAL",
    ),
    "into its own source": (
        said(declared(recovery(), to="orders"), folder=USED),
        Outcome.REFUSED,
        Archiving.NONE,
        "and it is the one that it recovers from",
    ),
    "recovery, the check skipped": (
        said(declared(recovery(), to="orders", annotations=SKIP), folder=USED),
        Outcome.RIGHT,
        Archiving.MIXED,
        "RIGHT, AND IT MIXES TWO HISTORIES",
    ),
    "checked by a disabled entry": (
        said(declared(recovery(), plugins=[uses("orders") | {"isWALArchiver": True, "enabled": False}]), folder=USED),
        Outcome.REFUSED,
        Archiving.NONE,
        "holds WAL",
    ),
    "old target": (
        said(declared(recovery(targetTime="2026-11-02T09:00:00Z")), reached=OLD),
        Outcome.STALE,
        Archiving.WORKS,
        "3 h of work: 412 commits",
    ),
    "old target, nothing committed between it and its base backup": (
        said(
            declared(recovery(targetTime="2026-11-02T09:00:00Z")),
            reached=OLD.model_copy(update={"last": None, "first_lost": NEWEST, "lost_commits": 1}),
        ),
        Outcome.STALE,
        Archiving.WORKS,
        "base backup b. Lost is what was committed since, 0 s of work: 1 commit.",
    ),
    "an older serverName": (
        said(
            declared(recovery(), to="orders-3"),
            reached=OLD.model_copy(update={"current": False}),
            server_name="orders-2",
        ),
        Outcome.STALE,
        Archiving.WORKS,
        "the cluster archives to serverName orders-2 now",
    ),
    "a gap": (said(declared(recovery()), reached=OLD), Outcome.STALE, Archiving.WORKS, "the WAL has a gap there"),
    "right": (said(declared(recovery())), Outcome.RIGHT, Archiving.WORKS, "to the end of the archive"),
    "right, without archiving": (
        said(declared(recovery(), plugins=[])),
        Outcome.RIGHT,
        Archiving.NONE,
        "It archives no WAL",
    ),
    "missing ObjectStore": (
        said(declared(recovery()), missing=("ObjectStore shop/store does not exist",), reached=None),
        Outcome.REFUSED,
        Archiving.NONE,
        "waits for it without end",
    ),
    "missing external cluster": (
        said(declared(recovery(), externalClusters=[])),
        Outcome.REFUSED,
        Archiving.NONE,
        "External cluster origin not found",
    ),
    "no base backup": (
        said(declared(recovery()), reached=Reached(fault="no usable base backup under orders")),
        Outcome.REFUSED,
        Archiving.NONE,
        "no usable base backup",
    ),
    "another system": (
        said(declared(recovery()), reached=Reached(foreign="7123")),
        Outcome.FOREIGN,
        Archiving.WORKS,
        "of system 7123",
    ),
    "another major": (
        said(declared(recovery(), imageName="ghcr.io/cloudnative-pg/postgresql:16.8@sha256:abc")),
        Outcome.REFUSED,
        Archiving.NONE,
        "PostgreSQL 16, and the base backup of serverName orders",
    ),
    "two methods": (said(declared(initdb() | recovery())), Outcome.REFUSED, Archiving.NONE, "only one is allowed"),
    "two targets": (
        said(declared(recovery(targetTime="2026-11-02T09:00:00Z", targetLSN="0/3000028"))),
        Outcome.REFUSED,
        Archiving.NONE,
        "recoveryTarget has targetTime and targetLSN",
    ),
    "a name without its backup": (
        said(declared(recovery(targetName="before"))),
        Outcome.REFUSED,
        Archiving.NONE,
        "needs a backupID",
    ),
    "volume snapshots": (
        said(declared({"recovery": {"volumeSnapshots": {"storage": {"name": "s"}}}})),
        Outcome.UNKNOWN,
        Archiving.WORKS,
        "a volume snapshot",
    ),
    "a source that can't be read": (
        said(declared(recovery()), reached=Reached(unread="AccessDenied")),
        Outcome.UNKNOWN,
        Archiving.WORKS,
        "AccessDenied",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_i17_each_manifest_is_judged_as_cloudnativepg_would_take_it(case: str) -> None:
    found, outcome, archiving, words = CASES[case]
    assert (found.outcome, found.archiving) == (outcome, archiving), found.answer
    assert words in found.answer
    assert found.right == (case == "right") and bool(found.todo) == (case != "right")


def test_i17_what_is_refused_early_hides_what_comes_later() -> None:
    manifest = declared(recovery(targetTime="yesterday"), to="orders")
    both = said(manifest, folder=USED, missing=("ObjectStore shop/store does not exist",))
    assert "API server" in both.answer and not both.differences
    assert "waits for it" in said(declared(recovery(), to="orders"), folder=USED, missing=("no store",)).answer


def test_i17_what_differs_and_loses_something_is_named() -> None:
    live = {
        "storage": {"size": "10Gi"},
        "walStorage": {"size": "2Gi"},
        "tablespaces": [{"name": "cold"}],
        "managed": {"roles": [{"name": "gitlab_app"}]},
    }
    bare = {"recovery": {"source": "origin"}}
    found = said(declared(bare, storage={"size": "5Gi"}), live=live).differences
    assert found == (
        "database app of app is made next to it: the application's is orders of orders",
        "managed role gitlab_app is not declared: nobody manages it then",
        "storage.size is 5Gi, and 10Gi now: the data may not fit",
        "walStorage.size is not declared (now 2Gi)",
        "tablespace cold is not declared: a base backup that holds it can't be restored",
    )
    other = {"recovery": recovery()["recovery"] | {"secret": {"name": "other"}}}
    assert said(declared(other)).differences == ("the password of orders changes: Secret other, and login now",)
    assert said(declared(initdb()), databases=("orders", "gitlab")).differences == (
        "database gitlab is not made by this Cluster",
    )
    assert said(declared(recovery())).differences == ()


def test_i17_the_defaults_are_cloudnativepgs() -> None:
    """By the plugin a source without serverName is the new Cluster's own name, in-tree the entry's."""
    entry = {"name": "origin", "plugin": {"name": PLUGIN, "parameters": {"barmanObjectName": "store"}}}
    asks = wanted(declared(recovery(), externalClusters=[entry]))
    assert asks.source is not None and asks.source.server_name == "orders"
    in_tree = {"destinationPath": "s3://b/p"}
    manifest = declared(
        recovery(),
        externalClusters=[{"name": "origin", "barmanObjectStore": in_tree}],
        plugins=[],
        backup={"barmanObjectStore": in_tree},
    )
    asks = wanted(manifest)
    assert asks.source is not None and asks.source.server_name == "origin"
    assert asks.destination is not None and asks.destination.server_name == "orders" and asks.archives
    unzoned = wanted(declared(recovery(targetTime="2026-11-02 09:00:00")))
    assert str(unzoned.target) == "time 2026-11-02T09:00:00Z" and unzoned.stops_early
    assert not wanted(declared(recovery(targetTLI="latest"))).stops_early
    assert [major_of({"imageName": name}) for name in ("r:5000/postgresql:17", "postgresql", "p:18.1-bookworm")] == [
        17,
        0,
        18,
    ]
    assert major_of({"imageCatalogRef": {"major": 16}}) == 16


def test_i17_a_file_is_read_as_kubernetes_reads_it(tmp_path: Path) -> None:
    """Several documents, a List, an instant without quotes; and of a Secret only its name."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "login"},
        "stringData": {"password": "hunter2"},
    }
    store = {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {"name": "store"},
        "spec": {"configuration": {"destinationPath": "s3://b/p"}},
    }
    text = yaml.safe_dump_all([{"apiVersion": "v1", "kind": "List", "items": [secret, store]}])
    text += (
        "---\n---\napiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: orders, namespace: shop}\nspec:\n"
    )
    text += "  bootstrap: {recovery: {source: origin, recoveryTarget: {targetTime: 2026-11-02T09:00:00+01:00}}}\n"
    text += "  externalClusters: [{name: origin, barmanObjectStore: {destinationPath: 's3://b/p'}}]\n"
    path = tmp_path / "all.yaml"
    path.write_text(text)
    found = load_declared(path, REF)
    assert found.names == ("Secret/login", "ObjectStore/store", "Cluster/orders") and list(found.object_stores) == [
        "store"
    ]
    assert "hunter2" not in found.model_dump_json() and len(found.digest) == 64
    assert str(wanted(found).target) == "time 2026-11-02T08:00:00Z"


def test_i17_a_file_that_declares_no_such_cluster_is_refused_with_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    cases = {
        "a: [": "can't be read as YAML",
        "{{ .Values.name }}: {": "can't be read as YAML",
        "just text": "document 1 is no Kubernetes object",
        "kind: Cluster\napiVersion: postgresql.cnpg.io/v1\nmetadata: {name: billing}\nspec: {}": "its Clusters: billing",
        "kind: Cluster\napiVersion: postgresql.cnpg.io/v1\nmetadata: {name: orders}": "has no spec",
    }
    for text, words in cases.items():
        path.write_text(text)
        with pytest.raises(ParameterError) as refused:
            load_declared(path, REF)
        assert words in refused.value.what, text
    with pytest.raises(ParameterError, match="there is no file"):
        load_declared(tmp_path / "none.yaml", REF)
    path.write_text("1\n---\nkind: Pod\n")
    with pytest.raises(ParameterError) as both:
        load_declared(path, REF)
    assert len(both.value.faults) == 2
