"""The webhook rules of CloudNativePG (contract section 3): each refused, and each told with all the others."""

from __future__ import annotations

from typing import Any

import pytest
from fix_apiserver import cluster

from drillbook_lab.api import ApiError, Registry, cnpg_registry
from drillbook_lab.quantities import quantity

Object = dict[str, Any]

PLUGIN = {"name": "barman-cloud.cloudnative-pg.io", "parameters": {"barmanObjectName": "store", "serverName": "a"}}
SOURCE = [{"name": "src", "plugin": PLUGIN}]


@pytest.fixture
def registry() -> Registry:
    """A registry with CloudNativePG's kinds."""
    return cnpg_registry()


def denial(registry: Registry, obj: Object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        registry.create(obj)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")
    return caught.value


def fields(error: ApiError) -> set[str]:
    return {cause["field"] for cause in error.details["causes"]}


def recovery(target: Object | None = None, **more: Any) -> Object:
    section: Object = {"source": "src", **more}
    if target is not None:
        section["recoveryTarget"] = target
    return cluster(bootstrap={"recovery": section}, externalClusters=SOURCE)


def s3(**credentials: Any) -> Object:
    return {"destinationPath": "s3://b/p", "s3Credentials": credentials}


KEY = {"name": "k", "key": "v"}


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (cluster("9lives"), "metadata.name"),
        (cluster("with.dot"), "metadata.name"),
        (cluster("a" * 51), "metadata.name"),
        (cluster(bootstrap={"initdb": {}, "recovery": {"source": "src"}}, externalClusters=SOURCE), "spec.bootstrap"),
        (cluster(bootstrap={"recovery": {"source": "elsewhere"}}), "spec.bootstrap.recovery.source"),
        (
            cluster(bootstrap={"recovery": {"source": "bare"}}, externalClusters=[{"name": "bare"}]),
            "spec.externalClusters[0]",
        ),
        (
            cluster(
                bootstrap={
                    "initdb": {
                        "import": {"type": "monolith", "databases": ["*"], "source": {"externalCluster": "src"}},
                        "owner": "orders",
                    }
                },
                externalClusters=SOURCE,
            ),
            "spec.bootstrap.initdb.database",
        ),
        (cluster(bootstrap={"initdb": {"walSegmentSize": 12}}), "spec.bootstrap.initdb.walSegmentSize"),
        (cluster(externalClusters=[*SOURCE, *SOURCE]), "spec.externalClusters"),
        (cluster(externalClusters=[{**SOURCE[0], "name": "../up"}]), "spec.externalClusters[0].name"),
        (cluster(storage={}), "spec.storage.size"),
        (cluster(storage={"size": "ten"}), "spec.storage.size"),
        (cluster(postgresql={"parameters": {"restore_command": "cp"}}), "spec.postgresql.parameters.restore_command"),
        (cluster(plugins=[{**PLUGIN, "isWALArchiver": True}, {"name": "b", "isWALArchiver": True}]), "spec.plugins"),
        (
            cluster(
                plugins=[{**PLUGIN, "isWALArchiver": True}],
                backup={"barmanObjectStore": s3(accessKeyId=KEY, secretAccessKey=KEY)},
            ),
            "spec.plugins",
        ),
        (cluster(backup={"barmanObjectStore": s3(accessKeyId=KEY)}), "spec.backup.barmanObjectStore.awsCredentials"),
        (cluster(backup={"barmanObjectStore": s3()}), "spec.backup.barmanObjectStore.awsCredentials"),
        (
            cluster(backup={"barmanObjectStore": s3(accessKeyId=KEY, secretAccessKey=KEY, inheritFromIAMRole=True)}),
            "spec.backup.barmanObjectStore.awsCredentials",
        ),
        (cluster(backup={"barmanObjectStore": {"destinationPath": "s3://b/p"}}), "spec.backup.barmanObjectStore"),
        (cluster(replica={"source": "src", "enabled": True}, externalClusters=SOURCE), "spec.replicaCluster"),
        (cluster(replica={"source": "nobody", "enabled": False}), "spec.replicaCluster.primaryServerName"),
        (
            cluster(replica={"source": "src", "enabled": True, "promotionToken": "t"}, externalClusters=SOURCE),
            "spec.replicaCluster.token",
        ),
        (
            cluster(
                replica={"source": "src", "enabled": False, "promotionToken": "t", "minApplyDelay": "1h"},
                externalClusters=SOURCE,
            ),
            "spec.replicaCluster.minApplyDelay",
        ),
        (cluster(imageName="ghcr.io/cloudnative-pg/postgresql:latest"), "spec.imageName"),
        (cluster(imageName="ghcr.io/cloudnative-pg/postgresql@sha256:0a1b"), "spec.imageName"),
        (cluster(primaryUpdateStrategy="supervised"), "spec.primaryUpdateStrategy"),
        (cluster(maxSyncReplicas=1), "spec.maxSyncReplicas"),
        (cluster(minSyncReplicas=1), "spec.minSyncReplicas"),
        (cluster(postgresql={"synchronous": {"method": "any", "number": 1}}), "spec.postgresql.synchronous"),
        (cluster(postgresql={"parameters": {"wal_level": "minimal"}}), "spec.postgresql.parameters.wal_level"),
        (cluster(postgresql={"parameters": {"min_wal_size": "2GB"}}), "spec.postgresql.parameters.min_wal_size"),
        (cluster(postgresql={"parameters": {"a b": "1"}}), "spec.postgresql.parameters.a b"),
        (cluster(postgresql={"parameters": {"shared_buffers": "lots"}}), "spec.postgresql.parameters.shared_buffers"),
        (
            cluster(instances=2, postgresql={"parameters": {"wal_log_hints": "off"}}),
            "spec.postgresql.parameters.wal_log_hints",
        ),
        (
            cluster(resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
            "spec.resources.requests.memory",
        ),
        (cluster(tablespaces=[{"name": "pg_own", "storage": {"size": "1Gi"}}]), "spec.tablespaces[0]"),
        (cluster(managed={"roles": [{"name": "postgres"}]}), "spec.managed.roles"),
        (cluster(certificates={"serverTLSSecret": "s"}), "spec.certificates.servercasecret"),
    ],
)
def test_a_cluster_is_refused_for(registry: Registry, obj: Object, field: str) -> None:
    error = denial(registry, obj)
    assert error.message.startswith('admission webhook "vcluster.cnpg.io" denied the request: ')
    assert field in fields(error)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"targetTime": "2026-08-01T10:15:00Z", "targetLSN": "0/1"}, ""),
        ({"targetTime": "2026-08-01T10:15:00Z", "targetImmediate": False, "backupID": "x"}, ""),
        ({"targetName": "before"}, ""),
        ({"targetXID": "7"}, ""),
        ({"targetImmediate": True}, ""),
        ({"targetTime": "yesterday"}, ""),
        ({"targetTime": "2026-13-01T10:15:00Z"}, ""),
        ({"targetLSN": "3000060"}, ""),
        ({"targetXID": str(2**32), "backupID": "x"}, ".targetXID"),
        ({"targetName": "n" * 64, "backupID": "x"}, ".targetName"),
        ({"targetTLI": "current"}, ".targetTLI"),
        ({"targetTLI": "0"}, ".targetTLI"),
    ],
)
def test_a_recovery_target_is_refused_for(registry: Registry, target: Object, field: str) -> None:
    assert f"spec.bootstrap.recovery.recoveryTarget{field}" in fields(denial(registry, recovery(target)))


