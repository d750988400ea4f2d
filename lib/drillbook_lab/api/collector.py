"""Deletion: finalizers, owners and their dependents, namespaces and their contents.

On a real cluster this is the garbage collector's and the namespace controller's work, some
moments later; here it happens within the request, so that nothing has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from drillbook_lab.api import strategies
from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.store import Store

_FOREGROUND = "foregroundDeletion"


class Collector:
    """Removes objects, and what must go with them."""

    def __init__(self, store: Store, delete: Callable[..., Object]) -> None:
        self._store = store
        self._delete_by_name = delete

    def delete(self, obj: Object, propagation: str) -> Object:
        """Delete an object, or mark it while finalizers or dependents hold it; its last state."""
        if propagation == "Orphan":
            for dependent in self._store.dependents(obj["metadata"]["uid"]):
                self._disown(dependent, {obj["metadata"]["uid"]})
        elif propagation == "Foreground" and self._blocking(obj):
            marked = self._mark(obj, _FOREGROUND)
            for dependent in self._store.dependents(obj["metadata"]["uid"]):
                self._cascade(dependent, "Foreground")
            return self._current(marked) or marked
        contents = self._contents(obj)
        if contents or obj["metadata"].get("finalizers"):
            marked = self._mark(obj)
            for content in contents:
                self._cascade(content, "Background")
            return self._current(marked) or marked
        return self.remove(obj)

    def remove(self, obj: Object) -> Object:
        """Take out an object that nothing holds any more, then what depended on it."""
        uid = obj["metadata"]["uid"]
        last = self._store.remove(obj)
        for dependent in self._store.dependents(uid):
            self._owner_gone(dependent)
        for reference in obj["metadata"].get("ownerReferences") or ():
            owner = self._store.by_uid(reference["uid"])
            if owner is not None:
                self._release(owner)
        self._finish_namespace(obj["metadata"].get("namespace"))
        return last

    def added(self, obj: Object) -> None:
        """An object whose owners are all gone already doesn't stay; nor one that comes while its owner waits to go."""
        references = obj["metadata"].get("ownerReferences") or ()
        if references:
            self._owner_gone(obj)
        owners = [self._store.by_uid(reference["uid"]) for reference in references]
        if any(owner and _FOREGROUND in (owner["metadata"].get("finalizers") or ()) for owner in owners):
            self._cascade(obj, "Foreground")

    def _owner_gone(self, dependent: Object) -> None:
        current = self._current(dependent)
        if current is None:
            return
        references = current["metadata"].get("ownerReferences") or []
        gone = {ref["uid"] for ref in references if self._store.by_uid(ref["uid"]) is None}
        if not gone:
            return
        if len(gone) == len({ref["uid"] for ref in references}):
            self._cascade(current, "Background")
        else:
            self._disown(current, gone)

    def _cascade(self, obj: Object, propagation: str) -> None:
        current = self._current(obj)
        if current is not None and not current["metadata"].get("deletionTimestamp"):
            self.delete(current, propagation)

    def _disown(self, dependent: Object, uids: set[str]) -> None:
        changed: Object = copy(dependent)
        kept = [ref for ref in changed["metadata"].get("ownerReferences") or () if ref["uid"] not in uids]
        changed["metadata"]["ownerReferences"] = kept
        if not kept:
            del changed["metadata"]["ownerReferences"]
        self._store.put(changed)

    def _blocking(self, owner: Object) -> bool:
        uid = owner["metadata"]["uid"]
        return any(
            reference["uid"] == uid and reference.get("blockOwnerDeletion")
            for dependent in self._store.dependents(uid)
            for reference in dependent["metadata"]["ownerReferences"]
        )

    def _release(self, owner: Object) -> None:
        """Let an owner go whose foreground deletion waited for its dependents."""
        if _FOREGROUND not in (owner["metadata"].get("finalizers") or ()) or self._blocking(owner):
            return
        changed: Object = copy(owner)
        changed["metadata"]["finalizers"].remove(_FOREGROUND)
        stored = self._store.put(changed)
        if not stored["metadata"]["finalizers"]:
            self.remove(stored)

    def _mark(self, obj: Object, finalizer: str = "") -> Object:
        meta = obj["metadata"]
        if meta.get("deletionTimestamp") and (not finalizer or finalizer in meta.get("finalizers", ())):
            return obj
        changed: Object = copy(obj)
        meta = changed["metadata"]
        if not meta.get("deletionTimestamp"):
            meta["deletionTimestamp"] = strategies.now()
            meta["deletionGracePeriodSeconds"] = 0
            if "generation" in meta:
                meta["generation"] += 1
        if finalizer:
            meta.setdefault("finalizers", []).append(finalizer)
        if changed["kind"] == "Namespace":
            changed.setdefault("status", {})["phase"] = "Terminating"
        return self._store.put(changed)

    def _contents(self, obj: Object) -> list[Object]:
        return list(self._store.in_namespace(obj["metadata"]["name"])) if obj["kind"] == "Namespace" else []

    def _finish_namespace(self, name: str | None) -> None:
        namespace = self._store.find("Namespace", "", name) if name else None
        if namespace is None or not namespace["metadata"].get("deletionTimestamp"):
            return
        if not namespace["metadata"].get("finalizers") and not self._contents(namespace):
            self.remove(namespace)

    def _current(self, obj: Object) -> Object | None:
        return self._store.by_uid(obj["metadata"]["uid"])
