"""The registry: what is stored, what is refused, what goes when its owner goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fix_apiserver import cluster

from drillbook_lab.api import ApiError, Registry, cnpg_registry

Object = dict[str, Any]


@pytest.fixture
def registry() -> Registry:
    """A registry with CloudNativePG's kinds and the namespaces that every cluster has."""
    return cnpg_registry()


def config(name: str = "c", **meta: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", **meta}}


def owned_by(*owners: Object, block: bool = False) -> list[Object]:
    return [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for o in owners
    ]


class refused:  # noqa: N801  (reads as a verb where it is used)
    """A block that must be refused so; what was said is kept."""

    def __init__(self, code: int, reason: str) -> None:
        self._expected = (code, reason)
        self.status: Object = {}

    def __enter__(self) -> refused:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, ApiError), "it was not refused"
        assert (error.code, error.reason) == self._expected
        self.status = error.to_status()
        return True

    @property
    def message(self) -> str:
        return str(self.status["message"])

    @property
    def fields(self) -> set[str]:
        return {cause["field"] for cause in self.status["details"]["causes"]}


def test_the_server_sets_its_own_metadata(registry: Registry) -> None:
    sent = cluster()
    sent["metadata"] |= {"uid": "mine", "generation": 9, "creationTimestamp": "2000-01-01T00:00:00Z"}
    meta = registry.create(sent)["metadata"]
    assert meta["uid"] != "mine" and meta["generation"] == 1 and not meta["creationTimestamp"].startswith("2000")
    assert int(meta["resourceVersion"]) == registry.version


def test_generate_name_makes_different_names(registry: Registry) -> None:
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": "default"}}
    made = {registry.create(event)["metadata"]["name"] for _ in range(5)}
    assert len(made) == 5 and all(len(name) == 7 for name in made)


def test_what_is_read_is_a_copy(registry: Registry) -> None:
    registry.create(config())
    registry.get("ConfigMap", "default", "c")["data"] = {"changed": "yes"}
    assert "data" not in registry.get("ConfigMap", "default", "c")


def test_refusals_in_kubernetes_words(registry: Registry) -> None:
    registry.create(cluster())
    with refused(404, "NotFound") as said:
        registry.get("Cluster", "default", "nowhere")
    assert said.message == 'clusters.postgresql.cnpg.io "nowhere" not found'
    with refused(409, "AlreadyExists") as said:
        registry.create(cluster())
    assert said.message == 'clusters.postgresql.cnpg.io "orders" already exists'
    with refused(404, "NotFound") as said:
        registry.create({**config(), "metadata": {"name": "c", "namespace": "nowhere"}})
    assert said.message == 'namespaces "nowhere" not found'
    with refused(409, "Conflict") as said:
        registry.update({**cluster(), "metadata": {**cluster()["metadata"], "resourceVersion": "1"}})
    assert "the object has been modified" in said.message


def test_generation_counts_changes_of_the_spec_only(registry: Registry) -> None:
    registry.create(cluster())
    patch = registry.patch("Cluster", "default", "orders", {"metadata": {"labels": {"a": "b"}}})
    assert patch["metadata"]["generation"] == 1
    status = registry.patch("Cluster", "default", "orders", {"status": {"phase": "x"}}, subresource="status")
    assert status["metadata"]["generation"] == 1
    assert registry.patch("Cluster", "default", "orders", {"spec": {"instances": 3}})["metadata"]["generation"] == 2


