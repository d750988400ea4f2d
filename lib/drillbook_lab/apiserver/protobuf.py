"""The few protobuf bodies that kubectl sends: its imperative commands use nothing else.

Only messages whose every field stands here are read; a field that doesn't is refused, since
dropping it in silence would store something else than was sent.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from drillbook_lab.apiserver.errors import Object, unsupported_media_type

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Field number → (name, form). A form ending in "[]" repeats; a dict is a message of its own; None is
# a field that the server sets itself and so may drop.
_Message = dict[int, tuple[str, Any]]
_META: _Message = {
    1: ("name", "string"), 2: ("generateName", "string"), 3: ("namespace", "string"), 4: ("selfLink", None),
    5: ("uid", None), 6: ("resourceVersion", "string"), 7: ("generation", None), 8: ("creationTimestamp", None),
    11: ("labels", "map"), 12: ("annotations", "map"), 14: ("finalizers", "string[]"), 17: ("managedFields", None),
}  # fmt: skip
_RULE: _Message = {
    1: ("verbs", "string[]"), 2: ("apiGroups", "string[]"), 3: ("resources", "string[]"),
    4: ("resourceNames", "string[]"), 5: ("nonResourceURLs", "string[]"),
}  # fmt: skip
_SUBJECT: _Message = {
    1: ("kind", "string"), 2: ("apiGroup", "string"), 3: ("name", "string"), 4: ("namespace", "string"),
}  # fmt: skip
_ROLE_REF: _Message = {1: ("apiGroup", "string"), 2: ("kind", "string"), 3: ("name", "string")}
_ATTRIBUTES: _Message = {
    1: ("namespace", "string"), 2: ("verb", "string"), 3: ("group", "string"), 4: ("version", "string"),
    5: ("resource", "string"), 6: ("subresource", "string"), 7: ("name", "string"),
}  # fmt: skip
_BOUND: _Message = {1: ("kind", "string"), 2: ("apiVersion", "string"), 3: ("name", "string"), 4: ("uid", "string")}
_MESSAGES: dict[str, _Message] = {
    "Namespace": {1: ("metadata", _META), 2: ("spec", None), 3: ("status", None)},
    "ServiceAccount": {1: ("metadata", _META)},
    "ConfigMap": {1: ("metadata", _META), 2: ("data", "map"), 3: ("binaryData", "bytemap"), 4: ("immutable", "bool")},
    "Secret": {1: ("metadata", _META), 2: ("data", "bytemap"), 3: ("type", "string"), 4: ("stringData", "map"),
               5: ("immutable", "bool")},
    "Role": {1: ("metadata", _META), 2: ("rules", [_RULE])},
    "ClusterRole": {1: ("metadata", _META), 2: ("rules", [_RULE])},
    "RoleBinding": {1: ("metadata", _META), 2: ("subjects", [_SUBJECT]), 3: ("roleRef", _ROLE_REF)},
    "ClusterRoleBinding": {1: ("metadata", _META), 2: ("subjects", [_SUBJECT]), 3: ("roleRef", _ROLE_REF)},
    "TokenRequest": {1: ("metadata", _META), 2: ("spec", {1: ("audiences", "string[]"), 3: ("boundObjectRef", _BOUND),
                                                          4: ("expirationSeconds", "int")}), 3: ("status", None)},
    "SelfSubjectReview": {1: ("metadata", _META), 2: ("status", None)},
    "SelfSubjectRulesReview": {1: ("metadata", _META), 2: ("spec", {1: ("namespace", "string")}),
                               3: ("status", None)},
    "SelfSubjectAccessReview": {1: ("metadata", _META), 2: ("spec", {1: ("resourceAttributes", _ATTRIBUTES)}),
                                3: ("status", None)},
}  # fmt: skip


def decode(body: bytes) -> Object:
    """The object in a body; 415 with the way out if it can't be read."""
    try:
        if not body.startswith(_MAGIC):
            raise _Unreadable("it lacks the envelope")
        envelope = dict(_fields(body[len(_MAGIC) :]))
        about = dict(_fields(bytes(envelope[1])))
        kind = bytes(about[2]).decode()
        if kind not in _MESSAGES:
            raise _Unreadable(f"kind {kind} isn't read in that form")
        obj = _message(_MESSAGES[kind], bytes(envelope[2]), kind)
        return {"apiVersion": bytes(about[1]).decode(), "kind": kind, **obj}
    except (_Unreadable, KeyError, IndexError, UnicodeDecodeError, TypeError) as error:
        raise unsupported_media_type(
            f"this server reads JSON and YAML; of protobuf only a little, and not this body ({error}): write the "
            "object as a manifest and use `kubectl apply -f`, or add `--dry-run=client -o yaml | kubectl apply -f -`"
        ) from error


class _Unreadable(ValueError):
    pass


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise _Unreadable("it ends too early")
            yield number, data[at : at + size]
            at += size
        else:
            raise _Unreadable(f"wire type {wire}")


def _message(known: _Message, data: bytes, path: str) -> Object:
    result: Object = {}
    for number, value in _fields(data):
        if number not in known:
            raise _Unreadable(f"field {number} of {path}")
        name, form = known[number]
        if form is None:
            continue
        if form == "bool":
            result[name] = bool(value)
            continue
        if form == "int" and isinstance(value, int):
            result[name] = value
            continue
        if not isinstance(value, bytes):
            raise _Unreadable(f"a number in {path}.{name}")
        raw = value
        if form == "string":
            if raw:
                result[name] = raw.decode()
        elif form == "string[]":
            result.setdefault(name, []).append(raw.decode())
        elif form in ("map", "bytemap"):
            entry = dict(_fields(raw))
            content = bytes(entry.get(2, b""))
            shown = content.decode() if form == "map" else base64.b64encode(content).decode()
            result.setdefault(name, {})[bytes(entry[1]).decode()] = shown
        elif isinstance(form, list):
            result.setdefault(name, []).append(_message(form[0], raw, f"{path}.{name}"))
        else:
            result[name] = _message(form, raw, f"{path}.{name}")
    return result
