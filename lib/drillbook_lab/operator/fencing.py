"""Fencing: the annotation says which instances are to have no server; their pods stay, and nobody takes over.

Who obeys is the instance's own program: a file in the pod's directory tells it. As in CNPG, this goes on while the
operator itself is held up by something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from drillbook_lab.api.errors import Object
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.places import PodPlaces

ANNOTATION = "cnpg.io/fencedInstances"
_FILE = "fenced"
_ALL = "*"


def listed(cluster: Object) -> list[str]:
    """What the annotation lists; nothing if it can't be read, as for CNPG."""
    text = (cluster["metadata"].get("annotations") or {}).get(ANNOTATION) or "[]"
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def is_fenced(cluster: Object, instance: str) -> bool:
    """Whether an instance is to be down. `*` fences all: no name next to it, or taken from it, lifts one."""
    names = listed(cluster)
    return _ALL in names or instance in names


def explain(cluster: Object, away: Iterable[str]) -> bool:
    """Whether fencing alone is why these instances are away: nothing is waited for then, and no phase changes."""
    return all(is_fenced(cluster, instance) for instance in away)


def mark(cluster: Object, instance: str, places: PodPlaces) -> None:
    """Tell one instance's program, before it starts or while it runs."""
    path = places.run_dir / _FILE
    if not is_fenced(cluster, instance):
        path.unlink(missing_ok=True)
    elif not path.exists():
        path.touch()


def apply(operator: Operator, cluster: Object) -> None:
    """Tell every instance that there is."""
    name = cluster["metadata"]["name"]
    for pod in operator.owned(cluster, "Pod", f"cnpg.io/cluster={name},cnpg.io/podRole=instance"):
        meta = pod["metadata"]
        try:
            worker = operator.kubelet.worker(meta["namespace"], meta["name"])
        except KeyError:
            continue  # it is reported when it is prepared
        mark(cluster, meta["name"], worker.places)