@pytest.mark.parametrize(
    "target",
    [
        {"targetTime": "2026-08-01T10:15:00Z"},
        {"targetTime": "2026-08-01T10:15:00.123456+02:00", "backupID": "20260801T000000", "exclusive": True},
        {"targetTime": "2026-08-01 10:15:00.123456+00"},
        {"targetTime": "2026-08-01T10:15:00", "targetTLI": "latest"},
        {"targetLSN": "0/3000060", "targetTLI": "2"},
        {"targetXID": "4294967295", "backupID": "x"},
        {"targetImmediate": True, "backupID": "x"},
        {},
    ],
)
def test_a_recovery_target_is_taken(registry: Registry, target: Object) -> None:
    made = registry.create(recovery(target))
    assert made["spec"]["bootstrap"]["recovery"]["recoveryTarget"] == target


def test_all_faults_come_at_once(registry: Registry) -> None:
    wrong = recovery({"targetTime": "soon", "targetName": "n", "targetTLI": "0"}, source="nowhere")
    wrong["metadata"] |= {"name": "9", "annotations": {"cnpg.io/hibernation": "maybe"}}
    path = "spec.bootstrap.recovery"
    assert fields(denial(registry, wrong)) == {
        "metadata.name",
        f"{path}.source",
        f"{path}.recoveryTarget",
        f"{path}.recoveryTarget.targetTLI",
        "metadata.annotations.cnpg.io/hibernation",
    }


