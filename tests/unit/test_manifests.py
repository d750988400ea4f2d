"""What becomes of real clusters' fields in a copy: each is kept, translated, or left out by its name with a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.fix_manifests import WILD, Wild

from drillbook.archive.location import BARMAN_PLUGIN, IN_TREE, PLUGIN, SourceArchive, of_store
from drillbook.errors import ParameterError
from drillbook.manifests import recovery as manifests
from drillbook.manifests.recovery import Copy
from drillbook.manifests.replacement import ReplacementNames, replacement_cluster
from drillbook.model import BaseBackup, ClusterRef, Lsn, RecoveryTarget
from drillbook.profile import Site, fields, load_site
from drillbook_lab.api import cel_rules, cluster_rules, schema

PROFILE = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants: [{database: shop, app_role: shop_app}]
"""
AT = datetime(2026, 11, 1, 2, tzinfo=UTC)
BACKUP = BaseBackup(
    backup_id="20261101T020000",
    server_name="shop-db",
    status="DONE",
    begin_time=AT,
    end_time=AT,
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


def site_of(folder: Path, more: str = "") -> Site:
    path = folder / "shop.yaml"
    path.write_text(PROFILE + more, encoding="utf-8")
    return load_site(path)


def source_of(spec: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, Any]:
    whole = {"instances": 3, "storage": {"size": "10Gi"}, "imageName": "postgres:16.8"} | spec
    given = {name: value for name, value in whole.items() if value is not None}
    return {"metadata": {"name": "shop-db", "namespace": "databases"}, "spec": given, "status": status or {}}


def archive_of(source: dict[str, Any], store: dict[str, Any]) -> SourceArchive:
    in_tree = source["spec"].get("backup", {}).get("barmanObjectStore")
    if in_tree:
        return SourceArchive(IN_TREE, in_tree, "shop-db", env=tuple(source["spec"].get("env") or ()))
    spec = {**store, "configuration": {"destinationPath": "s3://backups/shop"} | store.get("configuration", {})}
    return of_store({"metadata": {"name": "store"}, "spec": spec}, "shop-db", ())


def copied(
    site: Site, source: dict[str, Any], store: dict[str, Any] | None = None, instances: int = 1
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The copy's Cluster and ObjectStore ({} in-tree) as a run makes them, and what was left out."""
    archive, names = archive_of(source, store or {}), Copy.named(site, "run", AT)
    before = deepcopy((source, store))
    cluster, left_out = manifests.recovery_cluster(
        names, site, source, archive=archive, backup=BACKUP, target=RecoveryTarget(), owner_uid="u", instances=instances
    )
    assert before == (source, store), "the source's own objects are not touched"
    if archive.method == IN_TREE:
        return cluster, {}, dict(left_out)
    made, more = manifests.object_store(names, site, archive, owner_uid="u")
    return cluster, made, dict(left_out + more)


@cache
def real_schema(name: str) -> dict[str, Any]:
    folder = os.environ.get("DRILLBOOK_CNPG_CRDS", "")
    if not folder:
        pytest.skip("DRILLBOOK_CNPG_CRDS names no folder with CloudNativePG's CRDs")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load((Path(folder) / name).read_text(), Loader=loader)  # noqa: S506  (a safe loader either way)
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


CLUSTER_CRD, STORE_CRD = "postgresql.cnpg.io_clusters.yaml", "barmancloud.cnpg.io_objectstores.yaml"


def refusals(name: str, made: dict[str, Any]) -> list[str]:
    """What CloudNativePG's own definition, its rules and its webhook (as the lab has it) say against an object."""
    definition, given = real_schema(name), deepcopy(made)
    found = [f"unknown field {path}" for path in schema.prune(definition, given)]
    schema.default(definition, given)
    found += [str(fault) for fault in schema.faults(definition, given)]
    found += [str(fault) for fault in cel_rules.faults(definition, given, None)]
    return found + ([str(fault) for fault in cluster_rules.faults(given)] if given["kind"] == "Cluster" else [])


# -- the table ---------------------------------------------------------------------------------------------------------


def paths(definition: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in (definition.get("properties") or {}).items():
        below = f"{path}.{name}" if path else name
        yield below
        yield from paths(child, below)
    if isinstance(definition.get("items"), dict):
        yield from paths(definition["items"], f"{path}[]")


@pytest.mark.parametrize(
    ("crd", "rows"),
    [(CLUSTER_CRD, fields.COPY), (CLUSTER_CRD, fields.REPLACEMENT), (STORE_CRD, fields.OBJECT_STORE)],
    ids=["copy", "replacement", "store"],
)
def test_every_field_of_the_real_definitions_stands_in_the_table(crd: str, rows: fields.Rows) -> None:
    known = set(paths(real_schema(crd)["properties"]["spec"]))
    assert [path for path in known if not fields.covers(rows, path)] == []
    assert [row for row in rows if row not in known] == [], "a row without a field"


def test_the_walk_sees_a_field_that_has_no_row() -> None:
    for path in ("newField", "storage.newField", "storage.pvcTemplate.newField", "tablespaces[].newField"):
        assert not fields.covers(fields.COPY, path), path
    assert fields.covers(fields.COPY, "resources.limits") and fields.covers(fields.COPY, "tablespaces[].storage")


def test_b09_what_a_newer_operator_adds_is_left_out_by_its_name(tmp_path: Path) -> None:
    source = source_of(
        {
            "newField": 1,
            "storage": {"size": "1Gi", "newField": 1},
            "postgresql": {"newField": {}},
            "tablespaces": [{"name": "fast", "storage": {"size": "1Gi", "pvcTemplate": {"newField": "x"}}}],
        }
    )
    _, _, left_out = copied(site_of(tmp_path), source, {"newField": 1, "configuration": {"newField": 1}})
    assert {
        "newField",
        "storage.newField",
        "postgresql.newField",
        "tablespaces[fast].storage.pvcTemplate.newField",
        "ObjectStore.newField",
        "ObjectStore.configuration.newField",
    } <= set(left_out)


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{item.get('name', number)}]")
    else:
        yield path


# -- manifests seen in the wild ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", WILD, ids=[case.name for case in WILD])
def test_a_manifest_seen_in_the_wild(tmp_path: Path, case: Wild) -> None:
    source = source_of(case.spec, case.status)
    cluster, store, left_out = copied(site_of(tmp_path, case.profile), source, case.store)
    made = {f"Cluster.{path}" for path in leaves(cluster["spec"])} | {
        f"Store.{path}" for path in leaves(store.get("spec", {}))
    }
    for path, value in case.kept.items():
        assert at(cluster if path.startswith("Cluster") else store, path) == value, path
    for path in case.gone:
        assert not any(found == path or found.startswith((f"{path}.", f"{path}[")) for found in made), path
    assert set(case.left_out) <= set(left_out), left_out
    assert all(left_out.values()), "each with its reason"
    # Nothing is dropped silently: what the source has is there, or it (or what it is in) is named.
    for path in leaves(source["spec"]):
        known = [name.partition(": ")[0] for name in left_out]
        assert f"Cluster.{path}" in made or any(
            path == name or path.startswith((f"{name}.", f"{name}[")) for name in known
        ), path
    assert refusals(CLUSTER_CRD, cluster) == []
    if store:
        assert refusals(STORE_CRD, store) == []


@pytest.mark.parametrize("case", WILD, ids=[case.name for case in WILD])
def test_its_replacement_passes_as_well(tmp_path: Path, case: Wild) -> None:
    source = source_of(case.spec, case.status)
    archive = archive_of(source, case.store)
    name = ReplacementNames.for_new_cluster(
        ClusterRef(namespace="databases", name="shop-db"), "20261101T101500Z-1a2b3c"
    )
    cluster, left_out = replacement_cluster(
        name,
        source,
        site=site_of(tmp_path, case.profile),
        archive=archive,
        backup=BACKUP,
        target=RecoveryTarget(),
        database="shop",
        owner="shop_app",
        secret="shop-login",
    )
    made, named = set(leaves(cluster["spec"])), [item for item, _ in left_out]
    for path in leaves(source["spec"]):
        assert path in made or any(path == item or path.startswith((f"{item}.", f"{item}[")) for item in named), path
    assert refusals(CLUSTER_CRD, cluster) == []


def at(obj: dict[str, Any], path: str) -> Any:
    value: Any = obj["spec"]
    for part in path.split(".", 1)[1].split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


# -- single findings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "classes"),
    [
        ("", {"storage": "fast", "walStorage": "quick", "tablespaces[hot].storage": ""}),
        (
            "copy: {storage_class: scratch}\n",
            dict.fromkeys(["storage", "walStorage", "tablespaces[hot].storage"], "scratch"),
        ),
    ],
)
def test_b09_readiness_asks_for_the_class_of_every_volume(
    tmp_path: Path, profile: str, classes: dict[str, str]
) -> None:
    spec = {
        "storage": {"pvcTemplate": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}},
        "walStorage": {"size": "1Gi", "storageClass": "quick"},
        "tablespaces": [{"name": "hot", "storage": {"size": "1Gi"}}],
    }
    site = site_of(tmp_path, profile)
    assert manifests.volumes(site, spec) == classes
    made = copied(site, source_of(spec))[0]["spec"]
    assert manifests.volumes(site, made) == classes
    if profile:
        assert {made["storage"]["storageClass"], made["tablespaces"][0]["storage"]["storageClass"]} == {"scratch"}


