"""What goes wrong between a client and a real API server, on demand: refusals, lost answers, and a server that is away.

It acts on requests from outside alone; the lab's own controllers are not held up.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from drillbook_lab.api.errors import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHANGES = "POST|PUT|PATCH|DELETE"
# Asked only to be answered, and nothing of it is stored.
_REVIEWS = re.compile(r"/(selfsubjectaccessreviews|selfsubjectreviews|tokenreviews|subjectaccessreviews)\Z")
# What a repeated request says otherwise: times, and the version that it depends on.
_VOLATILE = re.compile(rb'\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+\d\d:\d\d)|"resourceVersion": ?"\d+"')


@dataclass
class Rule:
    """Which requests are interfered with, and how.

    ``when``: "before" (answered with ``status``, nothing is done), "after" (done, and then answered so), "lost"
    (done, and the connection is closed without an answer), "slow" (done, and answered ``seconds`` later). ``times``:
    how many requests at most, 0: all. ``every``: each n-th of them. ``once_each``: a request that is repeated, with
    what it sends but for times and versions, is let pass. ``skip``: so many pass first.
    """

    method: str = CHANGES
    path: str = ""
    status: int = 503
    when: str = "before"
    times: int = 1
    every: int = 1
    retry_after: str = ""
    message: str = "the server is currently unable to handle the request"
    once_each: bool = False
    skip: int = 0
    seconds: float = 0.0
    seen: int = 0
    done: int = 0
    last: int = 0  # the place, among the requests seen, of the last one that was disturbed
    known: set[tuple[str, str, bytes]] = field(default_factory=set)

    def takes(self, request: web.Request, body: bytes) -> bool:
        """Whether this request is one of them; counts it."""
        if not re.fullmatch(self.method, request.method) or not re.search(self.path, request.path):
            return False
        if _REVIEWS.search(request.path) or (self.times and self.done >= self.times):
            return False
        one = (request.method, request.path_qs, _VOLATILE.sub(b"", body))
        if self.once_each and one in self.known:
            return False
        self.known |= {one} if self.once_each else set()
        self.seen += 1
        if self.seen <= self.skip or self.seen % self.every:
            return False
        self.done += 1
        self.last = self.seen
        return True


class Interference:
    """The rules in force; the first that takes a request decides. ``paused``: none does, and nothing is counted."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.paused = False

    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle the request, or disturb it."""
        if self.paused:
            return await handler(request)
        body = await request.read() if any(rule.once_each for rule in self.rules) else b""
        rule = next((rule for rule in self.rules if rule.takes(request, body)), None)
        if rule is None:
            return await handler(request)
        if rule.when == "slow":
            answer = await handler(request)
            await asyncio.sleep(rule.seconds)
            return answer
        if rule.when != "before":
            await handler(request)
        if rule.when == "lost":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        said = ApiError(
            rule.status, "ServiceUnavailable" if rule.status == 503 else "InternalError", rule.message
        ).to_status()
        return web.json_response(
            said, status=rule.status, headers={"Retry-After": rule.retry_after} if rule.retry_after else {}
        )


INTERFERENCE = web.AppKey("interference", Interference)