def test_the_webhook_can_be_switched_off_but_not_the_schema(registry: Registry) -> None:
    unchecked = cluster(bootstrap={"recovery": {"source": "elsewhere"}})
    unchecked["metadata"]["annotations"] = {"cnpg.io/validation": "disabled"}
    warnings: list[str] = []
    registry.create(unchecked, warnings=warnings)
    assert len(warnings) == 1 and warnings[0].startswith("validation webhook is disabled — all changes are accepted")
    with pytest.raises(ApiError, match=r"spec\.instances"):
        registry.patch("Cluster", "default", "orders", {"spec": {"instances": 0}})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"storage": {"size": "512Mi"}}, "spec.storage"),
        ({"walStorage": None}, "spec.walStorage"),
        ({"tablespaces": []}, "spec.tablespaces[0]"),
        ({"postgresUID": 27}, "spec.postgresUID"),
        ({"imageName": "ghcr.io/cloudnative-pg/postgresql:15.2"}, "spec.imageName"),
    ],
)
def test_what_cannot_change(registry: Registry, change: Object, field: str) -> None:
    made = registry.create(
        cluster(
            walStorage={"size": "1Gi"},
            tablespaces=[{"name": "t", "storage": {"size": "1Gi"}}],
            imageName="ghcr.io/cloudnative-pg/postgresql:16.8",
        )
    )
    image = {"image": "ghcr.io/cloudnative-pg/postgresql:16.8", "majorVersion": 16}
    registry.update({**made, "status": {"pgDataImageInfo": image}}, subresource="status")
    with pytest.raises(ApiError) as caught:
        registry.patch("Cluster", "default", "orders", {"spec": change})
    assert fields(caught.value) == {field}
    registry.patch("Cluster", "default", "orders", {"spec": {"storage": {"size": "1.5Gi"}, "instances": 3}})


def test_before_there_is_a_data_directory_any_major_version_is_taken(registry: Registry) -> None:
    registry.create(cluster(imageName="ghcr.io/cloudnative-pg/postgresql:16.8"))
    registry.patch("Cluster", "default", "orders", {"spec": {"imageName": "ghcr.io/cloudnative-pg/postgresql:15.2"}})


def test_a_spec_read_back_can_be_sent_again(registry: Registry) -> None:
    """The operator's own settings, which defaulting wrote into the spec, are no fault when they come back."""
    spec = registry.create(cluster())["spec"]
    assert spec["postgresql"]["parameters"]["archive_mode"] == "on"
    registry.create({**cluster("copy"), "spec": spec})


def test_an_owner_alone_gets_the_default_database(registry: Registry) -> None:
    """Filled in before it is looked at: the rule that one needs the other never sees it."""
    for made in (
        registry.create(recovery(owner="orders")),
        registry.create(cluster("new", bootstrap={"initdb": {"owner": "orders"}})),
    ):
        (section,) = made["spec"]["bootstrap"].values()
        assert (section["database"], section["owner"]) == ("app", "orders")


def test_a_spec_is_never_read_back_as_it_was_sent(registry: Registry) -> None:
    sent = cluster()
    spec = registry.create(cluster())["spec"]
    added = set(spec) - set(sent["spec"])
    assert {"imageName", "bootstrap", "affinity", "postgresql", "monitoring", "probes", "replicationSlots"} <= added
    assert spec["affinity"]["podAntiAffinityType"] == "preferred"
    assert spec["probes"]["liveness"]["isolationCheck"]["enabled"] is True
    assert spec["monitoring"]["customQueriesConfigMap"] == [{"name": "cnpg-default-monitoring", "key": "queries"}]
    again = registry.update(registry.get("Cluster", "default", "orders"))
    assert again["spec"] == spec and again["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    "change",
    [{"storage": {"storageClass": "faster"}}, {"bootstrap": {"initdb": {"owner": "orders"}}}],
)
def test_taken_without_effect(registry: Registry, change: Object) -> None:
    warnings: list[str] = []
    registry.create(cluster())
    registry.patch("Cluster", "default", "orders", {"spec": change}, warnings=warnings)
    assert warnings == []


