"""Running a command in a container: the channels of Kubernetes' exec over WebSocket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from drillbook.errors import Changed, KubernetesError, StepTimeoutError
from drillbook.kube.kinds import POD
from drillbook.kube.loop import LoopThread
from drillbook.kube.transport import cut

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_PIECE = 1 << 15


@dataclass(frozen=True)
class ExecResult:
    """What a command wrote, as bytes, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are no UTF-8 are shown as replacement characters."""
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode(errors="replace")


class CommandLost(KubernetesError):
    """A command was begun and its connection ended before its status came: it may have run to its end, or not."""


def execute(
    streams: LoopThread,
    namespace: str,
    pod: str,
    container: str,
    argv: list[str],
    *,
    stdin: bytes,
    timeout_seconds: float,
) -> ExecResult:
    """See ``Kube.exec``; the time counts from when the command was begun, not while the API server is away before."""
    out, err = bytearray(), bytearray()
    work = _execute(streams, namespace, pod, container, argv, stdin, out, err, timeout_seconds)
    try:
        return streams.run(work)
    except TimeoutError as error:
        raise StepTimeoutError(
            f"{argv[0]} in {POD.where(namespace, pod)} did not end within {timeout_seconds:g} s "
            f"({len(out)} bytes of output and {len(err)} of errors until then)",
            todo=f"The command may still be running: look with kubectl exec -n {namespace} {pod} -- ps.",
        ) from error


async def _execute(
    streams: LoopThread,
    namespace: str,
    pod: str,
    container: str,
    argv: list[str],
    stdin: bytes,
    out: bytearray,
    err: bytearray,
    timeout_seconds: float,
) -> ExecResult:
    what = f"run {argv[0]} in {POD.where(namespace, pod)}"
    query: dict[str, Any] = {"container": container, "command": argv, "stdout": "true", "stderr": "true"}
    if stdin:
        query["stdin"] = "true"
    status: dict[str, Any] | None = None
    socket = await streams.connect(POD.path(namespace, pod, "exec"), query, (V5, V4), what=what)
    async with asyncio.timeout(timeout_seconds), socket:
        if stdin and socket.protocol != V5:
            raise KubernetesError(
                f"{what}: the API server speaks {socket.protocol}, which can't end the standard input",
                todo="Use Kubernetes 1.30 or newer, or a command that needs no input.",
            )
        feeder = asyncio.create_task(_feed(socket, stdin)) if stdin else None
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], memoryview(message.data)[1:]
                if channel == _STDOUT:
                    out += data
                elif channel == _STDERR:
                    err += data
                elif channel == _STATUS:
                    status = json.loads(bytes(data))
        finally:
            if feeder is not None:
                feeder.cancel()
    if status is None:
        why = streams.transport.redactor.clean(str(socket.exception() or f"close code {socket.close_code}"))
        raise CommandLost(
            f"{what}: the connection ended before the command's status came ({cut(why)}); {len(out)} bytes of output "
            "were received and are not used",
            todo="Look at the pod and its node; the command may have run.",
            changed=Changed.UNKNOWN,
        )
    return ExecResult(bytes(out), bytes(err), exit_code(streams, what, status))


async def _feed(socket: aiohttp.ClientWebSocketResponse[bool], stdin: bytes) -> None:
    try:
        for start in range(0, len(stdin), _PIECE):
            await socket.send_bytes(bytes([_STDIN]) + stdin[start : start + _PIECE])
            # A command may end before it has read everything: its status must be read before the server, still being
            # sent to, resets the connection.
            await asyncio.sleep(0)
        await socket.send_bytes(bytes([_CLOSE, _STDIN]))
    except (ConnectionError, aiohttp.ClientError):
        pass  # the command ended without reading all of it; its status says how


def exit_code(streams: LoopThread, what: str, status: dict[str, Any]) -> int:
    """The exit code in a command's final status; KubernetesError if it could not be run."""
    if status.get("status") == "Success":
        return 0
    if status.get("reason") == "NonZeroExitCode":
        for cause in status.get("details", {}).get("causes", []):
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
    raise KubernetesError(
        f"{what}: {cut(streams.transport.redactor.clean(str(status.get('message', 'no reason given'))))}",
        status=int(status.get("code") or 0),
        reason=str(status.get("reason", "")),
        todo="Check the container's name, that the pod runs, and that the command exists in it.",
    )
