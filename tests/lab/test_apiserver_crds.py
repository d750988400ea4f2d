"""Our CRDs against the real ones: every field of ours is theirs, and means the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from drillbook_lab.api import cnpg_registry, shipped_crds
from drillbook_lab.api.cel_rules import compile_all
from drillbook_lab.errors import LabError

# What a field promises; descriptions are each side's own.
_PROMISES = (
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
    "nullable",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
_NAMES = [crd["metadata"]["name"] for crd in shipped_crds()]


def real_crd(name: str) -> dict[str, Any]:
    folder = os.environ.get("DRILLBOOK_CNPG_CRDS", "")
    if not folder:
        pytest.skip("DRILLBOOK_CNPG_CRDS names no folder with CloudNativePG's CRDs")
    plural, group = name.split(".", 1)
    return read_crd(Path(folder) / f"{group}_{plural}.yaml")


@cache
def read_crd(path: Path) -> dict[str, Any]:
    # The C parser: the real Cluster's CRD has half a megabyte.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd: dict[str, Any] = yaml.load(path.read_text(), Loader=loader)  # noqa: S506  (a safe loader either way)
    return crd


def our_crd(name: str) -> dict[str, Any]:
    return next(crd for crd in shipped_crds() if crd["metadata"]["name"] == name)


def rules(schema: dict[str, Any]) -> set[tuple[str, ...]]:
    """A schema's rules: what is asked, and what is said when it doesn't hold."""
    return {
        (" ".join(rule["rule"].split()), rule.get("message", ""), rule.get("fieldPath", ""), rule.get("reason", ""))
        for rule in schema.get("x-kubernetes-validations") or ()
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any], path: str) -> Iterator[str]:
    for promise in _PROMISES:
        if ours.get(promise) != theirs.get(promise):
            yield f"{path}: {promise} is {ours.get(promise)!r}, theirs {theirs.get(promise)!r}"
    if rules(ours) != rules(theirs):
        yield f"{path}: rules differ: {rules(ours) ^ rules(theirs)}"
    children = ours.get("properties") or {}
    theirs_required = set(theirs.get("required") or ()) & set(children)
    if set(ours.get("required") or ()) != set(theirs.get("required") or ()):
        missing = set(theirs.get("required") or ()) - set(children)
        yield f"{path}: required is {ours.get('required')}, theirs {sorted(theirs_required)}; not ours: {missing}"
    for name, child in children.items():
        counterpart = (theirs.get("properties") or {}).get(name)
        if counterpart is None:
            yield f"{path}.{name}: not a field of theirs"
        else:
            yield from differences(child, counterpart, f"{path}.{name}")
    # A field that isn't ours may still show: where theirs has a default, it is in every object.
    for name, child in (theirs.get("properties") or {}).items():
        if name not in children and "default" in child:
            yield f"{path}.{name}: not ours, and theirs writes {child['default']!r} into every object"
    for part in ("items", "additionalProperties"):
        if isinstance(theirs.get(part), dict) != isinstance(ours.get(part), dict):
            yield f"{path}: {part} is {ours.get(part)!r}, theirs {theirs.get(part)!r}"
        if isinstance(ours.get(part), dict):
            yield from differences(ours[part], theirs.get(part) or {}, f"{path}[{part}]")


def columns(version: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: column.get(key) for key in ("name", "type", "jsonPath", "format", "priority")}
        for column in version.get("additionalPrinterColumns") or ()
    ]


@pytest.mark.parametrize("name", _NAMES)
def test_each_of_our_fields_is_theirs(name: str) -> None:
    ours, theirs = our_crd(name)["spec"], real_crd(name)["spec"]
    assert {k: ours[k] for k in ("group", "scope", "names")} == {k: theirs[k] for k in ("group", "scope", "names")}
    mine, real = ours["versions"][0], theirs["versions"][0]
    assert mine["name"] == real["name"]
    assert mine["subresources"] == real["subresources"]
    assert columns(mine) == columns(real)
    assert {key: mine.get(key, False) for key in ("served", "storage", "deprecated")} == {
        key: real.get(key, False) for key in ("served", "storage", "deprecated")
    }
    schemas = mine["schema"]["openAPIV3Schema"], real["schema"]["openAPIV3Schema"]
    assert list(differences(*schemas, name)) == []


def test_the_comparison_sees_a_difference() -> None:
    """The oracle's own proof: a changed enum, default, rule or name is reported."""
    theirs = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "default": "x"}}}
    for child in (
        {"type": "integer"},
        {"type": "string", "enum": ["x", "y"], "default": "x"},
        {"type": "string", "enum": ["x"]},
    ):
        assert list(differences({"type": "object", "properties": {"a": child}}, theirs, "o"))
    assert list(differences({"type": "object", "properties": {"b": {"type": "string"}}}, theirs, "o"))
    ruled = {**theirs, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}
    assert list(differences(theirs, ruled, "o"))