CATALOGUE = {"apiGroup": "postgresql.cnpg.io", "name": "ours", "major": 16}


@pytest.mark.parametrize(
    ("kind", "running", "extension", "profile", "says"),
    [
        ("ImageCatalog", "reg/pg:16.8@sha256:" + "0" * 64, {}, "", ""),
        ("ImageCatalog", "reg/pg@sha256:" + "0" * 64, {}, "", "only its own namespace has"),
        ("ImageCatalog", "", {}, "", "only its own namespace has"),
        ("ClusterImageCatalog", "reg/pg@sha256:" + "0" * 64, {}, "", ""),
        ("ImageCatalog", "reg/pg:16.8", {"name": "unknown"}, "", "only its own namespace has"),
        ("ClusterImageCatalog", "reg/pg:16.8", {"name": "unknown"}, "", ""),
        ("ImageCatalog", "reg/pg:16.8", {"name": "unknown"}, "copy: {image: 'reg/pg:16.9'}\n", "unknown has no image"),
    ],
)
def test_b16_an_image_that_the_copy_would_not_get_is_named_beforehand(
    tmp_path: Path, kind: str, running: str, extension: dict[str, Any], profile: str, says: str
) -> None:
    source = source_of({"imageCatalogRef": {**CATALOGUE, "kind": kind}}, {"image": running})
    del source["spec"]["imageName"]
    source["spec"] |= {"postgresql": {"extensions": [extension]}} if extension else {}
    site = site_of(tmp_path, profile)
    faults = manifests.image_faults(site, source)
    assert bool(faults) == bool(says) and all(says in fault for fault in faults), faults
    if not faults:
        assert refusals(CLUSTER_CRD, copied(site, source)[0]) == []


