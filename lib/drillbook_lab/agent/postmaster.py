"""A PostgreSQL server as our child: start, readiness, fast shutdown, and its own exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from drillbook_lab import identity
from drillbook_lab.agent import conf
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.pg_log import PostgresLog
from drillbook_lab.agent.procs import tied
from drillbook_lab.agent.spec import PodSpec

_STATUS_LINE = 7  # of postmaster.pid: starting, standby, ready, stopping
_GLANCE_SECONDS = 0.02


class ServerDied(Exception):
    """The server ended before it was asked to."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
        super().__init__(f"PostgreSQL exited with status {returncode}")


class Postmaster:
    """One run of `postgres` on a pod's PGDATA, its log included."""

    def __init__(self, spec: PodSpec, log: Log, on_record: Callable[[dict[str, str]], None] | None = None) -> None:
        self.spec = spec
        self.log = log
        self._postgres_log = PostgresLog(conf.log_directory(spec), log, on_record)
        self._child: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None

    async def start(self, options: Sequence[str] = ()) -> None:
        """Start the server; it stops (SIGQUIT, its immediate shutdown) when we die."""
        identity.prepare_dir(self.spec.socket_dir)
        self.remove_stale_pid_file()
        self._postgres_log.open()
        argv = [str(Path(self.spec.bin_dir) / "postgres"), "-D", self.spec.pgdata, *options]
        self.log.info("Starting PostgreSQL", options=list(options))
        self._child = await asyncio.create_subprocess_exec(
            *identity.wrap(argv),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=tied(signal.SIGQUIT),
            pass_fds=self._postgres_log.fds,
            env=self._environment(),
            cwd=self.spec.pgdata,
        )
        self._stderr = asyncio.create_task(self._read_stderr())

    @property
    def running(self) -> asyncio.subprocess.Process:
        """The child; only after `start`."""
        assert self._child is not None, "not started"  # noqa: S101
        return self._child

    async def wait(self) -> int:
        """The server's exit status, once its last log line is out."""
        returncode = await self.running.wait()
        if self._stderr is not None:
            await self._stderr
            self._stderr = None
            self._postgres_log.close()
        return returncode

    def status(self) -> str:
        """What the server says of itself in postmaster.pid; empty before it says anything."""
        try:
            lines = (Path(self.spec.pgdata) / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return ""
        return lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else ""

    async def wait_until(self, *wanted: str) -> str:
        """Until the server has one of these states; ServerDied if it ends first."""
        while True:
            if self.running.returncode is not None:
                raise ServerDied(await self.wait())
            if (found := self.status()) in wanted:
                return found
            await asyncio.sleep(_GLANCE_SECONDS)

    async def stop(self) -> int:
        """Fast shutdown: sessions are ended, a checkpoint is written."""
        if self.running.returncode is None:
            self.running.send_signal(signal.SIGINT)
        return await self.wait()

    def reload(self) -> None:
        """Read the configuration again."""
        self.running.send_signal(signal.SIGHUP)

    async def _read_stderr(self) -> None:
        """What the server says before its log collector runs, or when it can't start at all."""
        assert self.running.stderr is not None  # noqa: S101 - PIPE was asked for
        log = self.log.named("postgres")
        async for raw in self.running.stderr:
            if line := raw.decode(errors="replace").rstrip():
                log.info(line, pipe="stderr")

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        return {**kept, "LC_ALL": "C", "HOME": self.spec.run_dir, "PGDATA": self.spec.pgdata}

    def remove_stale_pid_file(self) -> None:
        """A killed pod leaves its pid file; PostgreSQL would believe it if another program has that pid by now."""
        path = Path(self.spec.pgdata) / "postmaster.pid"
        try:
            pid = int(path.read_text(encoding="utf-8").split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        try:
            alive = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "postgres"
        except OSError:
            alive = False
        if not alive and Path("/proc/self").exists():
            self.log.info("Removing the pid file of a server that is gone", pid=pid)
            path.unlink()
