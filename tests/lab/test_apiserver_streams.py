"""exec, port-forward and logs, frame by frame, against real processes and a real listener."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from fix_apiserver import ADMIN, Api, cleanly
from kubernetes import client, config
from kubernetes.stream import stream

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
Socket = aiohttp.ClientWebSocketResponse


def connect(api: Api, path: str, protocol: str, talk: Callable[[Socket], Awaitable[Any]]) -> Any:
    """Open a WebSocket on a subresource of the pod `p`, and talk."""

    async def go() -> Any:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session,
            session.ws_connect(
                f"{api.url}/api/v1/namespaces/default/pods/p/{path}", protocols=(protocol,), ssl=trust, max_msg_size=0
            ) as socket,
        ):
            assert socket.protocol == protocol
            return await asyncio.wait_for(talk(socket), 60)

    return asyncio.run(cleanly(go()))


async def read_all(socket: Socket) -> dict[int, bytes]:
    """Every channel's bytes, until the server closes."""
    channels: dict[int, bytes] = {}
    async for message in socket:
        channels[message.data[0]] = channels.get(message.data[0], b"") + message.data[1:]
    return channels


def run(api: Api, script: str, *, protocol: str = V5, stdin: bytes | None = None) -> dict[int, bytes]:
    """Run a shell script in the pod; what came on each channel."""

    async def talk(socket: Socket) -> dict[int, bytes]:
        if stdin is not None:
            await socket.send_bytes(b"\x00" + stdin)
            await socket.send_bytes(b"\xff\x00")
        return await read_all(socket)

    given = "&stdin=true" if stdin is not None else ""
    path = f"exec?command=sh&command=-c&command={quote(script)}&stdout=1&stderr=1{given}"
    answered: dict[int, bytes] = connect(api, path, protocol, talk)
    return answered


def test_exec_keeps_the_streams_apart_and_says_success(api: Api) -> None:
    api.pod("p")
    channels = run(api, "echo out; echo err >&2")
    assert (channels[1], channels[2]) == (b"out\n", b"err\n")
    assert json.loads(channels[3])["status"] == "Success"


@pytest.mark.parametrize("protocol", [V4, V5])
def test_exec_gives_the_exit_code_as_kubernetes_does(api: Api, protocol: str) -> None:
    api.pod("p")
    status = json.loads(run(api, "exit 7", protocol=protocol)[3])
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


def test_exec_ends_stdin_in_v5(api: Api) -> None:
    api.pod("p")
    channels = run(api, "wc -c", stdin=b"x" * 100_000)
    assert channels[1].strip() == b"100000"


def test_exec_carries_much_data_unharmed(api: Api) -> None:
    api.pod("p")
    channels = run(api, "yes déjà-vu | head -c 8000000")
    assert len(channels[1]) == 8_000_000 and channels[1].startswith("déjà-vu\n".encode())


def test_a_client_that_hangs_up_leaves_no_process(api: Api) -> None:
    api.pod("p")
    async def talk(socket: Socket) -> int:
        message = await socket.receive()
        return int(message.data[1:])

    path = "exec?command=sh&command=-c&command=echo%20$$;exec%20sleep%20600&stdout=1"
    pid = connect(api, path, V5, talk)

    async def gone() -> None:
        while True:
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    if stat.read().rpartition(")")[2].split()[0] == "Z":
                        return
            except FileNotFoundError:
                return
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(gone(), 30))


def refusal(api: Api, path: str, protocol: str = V5) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        connect(api, path, protocol, read_all)
    return refused.value.status


def test_exec_is_refused_before_anything_starts(api: Api) -> None:
    assert refusal(api, "exec?command=id&stdout=1") == 404
    api.pod("p")
    assert refusal(api, "exec?stdout=1") == 400
    assert refusal(api, "exec?command=id&stdout=1&container=other") == 400
    assert refusal(api, "exec?command=id&stdout=1", "v1.other") == 400
    api.pod_phase("p", "Succeeded")
    assert refusal(api, "exec?command=id&stdout=1") == 400


def test_port_forward_joins_the_port(api: Api, listening: tuple[int, list[bytes]]) -> None:
    api.pod("p")
    port, heard = listening

    async def talk(socket: Socket) -> list[bytes]:
        frames = [(await socket.receive()).data for _ in range(2)]
        await socket.send_bytes(b"\x00hello")
        frames.append((await socket.receive()).data)
        return frames

    frames = connect(api, f"portforward?ports={port}", V4, talk)
    assert frames == [struct.pack("<BH", 0, port), struct.pack("<BH", 1, port), b"\x00HELLO"]
    assert heard == [b"hello"]


def test_port_forward_tells_why_nobody_answers(api: Api) -> None:
    api.pod("p")
    channels = connect(api, "portforward?ports=1", V4, read_all)
    assert channels[0] == struct.pack("<H", 1)
    assert b"error forwarding port 1 to pod p" in channels[1]
    assert refusal(api, "portforward?ports=x", V4) == 400
    assert refusal(api, "portforward?ports=1", "SPDY/3.1+portforward.k8s.io") == 400


def test_the_official_clients_stream_agrees(api: Api) -> None:
    api.pod("p")
    with config.new_client_from_config(str(api.kubeconfig), context="lab-admin") as connection:
        opened = stream(
            client.CoreV1Api(connection).connect_get_namespaced_pod_exec, "p", "default",
            command=["sh", "-c", "echo out; echo err >&2; exit 3"], stdout=True, stderr=True, stdin=False, tty=False,
            _preload_content=False,
        )  # fmt: skip
        opened.run_forever(timeout=30)
        assert (opened.read_stdout(), opened.read_stderr(), opened.returncode) == ("out\n", "err\n", 3)
        # Its own close() leaves the socket open once the server has said goodbye.
        opened.sock.shutdown()


def log(api: Api, query: str = "") -> tuple[int, bytes]:
    async def go() -> tuple[int, bytes]:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session,
            session.get(f"{api.url}/api/v1/namespaces/default/pods/p/log{query}", ssl=trust) as response,
        ):
            return response.status, await response.read()

    return asyncio.run(cleanly(go()))


def test_logs_by_the_line(api: Api) -> None:
    lines = [f"line {number} {'x' * 100}\n".encode() for number in range(2000)]
    api.pod("p", log=b"".join(lines))
    assert log(api) == (200, b"".join(lines))
    assert log(api, "?tailLines=0") == (200, b"")
    assert log(api, "?tailLines=1") == (200, lines[-1])
    assert log(api, "?tailLines=1500") == (200, b"".join(lines[-1500:]))
    assert log(api, "?tailLines=9999") == (200, b"".join(lines))
    assert log(api, "?limitBytes=6") == (200, b"line 0")


def test_a_last_line_without_newline_is_kept(api: Api) -> None:
    api.pod("p", log=b"one\ntwo")
    assert log(api, "?tailLines=1") == (200, b"two")


def test_logs_that_cannot_be_had(api: Api) -> None:
    assert log(api)[0] == 404
    api.pod("p", log=b"one\n")
    for query in ("?previous=true", "?container=other", "?tailLines=-1", "?timestamps=true"):
        assert log(api, query)[0] == 400
    (api.folder / "default.p.main.log").unlink()
    status, said = log(api)
    assert status == 400 and b"waiting to start" in said
