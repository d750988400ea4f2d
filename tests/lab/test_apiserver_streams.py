"""exec, port-forward and logs, frame by frame, against real processes and a real listener."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from fix_apiserver import ADMIN, Api, Kubectl, cleanly
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
    assert refusal(api, "portforward?ports=1", "v1.other") == 400


def test_the_official_clients_stream_agrees(api: Api) -> None:
    api.pod("p")
    with config.new_client_from_config(str(api.kubeconfig), context="lab-admin") as connection:
        opened = stream(
            client.CoreV1Api(connection).connect_get_namespaced_pod_exec,
            "p",
            "default",
            command=["sh", "-c", "echo out; echo err >&2; exit 3"],
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            _preload_content=False,
        )
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
    for query in ("?previous=true", "?container=other", "?tailLines=-1", "?sinceSeconds=0", "?sinceTime=yesterday"):
        assert log(api, query)[0] == 400
    (api.folder / "default.p.main.log").unlink()
    status, said = log(api)
    assert status == 400 and b"waiting to start" in said


def test_logs_since_a_time_with_times_and_of_the_run_before(api: Api) -> None:
    old, new = "2020-01-01T00:00:00.5Z", "2099-01-01T00:00:00Z"
    lines = [f'{{"level":"info","ts":"{old}","msg":"a"}}\n', "  and more of it\n", f"{new} late\n", "later\n"]
    api.pod("p", log="".join(lines).encode())
    assert log(api, "?sinceSeconds=60")[1].decode() == "".join(lines[2:])
    assert log(api, "?sinceTime=2019-12-31T00:00:00Z")[1].decode() == "".join(lines)
    assert log(api, "?sinceSeconds=60&tailLines=9")[1].decode() == "".join(lines[2:])
    stamped = log(api, "?timestamps=true")[1].decode().splitlines()
    assert [line.split(" ")[0] for line in stamped] == [
        "2020-01-01T00:00:00.500000Z",
        "2020-01-01T00:00:00.500000Z",
        "2099-01-01T00:00:00.000000Z",
        "2099-01-01T00:00:00.000000Z",
    ]
    assert stamped[1].endswith("  and more of it")
    (api.folder / "default.p.main.previous.log").write_text("before\n")
    assert log(api, "?previous=true") == (200, b"before\n")


def test_a_terminal_is_one(api: Api) -> None:
    api.pod("p")

    async def talk(socket: Socket) -> dict[int, bytes]:
        await socket.send_bytes(b"\x00" + b"read -r word && test -t 0 && echo [$word]; exit 5\nhello\n")
        return await read_all(socket)

    channels = connect(api, "exec?command=sh&stdin=1&stdout=1&tty=1", V5, talk)
    assert b"[hello]\r\n" in channels[1]
    assert json.loads(channels[3])["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]


def test_two_hundred_forwards_at_once_leave_nothing(api: Api) -> None:
    """Descriptors, threads and tasks of the server's process are as many as before."""
    api.pod("p")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    async def opened() -> asyncio.Server:
        return await asyncio.start_server(echo, "127.0.0.1", 0, backlog=300)

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    listener = api.run(opened())
    port = listener.sockets[0].getsockname()[1]

    def left() -> tuple[int, int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count(), api.run(tasks())

    async def go() -> None:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            path = f"{api.url}/api/v1/namespaces/default/pods/p/portforward?ports={port}"
            sockets = await asyncio.gather(*(session.ws_connect(path, protocols=(V4,)) for _ in range(200)))
            for number, socket in enumerate(sockets):
                await socket.send_bytes(b"\x00number %d" % number)
            for number, socket in enumerate(sockets):
                frames = [(await socket.receive()).data for _ in range(3)]
                assert frames[2] == b"\x00NUMBER %d" % number
            await asyncio.gather(*(socket.close() for socket in sockets))

    connect(api, f"portforward?ports={port}", V4, lambda socket: socket.receive())  # what stays for good is there now
    try:
        settled = until_settled(left)
        asyncio.run(cleanly(go()))
        after = until_settled(left, settled)
        # Fewer is no leak: a connection of before may close only now.
        assert all(now <= was for now, was in zip(after, settled, strict=True)), (after, settled)
    finally:
        listener.close()


def until_settled(look: Callable[[], tuple[int, ...]], most: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """What is left once it no longer changes, or is no more than `most`; connections take a moment to close."""
    seen, same = look(), 0
    for _ in range(600):
        time.sleep(0.05)
        found = look()
        same = same + 1 if found == seen else 0
        seen = found
        if (most is None and same > 10) or (most and all(now <= was for now, was in zip(seen, most, strict=True))):
            break
    return seen


@pytest.fixture
def forwarded(api: Api, kubectl: Kubectl) -> Callable[[str], tuple[subprocess.Popen[str], int]]:
    """kubectl port-forward to port 5432 of what is named, and the local port that it took."""
    running: list[subprocess.Popen[str]] = []

    def start(target: str) -> tuple[subprocess.Popen[str], int]:
        process = kubectl.start("port-forward", target, ":5432")
        running.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("Forwarding from 127.0.0.1:"), said
        return process, int(said.split(":")[1].split()[0])

    yield start  # type: ignore[misc]
    for process in running:
        process.terminate()
        process.communicate()


def serving(api: Api) -> tuple[asyncio.Server, int]:
    """A server in the pod that answers one request with how much it was, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the end: half-closed connections pass
        writer.write(b"%d %s" % (len(data), hashlib.sha256(data).hexdigest().encode()))
        await writer.drain()
        writer.close()

    async def opened() -> asyncio.Server:
        return await asyncio.start_server(answer, "127.0.0.1", 0)

    listener = api.run(opened())
    return listener, listener.sockets[0].getsockname()[1]


def asked(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


@pytest.mark.parametrize("target", ["pod/p", "service/s", "deployment/d"])
def test_kubectl_forwards(api: Api, forwarded: Any, target: str) -> None:
    """Several connections, one after the other and at once, megabytes and half-closed ends."""
    api.pod("p", labels={"app": "x"})
    api.do(
        api.registry.create,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": {"app": "x"}, "ports": [{"port": 5432, "targetPort": 5432}]},
        },
    )
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    api.do(
        api.registry.create,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template},
        },
    )
    listener, inner = serving(api)
    api.pods.ports[5432] = inner
    _, port = forwarded(target)
    body = os.urandom(3_000_000)
    wanted = b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode())
    assert asked(port, b"x") == b"1 " + hashlib.sha256(b"x").hexdigest().encode()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: asked(port, body), range(8))) == {wanted}
    listener.close()


def test_kubectl_is_told_that_nobody_listens(api: Api, forwarded: Any) -> None:
    api.pod("p")
    api.pods.ports[5432] = 1
    process, port = forwarded("pod/p")
    with contextlib.suppress(ConnectionError):
        asked(port, b"x")
    while "error forwarding port 5432 to pod p" not in (said := process.stdout.readline()):
        assert said, "kubectl ended silently"


def test_kubectl_execs_and_copies(api: Api, kubectl: Kubectl, tmp_path: Path) -> None:
    """stdin, exit codes, and files both ways, by the tar in the pod."""
    api.pod("p")
    assert kubectl("exec", "-i", "p", "--", "wc", "-c", stdin="12345").strip() == "5"
    assert "exit code 3" in kubectl("exec", "p", "--", "sh", "-c", "exit 3", code=3)
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(os.urandom(1_000_000))
    (source / "two").write_text("2")
    kubectl("cp", str(source), f"default/p:{tmp_path}/inside")
    kubectl("cp", f"default/p:{tmp_path}/inside", str(tmp_path / "back"))
    assert (tmp_path / "back" / "one").read_bytes() == (source / "one").read_bytes()
    assert (tmp_path / "back" / "two").read_text() == "2"
