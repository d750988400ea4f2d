"""PostgreSQL's own log, re-emitted line by line in the moment it is written.

The server's logging collector writes JSON into a FIFO that we read (CNPG does the same with CSV): nothing is
polled, nothing grows on disk, and what a child of the server says on stderr is not lost.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drillbook_lab import identity
from drillbook_lab.agent.log import Log

LOG_NAME = "postgres"
# CNPG's names for the fields of a record, by the names that jsonlog has for them.
_FIELDS = {
    "timestamp": "log_time",
    "user": "user_name",
    "dbname": "database_name",
    "pid": "process_id",
    "session_id": "session_id",
    "line_num": "session_line_num",
    "ps": "command_tag",
    "session_start": "session_start_time",
    "vxid": "virtual_transaction_id",
    "txid": "transaction_id",
    "error_severity": "error_severity",
    "state_code": "sql_state_code",
    "message": "message",
    "detail": "detail",
    "hint": "hint",
    "internal_query": "internal_query",
    "internal_position": "internal_query_pos",
    "context": "context",
    "statement": "query",
    "cursor_position": "query_pos",
    "application_name": "application_name",
    "backend_type": "backend_type",
    "query_id": "query_id",
}


def to_record(entry: dict[str, Any]) -> dict[str, str]:
    """A jsonlog entry under CNPG's field names; values are text, as they are in CNPG's records."""
    record = {_FIELDS[name]: str(value) for name, value in entry.items() if name in _FIELDS}
    record.setdefault("sql_state_code", "00000")
    if "remote_host" in entry:
        port = f":{entry['remote_port']}" if "remote_port" in entry else ""
        record["connection_from"] = f"{entry['remote_host']}{port}"
    if "func_name" in entry:
        record["location"] = f"{entry['func_name']}, {entry.get('file_name')}:{entry.get('file_line_num')}"
    return record


class PostgresLog:
    """Two FIFOs (JSON and plain stderr) and the readers that turn them into log lines."""

    def __init__(self, directory: Path, log: Log, on_record: Callable[[dict[str, str]], None] | None = None) -> None:
        self.directory = directory
        self._log = log.named("postgres")
        self._on_record = on_record
        self._fds: list[int] = []
        self._rest: dict[int, bytes] = {}

    def open(self) -> None:
        """Make and open the FIFOs before the server starts: its collector blocks on one that nobody reads."""
        identity.prepare_dir(self.directory)
        for name, handle in ((LOG_NAME, self._plain), (LOG_NAME + ".json", self._json)):
            path = self.directory / name
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
            identity.hand_over(path)
            # Read-write, so that the FIFO never reports its end while the collector is being restarted.
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._fds.append(fd)
            self._rest[fd] = b""
            asyncio.get_running_loop().add_reader(fd, self._read, fd, handle)

    def close(self) -> None:
        """Read what is left (the server is gone), then let go."""
        for fd, handle in zip(self._fds, (self._plain, self._json), strict=True):
            self._read(fd, handle)
            asyncio.get_running_loop().remove_reader(fd)
            if self._rest[fd].strip():
                handle(self._rest[fd])
            os.close(fd)
        self._fds.clear()

    def _read(self, fd: int, handle: Callable[[bytes], None]) -> None:
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                return
            *lines, self._rest[fd] = (self._rest[fd] + data).split(b"\n")
            for line in lines:
                if line.strip():
                    handle(line)

    def _plain(self, line: bytes) -> None:
        self._log.info(line.decode(errors="replace"), pipe="stderr")

    def _json(self, line: bytes) -> None:
        try:
            record = to_record(json.loads(line))
        except ValueError:
            self._plain(line)
            return
        self._log.info("record", record=record)
        if self._on_record is not None:
            self._on_record(record)
