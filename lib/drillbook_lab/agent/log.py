"""The pod's log: one JSON object a line on stdout, with CNPG's field names."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

SIDECAR = "plugin-barman-cloud"
"""The plugin's container in a pod: what barman does for a Cluster by plugin is reported in its log."""


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

    def sidecar(self, run_dir: str) -> Log:
        """The log of the plugin's container in the same pod."""
        path = os.path.join(run_dir, "logs", f"{SIDECAR}.log")  # noqa: PTH118 - walarchive starts once a segment
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        return Log(self.pod, self.logger, fd=os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))

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
