"""Tables: what `kubectl get` asks for, so that the server decides which columns a kind has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.apiserver.errors import Object
from drillbook_lab.apiserver.resources import Column, Resource

_DEFAULT = (Column("Age", ".metadata.creationTimestamp", "date"),)


def wanted(accept: str) -> bool:
    """Does an `Accept` header prefer a Table?"""
    first = accept.split(",", 1)[0]
    return "as=Table" in first and "g=meta.k8s.io" in first


def table(resource: Resource, objects: Sequence[Object], version: int, include: str) -> Object:
    """Objects as rows. `include`: Metadata, Object or None, as the client asks."""
    columns = resource.columns or _DEFAULT
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(version)},
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            *(
                {"name": c.name, "type": c.type, "format": "", "description": c.json_path, "priority": c.priority}
                for c in columns
            ),
        ],
        "rows": [_row(obj, columns, include) for obj in objects],
    }


def _row(obj: Object, columns: Sequence[Column], include: str) -> Object:
    row: Object = {"cells": [obj["metadata"]["name"], *(_cell(obj, column) for column in columns)]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"],
        }  # fmt: skip
    return row


def _cell(obj: Object, column: Column) -> Any:
    if column.json_path.startswith("@"):
        return _COMPUTED[column.json_path[1:]](obj)
    value = at(obj, column.json_path)
    if column.type == "date":
        return "<unknown>" if not value else age(str(value))
    if value is None:
        return "" if column.type == "string" else None
    return value if column.type in ("integer", "number", "boolean") else str(value)


def at(obj: Any, path: str) -> Any:
    """The value at a simple JSON path such as `.status.phase` or `.spec.ports[0].port`."""
    for name, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", path):
        if name:
            obj = obj.get(name) if isinstance(obj, dict) else None
        else:
            obj = obj[int(index)] if isinstance(obj, list) and len(obj) > int(index) else None
    return obj


def age(stamp: str) -> str:
    """How long ago, in kubectl's short form: 5s, 12m, 3h, 2d."""
    then = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 3600 * 2:
        return f"{seconds // 60}m"
    if seconds < 86400 * 2:
        return f"{seconds // 3600}h"
    return f"{seconds // 86400}d"


def _statuses(pod: Object) -> list[Object]:
    return list((pod.get("status") or {}).get("containerStatuses") or ())


def _pod_ready(pod: Object) -> str:
    total = len((pod.get("spec") or {}).get("containers") or ())
    return f"{sum(1 for status in _statuses(pod) if status.get('ready'))}/{total}"


def _pod_status(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for status in _statuses(pod):
        state = status.get("state") or {}
        for kind in ("waiting", "terminated"):
            reason = (state.get(kind) or {}).get("reason")
            if reason:
                return str(reason)
    return str((pod.get("status") or {}).get("phase", "Unknown"))


def _pod_restarts(pod: Object) -> str:
    return str(sum(int(status.get("restartCount", 0)) for status in _statuses(pod)))


def _data_count(obj: Object) -> str:
    return str(len(obj.get("data") or {}))


def _involved(event: Object) -> str:
    target = event.get("involvedObject") or {}
    return f"{str(target.get('kind', '')).lower()}/{target.get('name', '')}"


def _job_status(job: Object) -> str:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return str(condition["type"])
    return "Running"


def _job_completions(job: Object) -> str:
    return f"{(job.get('status') or {}).get('succeeded', 0)}/{(job.get('spec') or {}).get('completions', 1)}"


_COMPUTED = {
    "pod-ready": _pod_ready,
    "pod-status": _pod_status,
    "pod-restarts": _pod_restarts,
    "data-count": _data_count,
    "involved": _involved,
    "job-status": _job_status,
    "job-completions": _job_completions,
}
