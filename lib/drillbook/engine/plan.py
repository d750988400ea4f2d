"""What a step would do and to what, and what a run must undo: plain values, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Action:
    """Something that a step acts on, as a confirmation is bound to it: no time, no count, no resource version."""

    verb: str
    kind: str
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.verb} {self.kind} {place}"


@dataclass(frozen=True)
class Plan:
    """What a step would do: in a sentence, as objects for the API server, as SQL, and what else is worth knowing.

    A confirmation covers ``touches``, ``objects`` and ``sql``; ``notes`` and ``lost`` (what can't be restored) are
    for the reader and may hold times and counts. ``outage``: what does not serve while the section is done, and for
    how long if that is known. ``harmless``: there is nothing in it that anybody would have to confirm.
    """

    summary: str
    objects: tuple[dict[str, Any], ...] = ()
    sql: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    touches: tuple[Action, ...] = ()
    lost: tuple[str, ...] = ()
    outage: tuple[str, ...] = ()
    harmless: bool = False


@dataclass(frozen=True)
class Obligation:
    """Something that this run must undo: an object to be deleted, or, with ``undo``, a value to be put back.

    ``undo`` says how without any code of the procedure (see :mod:`drillbook.engine.undo`): ``{"verb": "patch" |
    "scale" | "delete" | "recreate" (with the ``object``), "kind", "namespace", "name", "uid", "patch": the merge
    patch that puts the old value back, "set": the value that this run set}``. ``id`` is ``kind/namespace/name``, with
    the fields that are put back.
    """

    kind: str
    namespace: str
    name: str
    what: str
    undo: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        place = f"{self.kind}/{self.namespace}/{self.name}"
        undo = self.undo or {}
        fields = sorted(_fields(undo.get("set") or undo.get("patch") or {}))
        return f"{place}:{','.join(fields)}" if fields else place


def _fields(patch: Mapping[str, Any], path: str = "") -> list[str]:
    """The fields that a merge patch sets, as ``spec.replicas``."""
    found: list[str] = []
    for key, value in patch.items():
        inner = f"{path}.{key}" if path else key
        found += _fields(value, inner) if isinstance(value, Mapping) and value else [inner]
    return found
