"""Probes as the kubelet makes them: a real request, a real connection, or PostgreSQL's own answer."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from drillbook_lab.api.errors import Object

Probe = Callable[[], Awaitable[str]]
"""Asks once; an empty answer is success, else what was wrong."""


def server_probe(socket: Path) -> Probe:
    """PostgreSQL answers on its socket."""

    async def ask() -> str:
        return "" if await accepts_connections(socket) else "HTTP probe failed with statuscode: 500"

    return ask


def declared_probe(probe: Object, container: Object, address: str) -> Probe | None:
    """The probe that a container declares; None for a kind that the lab doesn't make."""
    timeout = float(probe.get("timeoutSeconds") or 1)
    if "httpGet" in probe:
        action = probe["httpGet"]
        host, port = str(action.get("host") or address), _port(action.get("port"), container)
        return lambda: _http(host, port, action, timeout)
    if "tcpSocket" in probe:
        action = probe["tcpSocket"]
        host, port = str(action.get("host") or address), _port(action.get("port"), container)
        return lambda: _tcp(host, port, timeout)
    return None


def _port(asked: object, container: Object) -> int:
    """A number, or the name of one of the container's ports."""
    for port in container.get("ports") or ():
        if port.get("name") == asked:
            return int(port["containerPort"])
    return int(str(asked))


async def _tcp(host: str, port: int, timeout: float) -> str:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    except TimeoutError:
        return f"dial tcp {host}:{port}: i/o timeout"
    except OSError:
        return f"dial tcp {host}:{port}: connect: connection refused"
    writer.close()
    return ""


async def _http(host: str, port: int, action: Object, timeout: float) -> str:
    path = str(action.get("path") or "/")
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.32", "Accept": "*/*", "Connection": "close"}
    headers.update({entry["name"]: entry["value"] for entry in action.get("httpHeaders") or ()})
    url = f"http://{host}:{port}{path}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
                writer.write("\r\n".join(lines).encode())
                await writer.drain()
                words = (await reader.readline()).split()
            finally:
                writer.close()
    except TimeoutError:
        return f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
    except OSError:
        return f'Get "{url}": dial tcp {host}:{port}: connect: connection refused'
    if len(words) < 2 or not words[1].isdigit():
        return f'Get "{url}": EOF'
    code = int(words[1])
    return "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"


async def follow(probe: Probe, spec: Object, tell: Callable[[bool, str], None], *, waiting_seconds: float) -> None:
    """Ask indefinitely, and tell every change of mind: thresholds and periods are the spec's.

    Until the first success it asks more often than the period says: a lab's pods are ready sooner.
    """
    period, holds = float(spec.get("periodSeconds") or 10), False
    failures_wanted, successes_wanted = int(spec.get("failureThreshold") or 3), int(spec.get("successThreshold") or 1)
    failures = successes = 0
    await asyncio.sleep(float(spec.get("initialDelaySeconds") or 0))
    while True:
        fault = await probe()
        failures, successes = (failures + 1, 0) if fault else (0, successes + 1)
        if holds and failures >= failures_wanted:
            holds = False
            tell(False, fault)
        elif not holds and successes >= successes_wanted:
            holds = True
            tell(True, "")
        elif not holds and fault and failures == failures_wanted:
            tell(False, fault)
        await asyncio.sleep(period if holds else min(waiting_seconds, period))


async def accepts_connections(socket: Path) -> bool:
    """Whether a PostgreSQL server is ready for sessions, by what it answers to a start-up packet."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        body = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0application_name\0probe\0\0"
        writer.write(struct.pack("!I", len(body) + 4) + body)
        answer = await asyncio.wait_for(reader.readexactly(1), 2)
        if answer == b"R":  # authenticated or asked to: leave in good order
            writer.write(b"X" + struct.pack("!I", 4))
            with contextlib.suppress(OSError):
                await writer.drain()
            return True
        return False  # an error: starting up, shutting down, or in recovery without hot standby
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
