"""A replacement's objects: what is kept, what is named so that no password changes, and where it archives."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drillbook.archive.location import IN_TREE, PLUGIN, SourceArchive
from drillbook.manifests import replacement
from drillbook.manifests.replacement import ReplacementNames
from drillbook.model import BaseBackup, ClusterRef, Lsn, RecoveryTarget
from drillbook.profile import Site, load_site

RUN = "20261101T101500Z-1a2b3c"
REF = ClusterRef(namespace="databases", name="shop-db")
PROFILE = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
archive: {destination: "s3://backups/shop", writer_secret: {name: shop-key}}
replacement: {instances: 3, image: "postgres:16.8", storage_size: 20Gi, storage_class: fast, parameters: {max_connections: "200"}}
tenants:
  - database: shop
    app_role: shop_app
"""
ARCHIVE = {"destinationPath": "s3://backups/shop", "endpointURL": "http://s3:9000", "wal": {"compression": "gzip"}}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    return load_site(path)


@pytest.fixture
def backup() -> BaseBackup:
    at = datetime(2026, 11, 1, 2, tzinfo=UTC)
    return BaseBackup(
        backup_id="20261101T020000",
        server_name="shop-db",
        status="DONE",
        begin_time=at,
        end_time=at,
        begin_wal="000000010000000000000004",
        end_wal="000000010000000000000004",
        begin_lsn=Lsn("0/4000028"),
        end_lsn=Lsn("0/4000100"),
        timeline=1,
        system_id="77",
        pg_version=160000,
        segment_bytes=1 << 24,
        size_bytes=1,
        cluster_size_bytes=1,
        compression="",
        location="s3://backups/shop/shop-db",
    )


def source(**spec: Any) -> dict[str, Any]:
    kept = {"instances": 2, "imageName": "postgres:16.8", "storage": {"size": "10Gi"}} | spec
    return {"metadata": {"name": "shop-db", "namespace": "databases"}, "spec": kept}


def made(
    site: Site, backup: BaseBackup, old: dict[str, Any], *, names: ReplacementNames | None = None, method: str = PLUGIN
) -> tuple[dict[str, Any], dict[str, str]]:
    archive = SourceArchive(method, ARCHIVE, "shop-db", object_store="" if method == IN_TREE else "shop-store")
    cluster, left_out = replacement.replacement_cluster(
        names or ReplacementNames.for_new_cluster(REF, RUN),
        old,
        site=site,
        archive=archive,
        backup=backup,
        target=RecoveryTarget(),
        database="shop",
        owner="shop_app",
        secret="shop-login",
    )
    return cluster, dict(left_out)


def test_names_follow_from_the_run_and_nothing_else() -> None:
    assert ReplacementNames.for_new_cluster(REF, RUN) == ReplacementNames.for_new_cluster(REF, RUN)
    assert ReplacementNames.for_new_cluster(REF, RUN).ref.name == "shop-db-20261101101500"
    assert ReplacementNames.under_the_old_name(REF, RUN).ref == REF
    assert ReplacementNames.under_the_old_name(REF, RUN).server_name == "shop-db-20261101101500"
    long = ReplacementNames.for_new_cluster(ClusterRef(namespace="n", name="a" * 50), RUN)
    assert len(long.ref.name) == 50


