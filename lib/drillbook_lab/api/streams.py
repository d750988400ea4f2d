"""`pods/exec` and `pods/portforward` over WebSocket, as kubelet and API server speak them.

Every frame begins with the number of its channel. For exec: 0 stdin, 1 stdout, 2 stderr,
3 the final Status, 4 resize, and since v5 255, which closes a channel (the end of stdin).
For port-forward: channel 2n carries the n-th port's data, 2n+1 its errors, and the first
frame on each names the port. kubectl's own port-forward tunnels SPDY instead: `tunnel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct

from aiohttp import WSMsgType, web

from drillbook_lab.api import errors
from drillbook_lab.api.errors import Object
from drillbook_lab.api.logs import container_of
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.requests import flag
from drillbook_lab.api.runtime import PodRuntime
from drillbook_lab.kubectl import tunnel

_EXEC_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_FORWARD_PROTOCOLS = (tunnel.PROTOCOL, "v4.channel.k8s.io", "portforward.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_CHUNK = 64 * 1024


def _websocket(request: web.Request, protocols: tuple[str, ...], what: str) -> web.WebSocketResponse:
    """The socket for an upgrade; 400, before anything is started, if the client wants another protocol."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise errors.bad_request(
            f"unable to upgrade: {what} is served over WebSocket ({' or '.join(protocols)}), not over bare SPDY or "
            "plain HTTP"
        )
    offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if part.strip()]
    if offered and not set(offered) & set(protocols):
        raise errors.bad_request(
            f"unable to upgrade: {what} speaks {' or '.join(protocols)}, the client offers {', '.join(offered)}"
        )
    return web.WebSocketResponse(protocols=protocols, max_msg_size=0, compress=False)


def _running(registry: Registry, namespace: str, name: str) -> Object:
    pod = registry.get("Pod", namespace, name)
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise errors.bad_request(f"cannot exec into a container in a completed pod; current phase is {phase}")
    if phase != "Running":
        raise errors.bad_request(f"pod {name} is not running; current phase is {phase}")
    return pod


# -- exec ------------------------------------------------------------------------------------


async def serve_exec(
    registry: Registry, runtime: PodRuntime, request: web.Request, namespace: str, name: str
) -> web.StreamResponse:
    """Run a command in a container, its streams over the socket, its exit code as a Status."""
    pod = _running(registry, namespace, name)
    container = container_of(pod, request.query.get("container"))
    command = request.query.getall("command", [])
    if not command:
        raise errors.bad_request("you must specify at least 1 command for the container")
    stdin, tty = flag(request, "stdin"), flag(request, "tty")
    if not (stdin or flag(request, "stdout") or flag(request, "stderr")):
        raise errors.bad_request("you must specify at least 1 of stdin, stdout, stderr")
    socket = _websocket(request, _EXEC_PROTOCOLS, "exec")
    await socket.prepare(request)
    try:
        process = await runtime.exec(namespace, name, container, command, stdin=stdin, tty=tty)
    except KeyError:
        await _finish(socket, _failure(f'container not found ("{container}")'))
        return socket
    except OSError as error:
        await _finish(socket, _failure(f'exec: "{command[0]}": {error.strerror or error}'))
        return socket
    session = _Exec(socket, process, stdin=stdin, stdout=flag(request, "stdout"), stderr=flag(request, "stderr"))
    await session.run()
    return socket