def test_a_change_that_changes_nothing_makes_no_version(registry: Registry) -> None:
    created = registry.create(cluster())
    again = registry.patch("Cluster", "default", "orders", {"spec": {"instances": 1}})
    assert again["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


def test_status_and_spec_are_apart(registry: Registry) -> None:
    created = registry.create({**cluster(), "status": {"phase": "made up"}})
    assert "status" not in created
    main = registry.patch("Cluster", "default", "orders", {"spec": {"instances": 2}, "status": {"phase": "no"}})
    assert main["spec"]["instances"] == 2 and "status" not in main
    side = registry.patch(
        "Cluster", "default", "orders", {"spec": {"instances": 5}, "status": {"phase": "yes"}}, subresource="status"
    )
    assert side["spec"]["instances"] == 2 and side["status"] == {"phase": "yes"}


def test_dry_run_answers_and_stores_nothing(registry: Registry) -> None:
    before = registry.version
    answered = registry.create(cluster(), dry_run=True)
    assert answered["spec"]["logLevel"] == "info" and "resourceVersion" not in answered["metadata"]
    assert registry.list("Cluster") == []
    with refused(422, "Invalid"):
        registry.create(cluster(instances=0), dry_run=True)
    assert registry.version == before


def test_json_patch_and_its_failed_test(registry: Registry) -> None:
    registry.create({**config(), "data": {"a": "1"}})
    steps = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}]
    assert registry.patch("ConfigMap", "default", "c", steps, type="json")["data"] == {"a": "2"}
    with refused(422, "Invalid"):
        registry.patch("ConfigMap", "default", "c", steps, type="json")


def test_strategic_merge_by_key_for_built_in_kinds_only(registry: Registry) -> None:
    registry.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]},
        }
    )
    patch = {"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}]}}
    patched = registry.patch("Pod", "default", "p", patch, type="strategic")
    assert patched["spec"]["containers"] == [{"name": "b", "image": "2"}]
    registry.create(cluster())
    with refused(415, "UnsupportedMediaType"):
        registry.patch("Cluster", "default", "orders", {}, type="strategic")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("", {"a", "b", "c"}),
        ("tier=db", {"a"}),
        ("tier!=db", {"b", "c"}),
        ("tier in (db, app)", {"a", "b"}),
        ("tier notin (db),tier", {"b"}),
        ("!tier", {"c"}),
    ],
)
def test_label_selectors(registry: Registry, labels: str, names: set[str]) -> None:
    registry.create(config("a", labels={"tier": "db"}))
    registry.create(config("b", labels={"tier": "app"}))
    registry.create(config("c"))
    assert {o["metadata"]["name"] for o in registry.list("ConfigMap", "default", labels=labels)} == names


def test_field_selectors_are_those_of_kubernetes(registry: Registry) -> None:
    registry.create(config("a"))
    registry.create(config("b"))
    assert len(registry.list("ConfigMap", fields="metadata.name=a,metadata.namespace=default")) == 1
    assert len(registry.list("ConfigMap", fields="metadata.name!=a")) == 1
    with refused(400, "BadRequest") as said:
        registry.list("ConfigMap", fields="data.a=1")
    assert said.message == "field label not supported: data.a"


def test_dependents_go_with_their_last_owner(registry: Registry) -> None:
    one, two = registry.create(config("one")), registry.create(config("two"))
    registry.create(config("both", ownerReferences=owned_by(one, two)))
    child = registry.create(config("child", ownerReferences=owned_by(one)))
    registry.create(config("grandchild", ownerReferences=owned_by(child)))
    registry.delete("ConfigMap", "default", "one")
    assert [o["metadata"]["name"] for o in registry.list("ConfigMap")] == ["both", "two"]
    assert registry.get("ConfigMap", "default", "both")["metadata"]["ownerReferences"] == owned_by(two)
    registry.delete("ConfigMap", "default", "two")
    assert registry.list("ConfigMap") == []


def test_orphans_stay(registry: Registry) -> None:
    owner = registry.create(config("owner"))
    registry.create(config("child", ownerReferences=owned_by(owner)))
    registry.delete("ConfigMap", "default", "owner", propagation="Orphan")
    assert "ownerReferences" not in registry.get("ConfigMap", "default", "child")["metadata"]


def test_foreground_waits_for_blocking_dependents(registry: Registry) -> None:
    owner = registry.create(config("owner"))
    registry.create(config("child", ownerReferences=owned_by(owner, block=True), finalizers=["x.y/z"]))
    marked = registry.delete("ConfigMap", "default", "owner", propagation="Foreground")
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert registry.get("ConfigMap", "default", "child")["metadata"]["deletionTimestamp"]
    registry.patch("ConfigMap", "default", "child", {"metadata": {"finalizers": None}})
    assert registry.list("ConfigMap") == []


