"""kubectl's port-forward: SPDY streams inside a WebSocket, a pair of them for every connection that it accepts.

The error stream tells why a connection failed, or ends empty; the data stream is the connection. Each of its
directions ends by itself, as TCP's do.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from drillbook_lab.api.runtime import PodRuntime
from drillbook_lab.kubectl import spdy

PROTOCOL = "SPDY/3.1+portforward.k8s.io"

_CHUNK = 64 * 1024
# Bytes on their way to a slow target, in chunks; then the whole tunnel waits, as a full pipe makes it.
_WAITING_CHUNKS = 64


@dataclass
class _Connection:
    """One accepted connection: two streams of the client, and the way to the pod."""

    port: int = 0
    error: int = 0
    data: int = 0
    incoming: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_WAITING_CHUNKS))
    task: asyncio.Task[None] | None = None


class Tunnel:
    """One kubectl and all its connections to one pod."""

    def __init__(self, socket: web.WebSocketResponse, runtime: PodRuntime, namespace: str, pod: str) -> None:
        self._socket = socket
        self._runtime = runtime
        self._namespace = namespace
        self._pod = pod
        self._reader = spdy.Reader()
        self._writer = spdy.Writer()
        self._connections: dict[str, _Connection] = {}  # by the request's id
        self._by_data: dict[int, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the client hangs up."""
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    continue
                for frame in self._reader.feed(message.data):
                    await self._take(frame)
        except (spdy.Malformed, ConnectionResetError):
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with contextlib.suppress(ConnectionResetError):
                await self._socket.close()

    async def _take(self, frame: spdy.Frame) -> None:
        match frame.type:
            case spdy.SYN_STREAM:
                await self._open(frame)
            case spdy.DATA:
                connection = self._by_data.get(frame.stream)
                if connection is not None:
                    if frame.data:
                        await connection.incoming.put(frame.data)
                    if frame.is_last:
                        await connection.incoming.put(None)
            case spdy.RST_STREAM:
                connection = self._by_data.get(frame.stream)
                if connection is not None and connection.task is not None:
                    connection.task.cancel()
            case spdy.PING:
                await self._send(self._writer.pong(frame))

    async def _open(self, frame: spdy.Frame) -> None:
        headers = frame.headers
        port, kind = headers.get("port", ""), headers.get("streamtype", "")
        if not port.isdigit() or not 0 < int(port) < 65536 or kind not in ("error", "data"):
            await self._send(self._writer.reset(frame.stream))
            return
        # Both streams of a connection carry the same id; clients before it had one connection at a time.
        request = headers.get("requestid", port)
        connection = self._connections.setdefault(request, _Connection(int(port)))
        if kind == "error":
            connection.error = frame.stream
        else:
            connection.data = frame.stream
            self._by_data[frame.stream] = connection
        await self._send(self._writer.syn_reply(frame.stream))
        if connection.error and connection.data:
            del self._connections[request]
            task = asyncio.create_task(self._join(connection), name=f"port-forward {self._pod}:{port}")
            connection.task = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join(self, connection: _Connection) -> None:
        try:
            reader, writer = await self._runtime.connect(self._namespace, self._pod, connection.port)
        except (ConnectionError, OSError, KeyError) as fault:
            text = f"error forwarding port {connection.port} to pod {self._pod}, uid : {fault}"
            await self._send(self._writer.data(connection.error, text.encode(), last=True))
            await self._send(self._writer.reset(connection.data))
            self._by_data.pop(connection.data, None)
            return
        sending = asyncio.create_task(self._towards_the_pod(connection, writer))
        try:
            while chunk := await reader.read(_CHUNK):
                await self._send(self._writer.data(connection.data, chunk))
            await self._send(self._writer.data(connection.data, b"", last=True))
            await self._send(self._writer.data(connection.error, b"", last=True))
        except (ConnectionResetError, BrokenPipeError):
            with contextlib.suppress(ConnectionResetError):
                await self._send(self._writer.reset(connection.data))
                await self._send(self._writer.data(connection.error, b"", last=True))
        finally:
            self._by_data.pop(connection.data, None)
            while not connection.incoming.empty():  # the receiving loop may wait for room
                connection.incoming.get_nowait()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    @staticmethod
    async def _towards_the_pod(connection: _Connection, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while (data := await connection.incoming.get()) is not None:
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def _send(self, data: bytes) -> None:
        # Written in one step, before anything else can be: frames and their compressed headers stay in order.
        await self._socket.send_bytes(data)
