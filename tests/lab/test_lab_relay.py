"""The relay by itself: whole streams both ways, half-closed ones too, and cut ones when their backend is lost."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from drillbook_lab.addresses import free_port
from drillbook_lab.proxy import Listener

HERE = "127.0.0.1"


async def listening() -> tuple[asyncio.Server, int]:
    """A server that sends back all it gets, once the client has said that that was all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.read())
            writer.write_eof()
            await writer.drain()
        except OSError:
            pass  # cut: there is nobody to send it back to
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HERE, 0)
    return server, server.sockets[0].getsockname()[1]


def test_everything_arrives_in_both_directions() -> None:
    async def main() -> None:
        server, behind = await listening()
        listener = Listener(HERE, free_port())
        await listener.put([(HERE, behind)], frozenset({HERE}))
        sent = os.urandom(5_000_000)

        async def once() -> bool:
            reader, writer = await asyncio.open_connection(HERE, listener.port)
            writer.write(sent)
            writer.write_eof()
            got = await reader.read()
            writer.close()
            return got == sent

        assert all(await asyncio.gather(*(once() for _ in range(8))))
        while listener.connections:
            await asyncio.sleep(0.01)
        await listener.close()
        server.close()

    asyncio.run(main())


def test_nobody_behind_is_a_refusal_and_a_lost_one_is_a_cut() -> None:
    async def main() -> None:
        server, behind = await listening()
        listener = Listener(HERE, free_port())
        await listener.put([], frozenset())
        try:
            await asyncio.open_connection(HERE, listener.port)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("it listens for nobody")
        await listener.put([(HERE, behind)], frozenset({HERE}))
        reader, writer = await asyncio.open_connection(HERE, listener.port)
        writer.write(b"some")
        while not listener.connections:
            await asyncio.sleep(0.01)
        await listener.put([], frozenset({HERE}))  # not ready any more: who is there stays
        await asyncio.sleep(0.05)
        assert listener.connections == 1
        await listener.put([], frozenset())  # gone
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        await listener.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(8))
def test_who_came_a_moment_before_the_end_is_cut_too(turns: int) -> None:
    """Whether he was accepted, was being connected to somebody, or was connected already."""

    async def main() -> bytes:
        server, behind = await listening()
        listener = Listener(HERE, free_port())
        await listener.put([(HERE, behind)], frozenset({HERE}))
        client = socket.create_connection((HERE, listener.port), 5)
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.close()
        server.close()
        client.setblocking(False)
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 20)
        except ConnectionResetError:
            return b""
        finally:
            client.close()

    assert asyncio.run(main()) == b""
