"""What a Deployment and its ReplicaSets say about each other: templates, revisions, numbers."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def wanted(entry: Object) -> int:
    """The replicas that a ReplicaSet is to have."""
    return int(entry["spec"].get("replicas", 1))


def available(entry: Object) -> int:
    """The replicas that a ReplicaSet has and that have been ready for long enough."""
    return int((entry.get("status") or {}).get("availableReplicas") or 0)


def same(one: Object, other: Object) -> bool:
    """Whether two looks were at the same object."""
    return bool(one["metadata"]["uid"] == other["metadata"]["uid"])


def revision(entry: Object) -> int:
    """A ReplicaSet's revision."""
    return int((entry["metadata"].get("annotations") or {}).get(REVISION, 0))


def template_hash(template: Object) -> str:
    """The template's name, in letters that spell no word."""
    number = int.from_bytes(hashlib.sha256(json.dumps(_bare(template), sort_keys=True).encode()).digest()[:8], "big")
    letters = ""
    for _ in range(10):
        number, digit = divmod(number, len(_LETTERS))
        letters += _LETTERS[digit]
    return letters


def is_of(entry: Object, deployment: Object) -> bool:
    """Whether a ReplicaSet was made from the Deployment's template as it is now."""
    template = deployment["spec"]["template"]
    labelled = (entry["metadata"].get("labels") or {}).get(HASH_LABEL) == template_hash(template)
    return labelled or _bare(entry["spec"]["template"]) == _bare(template)


def _bare(template: Object) -> Object:
    plain: Object = copy(template)
    meta = plain.get("metadata") or {}
    meta.pop("creationTimestamp", None)  # some clients send null
    (meta.get("labels") or {}).pop(HASH_LABEL, None)
    return plain


def bounds(deployment: Object) -> tuple[int, int]:
    """maxSurge and maxUnavailable as numbers; never both zero."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0, int(deployment["spec"]["replicas"])
    rolling, replicas = strategy.get("rollingUpdate") or {}, int(deployment["spec"]["replicas"])
    surge = _share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, replicas)


def _share(value: Any, replicas: int, *, up: bool) -> int:
    text = str(value)
    if not text.endswith("%"):
        return int(text)
    part = int(text[:-1]) * replicas / 100
    return math.ceil(part) if up else math.floor(part)
