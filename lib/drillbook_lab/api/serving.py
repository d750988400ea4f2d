"""The application on a port: TLS, loopback only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from drillbook_lab.api.tls import ServerTls, make_server_tls

_FAREWELL = 0.5
_PASSES = 10


@dataclass
class Serving:
    """A server that listens."""

    url: str
    port: int
    tls: ServerTls
    app: web.Application
    _runner: web.AppRunner
    _listener: asyncio.Server
    _host: str

    async def go_away(self, *, draining: bool = False) -> None:
        """Listen no more and break every connection, as a control plane that is down: who comes is refused.

        ``draining``: as behind a load balancer that lets nobody new in, open connections are served on.
        """
        self._listener.close()
        if draining:
            return
        for _ in range(_PASSES):
            for connection in list(self._runner.server.connections if self._runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(0.05)  # whose handshake was under way is known only after it

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        self._listener = await _listen(self._runner, self._host, self.port, self.tls)

    async def close(self) -> None:
        """Stop listening and end every open stream."""
        self._listener.close()
        await self._runner.cleanup()


async def serve(app: web.Application, tls_folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> Serving:
    """Start the application from `build_server`; port 0 takes a free one (kubectl caches by host and port)."""
    tls = make_server_tls(tls_folder)
    # Handlers are cancelled when their client leaves: a watch or a log must not outlive its reader.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the application can't be served: it has not been set up")
    listener = await _listen(runner, host, port, tls)
    actual: int = listener.sockets[0].getsockname()[1]
    return Serving(f"https://{host}:{actual}", actual, tls, app, runner, listener, host)


async def _listen(runner: web.AppRunner, host: str, port: int, tls: ServerTls) -> asyncio.Server:
    assert runner.server is not None  # noqa: S101 - set up before
    # Not a TCPSite, which can't say how long a closed connection may wait for its client's farewell.
    return await asyncio.get_running_loop().create_server(
        runner.server, host, port, ssl=tls.context(), ssl_shutdown_timeout=_FAREWELL
    )
