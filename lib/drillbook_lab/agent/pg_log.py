"""PostgreSQL's own log, re-emitted line by line in the moment it is written.

The server's logging collector writes CSV into a FIFO that we read, as CloudNativePG has it: nothing is
polled, nothing grows on disk, and what a child of the server says on stderr is not lost.
"""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import Callable
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent.log import Log

LOG_NAME = "postgres"
# The columns of PostgreSQL's csvlog, under CloudNativePG's names for them; 13 had fewer.
_COLUMNS = (
    "log_time",
    "user_name",
    "database_name",
    "process_id",
    "connection_from",
    "session_id",
    "session_line_num",
    "command_tag",
    "session_start_time",
    "virtual_transaction_id",
    "transaction_id",
    "error_severity",
    "sql_state_code",
    "message",
    "detail",
    "hint",
    "internal_query",
    "internal_query_pos",
    "context",
    "query",
    "query_pos",
    "location",
    "application_name",
    "backend_type",
    "leader_pid",
    "query_id",
)
_LEAST = _COLUMNS.index("message") + 1


def to_record(text: str) -> dict[str, str] | None:
    """One csvlog entry under CloudNativePG's field names, without the empty ones; None if it is none."""
    rows = list(csv.reader([text], strict=False))
    if len(rows) != 1 or len(rows[0]) < _LEAST:
        return None
    return {name: value for name, value in zip(_COLUMNS, rows[0], strict=False) if value}


class PostgresLog:
    """Two FIFOs (CSV and plain stderr) and the readers that turn them into log lines."""

    def __init__(self, directory: Path, log: Log, on_record: Callable[[dict[str, str]], None] | None = None) -> None:
        self.directory = directory
        self._log = log.named("postgres")
        self._on_record = on_record
        self._fds: list[int] = []
        self._rest: dict[int, bytes] = {}
        self._entry = b""  # of the CSV log, begun and not whole yet

    @property
    def fds(self) -> tuple[int, ...]:
        """The FIFOs' read ends. The server inherits them: if we die while it opens one, it must not wait for a reader."""
        return tuple(self._fds)

    def open(self) -> None:
        """Make and open the FIFOs before the server starts: its collector blocks on one that nobody reads."""
        identity.prepare_dir(self.directory)
        for name, handle in ((LOG_NAME, self._plain), (LOG_NAME + ".csv", self._csv)):
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
        for fd, handle in zip(self._fds, (self._plain, self._csv), strict=True):
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

    def _csv(self, line: bytes) -> None:
        # A quoted field may hold line ends: an entry is whole when its quotes are even.
        self._entry += line
        if self._entry.count(b'"') % 2:
            self._entry += b"\n"
            return
        text, self._entry = self._entry.decode(errors="replace"), b""
        record = to_record(text)
        if record is None:
            self._plain(text.encode())
            return
        self._log.info("record", record=record)
        if self._on_record is not None:
            self._on_record(record)
