"""The instance: PostgreSQL until SIGTERM. `python -m drillbook_lab.agent.instance --spec FILE`.

The spec file is followed while it runs: it says whether this is the primary, a standby and of whom, and what is
configured. SIGTERM is a fast shutdown. Two more files in the pod's directory are obeyed: `fenced` keeps the server
down as long as it is there, `restart` has it restarted once. The server's own exit is the program's exit; a server
that ends unasked is never a success.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

from drillbook_lab.agent import conf, disk_space, main, rejoin, sql
from drillbook_lab.agent.log import Log
from drillbook_lab.agent.postmaster import Postmaster
from drillbook_lab.agent.spec import PodSpec

_GLANCE_SECONDS = 0.1


def configure(spec: PodSpec, spec_file: Path, *, standby: bool = False) -> None:
    """The configuration of a running instance."""
    settings = {"archive_command": conf.archive_command(spec, spec_file), **conf.tls(spec)}
    conf.write(spec, settings | (conf.standby(spec, spec_file) if standby else conf.primary(spec, spec_file)))


async def serve(spec: PodSpec, spec_file: Path, log: Log) -> int:
    """Run the server to its end."""
    return await Instance(spec, spec_file, log).run()


class Instance:
    """One pod's server, through all its restarts and parts."""

    def __init__(self, spec: PodSpec, spec_file: Path, log: Log) -> None:
        self._spec = spec
        self._spec_file = spec_file
        self._log = log
        self._asked = asyncio.Event()
        self._seen = _version(spec_file)
        self._run_dir = Path(spec.run_dir)

    async def run(self) -> int:
        """Until SIGTERM, or until the server ends unasked."""
        for name in ("restart", "restarted"):
            (self._run_dir / name).unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked.set)
        while not self._asked.is_set():
            if not await self._may_start():
                await self._glance()
                continue
            returncode = await self._run_once()
            if returncode is not None:
                return returncode
        self._log.info("PostgreSQL instance stopped", exit_status=0)
        return 0

    async def _may_start(self) -> bool:
        """Whether a server is to run now; an old primary is made a standby first."""
        self._reread()
        if self._is_fenced:
            self._note("fenced")
            return False
        if self._spec.role == "primary" or self._spec.candidate or rejoin.is_standby(self._spec):
            return True
        if not self._spec.upstream:
            self._note("waiting")  # an old primary, and no new one yet
            return False
        self._note("rejoining")
        Postmaster(self._spec, self._log).remove_stale_pid_file()
        await rejoin.rejoin(self._spec, self._spec_file, self._log)
        return True

    async def _run_once(self) -> int | None:
        """Start the server and stay with it; its exit status, or None if it is to be started again or kept down."""
        spec = self._spec
        standby = rejoin.is_standby(spec)
        self._log.info(
            "Starting the instance",
            pgdata=spec.pgdata,
            listen_address=spec.listen_address,
            port=spec.port,
            standby=standby,
        )
        if spec.tls_dir is not None and not conf.offers_tls(spec.bin_dir):
            self._log.info("TLS is off: this PostgreSQL was built without it", bin_dir=spec.bin_dir)
        self._note("starting")
        configure(spec, self._spec_file, standby=standby)
        if not disk_space.enough_for_wal(spec, self._log):
            return disk_space.EXIT_CODE
        server = Postmaster(spec, self._log)
        await server.start()
        self._note("running")
        ended = asyncio.create_task(server.wait())
        watch = asyncio.create_task(disk_space.stop_when_full(spec, server, self._log))
        follow = asyncio.create_task(self._follow(server, standby=standby))
        try:
            await asyncio.wait({ended, follow}, return_when=asyncio.FIRST_COMPLETED)
            wanted = follow.done() and follow.exception() is None
            if follow.done() and not wanted and not ended.done():
                self._log.error("The instance can't be followed", str(follow.exception()))
            if not ended.done() and server.running.returncode is None:
                self._log.info("Requesting fast shutdown of the PostgreSQL instance")
                server.running.send_signal(signal.SIGINT)
            returncode = await ended
        finally:
            follow.cancel()
            await asyncio.gather(follow, return_exceptions=True)
        if await disk_space.ended_for_space(watch):
            return disk_space.EXIT_CODE
        if wanted:
            if self._asked.is_set():
                self._log.info("PostgreSQL instance stopped", exit_status=returncode)
                return returncode
            return None
        self._log.error("PostgreSQL ended unasked", exit_status=returncode)
        return 128 - returncode if returncode < 0 else returncode or 1

    async def _follow(self, server: Postmaster, *, standby: bool) -> None:
        """Do as the files say; returns when the server is to be stopped."""
        restart, restarted = self._run_dir / "restart", self._run_dir / "restarted"
        if restart.exists():  # it has just been done
            await server.wait_until("ready", "standby")
            restarted.touch()
            restart.unlink()
        while not self._asked.is_set():
            changed = self._reread()
            if self._is_fenced or restart.exists():
                return
            if not standby and self._spec.role == "replica" and not self._spec.candidate:
                self._log.info("This instance is no longer the primary, shutting down")
                return
            if standby and self._spec.role == "primary":
                if server.status() in ("ready", "standby"):
                    standby = not await self._promote(server)
            elif changed:
                configure(self._spec, self._spec_file, standby=standby)
                server.reload()
            await self._glance()

    async def _promote(self, server: Postmaster) -> bool:
        """Take over; tried again if the server didn't answer."""
        self._log.info("Setting myself as the current primary: promoting the instance")
        try:
            if not await asyncio.to_thread(sql.promote, self._spec):
                return False
        except sql.Refused as fault:
            self._log.error("Promotion failed, trying again", fault)
            return False
        configure(self._spec, self._spec_file)
        server.reload()
        self._log.info("The instance has been promoted")
        return True

    @property
    def _is_fenced(self) -> bool:
        return (self._run_dir / "fenced").exists()

    async def _glance(self) -> None:
        """A short wait, which SIGTERM ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GLANCE_SECONDS):
                await self._asked.wait()

    def _reread(self) -> bool:
        """Read the spec if it was written; whether it was."""
        version = _version(self._spec_file)
        if version == self._seen:
            return False
        self._seen = version
        self._spec = PodSpec.read(self._spec_file)
        main.prepare(self._spec, self._spec_file)
        return True

    def _note(self, state: str) -> None:
        """What the operator can see of this program without asking it."""
        draft = self._run_dir / "state.new"
        draft.write_text(state, encoding="utf-8")
        draft.replace(self._run_dir / "state")


def _version(path: Path) -> tuple[int, int]:
    """Changes whenever the file is replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


if __name__ == "__main__":
    chosen = main.parser("Run the PostgreSQL instance of a pod.").parse_args()
    sys.exit(main.run(serve, chosen.spec, "Error while running the instance"))
