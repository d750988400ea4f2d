"""The few protobuf bodies that kubectl sends: its imperative commands use nothing else.

Only messages whose every field stands here are read; a field that doesn't is refused, since
dropping it in silence would store something else than was sent.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from drillbook_lab.api.errors import Object, unsupported_media_type
from drillbook_lab.kubectl.protobuf_messages import MESSAGES, Message

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
# Structs that Go always writes; an empty one says nothing.
_EMPTY_IS_UNSET = ("strategy", "resources")


def decode(body: bytes) -> Object:
    """The object in a body; 415 with the way out if it can't be read."""
    try:
        if not body.startswith(_MAGIC):
            raise _Unreadable("it lacks the envelope")
        envelope = dict(_fields(body[len(_MAGIC) :]))
        about = dict(_fields(bytes(envelope[1])))
        kind = bytes(about[2]).decode()
        if kind not in MESSAGES:
            raise _Unreadable(f"kind {kind} isn't read in that form")
        obj = _message(MESSAGES[kind], bytes(envelope[2]), kind)
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


def _message(known: Message, data: bytes, path: str) -> Object:
    result: Object = {}
    for number, value in _fields(data):
        if number not in known:
            raise _Unreadable(f"field {number} of {path}")
        name, form = known[number]
        if form is None:
            continue
        if form in ("bool", "bool?"):
            if value or form == "bool":  # Go writes what isn't set as well, and leaves it out of JSON
                result[name] = bool(value)
            continue
        if form in ("int", "int?") and isinstance(value, int):
            if value or form == "int":
                result[name] = value
            continue
        if not isinstance(value, bytes):
            raise _Unreadable(f"a number in {path}.{name}")
        raw = value
        if form == "string":
            if raw:
                result[name] = raw.decode()
        elif form == "quantity":
            result[name] = bytes(dict(_fields(raw))[1]).decode()
        elif form == "int-or-string":
            parts = dict(_fields(raw))
            result[name] = bytes(parts.get(3, b"")).decode() if parts.get(1) else parts.get(2, 0)
        elif form == "string[]":
            result.setdefault(name, []).append(raw.decode())
        elif form in ("map", "bytemap"):
            entry = dict(_fields(raw))
            content = bytes(entry.get(2, b""))
            shown = content.decode() if form == "map" else base64.b64encode(content).decode()
            result.setdefault(name, {})[bytes(entry[1]).decode()] = shown
        elif form == "quantities":
            entry = dict(_fields(raw))
            size = dict(_fields(bytes(entry.get(2, b""))))
            result.setdefault(name, {})[bytes(entry[1]).decode()] = bytes(size[1]).decode()
        elif isinstance(form, list):
            result.setdefault(name, []).append(_message(form[0], raw, f"{path}.{name}"))
        else:
            inner = _message(form, raw, f"{path}.{name}".rstrip("."))
            if not name:  # embedded: in JSON its fields stand among those around it
                result.update(inner)
            elif inner or name not in _EMPTY_IS_UNSET:
                result[name] = inner
    return result
