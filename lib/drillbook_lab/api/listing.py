"""Lists as a client asks for them: in pages, and as of a version.

A page's successor shows the list as it was when the first page was read. Nothing is kept for
that: the changes since are taken back, for as long as the history remembers them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from drillbook_lab.api import errors
from drillbook_lab.api.errors import ApiError, Fault, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.resources import Resource

_STALE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Page:
    """A list, or a part of it, and its metadata."""

    objects: list[Object]
    version: int
    token: str = ""
    remaining: int | None = None

    @property
    def meta(self) -> Object:
        """The list's `metadata`."""
        meta: Object = {"resourceVersion": str(self.version)}
        if self.token:
            meta["continue"] = self.token
        if self.remaining:
            meta["remainingItemCount"] = self.remaining
        return meta


def page(registry: Registry, resource: Resource, namespace: str | None, query: Mapping[str, str]) -> Page:
    """What a list request asks for."""
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    limit = _number(query, "limit")
    token = query.get("continue", "")
    match = query.get("resourceVersionMatch", "")
    asked = query.get("resourceVersion", "")
    _demand_sense(asked, match, token)
    start, version = _opened(token) if token else (None, registry.version)
    wanted = _number(query, "resourceVersion")
    if wanted > registry.version:
        raise errors.too_large(wanted, registry.version)
    if match == "Exact":
        version = wanted
    if version == 0:
        # An inconsistent continuation: the rest of the list as it is now.
        version = registry.version
    try:
        objects = registry.peek_at(resource.kind, namespace, version, labels=labels, fields=fields)
    except ApiError as error:
        if error.code == 410 and start is not None:
            raise _stale(start) from error
        raise
    if start is not None:
        objects = [obj for obj in objects if _place(obj) > start]
    if not limit or len(objects) <= limit:
        return Page(objects, version)
    shown = objects[:limit]
    rest = None if labels or fields else len(objects) - limit
    return Page(shown, version, _sealed(_place(shown[-1]), version), rest)


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if text and not text.isdigit():
        raise errors.invalid("ListOptions", "meta.k8s.io", "", [Fault(name, f'Invalid value: "{text}"')])
    return int(text or 0)


def _demand_sense(asked: str, match: str, token: str) -> None:
    found: list[Fault] = []
    name = "resourceVersionMatch"
    if match and not asked:
        why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        found.append(Fault(name, why, "FieldValueForbidden"))
    if match and token:
        why = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        found.append(Fault(name, why, "FieldValueForbidden"))
    if match not in ("", "Exact", "NotOlderThan"):
        why = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        found.append(Fault(name, why, "FieldValueNotSupported"))
    if match == "Exact" and asked == "0":
        why = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        found.append(Fault(name, why, "FieldValueForbidden"))
    if found:
        raise errors.invalid("ListOptions", "meta.k8s.io", "", found)
    if token and asked not in ("", "0"):
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def _place(obj: Object) -> tuple[str, str]:
    meta = obj["metadata"]
    return meta.get("namespace") or "", meta["name"]


def _sealed(place: tuple[str, str], version: int) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": list(place)}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _opened(token: str) -> tuple[tuple[str, str], int]:
    try:
        read = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = read["start"]
        return (str(namespace), str(name)), int(read["rv"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.bad_request(f"continue key is not valid: {error}") from error


def _stale(start: tuple[str, str]) -> ApiError:
    refusal = ApiError(410, "Expired", _STALE)
    refusal.meta["continue"] = _sealed(start, 0)
    return refusal
