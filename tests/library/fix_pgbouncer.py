"""PgBouncers of a test's own in front of its PostgreSQL, and clients that hold a transaction each."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from tests.library.fix_integrity import PASSWORD, Server

from drillbook_lab.addresses import free_port
from drillbook_lab.identity import hand_over, prepare_dir, wrap
from drillbook_lab.operator import pooler_config

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
PROGRAM = pooler_config.binary()
NO_PROGRAM = pooler_config.NO_BINARY


class Instance:
    """One PgBouncer. Its clients give their names without a password; it logs in to the server with theirs."""

    def __init__(self, folder: Path, server: Server, roles: list[str], settings: dict[str, Any]) -> None:
        assert PROGRAM is not None, NO_PROGRAM
        self.port = free_port()
        prepare_dir(folder)
        logins = folder / "userlist.txt"
        logins.write_text("".join(f'"{role}" "{PASSWORD}"\n' for role in [*roles, "console"]))
        lines = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": logins,
            "admin_users": "console",
            "server_tls_sslmode": "disable",
            "ignore_startup_parameters": "extra_float_digits,options",
            **settings,
        }
        ini = folder / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = host={server.address.host} port={server.address.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        for path in (logins, ini):
            hand_over(path)
        self._log = folder / "pgbouncer.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(wrap([PROGRAM, str(ini)]), stdout=log, stderr=log, cwd="/")
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.console("SHOW VERSION")
                return
            except psycopg.Error as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"no PgBouncer: {error}; {self._log.read_text()}") from error
                time.sleep(0.05)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def console(self, command: LiteralString) -> list[dict[str, Any]]:
        """A command on its own console."""
        with psycopg.connect(
            host=HOST,
            port=self.port,
            user="console",
            dbname="pgbouncer",
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
        ) as connection:
            cursor = connection.execute(command.encode(), prepare=False)
            return cursor.fetchall() if cursor.description else []

    def pool(self, role: str, database: str) -> dict[str, Any]:
        """What `SHOW POOLS` says of one pair; zeros while there is no such pool."""
        rows = [r for r in self.console("SHOW POOLS") if (r["user"], r["database"]) == (role, database)]
        return rows[0] if rows else {"cl_active": 0, "cl_waiting": 0, "sv_active": 0, "sv_idle": 0, "sv_used": 0}

    def stop(self) -> None:
        """End it at once, with its clients."""
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=PATIENCE_SECONDS)


@dataclass
class Client:
    """A client that opens a transaction and stays in it; ``error`` is what it was told in the end."""

    address: dict[str, Any]
    error: str = ""
    sqlstate: str = ""
    served: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _connection: psycopg.Connection[Any] | None = None

    def start(self) -> Client:
        """Come, in a thread of its own: it may have to wait."""
        threading.Thread(target=self._come, daemon=True).start()
        return self

    def _come(self) -> None:
        try:
            # Without a time limit: PgBouncer's own are what is looked at.
            self._connection = psycopg.connect(**self.address, prepare_threshold=None, autocommit=True)
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT 1")
            self.served.set()
        except psycopg.Error as error:
            self.error = (error.diag.message_primary or str(error)).strip()
            self.sqlstate = error.sqlstate or ""
        finally:
            self.ended.set()

    def end_transaction(self) -> None:
        """Give the server's connection back, and stay."""
        assert self._connection is not None
        self._connection.execute("COMMIT")

    def leave(self) -> None:
        """Go away; one that waits is left to the pooler's end."""
        if self._connection is not None:
            self._connection.close()


@contextmanager
def instances(folder: Path, server: Server, count: int, roles: list[str], **settings: Any) -> Iterator[list[Instance]]:
    """So many PgBouncers of one configuration."""
    started: list[Instance] = []
    try:
        # Each is in the list as soon as it runs, so that it is stopped whatever the next one does.
        started.extend(Instance(folder / f"pgbouncer-{number}", server, roles, settings) for number in range(count))
        yield started
    finally:
        for instance in started:
            instance.stop()
