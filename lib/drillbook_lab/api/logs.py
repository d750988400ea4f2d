"""`pods/log`: a container's output, from its file, to the end or as it grows."""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO

from aiohttp import web

from drillbook_lab.api import errors, log_times
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.requests import flag
from drillbook_lab.api.runtime import PodRuntime

_CHUNK = 64 * 1024
_POLL = 0.05


def container_of(pod: Object, asked: str | None) -> str:
    """The container that is meant; 400 if the name is wrong, or missing where it is needed."""
    spec = pod.get("spec") or {}
    name = pod["metadata"]["name"]
    regular = [container["name"] for container in spec.get("containers") or ()]
    every = regular + [container["name"] for container in spec.get("initContainers") or ()]
    if asked:
        if asked not in every:
            raise errors.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(regular) != 1:
        listed = " ".join(regular)
        raise errors.bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]")
    return str(regular[0])


async def serve_log(
    registry: Registry, runtime: PodRuntime, request: web.Request, namespace: str, name: str
) -> web.StreamResponse:
    """Answer a request for a log."""
    pod = registry.get("Pod", namespace, name)
    container = container_of(pod, request.query.get("container"))
    previous = flag(request, "previous")
    since = log_times.since(request.query.get("sinceSeconds", ""), request.query.get("sinceTime", ""))
    stamped = flag(request, "timestamps")
    tail = _number(request, "tailLines")
    limit = _number(request, "limitBytes")
    try:
        path = runtime.log_path(namespace, name, container)
        if previous:
            path = path.with_suffix(".previous.log")
        file = await asyncio.to_thread(path.open, "rb")
    except (KeyError, FileNotFoundError):
        if previous:
            raise errors.bad_request(f'previous terminated container "{container}" in pod "{name}" not found') from None
        raise errors.bad_request(
            f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
        ) from None
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    with file:
        clock = log_times.Clock(_started(pod, container))
        if since is not None:
            log_times.seek(file, clock, since)
        if tail is not None:
            _seek_tail(file, tail)
        await response.prepare(request)
        ended = _Ended(registry, pod, container) if flag(request, "follow") and not previous else None
        await _copy(file, response, request, ended, limit, log_times.Stamping(clock) if stamped else None)
    await response.write_eof()
    return response


async def _copy(
    file: BinaryIO,
    response: web.StreamResponse,
    request: web.Request,
    ended: _Ended | None,
    limit: int | None,
    stamping: log_times.Stamping | None,
) -> None:
    left = limit
    while left is None or left > 0:
        # Asked before reading: what was written before the end is then sure to be read after it.
        over = ended is None or ended()
        chunk = file.read(_CHUNK if left is None else min(left, _CHUNK))
        if chunk:
            shown = stamping.stamp(chunk) if stamping is not None else chunk
            shown = shown if left is None else shown[:left]
            await response.write(shown)
            left = None if left is None else left - len(shown)
        elif over or request.transport is None or request.transport.is_closing():
            return
        else:
            await asyncio.sleep(_POLL)


class _Ended:
    """Has this container stopped writing? By the pod's own status, or by its absence."""

    def __init__(self, registry: Registry, pod: Object, container: str) -> None:
        self._registry = registry
        self._pod = pod["metadata"]
        self._container = container
        self._restarts = self._count(pod)

    def __call__(self) -> bool:
        try:
            pod = self._registry.get("Pod", self._pod["namespace"], self._pod["name"])
        except ApiError:
            return True
        if pod["metadata"]["uid"] != self._pod["uid"]:
            return True
        status = pod.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed"):
            return True
        known = _status(pod, self._container)
        # Started again, it writes another file: this one is complete.
        return "terminated" in (known.get("state") or {}) or self._count(pod) != self._restarts

    def _count(self, pod: Object) -> int:
        return int(_status(pod, self._container).get("restartCount", 0))


def _status(pod: Object, container: str) -> Object:
    status = pod.get("status") or {}
    for known in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if known.get("name") == container:
            found: Object = known
            return found
    return {}


def _started(pod: Object, container: str) -> str:
    running = (_status(pod, container).get("state") or {}).get("running") or {}
    return str(running.get("startedAt") or pod["metadata"].get("creationTimestamp") or "")


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise errors.bad_request(f'{name}: Invalid value: "{text}"')
    return int(text)


def _seek_tail(file: BinaryIO, lines: int) -> None:
    """Go to where the last `lines` lines begin, reading backwards, but not before where we are."""
    begin = file.tell()
    position = file.seek(0, os.SEEK_END)
    if lines == 0:
        return
    tail = b""
    # One newline more than lines: the one that ends the line before them.
    while position > begin and tail.count(b"\n", 0, max(0, len(tail) - 1)) < lines:
        step = min(_CHUNK, position - begin)
        position -= step
        file.seek(position)
        tail = file.read(step) + tail
    body = tail[:-1] if tail.endswith(b"\n") else tail
    cut = len(body)
    for _ in range(lines):
        cut = body.rfind(b"\n", 0, cut)
        if cut < 0:
            file.seek(position)
            return
    file.seek(position + cut + 1)
