"""Port-forward: a local port whose connections end in a pod, each over its own WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading

import aiohttp

from drillbook.errors import KubernetesError
from drillbook.kube.kinds import POD
from drillbook.kube.loop import LoopThread
from drillbook.kube.transport import cut

PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_PIECE = 1 << 18
_LAST_WORDS_SECONDS = 5.0
_PATIENCE_SECONDS = 10.0  # the local client gives up on its own after a while


class Forward:
    """A local address of a pod's port while the context lasts; only this machine can reach it.

    ``error`` is why the latest connection was refused or broken, in the words of the API server or the node, and
    ``""`` after one that worked: the client on the local side sees a closed connection only.
    """

    host = "127.0.0.1"

    def __init__(self, streams: LoopThread, namespace: str, pod: str, port: int) -> None:
        self.namespace = namespace
        self.pod = pod
        self.target_port = port
        self.port = 0
        self._streams = streams
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._error = ""

    def __str__(self) -> str:
        return f"{POD.where(self.namespace, self.pod)} port {self.target_port}"

    @property
    def error(self) -> str:
        """Why the latest connection failed, or ``""``."""
        with self._lock:
            return self._error

    def why(self) -> str:
        """``error`` as a call, to be handed on to anyone who connects."""
        return self.error

    def _note(self, text: str) -> None:
        with self._lock:
            self._error = cut(self._streams.transport.redactor.clean(text)) if text else ""

    def __enter__(self) -> Forward:
        self._streams.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the listener and its connections; safe to call twice."""
        if self._server is not None:
            self._streams.run(self._shut())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream's callback runs as a task
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
        except KubernetesError as error:
            self._note(error.what)
        except asyncio.CancelledError:
            pass  # the forward is being closed
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._note(f"{self}: {error}")
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._connections.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = await self._streams.connect(
            POD.path(self.namespace, self.pod, "portforward"),
            {"ports": self.target_port},
            (PROTOCOL,),
            what=f"forward to {self}",
            patience=_PATIENCE_SECONDS,
        )
        async with socket:
            up = asyncio.create_task(self._up(reader, socket))
            down = asyncio.create_task(self._down(socket, writer))
            try:
                # There is no half-close: when either side ends, both do, or the server's backend would stay behind.
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                if down.done():
                    # The server's last words, the reason why it hung up, are still on their way to the client.
                    writer.close()
                    await asyncio.wait_for(writer.wait_closed(), _LAST_WORDS_SECONDS)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        while data := await reader.read(_PIECE):
            await socket.send_bytes(b"\x00" + data)

    async def _down(self, socket: aiohttp.ClientWebSocketResponse[bool], writer: asyncio.StreamWriter) -> None:
        announced: set[int] = set()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], memoryview(message.data)[1:]
            if channel not in announced:
                # The first frame of each channel carries the port that it belongs to.
                announced.add(channel)
                if bytes(data[:2]) == struct.pack("<H", self.target_port):
                    data = data[2:]
            if channel == _ERROR and data:
                self._note(f"{self}: {bytes(data).decode(errors='replace').strip()}")
                return
            if channel == _DATA and data:
                if self._error:
                    self._note("")
                writer.write(data)
                await writer.drain()
