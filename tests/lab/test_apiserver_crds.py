"""Our CRDs against the real ones: every field of ours is theirs, and means the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from drillbook_lab.apiserver import cnpg_registry, shipped_crds
from drillbook_lab.apiserver.celrules import compile_all

# What a field promises; descriptions and messages are each side's own.
_PROMISES = (
    "type", "format", "enum", "default", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "nullable", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
)  # fmt: skip
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


def differences(ours: dict[str, Any], theirs: dict[str, Any], path: str) -> Iterator[str]:
    for promise in _PROMISES:
        if ours.get(promise) != theirs.get(promise):
            yield f"{path}: {promise} is {ours.get(promise)!r}, theirs {theirs.get(promise)!r}"
    their_rules = {" ".join(rule["rule"].split()) for rule in theirs.get("x-kubernetes-validations") or ()}
    our_rules = {" ".join(rule["rule"].split()) for rule in ours.get("x-kubernetes-validations") or ()}
    if our_rules != their_rules:
        yield f"{path}: rules differ: {our_rules ^ their_rules}"
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
    for part in ("items", "additionalProperties"):
        if isinstance(ours.get(part), dict):
            yield from differences(ours[part], theirs.get(part) or {}, f"{path}[{part}]")


@pytest.mark.parametrize("name", _NAMES)
def test_each_of_our_fields_is_theirs(name: str) -> None:
    ours, theirs = our_crd(name)["spec"], real_crd(name)["spec"]
    assert {k: ours[k] for k in ("group", "scope", "names")} == {k: theirs[k] for k in ("group", "scope", "names")}
    mine, real = ours["versions"][0], theirs["versions"][0]
    assert mine["name"] == real["name"]
    assert mine["subresources"] == real["subresources"]
    columns = [{k: c[k] for k in ("name", "type", "jsonPath")} for c in real.get("additionalPrinterColumns") or ()]
    assert mine.get("additionalPrinterColumns", []) == columns
    schemas = mine["schema"]["openAPIV3Schema"], real["schema"]["openAPIV3Schema"]
    assert list(differences(*schemas, name)) == []


def test_the_comparison_sees_a_difference() -> None:
    """The oracle's own proof: a changed enum, default, rule or name is told."""
    theirs = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "default": "x"}}}
    for child in ({"type": "integer"}, {"type": "string", "enum": ["x", "y"], "default": "x"},
                  {"type": "string", "enum": ["x"]}):  # fmt: skip
        assert list(differences({"type": "object", "properties": {"a": child}}, theirs, "o"))
    assert list(differences({"type": "object", "properties": {"b": {"type": "string"}}}, theirs, "o"))
    ruled = {**theirs, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}
    assert list(differences(theirs, ruled, "o"))


@pytest.mark.parametrize("name", _NAMES)
def test_the_real_rules_compile_too(name: str) -> None:
    assert compile_all(real_crd(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]) >= 0


def test_the_shipped_kinds_are_served() -> None:
    served = {resource.kind for resource in cnpg_registry().resources()}
    assert served >= {"Cluster", "Backup", "ScheduledBackup", "ObjectStore"}
    assert sorted(_NAMES) == _NAMES and len(_NAMES) == 4
