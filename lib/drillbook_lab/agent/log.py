"""The pod's log: one JSON object a line on stdout, with CNPG's field names."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any


def now() -> str:
    """UTC to the microsecond, as in `2026-08-01T10:15:00.000000Z`."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Log:
    """Writes lines that name their logger and pod; a line is one `write`, so writers don't mix."""

    def __init__(self, pod: str, logger: str = "", *, fd: int = 1) -> None:
        self.pod = pod
        self.logger = logger
        self.fd = fd

    def named(self, logger: str) -> Log:
        """The same log under another logger's name."""
        return Log(self.pod, logger, fd=self.fd)

    def info(self, message: str, **fields: Any) -> None:
        """A line of level info."""
        self._write("info", message, fields)

    def error(self, message: str, error: object = None, **fields: Any) -> None:
        """A line of level error; `error` holds the reason, as CNPG writes it."""
        if error is not None:
            fields = {"error": str(error), **fields}
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        line: dict[str, Any] = {"level": level, "ts": now()}
        if self.logger:
            line["logger"] = self.logger
        line["msg"] = message
        line["logging_pod"] = self.pod
        line.update(fields)
        data = (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode()
        while data:
            data = data[os.write(self.fd, data) :]
