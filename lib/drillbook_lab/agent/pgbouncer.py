"""The pooler: PgBouncer until SIGTERM. `python -m drillbook_lab.agent.pgbouncer --spec FILE`.

It follows its spec file: the configuration is reloaded, PAUSE or RESUME is given. A PgBouncer without
`auth_dbname` (before 1.19) asks its auth query in the client's own database, where CloudNativePG has no function;
for such a one this program asks in `postgres` instead, and keeps the answers in the `auth_file`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncRawCursor

from drillbook_lab import identity
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.pgbouncer_metrics import Metrics
from drillbook_lab.agent.procs import die_with_parent, tied

_LOGINS_EVERY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
# PAUSE and RESUME of what is so already; no other of PgBouncer's errors says this.
_ALREADY = ("already suspended/paused", "not paused/suspended", "already paused", "pooler is not paused")


@dataclass
class PoolerSpec:
    """Everything that a pooler's pod is given."""

    namespace: str
    pooler: str
    pod: str
    run_dir: str
    socket_dir: str
    binary: str
    listen_address: str
    port: int = 5432
    metrics_port: int = 9127
    ini: str = ""  # as in the Secret: what doesn't depend on the pod
    hba: str = ""
    paused: bool = False
    auth_in_postgres: bool = True  # PgBouncer itself asks in `postgres`
    auth_user: str = ""
    auth_password: str = ""
    auth_query: str = ""
    upstream: str = ""
    tls: dict[str, str] = field(default_factory=dict)  # file name -> PEM

    def write(self, path: Path | str) -> None:
        """Replace the file in one step."""
        target = Path(path)
        draft = target.with_name(target.name + ".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(dataclasses.asdict(self), out, indent=1)
        draft.replace(target)

    @classmethod
    def read(cls, path: Path | str) -> PoolerSpec:
        """The spec as written."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


class Pooler:
    """One PgBouncer process and what is done around it."""

    def __init__(self, spec_file: Path, log: Log) -> None:
        self._spec_file = spec_file
        self._log = log
        self.spec = PoolerSpec.read(spec_file)
        self._folder = identity.prepare_dir(Path(self.spec.run_dir) / "pgbouncer")
        identity.prepare_dir(self.spec.socket_dir)
        self._process: asyncio.subprocess.Process | None = None
        self._logins: dict[str, str] = {}
        self._pausing: asyncio.Task[None] | None = None
        self._held: bool | None = None  # the last of PAUSE and RESUME that PgBouncer has been given

    async def serve(self) -> int:
        """Run PgBouncer to its end; an end that nobody asked for is never a success."""
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, asked.set)
        self._log.info("Starting pgbouncer", listen_address=self.spec.listen_address, port=self.spec.port)
        if not self.spec.auth_in_postgres:
            await self._first_logins(asked)
        self._configure()
        self._process = await asyncio.create_subprocess_exec(
            *identity.wrap([self.spec.binary, str(self._folder / "pgbouncer.ini")]),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=tied(),
            cwd=self._folder,
        )
        tasks = [loop.create_task(work()) for work in (self._tell, self._follow, self._hold)]
        if not self.spec.auth_in_postgres:
            tasks.append(loop.create_task(self._keep_logins()))
        metrics = Metrics(self.console)
        await metrics.start(self.spec.listen_address, self.spec.metrics_port)
        stop = loop.create_task(self._stop_when_asked(asked))
        code = await self._process.wait()
        stop.cancel()
        await metrics.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if asked.is_set():
            self._log.info("pgbouncer has ended", exit_status=code)
            return 0
        self._log.error("pgbouncer ended unasked", f"exit status {code}")
        return code if code > 0 else 1

    async def console(self, command: str) -> list[dict[str, Any]]:
        """A command on PgBouncer's own console; rows as dictionaries."""
        connection = await psycopg.AsyncConnection.connect(
            host=self.spec.socket_dir,
            port=self.spec.port,
            user="pgbouncer",
            dbname="pgbouncer",
            autocommit=True,
            connect_timeout=5,
            prepare_threshold=None,
        )
        async with connection:
            cursor = await connection.execute(command.encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()] if names else []

    # -- configuration -----------------------------------------------------------------------------------------

    def _configure(self) -> None:
        spec, folder = self.spec, self._folder
        lines = {
            "listen_addr": spec.listen_address,
            "listen_port": str(spec.port),
            "unix_socket_dir": spec.socket_dir,
            "auth_file": str(folder / "userlist.txt"),
            "auth_hba_file": str(folder / "pg_hba.conf"),
        }
        for name, text in spec.tls.items():
            self._put(name, text)
        if spec.tls:
            lines["client_tls_cert_file"] = str(folder / "server.crt")
            lines["client_tls_key_file"] = str(folder / "server.key")
            lines["client_tls_ca_file"] = str(folder / "ca.crt")
        own = "".join(f"{name} = {value}\n" for name, value in lines.items())
        self._put("pg_hba.conf", spec.hba)
        self._put_logins()
        self._put("pgbouncer.ini", spec.ini + own)

    def _put_logins(self) -> None:
        logins = dict(self._logins)
        if self.spec.auth_in_postgres:
            logins[self.spec.auth_user] = self.spec.auth_password
        self._put("userlist.txt", "".join(f"{_quoted(name)} {_quoted(logins[name])}\n" for name in sorted(logins)))

    def _put(self, name: str, text: str) -> None:
        path = self._folder / name
        draft = path.with_name(name + ".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        identity.hand_over(draft)
        draft.replace(path)

    async def _follow(self) -> None:
        """The controller replaces the file; PgBouncer reads its own again when that says something else now."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            spec = PoolerSpec.read(self._spec_file)
            if spec == self.spec:
                continue
            before, self.spec = self.spec, spec
            if dataclasses.replace(spec, paused=before.paused) != before:
                self._configure()
                self._hang_up()

    def _hang_up(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    # -- who may log in ----------------------------------------------------------------------------------------

    async def _first_logins(self, asked: asyncio.Event) -> None:
        """Without a single login there is nothing to serve: wait for the server, but not indefinitely."""
        for _ in range(20):
            if asked.is_set():
                return
            try:
                async with await self._upstream() as connection:
                    self._logins = await self._ask(connection)
                    return
            except psycopg.Error as fault:
                self._log.info("The server doesn't answer yet", upstream=self.spec.upstream, error=str(fault).strip())
                await asyncio.sleep(0.5)

    async def _keep_logins(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                upstream = self.spec.upstream
                async with await self._upstream() as connection:
                    while self.spec.upstream == upstream:
                        found = await self._ask(connection)
                        if found != self._logins:
                            self._logins = found
                            self._put_logins()
                            self._hang_up()
                        await asyncio.sleep(_LOGINS_EVERY_SECONDS)
            await asyncio.sleep(_LOGINS_EVERY_SECONDS)

    async def _upstream(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            host=self.spec.upstream,
            port=5432,
            dbname="postgres",
            user=self.spec.auth_user,
            password=self.spec.auth_password,
            autocommit=True,
            connect_timeout=5,
            application_name="pgbouncer",
        )

    async def _ask(self, connection: psycopg.AsyncConnection[Any]) -> dict[str, str]:
        """The auth query, once for every role that may log in."""
        cursor = await connection.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE rolcanlogin")
        names = [row[0] for row in await cursor.fetchall()]
        found: dict[str, str] = {}
        asking = AsyncRawCursor(connection)
        for name in names:
            await asking.execute(self.spec.auth_query.encode(), [name])
            row = await asking.fetchone()
            if row is not None and row[1]:
                found[str(row[0])] = str(row[1])
        return found

    # -- PAUSE and RESUME --------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Give PgBouncer what the spec says: PAUSE lasts until its clients let go, and RESUME ends a waiting one."""
        self._held = False
        while True:
            wanted = self.spec.paused
            if wanted != self._held:
                self._held = wanted
                waiting, self._pausing = self._pausing, None
                task = asyncio.get_running_loop().create_task(self._command("PAUSE" if wanted else "RESUME"))
                if wanted:
                    self._pausing = task
                else:
                    await task
                if waiting is not None:
                    waiting.cancel()
            await asyncio.sleep(0.1)

    async def _command(self, command: str) -> None:
        for _ in range(100):
            try:
                await self.console(command)
            except psycopg.Error as fault:
                if "No such file" in str(fault) or "refused" in str(fault):
                    await asyncio.sleep(0.1)  # it has only just begun
                    continue
                if not any(text in str(fault).lower() for text in _ALREADY):
                    self._log.error(f"{command} failed", str(fault).strip())
                    return
            self._log.info(f"{command} done")
            return

    # -- the process -------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """PgBouncer's own lines, one record each."""
        assert self._process is not None and self._process.stderr is not None  # noqa: S101 - PIPE was asked for
        async for raw in self._process.stderr:
            line = raw.decode(errors="replace").strip()
            if line:
                self._log.info(line, pipe="stderr")

    async def _stop_when_asked(self, asked: asyncio.Event) -> None:
        await asked.wait()
        self._log.info("Shutting down pgbouncer")
        if self._process is not None:
            # SIGINT: no new clients, and those in a transaction may end it. The kubelet's grace is the limit.
            self._process.send_signal(signal.SIGINT)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def main() -> int:
    """Run until PgBouncer ends."""
    die_with_parent()
    arguments = argparse.ArgumentParser(description="Run the pooler of a pod.")
    arguments.add_argument("--spec", type=Path, required=True, help="the pod's spec, a JSON file")
    spec_file = arguments.parse_args().spec
    spec = PoolerSpec.read(spec_file)

    async def serve() -> int:
        return await Pooler(spec_file, Log(spec.pod, "pgbouncer-manager")).serve()

    return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main())
