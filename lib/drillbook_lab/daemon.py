"""labd: one process that is the whole lab. `python -m drillbook_lab.daemon --home H --foreground`.

API server, controllers and kubelet share one event loop; PostgreSQL, the object store and the writer are its
children and die with it. A lab that was up once is resumed, however its daemon ended: objects, volumes,
archive, addresses and tokens are where they were. What is left of one that never came up is removed first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook_lab import image, pgbin
from drillbook_lab.addresses import AddressBook, free_port
from drillbook_lab.agent.procs import die_with_parent
from drillbook_lab.api.errors import ApiError
from drillbook_lab.api.interference import INTERFERENCE, Rule
from drillbook_lab.api.kubeconfig import write_kubeconfig
from drillbook_lab.api.persistence import Journal
from drillbook_lab.api.server import build_server
from drillbook_lab.api.serving import Serving, serve
from drillbook_lab.api.shipped import cnpg_registry
from drillbook_lab.api.tokens import MASTERS, TokenDirectory, kept_tokens
from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome, new_socket_dir, write_json
from drillbook_lab.identity import identity
from drillbook_lab.node.children import Child
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.node.pod_view import access_to
from drillbook_lab.node.processes import end_processes_under
from drillbook_lab.operator.context import Settings
from drillbook_lab.operator.manager import Manager
from drillbook_lab.resume import pods_are_back, settle
from drillbook_lab.site import reconciler
from drillbook_lab.site import seed as seeded
from drillbook_lab.site.manifests import EVIDENCE, Credentials
from drillbook_lab.site.seed import Progress, Seeding
from drillbook_lab.site.site import LabSite, load
from drillbook_lab.site.users import rest_with

log = logging.getLogger("labd")

_STORE_PATIENCE_SECONDS = 180.0
_LEFT_OVER_SECONDS = 5.0  # a killed daemon's PostgreSQL is on its way out


@dataclass(frozen=True)
class Options:
    """How a lab is started."""

    profile: str = "first"
    data_mb: float = 60.0
    job_retry_seconds: float = 1.0
    seed: bool = True
    instances: int = 1
    backup_method: str = "plugin"
    recover: bool = False
    image: bool = False


class Lab:
    """A lab in this process."""

    def __init__(self, home: LabHome, options: Options) -> None:
        self.home = home
        self.options = options
        self.site: LabSite = load(options.profile, options.backup_method)
        self.credentials = Credentials.draw(self.site)
        self._socket_dir = new_socket_dir()
        self._progress = Progress(home.progress)
        self._before = home.state() if home.is_resumable else {}
        self._endpoint = str(self._before.get("endpoint") or f"http://127.0.0.1:{free_port()}")
        store = ["-m", "drillbook_lab.store", "--state", str(home.s3), "--port", self._endpoint.rpartition(":")[2]]
        writer = ["-m", "drillbook_lab.site.writer", str(home.path("writer.json"))]
        self._store = Child(
            "object store",
            [sys.executable, *store, "--bucket", self.site.store.bucket, "--locked-bucket", EVIDENCE],
            home.path("s3.log"),
            home.root,
        )
        self._writer = Child("writer", [sys.executable, *writer], home.path("writer.log"), home.root)
        self._serving: Serving | None = None
        self._control: asyncio.Server | None = None
        self._users: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = self._before | {
            "pid": os.getpid(),
            "profile": options.profile,
            "backup_method": options.backup_method,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "socket_dir": str(self._socket_dir),
            "ready": False,
            "failed": None,
            "data_mb": options.data_mb,
        }
        home.write_state(self._state)
        self.registry = cnpg_registry()
        self.kubelet = Kubelet(
            self.registry,
            pods_dir=home.path("pods"),
            volumes_dir=home.path("volumes"),
            socket_dir=self._socket_dir,
            bin_dir=pgbin.bin_dir(),
            addresses=AddressBook(home.path("addresses.json")),
        )
        settings = Settings(
            pgbin.bin_dir(), pgbin.version(), job_retry_seconds=options.job_retry_seconds, declared_dir=home.declared
        )
        self.manager = Manager(self.registry, self.kubelet, settings)

    # -- up ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything, in order; a failure is reported in the state file and raised."""
        try:
            await (self._resume() if self._before else self._build())
        except Exception as fault:
            self._tell(failed=str(fault) or type(fault).__name__)
            raise

    async def _build(self) -> None:
        endpoint = self._endpoint
        async with self._progress.stage("Kubernetes API") as note:
            identity()  # says now what would fail later
            self.registry.keep(Journal(self.home.path("registry.db")))
            store = asyncio.create_task(self._start_store(endpoint))
            await self._open()
            note(self._state["url"])
        seeding = Seeding(
            self.manager.operator,
            self.site,
            self.credentials,
            endpoint,
            self.options.data_mb,
            self._progress,
            self.options.recover,
        )
        seeding.install()
        self._tell(
            endpoint=endpoint,
            cluster=self.site.cluster,
            namespace=self.site.source_namespace,
            drill_namespace=self.site.drill_namespace,
            drillbook_namespace=self.site.drillbook_namespace,
        )
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
            await self._writer.start()
        async with self._progress.stage("First base backup") as note:
            note(await seeding.first_backup())
        write_json(self.home.application, seeding.application())
        if not self.options.image:
            self._deploy_application()
        if self.options.instances > 1:
            async with self._progress.stage("Replicas") as note:
                note(await seeding.replicas(self.options.instances))
        async with self._progress.stage("WAL archiving and cluster health"):
            await seeding.archiving_works()
            await seeding.cluster_is_healthy()
        self._tell(ready=True, built=True)

    async def _resume(self) -> None:
        """Go on where a daemon before this one ended, of itself or by a kill."""
        async with self._progress.stage("What was left") as note:
            identity()
            await end_processes_under([self.home.path(name) for name in ("pods", "volumes", "s3")], _LEFT_OVER_SECONDS)
            self.registry.keep(Journal(self.home.path("registry.db")))
            note(str(settle(self.registry, self.home.path("pods"))))
        async with self._progress.stage("Object store") as note:
            await self._run_store()
            note(self._endpoint)
        async with self._progress.stage("Kubernetes API") as note:
            await self._open()
            before = self._before.get("url", self._state["url"])
            note(self._state["url"] + ("" if self._state["url"] == before else f", no longer {before}"))
        async with self._progress.stage("PostgreSQL cluster") as note:
            note(await pods_are_back(self.registry, self.site.source_namespace, self.site.cluster))
        if self._before.get("writer", True):
            async with self._progress.stage("Writer"):
                await self._writer.start()
        if self.home.application.exists():
            async with self._progress.stage("WAL archiving") as note:
                note(await seeded.archive_now(self.manager.operator, self.site))
            self._deploy_application()
        self._tell(ready=True)

    def _deploy_application(self) -> None:
        """Make the application's objects, once: an image is kept without it, since it starts after its database."""
        for item in json.loads(self.home.application.read_text(encoding="utf-8")):
            self.registry.create(item)
        self.home.application.unlink()

    async def _open(self) -> None:
        """Answer, and act on what is there."""
        await self._serve()
        self.manager.operate(bool(self._state.get("operator", True)))
        self.manager.start()
        self._users = asyncio.create_task(rest_with(self.registry, self.site.app, self.home.path("app-away")))
        self._control = await asyncio.start_unix_server(self._answer, str(self._socket_dir / "ctl"))

    async def _serve(self) -> None:
        contexts, signing_key = kept_tokens(self.home.path("tokens.json"), ("lab", "lab-admin"))
        tokens = TokenDirectory(signing_key)
        account = f"system:serviceaccount:{self.site.drillbook_namespace}:drillbook"
        tokens.add(contexts["lab"], account)
        tokens.add(contexts["lab-admin"], "lab-admin", [MASTERS])
        application = build_server(self.registry, self.kubelet, tokens, audit=self.home.audit)
        known = self._before.get("url")
        port = int(str(known).rpartition(":")[2]) if known else free_port()
        try:
            self._serving = await serve(application, self.home.path("tls"), port=port)
        except OSError as taken:
            log.warning("the API server's port %d is taken: %s", port, taken)
            self._serving = await serve(application, self.home.path("tls"))
        self.kubelet.access = access_to(self.registry, tokens, self._serving.url, self._serving.tls.ca_pem)
        write_kubeconfig(
            self.home.kubeconfig,
            self._serving.url,
            self._serving.tls.ca_pem,
            contexts,
            "lab",
            namespace=self.site.source_namespace,
        )
        self._tell(url=self._serving.url)

    async def _start_store(self, endpoint: str) -> None:
        self.home.s3.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.home.s3 / "keys.json", self.credentials.store_keys(self.site))
        admin = self.credentials.admin_key
        write_json(
            self.home.s3 / "admin.json",
            {
                "access": admin.access,
                "secret": admin.secret,
                "endpoint": endpoint,
                "bucket": self.site.store.bucket,
                "prefix": f"{self.site.store.path}/{self.site.cluster}",
                "cluster_key": self.credentials.cluster_key.access,
                "drill_key": self.credentials.drill_key.access,
            },
        )
        await self._run_store()

    async def _run_store(self) -> None:
        ready, waited = self.home.s3 / "ready", 0.0
        ready.unlink(missing_ok=True)  # a killed one's
        await self._store.start()
        while not ready.exists():
            if self._store.deaths or waited > _STORE_PATIENCE_SECONDS:
                raise LabError("the object store did not start", self.home.path("s3.log").read_text()[-400:])
            await asyncio.sleep(0.05)
            waited += 0.05

    async def run_writer(self, run: bool) -> None:
        """Start or stop the tenants' writer, for real."""
        self._tell(writer=run)
        await (self._writer.start() if run else self._writer.stop(5.0))

    # -- down --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop everything. PostgreSQL goes before the store, so that its last WAL has somewhere to go."""
        self.registry.close()  # what is ended from here on was running, and will be again at the next start
        await self._writer.stop(5.0)
        if self._users is not None:
            self._users.cancel()
        await self.manager.close()
        if self._control is not None:
            self._control.close()
        if self._serving is not None:
            await self._serving.close()
        await self._store.stop(3.0)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    # -- control -----------------------------------------------------------------------------------------------

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One JSON line in, one out: the command line's way to what only this process can do."""
        with contextlib.suppress(ConnectionError):
            try:
                asked = json.loads(await reader.readline())
                if asked["op"] == "writer":
                    await self.run_writer(bool(asked["run"]))
                elif asked["op"] == "operator":
                    self._tell(operator=bool(asked["run"]))
                    self.manager.operate(bool(asked["run"]))
                elif asked["op"] == "api":
                    await self._interfere(asked)
                elif asked["op"] == "reconciler" and asked["run"]:
                    reconciler.switch_on(self.registry, self.site, self.home.declared)
                elif asked["op"] == "reconciler":
                    reconciler.switch_off(self.registry, self.site)
                found = (
                    await self._exec(asked)
                    if asked["op"] == "exec"
                    else {"processes": self._processes(), **self._spoilt()}
                )
                reply = {"ok": True, **found}
            except (ValueError, KeyError, OSError, LabError, ApiError) as fault:
                reply = {"ok": False, "error": str(fault)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _spoilt(self) -> dict[str, Any]:
        """How many requests each rule in force has disturbed."""
        rules = self._serving.app[INTERFERENCE].rules if self._serving is not None else []
        return {"rules": [{"done": rule.done, "last": rule.last} for rule in rules]}

    async def _interfere(self, asked: dict[str, Any]) -> None:
        """Let the API server be away, for some seconds or until it is called back; or disturb requests by rules, or pause these."""
        if self._serving is None:
            return
        interference = self._serving.app[INTERFERENCE]
        if "paused" in asked:
            interference.paused = bool(asked["paused"])
        if "rules" in asked:
            interference.rules = [Rule(**rule) for rule in asked["rules"]]
        if asked.get("away") is True:
            await self._serving.go_away()
        elif asked.get("away") is False:
            await self._serving.come_back()
        elif "away" in asked:
            await self._serving.go_away()
            self._return = asyncio.get_running_loop().create_task(self._come_back(float(asked["away"])))

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._serving is not None:
            await self._serving.come_back()

    async def _exec(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A command in a pod, to its end."""
        process = await self.kubelet.exec(asked["namespace"], asked["pod"], None, asked["argv"], stdin=False, tty=False)
        out, err = await process.communicate()
        return {"code": process.returncode, "output": (out or b"").decode() + (err or b"").decode()}

    def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"what": "labd", "pid": os.getpid()}]
        found += [{"what": child.what, "pid": child.pid} for child in (self._store, self._writer)]
        pods = [
            {"what": f"pod {worker.namespace}/{worker.name}", "pid": worker.pid} for worker in self.kubelet.workers()
        ]
        return found + pods

    def _tell(self, **facts: Any) -> None:
        self._state.update(facts)
        self.home.write_state(self._state)


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


def _is_the_same(home: LabHome, options: Options) -> None:
    """A lab is resumed as the one that it was; the sockets of its last daemon go."""
    before = home.state()
    if before.get("profile") != options.profile:
        raise LabError("another site's lab lies here", f"profile {before.get('profile')}", "drillbook lab down")
    method = before.get("backup_method", options.backup_method)
    if method != options.backup_method:
        raise LabError("a lab that backs up in another way lies here", str(method), "drillbook lab down")
    home.remove_sockets()


def _built_by(options: Options) -> list[str]:
    """The arguments that a lab is built by."""
    more = ["--backup-method", options.backup_method, "--instances", str(options.instances)]
    more += ["--recover"] if options.recover else []
    return ["--profile", options.profile, "--data-mb", str(options.data_mb), *more]


def main() -> int:
    """Take the home, run the lab in it, leave it empty if that was asked."""
    parser = argparse.ArgumentParser(description="The lab's daemon.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--profile", default="first")
    parser.add_argument("--data-mb", type=float, default=60.0)
    parser.add_argument("--job-retry-seconds", type=float, default=1.0)
    parser.add_argument("--backup-method", default="plugin")
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument(
        "--recover", action="store_true", help="apply deploy/recover/, deploy/replace/ and deploy/change/ as well"
    )
    parser.add_argument("--foreground", action="store_true", help="accepted for clarity: labd never forks")
    parser.add_argument("--image", action="store_true", help="leave out the application; end with the parent")
    parser.add_argument("--throwaway", action="store_true", help="end with the parent, and leave nothing")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if chosen.throwaway or chosen.image:
        die_with_parent(signal.SIGTERM)
    home = LabHome(chosen.home)
    try:
        lock = home.lock()
        options = Options(
            chosen.profile,
            chosen.data_mb,
            chosen.job_retry_seconds,
            instances=chosen.instances,
            backup_method=chosen.backup_method,
            recover=chosen.recover,
            image=chosen.image,
        )
        if home.is_resumable:
            _is_the_same(home, options)
        else:
            home.clear(keep=("lock", "labd.log"))
            image.place(home, _built_by(options))
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