class _Exec:
    """One process and the socket it is joined to."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        process: asyncio.subprocess.Process,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> None:
        self._socket = socket
        self._process = process
        self._wants = {_STDIN: stdin, _STDOUT: stdout, _STDERR: stderr}

    async def run(self) -> None:
        """Until the process has ended and all it wrote is sent, or the client is gone."""
        if not self._wants[_STDIN]:
            self._end_of_input()
        incoming = asyncio.create_task(self._receive())
        outgoing = asyncio.create_task(self._send_all())
        try:
            await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
            if outgoing.done() and not outgoing.cancelled() and outgoing.exception() is None:
                await _finish(self._socket, _exit_status(outgoing.result()))
        finally:
            # A client that hangs up leaves nothing running behind it. First of all and without waiting:
            # this task itself may be cancelled, and more than once.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                # A child of the command may live on and hold the pipes: our ends of them are closed whatever it does.
                self._process._transport.close()  # type: ignore[attr-defined]
            incoming.cancel()
            outgoing.cancel()
            await asyncio.gather(incoming, outgoing, return_exceptions=True)
            await self._process.wait()

    async def _send_all(self) -> int:
        await asyncio.gather(self._send(_STDOUT, self._process.stdout), self._send(_STDERR, self._process.stderr))
        return await self._process.wait()

    async def _send(self, channel: int, stream: asyncio.StreamReader | None) -> None:
        if stream is None:
            return
        while chunk := await stream.read(_CHUNK):
            if self._wants[channel]:
                await self._socket.send_bytes(bytes([channel]) + chunk)

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                data: bytes = message.data
            elif message.type is WSMsgType.TEXT:
                data = message.data.encode()
            else:
                continue
            if data[:1] == bytes([_STDIN]):
                await self._feed(data[1:])
            elif data == bytes([_CLOSE, _STDIN]):
                self._end_of_input()

    async def _feed(self, data: bytes) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.is_closing() or not data:
            return
        # A command may well stop reading before its input ends.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            pipe.write(data)
            await pipe.drain()

    def _end_of_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def _failure(message: str) -> Object:
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "code": 500,
        "message": f"Internal error occurred: {message}",
        "details": {"causes": [{"message": message}]},
    }


def _exit_status(code: int) -> Object:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    # A process that a signal ended shows as a shell would show it.
    shown = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {shown}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(shown)}]},
    }


async def _finish(socket: web.WebSocketResponse, status: Object) -> None:
    with contextlib.suppress(ConnectionResetError):
        await socket.send_bytes(bytes([_STATUS]) + json.dumps(status).encode())
        await socket.close()


# -- port-forward ----------------------------------------------------------------------------


async def serve_forward(
    registry: Registry, runtime: PodRuntime, request: web.Request, namespace: str, name: str
) -> web.StreamResponse:
    """Join ports of a pod to the socket's channels."""
    _running(registry, namespace, name)
    socket = _websocket(request, _FORWARD_PROTOCOLS, "port-forward")
    if tunnel.PROTOCOL in request.headers.get("Sec-WebSocket-Protocol", ""):
        await socket.prepare(request)
        await tunnel.Tunnel(socket, runtime, namespace, name).run()
        return socket
    ports: list[int] = []
    for text in request.query.getall("ports", []):
        for part in text.split(","):
            if not part.isdigit() or not 0 < int(part) < 65536:
                raise errors.bad_request(f"query parameter ports: invalid port {part!r}")
            ports.append(int(part))
    if not ports:
        raise errors.bad_request('query parameter "ports" is required')
    await socket.prepare(request)
    await _Forward(socket, runtime, namespace, name, ports).run()
    return socket


class _Forward:
    """The connections behind one socket."""

    def __init__(
        self, socket: web.WebSocketResponse, runtime: PodRuntime, namespace: str, pod: str, ports: list[int]
    ) -> None:
        self._socket = socket
        self._runtime = runtime
        self._namespace = namespace
        self._pod = pod
        self._ports = ports
        # The client may send before a target has answered: its bytes wait for the connection.
        loop = asyncio.get_running_loop()
        self._writers: list[asyncio.Future[asyncio.StreamWriter]] = [loop.create_future() for _ in ports]

    async def run(self) -> None:
        """Until every port's peer, or the client, has hung up."""
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                await self._socket.send_bytes(struct.pack("<BH", channel, port))
        sending = asyncio.create_task(self._pump_all())
        incoming = asyncio.create_task(self._receive())
        try:
            await asyncio.wait({incoming, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for connected in self._writers:
                if connected.done():
                    connected.result().close()
            incoming.cancel()
            sending.cancel()
            await asyncio.gather(incoming, sending, return_exceptions=True)
            with contextlib.suppress(ConnectionResetError):
                await self._socket.close()

    async def _pump_all(self) -> None:
        await asyncio.gather(*(self._pump(index, port) for index, port in enumerate(self._ports)))

    async def _pump(self, index: int, port: int) -> None:
        try:
            reader, writer = await self._runtime.connect(self._namespace, self._pod, port)
        except (ConnectionError, OSError, KeyError) as error:
            text = f"error forwarding port {port} to pod {self._pod}: {error}"
            with contextlib.suppress(ConnectionResetError):
                await self._socket.send_bytes(bytes([2 * index + 1]) + text.encode())
            return
        self._writers[index].set_result(writer)
        with contextlib.suppress(ConnectionResetError):
            while chunk := await reader.read(_CHUNK):
                await self._socket.send_bytes(bytes([2 * index]) + chunk)

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            index, kind = divmod(message.data[0], 2)
            if kind != 0 or index >= len(self._ports):
                continue
            writer = await self._writers[index]
            writer.write(message.data[1:])
            await writer.drain()