def test_a_dependent_that_comes_while_its_owner_waits_to_go_does_not_keep_it(registry: Registry) -> None:
    owner = registry.create(config("owner"))
    registry.create(config("child", ownerReferences=owned_by(owner, block=True), finalizers=["x.y/z"]))
    registry.delete("ConfigMap", "default", "owner", propagation="Foreground")
    registry.create(config("late", ownerReferences=owned_by(owner, block=True)))
    registry.patch("ConfigMap", "default", "child", {"metadata": {"finalizers": None}})
    assert registry.list("ConfigMap") == []


def test_an_object_whose_owner_is_gone_does_not_stay(registry: Registry) -> None:
    owner = registry.create(config("owner"))
    registry.delete("ConfigMap", "default", "owner")
    registry.create(config("late", ownerReferences=owned_by(owner)))
    assert registry.list("ConfigMap") == []


def test_a_finalizer_holds_an_object_and_no_new_one_comes_late(registry: Registry) -> None:
    registry.create(config(finalizers=["lab.drillbook/processes"]))
    assert registry.delete("ConfigMap", "default", "c")["metadata"]["deletionTimestamp"]
    with refused(422, "Invalid") as said:
        registry.patch("ConfigMap", "default", "c", {"metadata": {"finalizers": ["lab.drillbook/processes", "a/b"]}})
    assert "no new finalizers" in said.message
    registry.patch("ConfigMap", "default", "c", {"metadata": {"finalizers": []}})
    assert registry.list("ConfigMap") == []


def test_a_namespace_goes_when_it_is_empty(registry: Registry) -> None:
    registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "drills"}})
    registry.create({**config(), "metadata": {"name": "c", "namespace": "drills", "finalizers": ["a/b"]}})
    registry.delete("Namespace", None, "drills")
    assert registry.get("Namespace", None, "drills")["status"]["phase"] == "Terminating"
    with refused(403, "Forbidden"):
        registry.create({**config(), "metadata": {"name": "d", "namespace": "drills"}})
    registry.patch("ConfigMap", "drills", "c", {"metadata": {"finalizers": None}})
    with refused(404, "NotFound"):
        registry.get("Namespace", None, "drills")


def test_delete_preconditions(registry: Registry) -> None:
    registry.create(config())
    with refused(409, "Conflict"):
        registry.delete("ConfigMap", "default", "c", uid="another")
    registry.delete("ConfigMap", "default", "c", uid=registry.get("ConfigMap", "default", "c")["metadata"]["uid"])


def test_subscribers_hear_everything_in_order(registry: Registry) -> None:
    heard: list[tuple[str, str]] = []
    registry.subscribe(lambda type_, obj: heard.append((type_, obj["metadata"]["name"])))
    registry.create(config())
    registry.patch("ConfigMap", "default", "c", {"data": {"a": "1"}})
    registry.delete("ConfigMap", "default", "c")
    assert heard == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]


def test_a_watch_sees_objects_enter_and_leave_its_selection(registry: Registry) -> None:
    async def follow() -> list[str]:
        stream = registry.watch("ConfigMap", "default", labels="on=yes")
        registry.create(config())
        registry.patch("ConfigMap", "default", "c", {"metadata": {"labels": {"on": "yes"}}})
        registry.patch("ConfigMap", "default", "c", {"data": {"a": "1"}})
        registry.patch("ConfigMap", "default", "c", {"metadata": {"labels": {"on": "no"}}})
        seen = [(await anext(stream))[0] for _ in range(3)]
        await stream.aclose()
        return seen

    assert asyncio.run(follow()) == ["ADDED", "MODIFIED", "DELETED"]


def test_old_versions_and_slow_watchers_get_410() -> None:
    async def follow() -> None:
        registry = Registry(history=5, watcher_limit=3)
        registry.create(config())
        start = str(registry.version)
        slow = registry.watch("ConfigMap", resource_version=start)
        for number in range(10):
            registry.patch("ConfigMap", "default", "c", {"data": {"n": str(number)}})
        with refused(410, "Expired"):
            await anext(slow)
        with refused(410, "Expired"):
            registry.watch("ConfigMap", resource_version=start)

    asyncio.run(follow())


