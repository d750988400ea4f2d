"""kube-proxy of the lab: a Service's address and port, relayed to the pods behind it.

It listens only while there is somebody to relay to: without a ready pod a client is refused at once, as on a
cluster. A pod that is gone takes its connections with it; one that is merely unready keeps those it has.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Mapping, Sequence
from typing import cast

log = logging.getLogger(__name__)

Backend = tuple[str, int]
"""A pod's address and port."""

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 10.0
_ACCEPT_TURNS = 4


class _Side(asyncio.BufferedProtocol):
    """One end of a relayed connection: what it reads, the other end writes, no faster than that takes it."""

    def __init__(self, buffer: memoryview) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self.ended = False  # has said all that it had to say
        self._buffer = buffer  # shared: what is read is handed on before anybody else reads

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.other is not None and self.other.transport is not None:
            # A copy: the transport may keep what it can't send at once, and the buffer is read into again.
            self.other.transport.write(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        self.ended = True
        if self.other is None or self.other.transport is None or self.other.ended:
            return False  # both have: `connection_lost` closes the other end too
        self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Front(_Side):
    """The client's end; the backend is chosen when it comes."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.buffer)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not at once: Debian 12's Python 3.11.2 begins to read after this call, whatever it did.
        asyncio.get_running_loop().call_soon(cast("asyncio.Transport", transport).pause_reading)
        self._listener.accepted(self)


class Listener:
    """One port of one Service."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.backends: Sequence[Backend] = ()
        self.buffer = memoryview(bytearray(_CHUNK))
        self._server: asyncio.Server | None = None
        self._pairs: dict[_Side, Backend] = {}
        self._opening: dict[asyncio.Task[None], _Side] = {}

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    async def put(self, backends: Sequence[Backend], known: frozenset[str]) -> None:
        """Relay new connections to these; cut those whose pod's address isn't `known` any more."""
        self.backends = tuple(backends)
        for front, (address, _) in list(self._pairs.items()):
            if address not in known:
                _abort(front)
        if self.backends and self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Front(self), self.address, self.port, backlog=256)
        elif not self.backends and self._server is not None:
            closing, self._server = self._server, None
            for listening in closing.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            # asyncio forgets who is between accepted and told to us when its server is closed, and leaves him open.
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            closing.close()

    async def close(self) -> None:
        """Stop listening, and cut every connection."""
        await self.put((), frozenset())
        opening = dict(self._opening)
        for task, front in opening.items():
            task.cancel()
            _abort(front)  # nobody is behind it yet who could close it
        await asyncio.gather(*opening, return_exceptions=True)
        for front in list(self._pairs):  # whoever was connected while the listening ended
            _abort(front)

    def accepted(self, front: _Side) -> None:
        """A client has come."""
        task = asyncio.get_running_loop().create_task(self._open(front))
        self._opening[task] = front
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    async def _open(self, front: _Side) -> None:
        assert front.transport is not None  # noqa: S101 - it has been accepted
        loop = asyncio.get_running_loop()
        for backend in random.sample(self.backends, len(self.backends)):
            try:
                _, back = await asyncio.wait_for(loop.create_connection(self._side, *backend), _CONNECT_SECONDS)
            except (OSError, TimeoutError) as fault:
                log.debug("%s:%d: %s:%d: %s", self.address, self.port, *backend, fault)
                continue
            if front.transport.is_closing():
                _abort(back)
                return
            front.other, back.other = back, front
            self._pairs[front] = backend
            front.closed.add_done_callback(lambda _: self._pairs.pop(front, None))
            front.transport.resume_reading()
            return
        front.transport.abort()

    def _side(self) -> _Side:
        return _Side(self.buffer)


def _abort(side: _Side) -> None:
    for end in (side, side.other):
        if end is not None and end.transport is not None:
            end.transport.abort()


class ServiceProxy:
    """All listeners, by Service."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[tuple[str, int], Listener]] = {}  # by the Service's uid

    async def put(self, uid: str, address: str, ports: Mapping[int, Sequence[Backend]], known: frozenset[str]) -> None:
        """One Service's ports and who is behind each; `known`: addresses whose pods still exist."""
        listeners = self._listeners.setdefault(uid, {})
        for key in [key for key in listeners if key[0] != address or key[1] not in ports]:
            await listeners.pop(key).close()
        for port, backends in ports.items():
            listener = listeners.setdefault((address, port), Listener(address, port))
            await listener.put(backends, known)

    async def forget(self, uid: str) -> None:
        """A Service is gone."""
        for listener in self._listeners.pop(uid, {}).values():
            await listener.close()

    def services(self) -> set[str]:
        """The uids of the Services that are known here."""
        return set(self._listeners)

    async def close(self) -> None:
        """Close everything."""
        for uid in list(self._listeners):
            await self.forget(uid)
