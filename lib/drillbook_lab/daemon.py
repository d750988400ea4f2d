"""labd: one process that is the whole lab. `python -m drillbook_lab.daemon --home H --foreground`.

API server, controllers and kubelet share one event loop; PostgreSQL, the object store and the writer are its
children and die with it. A lab keeps nothing across runs: what is left of an earlier one is removed first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook_lab import pgbin
from drillbook_lab.agent.procs import die_with_parent
from drillbook_lab.apiserver.kubeconfig import write_kubeconfig
from drillbook_lab.apiserver.server import build_server
from drillbook_lab.apiserver.serving import Serving, serve
from drillbook_lab.apiserver.shipped import cnpg_registry
from drillbook_lab.apiserver.tokens import MASTERS, TokenDirectory
from drillbook_lab.controller.context import Settings
from drillbook_lab.controller.manager import Manager
from drillbook_lab.errors import LabError
from drillbook_lab.firstsite.manifests import Credentials
from drillbook_lab.firstsite.seed import Progress, Seeding
from drillbook_lab.firstsite.site import LabSite, load
from drillbook_lab.home import LabHome, new_socket_dir, write_json
from drillbook_lab.identity import identity
from drillbook_lab.kubelet import Kubelet
from drillbook_lab.processes import spawn, stop

log = logging.getLogger("labd")

_STORE_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """How a lab is started."""

    profile: str = "first"
    data_mb: float = 60.0
    job_retry_seconds: float = 1.0
    seed: bool = True


class Lab:
    """A lab in this process."""

    def __init__(self, home: LabHome, options: Options) -> None:
        self.home = home
        self.options = options
        self.site: LabSite = load(options.profile)
        self.credentials = Credentials.draw(self.site)
        self._socket_dir = new_socket_dir()
        self._progress = Progress(home.progress)
        self._store: asyncio.subprocess.Process | None = None
        self._writer: asyncio.subprocess.Process | None = None
        self._serving: Serving | None = None
        self._control: asyncio.Server | None = None
        self._state: dict[str, Any] = {
            "pid": os.getpid(),
            "profile": options.profile,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "socket_dir": str(self._socket_dir),
            "ready": False,
            "failed": None,
        }
        home.write_state(self._state)
        self.registry = cnpg_registry()
        self.kubelet = Kubelet(
            self.registry,
            pods_dir=home.path("pods"),
            volumes_dir=home.path("volumes"),
            socket_dir=self._socket_dir,
            bin_dir=pgbin.bin_dir(),
        )
        settings = Settings(pgbin.bin_dir(), pgbin.version(), job_retry_seconds=options.job_retry_seconds)
        self.manager = Manager(self.registry, self.kubelet, settings)

    # -- up ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything, in order; a failure is told in the state file and raised."""
        try:
            await self._start()
        except Exception as fault:
            self._tell(failed=str(fault) or type(fault).__name__)
            raise

    async def _start(self) -> None:
        endpoint = f"http://127.0.0.1:{_free_port()}"
        async with self._progress.stage("Kubernetes API") as note:
            identity()  # says now what would fail later
            store = asyncio.create_task(self._start_store(endpoint))
            await self._serve()
            self.manager.start()
            self._control = await asyncio.start_unix_server(self._answer, str(self._socket_dir / "ctl"))
            note(self._state["url"])
        seeding = Seeding(
            self.manager.operator, self.site, self.credentials, endpoint, self.options.data_mb, self._progress
        )
        seeding.install()
        self._tell(
            endpoint=endpoint, cluster=self.site.cluster, namespace=self.site.source_namespace,
            drill_namespace=self.site.drill_namespace, drillbook_namespace=self.site.drillbook_namespace,
        )  # fmt: skip
        async with self._progress.stage("PostgreSQL cluster") as note:
            await seeding.cluster_is_healthy()
            note(f"{self.site.cluster}, PostgreSQL {pgbin.version()}")
        async with self._progress.stage("Tenants and their data") as note:
            size = await seeding.fill()
            note(f"{', '.join(tenant.database for tenant in self.site.tenants)}: {size / 2**20:.0f} MB")
        async with self._progress.stage("Drill role and grants"):
            await seeding.admit_drills()
        async with self._progress.stage("Object store and archiving") as note:
            await store
            await seeding.archive()
            note(endpoint)
        async with self._progress.stage("Writer"):
            seeding.writer_config(self.home.path("writer.json"))
            await self.run_writer(True)
        async with self._progress.stage("First base backup") as note:
            note(await seeding.first_backup())
        async with self._progress.stage("WAL archiving and cluster health"):
            await seeding.archiving_works()
            await seeding.cluster_is_healthy()
        self._tell(ready=True)

    async def _serve(self) -> None:
        tokens = TokenDirectory()
        contexts = {"lab": secrets.token_urlsafe(32), "lab-admin": secrets.token_urlsafe(32)}
        account = f"system:serviceaccount:{self.site.drillbook_namespace}:drillbook"
        tokens.add(contexts["lab"], account)
        tokens.add(contexts["lab-admin"], "lab-admin", [MASTERS])
        application = build_server(self.registry, self.kubelet, tokens, audit=self.home.audit)
        self._serving = await serve(application, self.home.path("tls"))
        write_kubeconfig(
            self.home.kubeconfig, self._serving.url, self._serving.tls.ca_pem, contexts, "lab",
            namespace=self.site.source_namespace,
        )  # fmt: skip
        self._tell(url=self._serving.url)

    async def _start_store(self, endpoint: str) -> None:
        self.home.s3.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.home.s3 / "keys.json", self.credentials.store_keys(self.site))
        admin = self.credentials.admin_key
        write_json(
            self.home.s3 / "admin.json",
            {
                "access": admin.access, "secret": admin.secret, "endpoint": endpoint, "bucket": self.site.store.bucket,
                "prefix": f"{self.site.store.path}/{self.site.cluster}", "cluster_key": self.credentials.cluster_key.access,
                "drill_key": self.credentials.drill_key.access,
            },
        )  # fmt: skip
        argv = [
            sys.executable, "-m", "drillbook_lab.s3", "--state", str(self.home.s3),
            "--port", endpoint.rpartition(":")[2], "--bucket", self.site.store.bucket,
        ]  # fmt: skip
        with self.home.path("s3.log").open("ab") as output:
            self._store = await spawn(argv, env=dict(os.environ), cwd=self.home.root, stdout=output, stderr=output)
        ready, waited = self.home.s3 / "ready", 0.0
        while not ready.exists():
            if self._store.returncode is not None or waited > _STORE_PATIENCE_SECONDS:
                raise LabError("the object store did not start", self.home.path("s3.log").read_text()[-400:])
            await asyncio.sleep(0.05)
            waited += 0.05

    async def run_writer(self, run: bool) -> None:
        """Start or stop the tenants' writer, for real."""
        if self._writer is not None and self._writer.returncode is None:
            if run:
                return
            await stop(self._writer, 5.0)
        if run:
            argv = [sys.executable, "-m", "drillbook_lab.firstsite.writer", str(self.home.path("writer.json"))]
            with self.home.path("writer.log").open("ab") as output:
                self._writer = await spawn(argv, env=dict(os.environ), cwd=self.home.root, stdout=output, stderr=output)

    # -- down --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop everything. PostgreSQL goes before the store, so that its last WAL has somewhere to go."""
        await self.run_writer(False)
        await self.manager.close()
        if self._control is not None:
            self._control.close()
        if self._serving is not None:
            await self._serving.close()
        if self._store is not None:
            await stop(self._store, 3.0)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    # -- control -----------------------------------------------------------------------------------------------

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One JSON line in, one out: the command line's way to what only this process can do."""
        with contextlib.suppress(ConnectionError):
            try:
                asked = json.loads(await reader.readline())
                if asked["op"] == "writer":
                    await self.run_writer(bool(asked["run"]))
                reply = {"ok": True, "processes": self._processes()}
            except (ValueError, KeyError, LabError) as fault:
                reply = {"ok": False, "error": str(fault)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"what": "labd", "pid": os.getpid()}]
        for what, process in (("object store", self._store), ("writer", self._writer)):
            alive = process is not None and process.returncode is None
            found.append({"what": what, "pid": process.pid if process is not None and alive else None})
        pods = [
            {"what": f"pod {worker.namespace}/{worker.name}", "pid": worker.pid} for worker in self.kubelet.workers()
        ]
        return found + pods

    def _tell(self, **facts: Any) -> None:
        self._state.update(facts)
        self.home.write_state(self._state)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def run(home: LabHome, options: Options) -> int:
    """A lab until SIGTERM; 1 if it could not be made."""
    lab = Lab(home, options)
    asked = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, asked.set)
    start = asyncio.create_task(lab.start())
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait({start, waiting}, return_when=asyncio.FIRST_COMPLETED)
    fault: BaseException | None = None
    if start.done():
        fault = start.exception()
        if fault is None:
            await waiting
        else:
            log.error("the lab could not be made", exc_info=fault)
    start.cancel()
    waiting.cancel()
    await asyncio.gather(start, waiting, return_exceptions=True)
    await lab.close()
    return 0 if fault is None else 1


def main() -> int:
    """Take the home, run the lab in it, leave it empty if that was asked."""
    parser = argparse.ArgumentParser(description="The lab's daemon.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--profile", default="first")
    parser.add_argument("--data-mb", type=float, default=60.0)
    parser.add_argument("--job-retry-seconds", type=float, default=1.0)
    parser.add_argument("--foreground", action="store_true", help="accepted for clarity: labd never forks")
    parser.add_argument("--throwaway", action="store_true", help="end with the parent, and leave nothing")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if chosen.throwaway:
        die_with_parent(signal.SIGTERM)
    home = LabHome(chosen.home)
    try:
        lock = home.lock()
        home.clear(keep=("lock", "labd.log"))
        options = Options(chosen.profile, chosen.data_mb, chosen.job_retry_seconds)
        code = asyncio.run(run(home, options))
    except LabError as fault:
        log.error("%s", fault)
        return 4
    if chosen.throwaway and code == 0:  # after a failure the parent still reads why
        home.clear()
    lock.release()
    return code


if __name__ == "__main__":
    sys.exit(main())
