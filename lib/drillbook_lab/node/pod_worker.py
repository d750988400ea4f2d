"""The life of one pod: its container is a real process, its log that process's output, its end an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook_lab import names
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.identity import wrap
from drillbook_lab.node import listeners, pod_env, pod_probes, pod_programs, pod_sidecars
from drillbook_lab.node.pod_view import PodView
from drillbook_lab.node.processes import end_processes_under, processes_under, signal_group, spawn, stop
from drillbook_lab.operator import events
from drillbook_lab.operator.places import Attend, NotReadyYet, PodPlaces, Prepare, pod_role

log = logging.getLogger(__name__)

_LONGEST_GRACE_SECONDS = 30.0
_WAITING_PROBE_SECONDS = 0.25
_SERVER_PROBE_SECONDS = 0.05
_READY_SERVER_PROBE = {"periodSeconds": 10, "failureThreshold": 3}  # the operator's own: a fence shows after 20 to 30 s
_LONGEST_BACK_OFF_SECONDS = 10.0
_LAST_REPORT_SECONDS = 5.0  # for telling how a container that was stopped has ended


def now() -> str:
    """This instant as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PodWorker:
    """Runs one pod, from the first look at its volumes until its processes are gone."""

    def __init__(
        self,
        registry: Registry,
        pod: Object,
        places: PodPlaces,
        prepare: Prepare,
        attend: Attend,
        see: Callable[[Object, PodPlaces], PodView],
        bin_dir: Path,
    ) -> None:
        self._registry = registry
        self._pod = pod
        self._places = places
        self._prepare = prepare
        self._attend = attend
        self._see = see
        self._view = PodView()
        self._bin_dir = bin_dir
        self._process: asyncio.subprocess.Process | None = None
        self._helpers: set[asyncio.subprocess.Process] = set()
        self._stopping = False
        # A pod that an earlier daemon ran comes with its history.
        known = ((pod.get("status") or {}).get("containerStatuses") or [{}])[0]
        self._restarts = int(known.get("restartCount", 0))
        self._last_state: Object = known.get("lastState") or {}
        self._since: dict[str, tuple[bool, str]] = {}  # condition -> what it is, and since when
        self._env: dict[str, str] = {}
        self._ending: asyncio.Task[None] | None = None  # of a container that failed its liveness probe
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

    def reached_at(self, port: int) -> str:
        """Where a port-forward finds that port: on the pod's localhost, if one of its processes listens there, else at its address."""
        sockets = listeners.sockets_on(port)
        mine = bool(sockets) and listeners.owned_by(sockets, processes_under(self._own_directories()))
        return listeners.LOCALHOST if mine else self._places.address

    @property
    def container(self) -> str:
        """The name of the pod's main container."""
        return str(self._pod["spec"]["containers"][0]["name"])

    def log_path(self, container: str | None) -> Path:
        """The container's output. `KeyError`: the pod has no such container."""
        if container not in (None, "", self.container, *pod_sidecars.names(self._pod)):
            raise KeyError(container)
        return self._places.run_dir / "logs" / f"{container or self.container}.log"

    def environment(self) -> dict[str, str]:
        """What a program in the pod finds in its environment; nothing of ours leaks into it."""
        path = f"{self._bin_dir}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        env = {
            "PATH": path,
            "HOME": str(self._places.run_dir),
            "HOSTNAME": self.name,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self._places.hosts is not None and not names.available():
            env[names.HOSTS_VARIABLE] = str(self._places.hosts)
        if pod_role(self._pod) == "instance":
            own = {"PGHOST": str(self._places.socket_dir), "PGUSER": "postgres", "PGPORT": "5432"}
            env.update(own, POD_NAME=self.name, NAMESPACE=self.namespace)
        elif pod_role(self._pod) == "pooler":
            env.update(PGHOST=str(self._places.socket_dir), PGPORT="5432")
        if "pgdata" in self._places.volumes:
            env["PGDATA"] = str(self._places.pgdata)
        return {**env, **self._view.variables(self._env)}

    async def exec(self, argv: list[str], *, stdin: bool = False) -> asyncio.subprocess.Process:
        """Start a command in the container, as the database's own user."""
        return await self._beside(self._view.command(argv) if self._view.mounts else wrap(argv), stdin=stdin)

    async def run_agent(self, module: str, arguments: list[str]) -> asyncio.subprocess.Process:
        """Start another of the pod's programs next to the running one, with the same spec."""
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
            apart=self._apart(),
        )
        self._helpers = {helper for helper in self._helpers if helper.returncode is None}
        self._helpers.add(process)
        return process

    async def end(self, longest_grace: float | None = None) -> None:
        """Stop the pod as a deletion does; returns when nothing of it runs any more.

        The grace that its spec asks for has a limit, but for a runbook's: that removes first what it has made.
        """
        if longest_grace is None:
            longest_grace = float("inf") if self._view.mounts else _LONGEST_GRACE_SECONDS
        self._stopping = True
        for helper in self._helpers:
            signal_group(helper.pid, signal.SIGKILL)
        was_running = self.running
        if self._process is not None and was_running:
            self._killing(*pod_sidecars.staying(self._pod), self.container)
            wanted = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
            await stop(self._process, min(float(wanted), longest_grace))
            await asyncio.wait({self._task}, timeout=_LAST_REPORT_SECONDS)
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

    def _apart(self) -> Callable[[], None] | None:
        """What gives a process of the pod its own /etc/hosts."""
        return names.enter(self._places.hosts) if self._places.hosts is not None and names.available() else None

    def _workdir(self) -> Path:
        return next(iter(self._places.volumes.values()), self._places.run_dir)

    async def _run(self) -> None:
        container = self._pod["spec"]["containers"][0]
        try:
            argv = pod_programs.command_line(container, self._places)
        except LookupError as fault:
            self._report("Pending", {"waiting": {"reason": "ErrImagePull", "message": str(fault)}})
            return
        while not self._stopping:
            try:
                self._prepare(self._pod, self._places)
                self._view = self._see(self._pod, self._places)
                self._env = pod_env.declared(self._registry, self._pod, container, self._places)
                if self._pod["spec"].get("enableServiceLinks", True):
                    services = self._registry.peek("Service", self.namespace)
                    self._env = {**names.variables(services, self.namespace), **self._env}
            except NotReadyYet as fault:
                self._report("Pending", {"waiting": {"reason": "CreateContainerConfigError", "message": str(fault)}})
                await asyncio.sleep(0.2)
                continue
            async with self._attend(self._pod, self._places):
                code, started = await self._run_once(self._view.command(argv))
            reason = "Completed" if code == 0 else "Error"
            exit_code = code if code >= 0 else 128 - code  # a signal, as a shell counts it
            ended: Object = {
                "terminated": {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": now()}
            }
            policy = self._pod["spec"].get("restartPolicy", "Always")
            if self._stopping or policy == "Never" or (policy == "OnFailure" and code == 0):
                self._report("Succeeded" if code == 0 else "Failed", ended)
                if not self._stopping:
                    self._killing(*pod_sidecars.staying(self._pod))  # they stay for as long as the main one runs
                return
            self._last_state = ended
            self._restarts += 1
            await self._back_off(exit_code)

    async def _back_off(self, exit_code: int) -> None:
        """The wait before the next attempt; it doubles, and ends sooner than a real kubelet's five minutes."""
        wait = min(0.5 * 2 ** (self._restarts - 1), _LONGEST_BACK_OFF_SECONDS)
        where = f"{self.container} in pod {self.name}_{self.namespace}({self._pod['metadata']['uid']})"
        message = f"back-off {wait:g}s restarting failed container={where}: exit code {exit_code}"
        self._report("Running", {"waiting": {"reason": "CrashLoopBackOff", "message": message}})
        self._event("BackOff", f"Back-off restarting failed container {where}")
        await asyncio.sleep(wait)

    async def _run_once(self, argv: list[str]) -> tuple[int, str]:
        path = self.log_path(None)
        path.parent.mkdir(parents=True, exist_ok=True)
        pod_sidecars.begin_logs(self._pod, path.parent)
        if self._restarts:
            path.replace(path.with_suffix(".previous.log"))
        with path.open("ab") as output:
            # Our own programs take PostgreSQL's identity where they need it; a chroot's root must stay root till then.
            self._process = await spawn(
                argv, env=self.environment(), cwd=self._workdir(), stdout=output, stderr=output, apart=self._apart()
            )
        started = now()
        state: Object = {"running": {"startedAt": started}}
        probes = self._probes(state)
        try:
            code = await self._process.wait()
            await end_processes_under(self._own_directories())  # nobody else has the volume yet
            return code, started
        finally:
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def _probes(self, state: Object) -> list[asyncio.Task[None]]:
        """Report the container as running, and start what finds out whether it is ready and alive."""
        container, loop = self._pod["spec"]["containers"][0], asyncio.get_running_loop()
        readiness = container.get("readinessProbe") or {}
        ask = pod_probes.declared_probe(readiness, container, self._places.address)
        waiting = _WAITING_PROBE_SECONDS
        if pod_role(self._pod) == "instance":
            # The instance manager's own probe: PostgreSQL's answer.
            socket = self._places.socket_dir / ".s.PGSQL.5432"
            ask = pod_probes.server_probe(socket) if container.get("ports") else None
            readiness, waiting = _READY_SERVER_PROBE, _SERVER_PROBE_SECONDS
        self._report("Running", state, ready=ask is None)

        def tell(holds: bool, fault: str) -> None:
            self._report("Running", state, ready=holds)
            if fault:
                self._event("Unhealthy", f"Readiness probe failed: {fault}")

        found = [] if ask is None else [pod_probes.follow(ask, readiness, tell, waiting_seconds=waiting)]
        liveness = container.get("livenessProbe") or {}
        ask = pod_probes.declared_probe(liveness, container, self._places.address)
        if ask is not None and pod_role(self._pod) != "instance":
            period = float(liveness.get("periodSeconds") or 10)
            found.append(pod_probes.follow(ask, liveness, self._told_alive, waiting_seconds=period))
        return [loop.create_task(work) for work in found]

    def _told_alive(self, holds: bool, fault: str) -> None:
        """Liveness: a container that failed its probe is ended, and started again as after a crash."""
        if holds or self._process is None:
            return
        self._event("Unhealthy", f"Liveness probe failed: {fault}")
        self._event("Killing", f"Container {self.container} failed liveness probe, will be restarted", kind="Normal")
        grace = float(self._pod["spec"].get("terminationGracePeriodSeconds", 30))
        ending = stop(self._process, min(grace, _LONGEST_GRACE_SECONDS))
        self._ending = asyncio.get_running_loop().create_task(ending)

    def _report(self, phase: str, state: Object, *, ready: bool = False) -> None:
        container = self._pod["spec"]["containers"][0]
        status: Object = {
            "phase": phase,
            "podIP": self._places.address,
            "podIPs": [{"ip": self._places.address}],
            "hostIP": "127.0.0.1",
            "conditions": [
                self._condition("Initialized", True),
                self._condition("PodScheduled", True),
                self._condition("ContainersReady", ready),
                self._condition("Ready", ready),
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
        before = pod_sidecars.statuses(self._pod, phase, self._pod["metadata"]["creationTimestamp"])
        if before:
            status["initContainerStatuses"] = before
        if phase != "Pending":
            status["startTime"] = self._pod["metadata"]["creationTimestamp"]
        with contextlib.suppress(ApiError):  # the object may be gone; then nobody asks any more
            self._registry.patch("Pod", self.namespace, self.name, {"status": status}, subresource="status")

    def _condition(self, kind: str, holds: bool) -> dict[str, Any]:
        if self._since.get(kind, (not holds, ""))[0] != holds:
            self._since[kind] = (holds, now())
        return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": self._since[kind][1]}

    def _killing(self, *containers: str) -> None:
        for container in containers:
            self._event("Killing", f"Stopping container {container}", kind="Normal")

    def _event(self, reason: str, message: str, *, kind: str = "Warning") -> None:
        with contextlib.suppress(ApiError):
            events.record(self._registry, self._pod, reason, message, kind=kind)
