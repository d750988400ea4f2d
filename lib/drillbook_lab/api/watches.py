"""A watch on the wire: one JSON object a line, for as long as the client wants it."""

from __future__ import annotations

import asyncio
import json
import time

from aiohttp import web

from drillbook_lab.api import errors
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.requests import flag
from drillbook_lab.api.resources import Resource
from drillbook_lab.api.watching import Watch
from drillbook_lab.kubectl import tables

_BOOKMARK_EVERY = 30.0
_LOOK_EVERY = 5.0
_LONGEST = 3600.0


async def serve_watch(
    registry: Registry, request: web.Request, resource: Resource, namespace: str | None
) -> web.StreamResponse:
    """Stream events until the time that was asked for is up, or the client leaves."""
    if flag(request, "sendInitialEvents"):
        why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        raise errors.invalid(
            "ListOptions", "meta.k8s.io", "", [errors.Fault("sendInitialEvents", why, "FieldValueForbidden")]
        )
    labels, fields = request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
    asked = request.query.get("resourceVersion", "")
    if asked and not asked.isdigit():
        raise errors.bad_request(f'resourceVersion: Invalid value: "{asked}"')
    sender = _Sender(registry, request, resource)
    try:
        if asked in ("", "0"):
            present = registry.peek(resource.kind, namespace, labels=labels, fields=fields)
            stream = registry.follow(resource.kind, namespace, labels=labels, fields=fields)
        else:
            present = []
            stream = registry.follow(resource.kind, namespace, since=int(asked), labels=labels, fields=fields)
    except ApiError as error:
        if error.code != 410:
            raise
        # A watch that can't begin where it was asked to says so as its first event, as upstream's cache does.
        await sender.open()
        await sender.send_object("ERROR", error.to_status())
        return await sender.close()
    try:
        await sender.open()
        for obj in present:
            await sender.send_object("ADDED", obj)
        await _forward(stream, sender)
    except ConnectionResetError:
        pass
    finally:
        stream.close()
    return await sender.close()


async def _forward(stream: Watch, sender: _Sender) -> None:
    deadline = time.monotonic() + sender.duration
    bookmark = time.monotonic() + _BOOKMARK_EVERY
    while (left := deadline - time.monotonic()) > 0 and not sender.gone:
        try:
            type_, change = await asyncio.wait_for(anext(stream), min(left, _LOOK_EVERY))
        except TimeoutError:
            pass
        except StopAsyncIteration:
            return
        except ApiError as error:
            await sender.send_object("ERROR", error.to_status())
            return
        else:
            if type_ == change.type:
                await sender.send(type_, change.object, change.encoded)
            else:
                await sender.send_object(type_, change.object)
        if sender.bookmarks and time.monotonic() >= bookmark:
            await sender.send_bookmark()
            bookmark = time.monotonic() + _BOOKMARK_EVERY
    if sender.bookmarks and not sender.gone:
        await sender.send_bookmark()


class _Sender:
    """Writes events, as objects or as one-row tables."""

    def __init__(self, registry: Registry, request: web.Request, resource: Resource) -> None:
        self._registry = registry
        self._request = request
        self._resource = resource
        self._table = tables.wanted(request.headers.get("Accept", ""))
        self._include = request.query.get("includeObject", "Metadata")
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self.bookmarks = flag(request, "allowWatchBookmarks")
        seconds = request.query.get("timeoutSeconds", "")
        self.duration = min(float(seconds), _LONGEST) if seconds.isdigit() and int(seconds) else _LONGEST

    @property
    def gone(self) -> bool:
        """Has the client left?"""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def open(self) -> None:
        """Send the headers at once: clients wait for them before they wait for events."""
        await self._response.prepare(self._request)

    async def close(self) -> web.StreamResponse:
        """End the stream."""
        if not self.gone:
            await self._response.write_eof()
        return self._response

    async def send(self, type_: str, obj: Object, encoded: bytes) -> None:
        """One event whose object is encoded already."""
        if self._table:
            await self.send_object(type_, obj)
        else:
            await self._response.write(b'{"type":"%s","object":%s}\n' % (type_.encode(), encoded))

    async def send_object(self, type_: str, obj: Object) -> None:
        """One event."""
        if self._table and type_ != "ERROR":
            version = int(obj["metadata"]["resourceVersion"])
            obj = tables.table(self._resource, [obj], version, self._include)
        line = json.dumps({"type": type_, "object": obj}, separators=(",", ":"))
        await self._response.write(line.encode() + b"\n")

    async def send_bookmark(self) -> None:
        """How far this watch has come, without an object."""
        version = str(self._registry.version)
        obj: Object = {
            "kind": self._resource.kind,
            "apiVersion": self._resource.api_version,
            "metadata": {"resourceVersion": version, "creationTimestamp": None},
        }
        if self._table:
            obj = tables.table(self._resource, [], self._registry.version, self._include)
        await self._response.write(json.dumps({"type": "BOOKMARK", "object": obj}).encode() + b"\n")