def test_it_reads_the_old_folder_and_archives_to_a_new_one(site: Site, backup: BaseBackup) -> None:
    other = {"name": "sidecar.example", "enabled": True}
    writer = {"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True, "parameters": {"serverName": "shop-db"}}
    spec = made(site, backup, source(plugins=[other, writer]))[0]["spec"]
    assert spec["plugins"][0] == other
    parameters = {"barmanObjectName": "shop-store", "serverName": "shop-db-20261101101500"}
    assert [entry["parameters"] for entry in spec["plugins"][1:]] == [parameters]
    (read,) = spec["externalClusters"]
    assert read["plugin"]["parameters"] == {"barmanObjectName": "shop-store", "serverName": "shop-db"}


def test_in_tree_it_does_so_without_the_plugin(site: Site, backup: BaseBackup) -> None:
    old = source(backup={"barmanObjectStore": ARCHIVE, "retentionPolicy": "30d"})
    spec = made(site, backup, old, method=IN_TREE)[0]["spec"]
    assert "plugins" not in spec
    assert spec["backup"]["retentionPolicy"] == "30d"
    assert spec["backup"]["barmanObjectStore"]["serverName"] == "shop-db-20261101101500"
    assert spec["externalClusters"][0]["barmanObjectStore"]["serverName"] == "shop-db"


def test_database_owner_and_secret_are_named(site: Site, backup: BaseBackup) -> None:
    recovery = made(site, backup, source())[0]["spec"]["bootstrap"]["recovery"]
    assert (recovery["database"], recovery["owner"]) == ("shop", "shop_app")
    assert recovery["secret"] == {"name": "shop-login"}
    assert recovery["recoveryTarget"] == {"backupID": "20261101T020000"}


def test_roles_and_settings_are_kept_and_what_is_not_is_told(site: Site, backup: BaseBackup) -> None:
    roles = [{"name": "gitlab_app"}]
    old = source(
        managed={"roles": roles, "services": {"additional": []}},
        postgresql={"parameters": {"work_mem": "8MB"}, "pg_hba": ["host all all all reject"]},
        certificates={"serverTLSSecret": "shop-tls", "serverAltDNSNames": ["db.shop"]},
        replica={"enabled": True},
        newField=1,
    )
    cluster, left_out = made(site, backup, old)
    spec = cluster["spec"]
    assert spec["managed"] == {"roles": roles}
    assert spec["postgresql"] == old["spec"]["postgresql"]
    assert spec["certificates"] == {"serverAltDNSNames": ["db.shop"]}
    assert {"managed.services", "certificates.serverTLSSecret", "replica", "newField"} <= set(left_out)
    same, left_out = made(site, backup, old, names=ReplacementNames.under_the_old_name(REF, RUN))
    assert same["spec"]["certificates"] == old["spec"]["certificates"]
    assert same["spec"]["managed"] == old["spec"]["managed"]


def test_made_again_it_keeps_what_it_is_known_by_and_not_how_it_stood(site: Site, backup: BaseBackup) -> None:
    mark = {"argocd.argoproj.io/tracking-id": "shop:postgresql.cnpg.io/Cluster:databases/shop-db"}
    left = {"cnpg.io/fencedInstances": '["*"]', "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    old = source()
    old["metadata"] |= {"annotations": mark | left, "labels": {"team": "shop", "drillbook.io/run": "another"}}
    again, left_out = made(site, backup, old, names=ReplacementNames.under_the_old_name(REF, RUN))
    assert again["metadata"]["annotations"] == mark
    assert again["metadata"]["labels"]["team"] == "shop" and again["metadata"]["labels"]["drillbook.io/run"] == RUN
    assert {f"metadata.annotations.{name}" for name in left} <= set(left_out)
    beside, _ = made(site, backup, old)
    assert "annotations" not in beside["metadata"] and "team" not in beside["metadata"]["labels"]


def test_nothing_that_can_be_deleted_owns_it(site: Site, backup: BaseBackup) -> None:
    cluster, _ = made(site, backup, source())
    note = replacement.note(ReplacementNames.for_new_cluster(REF, RUN), source=REF, expires_at=datetime.now(UTC))
    for item in (cluster, note):
        assert item["metadata"]["labels"]["drillbook.io/run"] == RUN
        assert "ownerReferences" not in item["metadata"]
    stays = replacement.note(ReplacementNames.under_the_old_name(REF, RUN), source=REF, expires_at=None)
    assert "drillbook.io/run" not in stays["metadata"]["labels"]
    assert "annotations" not in stays["metadata"]


def test_the_profile_alone_makes_a_cluster(site: Site, backup: BaseBackup) -> None:
    spec = made(site, backup, replacement.from_profile(site))[0]["spec"]
    assert spec["instances"] == 3
    assert spec["storage"] == {"size": "20Gi", "storageClass": "fast"}
    assert spec["postgresql"]["parameters"] == {"max_connections": "200"}
    store = replacement.object_store("databases", site, SourceArchive(PLUGIN, ARCHIVE, "shop-db"))
    assert store["spec"]["configuration"]["s3Credentials"]["accessKeyId"] == {
        "name": "shop-key",
        "key": "AWS_ACCESS_KEY_ID",
    }
    assert "retentionPolicy" not in store["spec"]
