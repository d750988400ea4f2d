"""A scenario of the recordings: what its watches saw, each object whole at every moment, and what was done when."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


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
    """The entries of a scenario's `watch.jsonl`, in the order in which they came."""
    known: dict[tuple[str, str], Object] = {}
    for line in (scenario / "watch.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        key = entry["kind"], entry["name"]
        if "object" in entry:
            known[key] = entry["object"]
        elif "merge" in entry:
            known[key] = merged(known[key], entry["merge"])
        obj = known[key]
        obj.setdefault("metadata", {}).setdefault("name", entry["name"])
        kind = obj.get("kind") or ("Event" if entry["kind"] == "events" else entry["kind"])
        yield Seen(instant(entry["t"]), entry["type"], kind, copy.deepcopy(obj))


def manifests(path: Path) -> list[Object]:
    """The objects of a manifest."""
    return [obj for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj]
