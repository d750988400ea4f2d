"""A scenario of the recordings: what its watches saw, each object whole at every moment, and what was done when."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


@dataclass(frozen=True)
class Seen:
    """One entry of a watch: the object as it was then (for a deletion: as it was last)."""

    at: datetime
    what: str  # ADDED, MODIFIED or DELETED
    kind: str  # as in the object, not the resource's plural
    obj: Object


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def merged(value: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386) applied."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for key, inner in patch.items():
        if inner is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), inner)
    return result


def watched(scenario: Path) -> Iterator[Seen]:
    """The entries of a scenario's `watch.jsonl`, in the order in which they happened."""
    known: dict[tuple[str, str], Object] = {}
    lines = (scenario / "watch.jsonl").read_text(encoding="utf-8").splitlines()
    # The server's own order: the watches of several kinds were written as their answers came.
    for entry in sorted(map(json.loads, lines), key=lambda entry: int(entry["rv"])):
        key = entry["kind"], entry["name"]
        if "object" in entry:
            known[key] = entry["object"]
        elif "merge" in entry:
            known[key] = merged(known[key], entry["merge"])
        obj = known[key]
        obj.setdefault("metadata", {}).setdefault("name", entry["name"])
        kind = obj.get("kind") or ("Event" if entry["kind"] == "events" else entry["kind"])
        yield Seen(instant(entry["t"]), entry["type"], kind, copy.deepcopy(obj))


@dataclass(frozen=True)
class Action:
    """One line of `actions.log`: `apply FILE`, `$ KUBECTL-ARGUMENTS`, or what was done in another way."""

    at: datetime
    verb: str
    words: tuple[str, ...]

    @property
    def what(self) -> str:
        return " ".join((self.verb, *self.words))


def actions(scenario: Path) -> list[Action]:
    """What was done, in order; the client's replies are left out."""
    found = []
    for line in (scenario / "actions.log").read_text(encoding="utf-8").splitlines():
        stamp, _, rest = line.partition(" ")
        if _STAMP.fullmatch(stamp):
            verb, *words = rest.split()
            if verb == "$" and words[0] == "apply":
                verb, words = "apply", words[-1:]
            found.append(Action(instant(stamp), verb, tuple(words)))
    return found