@pytest.mark.parametrize("kind", ["ImageCatalog", "ClusterImageCatalog"])
def test_b17_the_profiles_image_takes_the_place_of_a_catalogue(tmp_path: Path, kind: str) -> None:
    source = source_of({"imageCatalogRef": {**CATALOGUE, "kind": kind}}, {"image": "reg/pg:16.8"})
    del source["spec"]["imageName"]
    cluster, _, left_out = copied(site_of(tmp_path, "copy: {image: 'reg/pg:16.9'}\n"), source)
    assert cluster["spec"]["imageName"] == "reg/pg:16.9" and "imageCatalogRef" not in cluster["spec"]
    assert "copy.image" in left_out["imageCatalogRef"]
    assert refusals(CLUSTER_CRD, cluster) == []


def test_b10_the_readers_region_is_that_of_the_sources_sidecar(tmp_path: Path) -> None:
    env = [{"name": "AWS_DEFAULT_REGION", "value": "fra1"}]
    archive = archive_of(source_of({}), {"instanceSidecarConfiguration": {"env": env}})
    assert archive.settings(site_of(tmp_path)) == {"AWS_DEFAULT_REGION": "fra1"}
    over = site_of(
        tmp_path,
        "archive: {environment: {AWS_DEFAULT_REGION: nyc3, AWS_REQUEST_CHECKSUM_CALCULATION: when_required}}\n",
    )
    assert archive.settings(over)["AWS_DEFAULT_REGION"] == "nyc3"
    assert SourceArchive(PLUGIN, {}, "x").settings(over)["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        ("environment: {AWS_SECRET_ACCESS_KEY: x}", "AWS_SECRET_ACCESS_KEY"),
        ("identity: {annotations: {a: b}}", "reader_secret: null"),
        ("reader_secret: null, identity: {service_account: a, annotations: {a: b}}", "not both"),
        ("reader_secret: null, identity: {environment: {AWS_SESSION_TOKEN: x}}", "AWS_SESSION_TOKEN"),
        ("reader_secret: null, identity: {environment: {AWS_WEB_IDENTITY_TOKEN_FILE: /projected/token}}", "give token"),
    ],
)
def test_b11_a_profile_that_could_not_work_is_refused(tmp_path: Path, archive: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        site_of(tmp_path, f"archive: {{{archive}}}\n")


IDENTITY = """\
archive:
  reader_secret: null
  identity:
    annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/reader"}
    token: {audience: sts, path: token}
    environment: {AWS_ROLE_ARN: "arn:aws:iam::1:role/reader", AWS_WEB_IDENTITY_TOKEN_FILE: /projected/token}
"""


@pytest.mark.parametrize("method", [PLUGIN, IN_TREE])
def test_b11_the_copy_proves_who_it_is_as_the_profile_says(tmp_path: Path, method: str) -> None:
    backup = {"barmanObjectStore": {"destinationPath": "s3://b/p", "s3Credentials": {"inheritFromIAMRole": True}}}
    source = source_of(
        {
            "serviceAccountTemplate": {
                "metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/writer"}}
            },
            "env": [{"name": "AWS_ROLE_ARN", "value": "writer"}],
            **({"backup": backup} if method == IN_TREE else {}),
        }
    )
    cluster, store, left_out = copied(site_of(tmp_path, IDENTITY), source)
    spec = cluster["spec"]
    assert spec["serviceAccountTemplate"]["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith("reader")
    token = {"audience": "sts", "path": "token", "expirationSeconds": 3600}
    assert spec["projectedVolumeTemplate"] == {"sources": [{"serviceAccountToken": token}]}
    env = spec["env"] if method == IN_TREE else store["spec"]["instanceSidecarConfiguration"]["env"]
    assert {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/projected/token"} in env
    assert "writer" not in str(env)
    assert {"serviceAccountTemplate", "env[AWS_ROLE_ARN]"} <= set(left_out)
    assert refusals(CLUSTER_CRD, cluster) == [] and (not store or refusals(STORE_CRD, store) == [])


def test_b11_an_account_that_stands_in_the_drill_namespace_is_used(tmp_path: Path) -> None:
    site = site_of(tmp_path, "archive: {reader_secret: null, identity: {service_account: reader}}\n")
    cluster, _, _ = copied(site, source_of({}))
    assert cluster["spec"]["serviceAccountName"] == "reader"
    assert refusals(CLUSTER_CRD, cluster) == []


@pytest.mark.parametrize(
    ("libraries", "stay", "settings"),
    [
        (
            ["timescaledb"],
            ["timescaledb"],
            {"timescaledb.max_background_workers": "0", "timescaledb.telemetry_level": "off"},
        ),
        (["citus"], ["citus"], {"citus.recover_2pc_interval": "-1", "citus.enable_statistics_collection": "off"}),
        (["pg_stat_statements", "pg_cron"], ["pg_stat_statements"], {}),
        (["pglogical", "pg_failover_slots"], ["pg_failover_slots"], {}),
        (["pg_net", "spock", "pg_partman_bgw"], [], {}),
        (["vchord", "a_library_of_their_own"], ["vchord", "a_library_of_their_own"], {}),
    ],
)
def test_b15_what_a_database_needs_stays_preloaded_and_quiet(
    tmp_path: Path, libraries: list[str], stay: list[str], settings: dict[str, str]
) -> None:
    given = {"timescaledb.max_background_workers": "16", "cron.database_name": "shop", "work_mem": "8MB"}
    source = source_of({"postgresql": {"shared_preload_libraries": libraries, "parameters": given}})
    cluster, _, left_out = copied(site_of(tmp_path), source)
    made = cluster["spec"]["postgresql"]
    assert made.get("shared_preload_libraries", []) == stay
    assert settings.items() <= made["parameters"].items() and made["parameters"]["work_mem"] == "8MB"
    assert "cron.database_name" not in made["parameters"] and "postgresql.parameters.cron.database_name" in left_out
    for library in set(libraries) - set(stay):
        assert left_out[f"postgresql.shared_preload_libraries: {library}"]
    assert BARMAN_PLUGIN in str(cluster["spec"]["externalClusters"])
