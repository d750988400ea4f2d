"""The work queue under every controller: one key at a time, coalesced, retried with a growing delay.

Controllers here are level-triggered. An event says only *which* object to look at; the handler reads what
is there now and moves it one step. So an event that is lost, doubled or late does no harm, and a handler that
failed is simply called again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from drillbook_lab.api.errors import ApiError

Key = tuple[str, str, str]
"""Kind, namespace, name."""

Handler = Callable[[str, str], Awaitable[float | None]]
"""Looks at one object; the answer is the number of seconds after which it wants to look again."""

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 5.0


class WorkQueue:
    """Runs handlers for keys: never two at once for the same key, any number for different ones."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._closed = False
        self._held: frozenset[str] = frozenset()
        self._waiting: set[Key] = set()

    def hold(self, kinds: Collection[str]) -> None:
        """Look at nothing of these kinds until they are named no longer; what came in the meantime is looked at then."""
        self._held = frozenset(kinds)
        for key in [key for key in self._waiting if key[0] not in self._held]:
            self._waiting.discard(key)
            self.add(*key)

    def add(self, kind: str, namespace: str, name: str, delay: float = 0.0) -> None:
        """Have the object looked at, now or after a delay; an earlier appointment wins."""
        key = (kind, namespace, name)
        if self._closed or kind not in self._handlers:
            return
        if kind in self._held:
            self._waiting.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if delay > 0:
            due = loop.time() + delay
            if timer is not None:
                if timer.when() <= due:
                    return
                timer.cancel()
            self._timers[key] = loop.call_at(due, self._fire, key)
        elif key in self._running:
            self._again.add(key)
        else:
            self._running[key] = loop.create_task(self._work(key), name=f"reconcile {'/'.join(key)}")

    async def close(self) -> None:
        """Stop: no new work, and what is under way is cancelled and awaited."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(*key)

    async def _work(self, key: Key) -> None:
        kind, namespace, name = key
        try:
            while True:
                self._again.discard(key)
                delay: float | None
                try:
                    delay = await self._handlers[kind](namespace, name)
                    self._failures.pop(key, None)
                except Exception as fault:
                    delay = self._delay_after(key, fault)
                if key not in self._again:
                    break
                await asyncio.sleep(0)  # a handler that never waits must not keep everybody else from working
        finally:
            self._running.pop(key, None)
        if delay is not None:
            # A handler that wants to look again at once still yields to the loop first.
            self.add(kind, namespace, name, max(delay, 0.001))

    def _delay_after(self, key: Key, fault: Exception) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        if isinstance(fault, ApiError) and fault.code in (404, 409):
            # Somebody else was quicker; what is there now is looked at afresh.
            log.debug("%s: %s", "/".join(key), fault)
        else:
            log.warning("%s: attempt %d failed", "/".join(key), failures + 1, exc_info=fault)
        return float(min(_FIRST_RETRY_SECONDS * 2**failures, _LONGEST_RETRY_SECONDS))
