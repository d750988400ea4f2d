"""The audit log: one JSON line for every request, so that a test can prove what was not done."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from drillbook_lab.api.rbac import Action
from drillbook_lab.api.tokens import User


class AuditLog:
    """Appends to a file; without one, it keeps silent."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def record(self, user: User | None, action: Action, *, dry_run: bool, code: int) -> None:
        """Write down one request and its answer."""
        if self._path is None:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        line = {
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "user": user.name if user else "system:anonymous",
            "verb": action.verb,
            "group": action.group,
            "resource": action.plural,
            "subresource": action.subresource,
            "namespace": action.namespace,
            "name": action.name,
            "dry_run": dry_run,
            "code": code,
        }
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
