"""What `Registry.watch` gives to the lab's own controllers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.watching import Watch


class Events(AsyncIterator[tuple[str, Object]]):
    """What `Registry.watch` gives: events with copies of the objects. Close it when done."""

    def __init__(self, present: list[Object], stream: Watch) -> None:
        self._present = deque(present)
        self._stream = stream

    async def __anext__(self) -> tuple[str, Object]:
        if self._present:
            return "ADDED", self._present.popleft()
        type_, change = await anext(self._stream)
        return type_, copy(change.object)

    async def aclose(self) -> None:
        """Stop following."""
        self._stream.close()
