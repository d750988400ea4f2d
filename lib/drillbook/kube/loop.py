"""One event loop on one thread for everything that goes over WebSockets.

Callers stay synchronous and may have their own event loop, as a notebook's kernel has.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import aiohttp
from aiohttp import AddrInfoType
from multidict import CIMultiDict
from python_socks import ProxyError

from drillbook.errors import KubernetesError
from drillbook.kube.socks import SocksConnector, kept_alive
from drillbook.kube.transport import HttpAnswer, Transport

T = TypeVar("T")

CONNECT_SECONDS = 20.0
CLOSE_SECONDS = 2.0


class LoopThread:
    """The thread, its loop and its HTTP session; started by the first call, ended by ``close``."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None
        self._ssl: ssl.SSLContext | bool | None = None
        self._ssl_of: object = None  # the configuration that it was made of: renewed credentials are another one
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def _new_socket(self, address: AddrInfoType) -> socket.socket:
        """A socket whose peer is asked now and then whether it is still there.

        WebSocket pings would do it too, but a COPY that pauses does not answer them and would be cut.
        """
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        kept_alive(made)
        self._sockets.add(made)
        return made

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="drillbook-streams", daemon=True)
                self._thread.start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, T], timeout_seconds: float | None = None) -> T:
        """Do ``work`` on the loop and wait for it; TimeoutError after ``timeout_seconds``, and it is cancelled."""
        future = self.start(work, timeout_seconds)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the notebook ends the work as well
            raise

    def start(self, work: Coroutine[Any, Any, T], timeout_seconds: float | None = None) -> Future[T]:
        """Begin ``work`` on the loop; cancelling what is returned cancels it."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_seconds), self._started())

    async def session(self) -> aiohttp.ClientSession:
        """The HTTP session; to be used on the loop only."""
        if self._session is None:
            proxy = self.transport.proxy() or ""
            if proxy.startswith("socks"):
                connector: aiohttp.BaseConnector = SocksConnector(proxy, self._sockets)
            else:
                connector = aiohttp.TCPConnector(limit=0, socket_factory=self._new_socket, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def connect(
        self, path: str, query: dict[str, Any], protocols: tuple[str, ...], *, what: str, patience: float | None = None
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        """Open a WebSocket to ``path``. Raises KubernetesError in the API server's own words.

        Tried again, for ``patience`` seconds at most, only while nothing can have been started (a refused connection,
        429).
        """
        endurance, begun, pause = self.transport.endurance, time.monotonic(), 0.2
        limit = min(endurance.patience_seconds if patience is None else patience, endurance.patience_seconds)
        while True:
            try:
                return await self._connect_once(path, query, protocols, what)
            except KubernetesError as error:
                away = time.monotonic() - begun
                if not (error.undone and endurance.answered) or away + pause > limit:
                    raise
                if away > 1:
                    endurance.say(error.what, away)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _connect_once(
        self, path: str, query: dict[str, Any], protocols: tuple[str, ...], what: str
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        transport = self.transport
        try:
            who = await asyncio.to_thread(transport.headers)
            try:
                return await self._open(path, query, protocols, who)
            except aiohttp.WSServerHandshakeError as error:
                if error.status != 401 or not await asyncio.to_thread(transport.renew, who):
                    raise
                return await self._open(path, query, protocols, await asyncio.to_thread(transport.headers))
        except aiohttp.WSServerHandshakeError as error:
            raise await self._refusal(path, query, error, what) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ProxyError) as error:
            raise transport.no_answer(what, error, True) from error

    async def _open(
        self, path: str, query: dict[str, Any], protocols: tuple[str, ...], who: Sequence[tuple[str, str]]
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        transport = self.transport
        session = await self.session()
        if self._ssl is None or self._ssl_of is not transport.configuration:
            self._ssl, self._ssl_of = transport.ssl_context(), transport.configuration
        proxy = transport.proxy()
        return await asyncio.wait_for(
            session.ws_connect(
                transport.url(path, query),
                protocols=protocols,
                headers=CIMultiDict(who),
                proxy=None if proxy is None or proxy.startswith("socks") else proxy,  # SOCKS is the connector's
                proxy_headers=transport.configuration.proxy_headers,
                ssl=self._ssl,
                server_hostname=transport.configuration.tls_server_name or None,
                autoclose=True,
                autoping=True,
                heartbeat=None,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                max_msg_size=0,
            ),
            CONNECT_SECONDS,
        )

    async def _refusal(
        self, path: str, query: dict[str, Any], error: aiohttp.WSServerHandshakeError, what: str
    ) -> KubernetesError:
        """A refused handshake has no body; the same address read without an upgrade has, and starts nothing."""
        try:
            await asyncio.to_thread(self.transport.call, "GET", path, what=what, query=query)
        except KubernetesError as again:
            if again.status == error.status:
                return again
        return self.transport.refused(what, HttpAnswer(error.status, error.message, b""), False)

    async def _end(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self._sockets_closed()
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _sockets_closed(self) -> None:
        # TLS says goodbye and waits for the answer; aiohttp doesn't wait for that, and a loop that ends before it
        # would leave the descriptor open. A peer that does not answer is not waited for long.
        for patience in (CLOSE_SECONDS, 0.0):
            deadline = time.monotonic() + patience
            while open_ones := [made for made in list(self._sockets) if made.fileno() >= 0]:
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.005)
            for made in open_ones:
                with contextlib.suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0)

    def close(self) -> None:
        """End all work, the session, the loop and the thread; safe to call twice."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(CONNECT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
