"""WebSockets by a SOCKS5 bastion (``proxy-url: socks5://…``), which resolves the API server's name, as for kubectl."""

from __future__ import annotations

import socket
from collections.abc import MutableSet
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from python_socks.async_.asyncio import Proxy


def kept_alive(made: socket.socket) -> None:
    """Ask the peer now and then whether it is still there."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, option):  # not everywhere under these names
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class _Unresolved(AbstractResolver):
    """Leaves names as they are."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


class SocksConnector(aiohttp.TCPConnector):
    """Connections by one SOCKS5 proxy; ``opened`` receives each socket. TLS is aiohttp's own, with the name it is given."""

    def __init__(self, proxy: str, opened: MutableSet[Any]) -> None:
        super().__init__(limit=0, force_close=True, resolver=_Unresolved(), use_dns_cache=False)
        self._by = Proxy.from_url(proxy.replace("socks5h:", "socks5:", 1), rdns=True)
        self._opened = opened

    async def _wrap_create_connection(self, *args: Any, addr_infos: list[Any], **kwargs: Any) -> Any:
        # The one place where aiohttp (pinned) opens a connection; what it does with it stays its own.
        host, port = addr_infos[0][4][:2]
        made = await self._by.connect(dest_host=host, dest_port=port)
        kept_alive(made)
        self._opened.add(made)
        for name in ("req", "timeout", "client_error"):
            kwargs.pop(name, None)
        return await self._loop.create_connection(*args, **kwargs, sock=made)
