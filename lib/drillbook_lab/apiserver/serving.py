"""The application on a port: TLS, loopback only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from drillbook_lab.apiserver.tls import ServerTls, make_server_tls

_FAREWELL = 0.5


@dataclass(frozen=True)
class Serving:
    """A server that listens."""

    url: str
    port: int
    tls: ServerTls
    _runner: web.AppRunner
    _listener: asyncio.Server

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
    # Not a TCPSite, which can't say how long a closed connection may wait for its client's farewell.
    listener = await asyncio.get_running_loop().create_server(
        runner.server, host, port, ssl=tls.context(), ssl_shutdown_timeout=_FAREWELL
    )
    actual: int = listener.sockets[0].getsockname()[1]
    return Serving(f"https://{host}:{actual}", actual, tls, runner, listener)