@pytest.mark.parametrize("name", _NAMES)
def test_the_real_rules_compile_too(name: str) -> None:
    assert compile_all(real_crd(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]) >= 0


def test_the_shipped_kinds_are_served() -> None:
    served = {resource.kind for resource in cnpg_registry().resources()}
    assert served >= {"Cluster", "Backup", "ScheduledBackup", "ObjectStore", "Pooler", "Database"}
    assert sorted(_NAMES) == _NAMES and len(_NAMES) == 6


def real_folder() -> str:
    folder = os.environ.get("DRILLBOOK_CNPG_CRDS", "")
    if not folder:
        pytest.skip("DRILLBOOK_CNPG_CRDS names no folder with CloudNativePG's CRDs")
    return folder


def test_the_definitions_of_a_folder_are_served_in_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRILLBOOK_LAB_CRDS", real_folder())
    theirs = cnpg_registry()
    served = {resource.kind: resource for resource in theirs.resources() if resource.custom}
    assert served.keys() >= {"Cluster", "Backup", "ScheduledBackup", "ObjectStore", "Pooler", "Database"}
    for name in _NAMES:
        kind = real_crd(name)["spec"]["names"]["kind"]
        assert served[kind].schema == real_crd(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_a_folder_need_not_hold_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = our_crd("backups.postgresql.cnpg.io")
    first["spec"]["versions"][0]["additionalPrinterColumns"] = []
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([first, {"kind": "Namespace"}]))
    (tmp_path / "README").write_text("not a definition")
    monkeypatch.setenv("DRILLBOOK_LAB_CRDS", str(tmp_path))
    registry = cnpg_registry()
    assert registry.resource("Backup").columns == ()
    assert registry.resource("Cluster").columns


def test_a_folder_without_definitions_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRILLBOOK_LAB_CRDS", str(tmp_path))
    with pytest.raises(LabError, match="names no folder with CustomResourceDefinitions"):
        cnpg_registry()


_OBJECTS: list[dict[str, Any]] = [
    {"kind": "Cluster", "spec": {"instances": 3, "storage": {"size": "1Gi"}}},
    {
        "kind": "Cluster",
        "spec": {
            "instances": 2,
            "storage": {"size": "1Gi"},
            "walStorage": {"size": "1Gi"},
            "plugins": [
                {
                    "name": "barman-cloud.cloudnative-pg.io",
                    "isWALArchiver": True,
                    "parameters": {"barmanObjectName": "s"},
                }
            ],
            "bootstrap": {"recovery": {"source": "o", "recoveryTarget": {"targetTime": "2026-01-01T00:00:00Z"}}},
            "externalClusters": [
                {
                    "name": "o",
                    "plugin": {
                        "name": "barman-cloud.cloudnative-pg.io",
                        "parameters": {"barmanObjectName": "s", "serverName": "x"},
                    },
                }
            ],
            "managed": {
                "roles": [{"name": "app", "ensure": "present", "login": True}],
                "services": {
                    "additional": [
                        {
                            "selectorType": "rw",
                            "serviceTemplate": {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 5432}]}},
                        }
                    ]
                },
            },
            "postgresql": {"synchronous": {"method": "any", "number": 1}, "parameters": {"work_mem": "4MB"}},
            "probes": {"liveness": {"isolationCheck": {}}},
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}],
            "monitoring": {"tls": {}},
            "nodeMaintenanceWindow": {},
            "replicationSlots": {"synchronizeReplicas": {}},
        },
    },
    {"kind": "Backup", "spec": {"cluster": {"name": "c"}}},
    {"kind": "Backup", "spec": {"cluster": {"name": "c"}, "method": "plugin", "pluginConfiguration": {"name": "p"}}},
    {"kind": "ScheduledBackup", "spec": {"cluster": {"name": "c"}, "schedule": "0 0 0 * * *"}},
    {"kind": "Pooler", "spec": {"cluster": {"name": "other"}, "pgbouncer": {"poolMode": "session"}}},
    {
        "kind": "ObjectStore",
        "apiVersion": "barmancloud.cnpg.io/v1",
        "spec": {"configuration": {"destinationPath": "s3://b/p", "wal": {"compression": "gzip"}, "data": {}}},
    },
]


@pytest.mark.parametrize("obj", _OBJECTS, ids=[f"{obj['kind']}-{i}" for i, obj in enumerate(_OBJECTS)])
def test_an_object_is_stored_the_same_by_either(obj: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults, pruning and rules at work: what the real definitions make of an object, ours make too."""
    made: list[Any] = []
    for folder in ("", real_folder()):
        monkeypatch.setenv("DRILLBOOK_LAB_CRDS", folder)
        made.append(
            cnpg_registry().create(
                {"apiVersion": "postgresql.cnpg.io/v1", **obj, "metadata": {"name": "c", "namespace": "default"}},
                strict=True,
                warnings=[],
            )
        )
    ours, theirs = made
    assert ours["spec"] == theirs["spec"]
    assert ours.get("status") == theirs.get("status")
