"""Label and field selectors: the two small languages that narrow a list or a watch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from drillbook_lab.api.errors import Object, bad_request

_SET = re.compile(r"^\s*(?P<key>[\w./-]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUALITY = re.compile(r"^\s*(?P<key>[\w./-]+)\s*(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)\s*$")
_EXISTS = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[\w./-]+)\s*$")

Predicate = Callable[[Object], bool]


def _terms(text: str) -> list[str]:
    """Split at commas, but not at those inside the brackets of `in (a,b)`."""
    return [term for term in re.split(r",(?![^(]*\))", text) if term.strip()]


def _label_term(term: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(term):
        key = found["key"]
        values = {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUALITY.match(term):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(term):
        key = found["key"]
        if found["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise bad_request(f"unable to parse requirement: {term!r}")


def label_predicate(text: str) -> Predicate:
    """Does an object carry these labels? An empty selector takes everything."""
    terms = [_label_term(term) for term in _terms(text)]
    if not terms:
        return lambda obj: True

    def matches(obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(term(labels) for term in terms)

    return matches


def lookup(obj: Any, path: str) -> Any:
    """The value at a dotted path, None where it isn't there."""
    for part in path.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


# The real server refuses other fields by name, so that nobody mistakes "ignored" for "empty".
_FIELDS: dict[str, frozenset[str]] = {
    "Pod": frozenset(
        {"spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"}
    ),
    "Event": frozenset(
        {
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "reason",
            "source",
            "type",
        }
    ),
    "Secret": frozenset({"type"}),
    "Job": frozenset({"status.successful"}),
    "Namespace": frozenset({"status.phase"}),
}
_ALWAYS = frozenset({"metadata.name", "metadata.namespace"})


def field_predicate(kind: str, text: str) -> Predicate:
    """Do an object's fields have these values? Only the fields that Kubernetes offers."""
    terms: list[tuple[str, bool, str]] = []
    for term in _terms(text):
        found = re.match(r"^\s*([\w.]+)\s*(==|=|!=)\s*(.*?)\s*$", term)
        if not found:
            raise bad_request(f"invalid selector: {term!r}; can't understand {term!r}")
        path, op, value = found.groups()
        if path not in _ALWAYS and path not in _FIELDS.get(kind, frozenset()):
            raise bad_request(f"field label not supported: {path}")
        terms.append((path, op != "!=", value))
    if not terms:
        return lambda obj: True

    def matches(obj: Object) -> bool:
        return all((str(lookup(obj, path) or "") == value) is equal for path, equal, value in terms)

    return matches


def predicate(kind: str, labels: str, fields: str) -> Predicate:
    """Both selectors together."""
    by_label, by_field = label_predicate(labels), field_predicate(kind, fields)
    return lambda obj: by_label(obj) and by_field(obj)
