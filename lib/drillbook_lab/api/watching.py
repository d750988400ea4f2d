"""The history of changes, and those who follow it.

Events are kept for a while, so that a client can go on from the version it has seen; a
watcher that falls too far behind is cut off with 410 and has to list again, as etcd's
compaction does to it on a real cluster.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property

from drillbook_lab.api.errors import Object, expired, too_large
from drillbook_lab.api.selectors import Predicate


@dataclass(frozen=True)
class Change:
    """One stored change; objects in it are shared and never written to again."""

    version: int
    kind: str
    namespace: str
    type: str
    object: Object
    before: Object | None

    @cached_property
    def encoded(self) -> bytes:
        """The object as JSON, encoded once however many watch it."""
        return json.dumps(self.object, separators=(",", ":")).encode()


class Watch(AsyncIterator[tuple[str, Change]]):
    """One follower. Iterating gives (event type as this follower sees it, change)."""

    def __init__(self, history: History, kind: str, namespace: str | None, wanted: Predicate, limit: int) -> None:
        self._history = history
        self._kind = kind
        self._namespace = namespace
        self._wanted = wanted
        self._limit = limit
        self._pending: deque[tuple[str, Change]] = deque()
        self._wake = asyncio.Event()
        self._overrun = False
        self._closed = False

    def offer(self, change: Change) -> None:
        """Queue a change if it concerns this follower."""
        if change.kind != self._kind or (self._namespace is not None and change.namespace != self._namespace):
            return
        if self._overrun or self._closed:
            return
        # An object that leaves the selection is gone for this follower, one that enters it is new.
        now = change.type != "DELETED" and self._wanted(change.object)
        was = change.before is not None and self._wanted(change.before)
        if not now and not was:
            return
        if len(self._pending) >= self._limit:
            self._overrun = True
            self._pending.clear()
        else:
            self._pending.append(("MODIFIED" if now and was else "ADDED" if now else "DELETED", change))
        self._wake.set()

    async def __anext__(self) -> tuple[str, Change]:
        while True:
            if self._overrun:
                self.close()
                raise expired(0, self._history.version)
            if self._pending:
                return self._pending.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        """Stop following; an iteration that waits ends."""
        self._closed = True
        self._history.forget(self)
        self._wake.set()


class History:
    """The server's one counter of versions, its recent changes and its followers."""

    def __init__(self, *, keep: int = 8192, keep_bytes: int = 32 << 20, watcher_limit: int = 4096) -> None:
        self.version = 1
        self._changes: deque[Change] = deque()
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._bytes = 0
        self._dropped_up_to = 0
        self._watches: list[Watch] = []
        self._watcher_limit = watcher_limit

    def next_version(self) -> int:
        """Take the next resource version."""
        self.version += 1
        return self.version

    def begin_at(self, version: int) -> None:
        """Go on after a restart: what was before it can't be replayed."""
        self.version = self._dropped_up_to = version
        self._changes.clear()
        self._bytes = 0

    def record(self, change: Change) -> None:
        """Keep a change and tell everybody who follows."""
        self._changes.append(change)
        self._bytes += len(change.encoded)
        while len(self._changes) > self._keep or (self._bytes > self._keep_bytes and len(self._changes) > 1):
            dropped = self._changes.popleft()
            self._bytes -= len(dropped.encoded)
            self._dropped_up_to = dropped.version
        for watch in tuple(self._watches):
            watch.offer(change)

    def follow(self, kind: str, namespace: str | None, wanted: Predicate, since: int) -> Watch:
        """Follow from just after a version on; 410 when the history no longer reaches back that far."""
        if since < self._dropped_up_to:
            raise expired(since, self._dropped_up_to)
        if since > self.version:
            raise too_large(since, self.version)
        watch = Watch(self, kind, namespace, wanted, self._watcher_limit)
        self._watches.append(watch)
        # A history longer than the queue is replayed whole: the limit is there for slow readers.
        late = itertools.dropwhile(lambda change: change.version <= since, self._changes)
        watch._limit, limit = len(self._changes) + 1, watch._limit
        for change in late:
            watch.offer(change)
        watch._limit = max(limit, len(watch._pending) + 1)
        return watch

    def since(self, version: int) -> list[Change]:
        """The changes after a version, newest first; 410 when the history no longer reaches back that far."""
        if version < self._dropped_up_to:
            raise expired(version, self._dropped_up_to)
        return list(itertools.takewhile(lambda change: change.version > version, reversed(self._changes)))

    def forget(self, watch: Watch) -> None:
        """Drop a follower."""
        if watch in self._watches:
            self._watches.remove(watch)
