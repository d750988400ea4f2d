"""The life of one pod: its container is a real process, its log that process's output, its end an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook_lab.apiserver.errors import ApiError, Object
from drillbook_lab.apiserver.registry import Registry
from drillbook_lab.controller.places import NotReadyYet, PodPlaces, Prepare
from drillbook_lab.identity import wrap
from drillbook_lab.processes import end_processes_under, signal_group, spawn, stop

log = logging.getLogger(__name__)

# The only images of the lab: what a container's command starts with says which of our programs it is.
PROGRAMS = {
    ("/controller/manager", "instance", "init"): "drillbook_lab.agent.initdb",
    ("/controller/manager", "instance", "restore"): "drillbook_lab.agent.recovery",
    ("/controller/manager", "instance", "run"): "drillbook_lab.agent.instance",
}
_LONGEST_GRACE_SECONDS = 30.0
_PROBE_SECONDS = 0.05
_READY_PROBE_SECONDS = 1.0


def now() -> str:
    """This instant as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PodWorker:
    """Runs one pod, from the first look at its volumes until its processes are gone."""

    def __init__(self, registry: Registry, pod: Object, places: PodPlaces, prepare: Prepare, bin_dir: Path) -> None:
        self._registry = registry
        self._pod = pod
        self._places = places
        self._prepare = prepare
        self._bin_dir = bin_dir
        self._process: asyncio.subprocess.Process | None = None
        self._helpers: set[asyncio.subprocess.Process] = set()
        self._stopping = False
        self._restarts = 0
        self._last_state: Object = {}
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pod {self.name}")

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return str(self._pod["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self._pod["metadata"]["name"])

    @property
    def places(self) -> PodPlaces:
        """The pod's directories and address."""
        return self._places

    @property
    def running(self) -> bool:
        """Whether the container's process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The container's process, while it lives."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def container(self) -> str:
        """The name of the pod's one container."""
        return str(self._pod["spec"]["containers"][0]["name"])

    def log_path(self, container: str | None) -> Path:
        """The container's output. `KeyError`: the pod has no such container."""
        if container not in (None, "", self.container):
            raise KeyError(container)
        return self._places.run_dir / "logs" / f"{self.container}.log"

    def environment(self) -> dict[str, str]:
        """What a program in the pod finds in its environment; nothing of ours leaks into it."""
        path = f"{self._bin_dir}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        env = {
            "PATH": path,
            "HOME": str(self._places.run_dir),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PGHOST": str(self._places.socket_dir),
            "PGUSER": "postgres",
            "PGPORT": "5432",
            "POD_NAME": self.name,
            "NAMESPACE": self.namespace,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if "pgdata" in self._places.volumes:
            env["PGDATA"] = str(self._places.pgdata)
        return env

    async def exec(self, argv: list[str], *, stdin: bool = False) -> asyncio.subprocess.Process:
        """Start a command in the container, as the database's own user."""
        return await self._beside(wrap(argv), stdin=stdin)

    async def run_agent(self, module: str, arguments: list[str]) -> asyncio.subprocess.Process:
        """Start another of the pod's programs beside the running one, with the same spec."""
        argv = [sys.executable, "-m", f"drillbook_lab.agent.{module}", "--spec", str(self._places.spec_file)]
        return await self._beside([*argv, *arguments], stdin=False)

    async def _beside(self, argv: list[str], *, stdin: bool) -> asyncio.subprocess.Process:
        """Start a program next to the container's, in its environment; it ends with the pod at the latest."""
        if not self.running:
            raise ConnectionError(f"container {self.container} is not running")
        process = await spawn(
            argv,
            env=self.environment(),
            cwd=self._workdir(),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._helpers = {helper for helper in self._helpers if helper.returncode is None}
        self._helpers.add(process)
        return process

    async def end(self, longest_grace: float = _LONGEST_GRACE_SECONDS) -> None:
        """Stop the pod as a deletion does; returns when nothing of it runs any more."""
        self._stopping = True
        for helper in self._helpers:
            signal_group(helper.pid, signal.SIGKILL)
        was_running = self.running
        if self._process is not None and was_running:
            wanted = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
            await stop(self._process, min(float(wanted), longest_grace))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        # A pod that has ended long ago no longer owns its volume: another one may be at work there by now.
        await end_processes_under(self._own_directories() if was_running else [self._places.run_dir])

    def remove(self) -> None:
        """Remove the pod's own directories, its log with them."""
        for path in (self._places.run_dir, self._places.socket_dir):
            shutil.rmtree(path, ignore_errors=True)

    def _own_directories(self) -> list[Path]:
        return [*self._places.volumes.values(), self._places.run_dir]

    def _workdir(self) -> Path:
        return next(iter(self._places.volumes.values()), self._places.run_dir)

    async def _run(self) -> None:
        try:
            argv = self._command()
        except LookupError as fault:
            self._report("Pending", {"waiting": {"reason": "ErrImagePull", "message": str(fault)}})
            return
        while not self._stopping:
            try:
                self._prepare(self._pod, self._places)
            except NotReadyYet as fault:
                self._report("Pending", {"waiting": {"reason": "CreateContainerConfigError", "message": str(fault)}})
                await asyncio.sleep(0.2)
                continue
            code, started = await self._run_once(argv)
            reason = "Completed" if code == 0 else "Error"
            exit_code = code if code >= 0 else 128 - code  # a signal, as a shell counts it
            ended: Object = {
                "terminated": {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": now()}
            }
            policy = self._pod["spec"].get("restartPolicy", "Always")
            if self._stopping or policy == "Never" or (policy == "OnFailure" and code == 0):
                self._report("Succeeded" if code == 0 else "Failed", ended)
                return
            self._last_state = ended
            self._restarts += 1
            self._report("Running", {"waiting": {"reason": "CrashLoopBackOff", "message": f"exit code {exit_code}"}})
            await asyncio.sleep(min(0.5 * 2 ** (self._restarts - 1), 10.0))

    async def _run_once(self, argv: list[str]) -> tuple[int, str]:
        path = self.log_path(None)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._restarts:
            path.replace(path.with_suffix(".previous.log"))
        with path.open("ab") as output:
            # Our own programs take PostgreSQL's identity where they need it; a chroot's root must stay root till then.
            self._process = await spawn(argv, env=self.environment(), cwd=self._workdir(), stdout=output, stderr=output)
        started = now()
        serves = bool(self._pod["spec"]["containers"][0].get("ports"))
        state: Object = {"running": {"startedAt": started}}
        self._report("Running", state, ready=not serves)
        probe = asyncio.get_running_loop().create_task(self._probe(state)) if serves else None
        try:
            code = await self._process.wait()
            await end_processes_under(self._own_directories())  # nobody else has the volume yet
            return code, started
        finally:
            if probe is not None:
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)

    async def _probe(self, state: Object) -> None:
        """Readiness: the server answers on its socket. Seen to change within a second."""
        ready = False
        while True:
            answers = await accepts_connections(self._places.socket_dir / ".s.PGSQL.5432")
            if answers != ready:
                ready = answers
                self._report("Running", state, ready=ready)
            await asyncio.sleep(_READY_PROBE_SECONDS if ready else _PROBE_SECONDS)

    def _command(self) -> list[str]:
        container = self._pod["spec"]["containers"][0]
        command = (*(container.get("command") or ()), *(container.get("args") or ()))
        module = PROGRAMS.get(tuple(command[:3]))
        if module is None:
            raise LookupError(f"this lab has no image for the command {list(command)!r}: it runs PostgreSQL pods only")
        return [sys.executable, "-m", module, "--spec", str(self._places.spec_file)]

    def _report(self, phase: str, state: Object, *, ready: bool = False) -> None:
        container = self._pod["spec"]["containers"][0]
        status: Object = {
            "phase": phase,
            "podIP": self._places.address,
            "podIPs": [{"ip": self._places.address}],
            "hostIP": "127.0.0.1",
            "conditions": [
                _condition("Initialized", True),
                _condition("PodScheduled", True),
                _condition("ContainersReady", ready),
                _condition("Ready", ready),
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container.get("image", ""),
                    "imageID": "",
                    "ready": ready,
                    "started": "running" in state,
                    "restartCount": self._restarts,
                    "state": state,
                    "lastState": self._last_state,
                }
            ],
        }
        if phase != "Pending":
            status["startTime"] = self._pod["metadata"]["creationTimestamp"]
        with contextlib.suppress(ApiError):  # the object may be gone; then nobody asks any more
            self._registry.patch("Pod", self.namespace, self.name, {"status": status}, subresource="status")


def _condition(kind: str, holds: bool) -> dict[str, Any]:
    return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": now()}


async def accepts_connections(socket: Path) -> bool:
    """Whether a PostgreSQL server is ready for sessions, by what it answers to a start-up packet."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        body = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0application_name\0probe\0\0"
        writer.write(struct.pack("!I", len(body) + 4) + body)
        answer = await asyncio.wait_for(reader.readexactly(1), 2)
        if answer == b"R":  # authenticated or asked to: leave in good order
            writer.write(b"X" + struct.pack("!I", 4))
            await writer.drain()
            return True
        return False  # an error: starting up, shutting down, or in recovery without hot standby
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
