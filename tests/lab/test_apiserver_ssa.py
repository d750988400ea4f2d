"""Server-side apply and the record of managers, on the registry itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fix_apiserver import cluster

from drillbook_lab.api import ApiError, Registry, cnpg_registry

Object = dict[str, Any]


@pytest.fixture
def registry() -> Iterator[Registry]:
    yield cnpg_registry()


def config(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data}


def deployment(**container: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", **container}]},
            },
        },
    }


def owned(obj: Object, manager: str, subresource: str = "") -> Any:
    entries = [
        entry
        for entry in obj["metadata"].get("managedFields", ())
        if entry["manager"] == manager and entry.get("subresource", "") == subresource
    ]
    assert len(entries) <= 1
    return entries[0]["fieldsV1"] if entries else None


def test_an_apply_owns_what_it_names_and_again_changes_nothing(registry: Registry) -> None:
    first, new = registry.apply(config(a="1"), manager="one")
    assert new and owned(first, "one") == {"f:data": {"f:a": {}}}
    entry = first["metadata"]["managedFields"][0]
    assert (entry["operation"], entry["apiVersion"], entry["fieldsType"]) == ("Apply", "v1", "FieldsV1")
    again, new = registry.apply(config(a="1"), manager="one")
    assert not new and again == first


def test_what_is_no_longer_applied_goes_unless_somebody_else_owns_it(registry: Registry) -> None:
    registry.apply(config(a="1", b="2", c="3"), manager="one")
    registry.apply(config(b="2"), manager="two")  # the same value: both own it
    left, _ = registry.apply(config(a="1"), manager="one")
    assert left["data"] == {"a": "1", "b": "2"}
    assert owned(left, "one") == {"f:data": {"f:a": {}}}
    assert owned(left, "two") == {"f:data": {"f:b": {}}}
    gone, _ = registry.apply({**config(), "data": {}}, manager="two")
    assert gone["data"] == {"a": "1"}


def test_a_conflict_names_field_and_manager_and_force_takes_it(registry: Registry) -> None:
    registry.apply(config(a="1", b="2"), manager="one")
    with pytest.raises(ApiError) as one:
        registry.apply(config(a="9"), manager="two")
    assert (one.value.code, one.value.reason) == (409, "Conflict")
    assert one.value.message == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    assert one.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
    ]
    with pytest.raises(ApiError) as two:
        registry.apply(config(a="9", b="9"), manager="two")
    assert two.value.message == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.a\n- .data.b'
    taken, _ = registry.apply(config(a="9"), manager="two", force=True)
    assert taken["data"] == {"a": "9", "b": "2"}
    assert owned(taken, "one") == {"f:data": {"f:b": {}}}
    assert owned(taken, "two") == {"f:data": {"f:a": {}}}


def test_an_update_takes_what_it_changes_and_nothing_else(registry: Registry) -> None:
    registry.apply(config(a="1", b="2"), manager="one")
    changed = registry.patch("ConfigMap", "default", "c", {"data": {"a": "5"}}, manager="hand")
    assert owned(changed, "hand") == {"f:data": {"f:a": {}}}
    assert owned(changed, "one") == {"f:data": {"f:b": {}}}
    with pytest.raises(ApiError, match=r'conflict with "hand" using v1: \.data\.a'):
        registry.apply(config(a="1", b="2"), manager="one")


def test_lists_with_keys_are_merged_item_by_item(registry: Registry) -> None:
    registry.apply(deployment(image="a:1", env=[{"name": "A", "value": "1"}]), manager="one")
    both, _ = registry.apply(
        {
            **deployment(),
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {"name": "main", "env": [{"name": "B", "value": "2"}]},
                            {"name": "side", "image": "b:1"},
                        ]
                    }
                }
            },
        },
        manager="two",
    )
    main, side = both["spec"]["template"]["spec"]["containers"]
    assert [item["name"] for item in main["env"]] == ["A", "B"] and main["image"] == "a:1"
    assert side["image"] == "b:1"
    containers = owned(both, "two")["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert containers['k:{"name":"side"}'] == {".": {}, "f:image": {}, "f:name": {}}
    with pytest.raises(ApiError, match=r'\.spec\.template\.spec\.containers\[name="main"\]\.image'):
        registry.apply(deployment(image="a:2"), manager="two")
    less, _ = registry.apply(deployment(), manager="two")
    main = less["spec"]["template"]["spec"]["containers"][0]
    assert len(less["spec"]["template"]["spec"]["containers"]) == 1
    assert [item["name"] for item in main["env"]] == ["A"]


def test_custom_kinds_go_by_their_schema_and_status_has_its_own_owner(registry: Registry) -> None:
    applied, _ = registry.apply(cluster(postgresql={"parameters": {"work_mem": "4MB"}}), manager="argo")
    assert owned(applied, "argo")["f:spec"]["f:postgresql"] == {"f:parameters": {"f:work_mem": {}}}
    seen = registry.patch(
        "Cluster", "default", "orders", {"status": {"phase": "x"}}, subresource="status", manager="operator"
    )
    assert owned(seen, "operator", "status") == {"f:status": {".": {}, "f:phase": {}}}
    assert owned(seen, "operator") is None
    again, _ = registry.apply(cluster(postgresql={"parameters": {"work_mem": "4MB"}}), manager="argo")
    assert again["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]
    # Defaults are nobody's: another may set them without a conflict.
    other, _ = registry.apply(
        {**cluster(), "spec": {"postgresql": {"parameters": {"shared_buffers": "1GB"}}}}, manager="tuner"
    )
    assert other["spec"]["postgresql"]["parameters"].items() >= {"work_mem": "4MB", "shared_buffers": "1GB"}.items()
    with pytest.raises(ApiError, match=r"\.spec\.nonsense: field not declared in schema"):
        registry.apply(cluster(nonsense=1), manager="argo")


def test_a_finalizer_is_owned_by_its_value(registry: Registry) -> None:
    held = {**config(a="1"), "metadata": {"name": "c", "namespace": "default", "finalizers": ["x.io/hold"]}}
    applied, _ = registry.apply(held, manager="one")
    assert owned(applied, "one")["f:metadata"] == {"f:finalizers": {'v:"x.io/hold"': {}}}
    freed, _ = registry.apply(config(a="1"), manager="one")
    assert not freed["metadata"].get("finalizers")


def test_the_record_stays_short_however_many_write(registry: Registry) -> None:
    registry.create(config(a="0"))
    for turn in range(40):
        obj = registry.patch("ConfigMap", "default", "c", {"data": {f"k{turn}": "1"}}, manager=f"writer-{turn}")
    managers = [entry["manager"] for entry in obj["metadata"]["managedFields"]]
    assert len(managers) == 11 and "ancient-changes" in managers and "writer-39" in managers
    ancient = owned(obj, "ancient-changes")
    assert "f:k0" in ancient["f:data"] and "f:a" in ancient["f:data"]


def test_the_record_is_kept_for_who_leaves_it_out_and_dropped_for_who_says_so(registry: Registry) -> None:
    made = registry.create(config(a="1"), manager="one")
    sent = {**made, "metadata": {k: v for k, v in made["metadata"].items() if k != "managedFields"}, "data": {"a": "2"}}
    kept = registry.update(sent, manager="two")
    assert owned(kept, "two") == {"f:data": {"f:a": {}}} and owned(kept, "one") == {"f:data": {}}
    forgotten = registry.patch("ConfigMap", "default", "c", {"metadata": {"managedFields": [{}]}}, manager="two")
    assert not forgotten["metadata"].get("managedFields")


def test_kubectl_may_go_on_with_what_it_applied_on_the_client_side(registry: Registry) -> None:
    was = config(a="1")
    note = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(was)}
    registry.create({**was, "metadata": {**was["metadata"], "annotations": note}}, manager="kubectl-client-side-apply")
    with pytest.raises(ApiError, match="conflict with"):
        registry.apply(config(a="2"), manager="argo")
    moved, _ = registry.apply(config(a="2"), manager="kubectl")
    assert moved["data"] == {"a": "2"}
    assert json.loads(moved["metadata"]["annotations"][next(iter(note))])["data"] == {"a": "2"}


def test_an_entry_tells_when_its_manager_last_wrote(registry: Registry) -> None:
    registry.create(config(a="1"), manager="one")
    old = "2020-01-01T00:00:00Z"
    aged = registry.get("ConfigMap", "default", "c")
    aged["metadata"]["managedFields"][0]["time"] = old
    registry.update(aged, manager="")
    unchanged = registry.patch("ConfigMap", "default", "c", {"data": {"a": "1"}}, manager="one")
    assert unchanged["metadata"]["managedFields"][0]["time"] == old
    changed = registry.patch("ConfigMap", "default", "c", {"data": {"a": "2"}}, manager="one")
    assert changed["metadata"]["managedFields"][0]["time"] > old


def test_dry_run_applies_nothing(registry: Registry) -> None:
    shown, new = registry.apply(config(a="1"), manager="one", dry_run=True)
    assert new and shown["data"] == {"a": "1"}
    assert registry.list("ConfigMap") == []
