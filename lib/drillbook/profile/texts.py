"""Texts of a profile that have their own shape."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints


def matches(pattern: str, what: str) -> BeforeValidator:
    """A text must be ``what``, which ``pattern`` describes; else the fault says so."""
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if isinstance(value, str) and not compiled.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return BeforeValidator(check)


def _digits_as_text(value: Any) -> Any:
    # Written without quotes, a system identifier is a number to YAML; no digit is lost by taking it as text.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
ObjectName = Annotated[
    str, matches(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "a Kubernetes name (lower-case letters, digits, '-', '.')")
]
NamespaceName = Annotated[
    str, matches(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a namespace (at most 63 lower-case letters, digits and '-')")
]
# CloudNativePG appends suffixes such as -1-full-recovery: it accepts 50 characters.
ClusterName = Annotated[
    str,
    matches(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", "a Cluster's name (up to 50 lower-case letters, digits, '-')"),
]
_SQL_NAME = r'(?:"(?:[^"]|"")+"|[^".\s]+)'
TableName = Annotated[
    str, matches(rf"{_SQL_NAME}\.{_SQL_NAME}", "a table as schema.table, quoted like in SQL where it has to be")
]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=63)]
SystemIdentifier = Annotated[
    str, BeforeValidator(_digits_as_text), matches(r"[0-9]{0,20}", "a system identifier (up to 20 digits)")
]
HttpUrl = Annotated[str, matches(r"(https?://[^\s/]+.*)?", "an http:// or https:// address")]
