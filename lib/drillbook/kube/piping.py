"""One command's output into another's input, each in its own container: bytes go through this machine.

Back-pressure holds all the way: a piece is read only when the one before it is on its way to the reader.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from drillbook.errors import Changed, KubernetesError, StepTimeoutError
from drillbook.kube.execution import V4, V5, exit_code
from drillbook.kube.kinds import POD
from drillbook.kube.loop import LoopThread

_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_ERRORS_KEPT = 1 << 16
_GLANCE_SECONDS = 0.5
_LAST_WORDS_SECONDS = 10.0
_GLANCE_HOLDS_SECONDS = 30.0


@dataclass(frozen=True)
class Command:
    """A command in a container, as an argument list: no shell is involved."""

    namespace: str
    pod: str
    container: str
    argv: Sequence[str]

    def __str__(self) -> str:
        return f"{self.argv[0]} in {POD.where(self.namespace, self.pod)}"


@dataclass(frozen=True)
class Piped:
    """How both ended. An exit code is None where the other's end came first. ``bytes`` went through this machine."""

    bytes: int
    writer_exit_code: int | None
    writer_error: str
    reader_exit_code: int | None
    reader_error: str

    @property
    def well(self) -> bool:
        """Whether both ended with 0."""
        return self.writer_exit_code == 0 and self.reader_exit_code == 0


@dataclass
class _End:
    """One side while it runs: what it said, and its status once that has come."""

    command: Command
    error: bytearray = field(default_factory=bytearray)
    status: dict[str, Any] | None = None

    def said(self, data: memoryview) -> None:
        # The first words name the cause; a command that complains of every row must not fill the memory.
        self.error += data[: max(0, _ERRORS_KEPT - len(self.error))]


class Pipe:
    """``writer | reader``; see ``Kube.pipe``."""

    def __init__(self, streams: LoopThread, writer: Command, reader: Command) -> None:
        self._streams = streams
        self._writer, self._reader = _End(writer), _End(reader)
        self._bytes = 0
        self._go_on_until = time.monotonic() + _GLANCE_HOLDS_SECONDS

    def run(self, timeout_seconds: float, on_bytes: Callable[[int], bool | None]) -> Piped:
        """Run both to their ends; ``on_bytes`` is called in this thread now and then. While it says False nothing is read.

        Nor while it has said nothing for long: who watches may be waiting for an API server that is away.
        """
        future = self._streams.start(self._run(), timeout_seconds)
        try:
            self._watch(future, on_bytes)
        except BaseException:
            future.cancel()  # the sockets close, and with them the commands
            raise
        return Piped(
            self._bytes,
            self._code(self._writer),
            self._writer.error.decode(errors="replace"),
            self._code(self._reader),
            self._reader.error.decode(errors="replace"),
        )

    def _watch(self, future: Future[None], on_bytes: Callable[[int], bool | None]) -> None:
        while not wait((future,), _GLANCE_SECONDS).done:
            self._go_on_until = time.monotonic() + _GLANCE_HOLDS_SECONDS
            if on_bytes(self._bytes) is False:
                self._go_on_until = 0.0
                time.sleep(_GLANCE_SECONDS)
        try:
            future.result()
        except TimeoutError as error:
            raise StepTimeoutError(
                f"{self._writer.command} | {self._reader.command} did not end in time ({self._bytes} bytes until then)",
                todo="Both were ended; look for what is left of them, then do it again.",
            ) from error

    def _code(self, end: _End) -> int | None:
        return None if end.status is None else exit_code(self._streams, f"run {end.command}", end.status)

    async def _run(self) -> None:
        reader = await self._open(self._reader.command, stdin=True)
        async with reader:
            writer = await self._open(self._writer.command, stdin=False)
            async with writer:
                moving = asyncio.create_task(self._move(writer, reader))
                listening = asyncio.create_task(self._listen(reader))
                try:
                    await asyncio.wait((moving, listening), return_when=asyncio.FIRST_COMPLETED)
                    if moving.done() and self._ended_well:
                        await listening
                    elif moving.done() and self._writer.status is None:
                        # The reader went away under the writer: why, is on its way.
                        await asyncio.wait((listening,), timeout=_LAST_WORDS_SECONDS)
                finally:
                    for task in (moving, listening):
                        task.cancel()
                    ended = await asyncio.gather(moving, listening, return_exceptions=True)
        for found in ended:
            if isinstance(found, KubernetesError):
                raise found
        if self._writer.status is None and self._reader.status is None:
            raise self._lost(self._writer.command)

    @property
    def _ended_well(self) -> bool:
        return (self._writer.status or {}).get("status") == "Success"

    async def _open(self, command: Command, *, stdin: bool) -> aiohttp.ClientWebSocketResponse[bool]:
        query: dict[str, Any] = {"container": command.container, "command": list(command.argv), "stderr": "true"}
        query["stdin" if stdin else "stdout"] = "true"
        path = POD.path(command.namespace, command.pod, "exec")
        socket = await self._streams.connect(path, query, (V5, V4), what=f"run {command}")
        if stdin and socket.protocol != V5:
            await socket.close()
            raise KubernetesError(
                f"run {command}: the API server speaks {socket.protocol}, which can't end the standard input",
                todo="Use Kubernetes 1.30 or newer.",
            )
        return socket

    async def _move(
        self, writer: aiohttp.ClientWebSocketResponse[bool], reader: aiohttp.ClientWebSocketResponse[bool]
    ) -> None:
        while True:
            while time.monotonic() > self._go_on_until:
                await asyncio.sleep(_GLANCE_SECONDS / 2)
            message = await writer.receive()
            if message.type in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSING,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            ):
                break
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], memoryview(message.data)[1:]
            if channel == _STDOUT and data:
                try:
                    await reader.send_bytes(bytes((_STDIN,)) + data)
                except (ConnectionError, aiohttp.ClientError):
                    return  # the reader has ended; its status says how
                self._bytes += len(data)
            elif channel == _STDERR:
                self._writer.said(data)
            elif channel == _STATUS:
                self._writer.status = json.loads(bytes(data))
        if self._writer.status is None:
            raise self._lost(self._writer.command)
        if self._ended_well:
            # Only a whole stream is ended: what a writer that failed has left must not be taken for all.
            await reader.send_bytes(bytes((_CLOSE, _STDIN)))

    async def _listen(self, reader: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async for message in reader:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], memoryview(message.data)[1:]
            if channel == _STDERR:
                self._reader.said(data)
            elif channel == _STATUS:
                self._reader.status = json.loads(bytes(data))
        if self._reader.status is None:
            raise self._lost(self._reader.command)

    def _lost(self, command: Command) -> KubernetesError:
        return KubernetesError(
            f"run {command}: the connection ended before the command's status came ({self._bytes} bytes until then)",
            todo="Look at the pod and its node; then do it again.",
            changed=Changed.UNKNOWN,
        )
