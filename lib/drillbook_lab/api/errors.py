"""What the API server says no with: Kubernetes' `Status` objects, in Kubernetes' words.

Clients tell failures apart by code and reason, people by the message; both are kept
word for word, because the library under test matches on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as it is in JSON."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an object: where, why, and the words for it."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def as_cause(self) -> Object:
        """The fault as an entry of `Status.details.causes`."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


class ApiError(Exception):
    """A request was refused. `to_status()` is the body that a client gets."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.meta: Object = {}

    def to_status(self) -> Object:
        """The refusal as an object of kind `Status`."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.meta,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def qualified(plural_or_kind: str, group: str) -> str:
    """`clusters.postgresql.cnpg.io`, or just `pods` in the core group."""
    return f"{plural_or_kind}.{group}" if group else plural_or_kind


def _details(plural: str, group: str, name: str) -> Object:
    details: Object = {"name": name, "kind": plural}
    if group:
        details["group"] = group
    return details


def not_found(plural: str, group: str, name: str) -> ApiError:
    """404: no object of that name."""
    return ApiError(404, "NotFound", f'{qualified(plural, group)} "{name}" not found', _details(plural, group, name))


def no_such_resource() -> ApiError:
    """404: the path names no resource of this server."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(plural: str, group: str, name: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(
        409, "AlreadyExists", f'{qualified(plural, group)} "{name}" already exists', _details(plural, group, name)
    )


def conflict(plural: str, group: str, name: str, why: str = "") -> ApiError:
    """409: the caller read an older version than the one that is stored."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}',
        _details(plural, group, name),
    )


def invalid(kind: str, group: str, name: str, faults: Sequence[Fault], *, webhook: str = "") -> ApiError:
    """422: every fault of the object at once."""
    listed = str(faults[0]) if len(faults) == 1 else "[" + ", ".join(map(str, faults)) + "]"
    message = f'{qualified(kind, group)} "{name}" is invalid: {listed}'
    if webhook:
        message = f'admission webhook "{webhook}" denied the request: {message}'
    details: Object = {"name": name, "kind": kind, "causes": [fault.as_cause() for fault in faults]}
    if group:
        details["group"] = group
    return ApiError(422, "Invalid", message, details)


def bad_request(message: str) -> ApiError:
    """400: the request itself can't be understood."""
    return ApiError(400, "BadRequest", message)


def check_place(meta: Object, name: str, namespace: str | None) -> None:
    """400 when a changed object's name or namespace is no longer the URL's."""
    for part, asked in (("name", name), ("namespace", namespace)):
        if (given := meta.get(part)) != asked:
            raise bad_request(
                f"the {part} of the object ({given or ''}) does not match the {part} on the URL ({asked or ''})"
            )


def undecodable(kind: str, version: str, problems: Sequence[str]) -> ApiError:
    """400: strict field validation met unknown fields, or fields that stood twice."""
    return bad_request(
        f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {", ".join(problems)}'
    )


def expired(asked: int, oldest: int) -> ApiError:
    """410: the history before `oldest` is gone; list again."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def too_large(asked: int, current: int) -> ApiError:
    """504: a version that this server hasn't reached."""
    return ApiError(
        504,
        "Timeout",
        f"Too large resource version: {asked}, current: {current}",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def unauthorized() -> ApiError:
    """401: no token, or one that nobody holds."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def unsupported_media_type(message: str) -> ApiError:
    """415: a body in a form that this server doesn't read."""
    return ApiError(415, "UnsupportedMediaType", message)


def forbidden(plural: str, group: str, name: str, why: str) -> ApiError:
    """403: known, but not allowed."""
    subject = qualified(plural, group) + (f' "{name}"' if name else "")
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _details(plural, group, name))
