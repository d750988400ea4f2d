"""Where the objects lie: by kind and name, by uid, and by the uid of their owners.

Stored objects are never written to: a change puts a new object in the old one's place, so
that watchers and history can share them without copying.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.persistence import Journal
from drillbook_lab.api.watching import Change, History

Key = tuple[str, str, str]
"""(kind, namespace or "", name)."""


def key_of(obj: Object) -> Key:
    """Where an object lies."""
    meta = obj["metadata"]
    return obj["kind"], meta.get("namespace") or "", meta["name"]


class Store:
    """All objects, and the changes to them."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._kinds: dict[str, dict[tuple[str, str], Object]] = {}
        self._by_uid: dict[str, Key] = {}
        self._dependents: dict[str, set[Key]] = {}
        self._subscribers: list[Callable[[str, Object], None]] = []
        self._journal: Journal | None = None

    def keep(self, journal: Journal) -> bool:
        """Take over what the journal holds, then write every change to it; whether it held anything.

        What happened before a restart can't be replayed: a watch from an older version gets 410 and lists again.
        """
        self._journal = journal
        version = journal.version
        if not version:
            for objects in self._kinds.values():
                for obj in objects.values():
                    journal.put(key_of(obj), json.dumps(obj, separators=(",", ":")), self.history.version)
            return False
        self._kinds, self._by_uid, self._dependents = {}, {}, {}
        for obj in journal.objects():
            self._index(obj)
        self.history.begin_at(version)
        return True

    def close(self) -> None:
        """Let the journal go; what changes from here on is not kept."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def subscribe(self, callback: Callable[[str, Object], None]) -> None:
        """Be called, synchronously, with a copy of every object that changes."""
        self._subscribers.append(callback)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """The stored object itself: not to be written to."""
        return self._kinds.get(kind, {}).get((namespace, name))

    def of_kind(self, kind: str, namespace: str | None = None) -> list[Object]:
        """All objects of a kind, in the order of namespace and name."""
        return [
            obj
            for (space, _), obj in sorted(self._kinds.get(kind, {}).items())
            if namespace is None or space == namespace
        ]

    def in_namespace(self, namespace: str) -> Iterator[Object]:
        """Everything of every kind in a namespace."""
        for objects in list(self._kinds.values()):
            for (space, _), obj in list(objects.items()):
                if space == namespace:
                    yield obj

    def by_uid(self, uid: str) -> Object | None:
        """The object with that uid, while it exists."""
        key = self._by_uid.get(uid)
        return self.find(*key) if key else None

    def dependents(self, uid: str) -> list[Object]:
        """Objects that name this uid among their owners."""
        found = (self.find(*key) for key in sorted(self._dependents.get(uid, ())))
        return [obj for obj in found if obj is not None]

    def put(self, obj: Object) -> Object:
        """Store a new or changed object under the next version, and tell who listens."""
        key = key_of(obj)
        before = self.find(*key)
        version = self.history.next_version()
        obj["metadata"]["resourceVersion"] = str(version)
        change = Change(version, key[0], key[1], "ADDED" if before is None else "MODIFIED", obj, before)
        if self._journal is not None:  # first: what anybody has seen must be there after a kill
            self._journal.put(key, change.encoded.decode(), version)
        if before is not None:
            self._unlink(before, key)
        self._index(obj)
        self._tell(change)
        return obj

    def _index(self, obj: Object) -> None:
        key = key_of(obj)
        self._kinds.setdefault(key[0], {})[key[1:]] = obj
        self._by_uid[obj["metadata"]["uid"]] = key
        for owner in obj["metadata"].get("ownerReferences") or ():
            self._dependents.setdefault(owner["uid"], set()).add(key)

    def remove(self, obj: Object) -> Object:
        """Take an object out; its last state carries the version of its removal."""
        key = key_of(obj)
        version = self.history.next_version()
        if self._journal is not None:
            self._journal.remove(key, version)
        del self._kinds[key[0]][key[1:]]
        self._by_uid.pop(obj["metadata"]["uid"], None)
        self._unlink(obj, key)
        last: Object = copy(obj)
        last["metadata"]["resourceVersion"] = str(version)
        self._tell(Change(version, key[0], key[1], "DELETED", last, obj))
        return last

    def _unlink(self, obj: Object, key: Key) -> None:
        for owner in obj["metadata"].get("ownerReferences") or ():
            keys = self._dependents.get(owner["uid"])
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._dependents[owner["uid"]]

    def _tell(self, change: Change) -> None:
        self.history.record(change)
        for callback in self._subscribers:
            callback(change.type, copy(change.object))