def test_without_its_configuration_a_webhook_is_not_called(registry: Registry) -> None:
    """Deleted, as some do when the operator is down: nothing is refused, and nothing filled in."""
    registry.delete("ValidatingWebhookConfiguration", None, "cnpg-validating-webhook-configuration")
    made = registry.create(cluster(bootstrap={"recovery": {"source": "elsewhere"}}))
    assert made["spec"]["bootstrap"]["recovery"]["database"] == "app"
    registry.delete("MutatingWebhookConfiguration", None, "cnpg-mutating-webhook-configuration")
    assert "bootstrap" not in registry.create(cluster("bare"))["spec"]
    with pytest.raises(ApiError, match=r"spec\.instances"):
        registry.create(cluster("none", instances=0))


def test_an_unknown_value_of_the_annotation_is_told(registry: Registry) -> None:
    wrong = cluster(bootstrap={"recovery": {"source": "elsewhere"}})
    wrong["metadata"]["annotations"] = {"cnpg.io/validation": "off"}
    denial(registry, wrong)
    fine, warnings = cluster(), list[str]()
    fine["metadata"]["annotations"] = {"cnpg.io/validation": "off"}
    registry.create(fine, warnings=warnings)
    assert warnings == ['invalid "cnpg.io/validation" annotation: "off" (expected "enabled" or "disabled")']


def test_warnings_for_what_is_going_away(registry: Registry) -> None:
    warnings: list[str] = []
    registry.create(cluster(backup={"barmanObjectStore": s3(accessKeyId=KEY, secretAccessKey=KEY)}), warnings=warnings)
    assert len(warnings) == 1 and "will be completely removed in CloudNativePG 1.31.0" in warnings[0]
    warnings.clear()
    registry.create(cluster("other", backup={"retentionPolicy": "30d"}), warnings=warnings)
    assert len(warnings) == 1 and "retentionPolicy" in warnings[0]


def scheduled(schedule: str) -> Object:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ScheduledBackup",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"cluster": {"name": "orders"}, "schedule": schedule},
    }


@pytest.mark.parametrize("schedule", ["0 0 2 * * *", "0 */5 8-18 1,15 JAN-mar Mon-fri", "0 0 0 ? * ?"])
def test_schedules_are_taken(registry: Registry, schedule: str) -> None:
    warnings: list[str] = []
    registry.create(scheduled(schedule), warnings=warnings)
    assert warnings == []


@pytest.mark.parametrize("schedule", ["", "* * *", "0 0 25 * * *", "0 0 2 * * * *", "@sometimes", "0 0 2 * * */0"])
def test_schedules_are_refused(registry: Registry, schedule: str) -> None:
    assert fields(denial(registry, scheduled(schedule))) == {"spec.schedule"}


def test_a_crontab_line_is_taken_with_a_warning(registry: Registry) -> None:
    warnings: list[str] = []
    registry.create(scheduled("0 2 * * *"), warnings=warnings)
    assert len(warnings) == 1 and "six" in warnings[0]


def test_a_plugin_backup_names_its_plugin(registry: Registry) -> None:
    obj = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"cluster": {"name": "orders"}, "method": "plugin"},
    }
    assert fields(denial(registry, obj)) == {"spec.pluginConfiguration"}


@pytest.mark.parametrize(
    ("text", "value"), [("1Gi", 2**30), ("1.5Ki", 1536), ("100m", 0.1), ("2e3", 2000), ("1E", 10**18)]
)
def test_quantities(text: str, value: float) -> None:
    assert float(quantity(text) or 0) == value


@pytest.mark.parametrize("given", ["off", "always", "nonsense"])
def test_f02_archive_mode_is_overwritten_and_not_refused(registry: Registry, given: str) -> None:
    """The mutating webhook writes it before anything is judged."""
    made = registry.create(cluster(postgresql={"parameters": {"archive_mode": given}}))
    assert made["spec"]["postgresql"]["parameters"]["archive_mode"] == "on"