def test_secrets_take_plain_strings(registry: Registry) -> None:
    made = registry.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "default"},
            "stringData": {"password": "geheim"},
        }
    )
    assert made["data"] == {"password": "Z2VoZWlt"} and "stringData" not in made and made["type"] == "Opaque"
    with refused(422, "Invalid"):
        registry.patch("Secret", "default", "s", {"data": {"password": "not base64!"}})


# -- schemas ---------------------------------------------------------------------------------


def test_defaults_are_filled_in(registry: Registry) -> None:
    spec = registry.create(cluster())["spec"]
    assert spec["replicationSlots"] == {
        "highAvailability": {"enabled": True, "slotPrefix": "_cnpg_"},
        "updateInterval": 30,
        "synchronizeReplicas": {"enabled": True},
    }
    assert spec["storage"]["resizeInUseVolumes"] is True
    assert spec["bootstrap"]["initdb"] == {
        "database": "app",
        "owner": "app",
        "encoding": "UTF8",
        "localeCollate": "C",
        "localeCType": "C",
    }


def test_unknown_fields_are_refused_told_or_dropped(registry: Registry) -> None:
    wrong = cluster(recovery={}, storage={"size": "1Gi", "retention": "30d"})
    with refused(400, "BadRequest") as said:
        registry.create(wrong, strict=True)
    assert said.message == (
        'Cluster in version "v1" cannot be handled as a Cluster: strict decoding error: '
        'unknown field "spec.recovery", unknown field "spec.storage.retention"'
    )
    warnings: list[str] = []
    stored = registry.create(wrong, warnings=warnings)
    assert "recovery" not in stored["spec"] and "retention" not in stored["spec"]["storage"]
    assert warnings == ['unknown field "spec.recovery"', 'unknown field "spec.storage.retention"']


def test_every_fault_of_the_schema_is_told_at_once(registry: Registry) -> None:
    wrong = cluster(
        instances=0,
        logLevel="loud",
        postgresql={"parameters": {"max_connections": 200}},
        backup={"retentionPolicy": "30 days"},
        externalClusters=[{"plugin": {}}],
        resources={"limits": {"cpu": 2, "memory": "2 GB"}},
    )
    with refused(422, "Invalid") as said:
        registry.create(wrong)
    assert said.fields == {
        "spec.instances",
        "spec.logLevel",
        "spec.postgresql.parameters.max_connections",
        "spec.backup.retentionPolicy",
        "spec.externalClusters[0].name",
        "spec.externalClusters[0].plugin.name",
        "spec.resources.limits.memory",
    }
    least = "spec.instances: Invalid value: 0: spec.instances in body should be greater than or equal to 1"
    assert least in said.message
    assert 'spec.logLevel: Unsupported value: "loud": supported values: "error"' in said.message


def test_null_in_a_field_with_a_default_counts_as_absent(registry: Registry) -> None:
    assert registry.create(cluster(logLevel=None))["spec"]["logLevel"] == "info"


def backup(name: str = "b", **spec: Any) -> Object:
    plugin = {"method": "plugin", "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"}}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"cluster": {"name": "orders"}, **plugin, **spec},
    }


def test_transition_rules_hold_between_old_and_new(registry: Registry) -> None:
    registry.create(backup())
    with refused(422, "Invalid") as said:
        registry.patch("Backup", "default", "b", {"spec": {"target": "primary"}})
    assert "BackupSpec is immutable once set" in said.message
    registry.patch("Backup", "default", "b", {"metadata": {"labels": {"a": "b"}}})
    scheduled = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ScheduledBackup",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {**backup()["spec"], "schedule": "0 0 2 * * *"},
    }
    registry.create(scheduled)
    registry.patch("ScheduledBackup", "default", "s", {"spec": {"suspend": True}})
    with refused(422, "Invalid") as said:
        registry.patch("ScheduledBackup", "default", "s", {"spec": {"cluster": {"name": "other"}}})
    assert said.fields == {"spec.cluster"}


def test_an_object_store_has_no_server_name(registry: Registry) -> None:
    store = {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"configuration": {"destinationPath": "s3://b/p", "serverName": "x"}},
    }
    with refused(422, "Invalid") as said:
        registry.create(store)
    assert "use the 'serverName' plugin parameter in the Cluster resource" in said.message
