"""Waiting for one object: list, then watch, again and again until it is as wished or the time is over.

A watch may end at any time (the server closes it, a proxy cuts it, its history is gone): what is true is read again
by a list, so a lost event is never a lost change.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import urllib3

from drillbook.errors import KubernetesError, StepTimeoutError
from drillbook.kube.endurance import is_passing
from drillbook.kube.kinds import Kind
from drillbook.kube.transport import Transport, cut

Object = dict[str, Any]
Until = Callable[[Object | None], bool]
OnChange = Callable[[Object | None], None]

_WATCH_SECONDS = 30.0  # a connection that died silently is noticed after this
_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


def wait(
    transport: Transport,
    kind: Kind,
    namespace: str,
    name: str,
    until: Until,
    *,
    timeout_seconds: float,
    what: str,
    on_change: OnChange | None = None,
) -> Object | None:
    """See ``Kube.wait``."""
    deadline = time.monotonic() + timeout_seconds
    where = kind.where(namespace, name)
    path = kind.path(namespace)
    last: Object | None = None
    told = False
    trouble = ""
    pause = _PAUSE_SECONDS

    def reached(found: Object | None) -> bool:
        nonlocal last, told
        if on_change is not None and (not told or found != last):
            on_change(found)
        last, told = found, True
        return until(found)

    while True:
        try:
            listed = transport.call(
                "GET", path, what=f"read {where}", query={"fieldSelector": f"metadata.name={name}"}, patience=1.0
            ).json()
            found = next(iter(listed.get("items", [])), None)
            if reached(_whole(found, kind)):
                return last
            trouble, pause = "", _PAUSE_SECONDS
            version = listed["metadata"].get("resourceVersion", "")
            left = deadline - time.monotonic()
            with closing(_events(transport, path, where, name, version, min(left, _WATCH_SECONDS))) as events:
                for event_type, seen in events:
                    if reached(None if event_type == "DELETED" else seen):
                        return last
                    if time.monotonic() >= deadline:
                        break
        except KubernetesError as error:
            # 410: the history that the watch would begin at is gone; the next list starts again.
            if not is_passing(error) and error.status != 410:
                raise
            trouble = f"; lastly {error.what}"
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        if time.monotonic() >= deadline:
            state = describe(last) if told else "nothing was seen"
            raise StepTimeoutError(
                f"waited {timeout_seconds:g} s for {what}; {where} was last seen as: "
                f"{transport.redactor.clean(state)}{trouble}",
                todo=f"Look at it: kubectl get {kind.plural} {name}"
                + (f" -n {namespace}" if kind.namespaced else "")
                + " -o yaml",
            )
        time.sleep(max(0.0, min(pause if trouble else 0.0, deadline - time.monotonic())))


def _whole(found: Object | None, kind: Kind) -> Object | None:
    # Items of a list carry neither kind nor apiVersion; watched objects do, and the two must compare equal.
    return None if found is None else {"apiVersion": kind.api_version, "kind": kind.kind} | found


def _events(
    transport: Transport, path: str, where: str, name: str, version: str, seconds: float
) -> Generator[tuple[str, Object], None, None]:
    """Events of one watch connection until it ends, for whatever reason."""
    if seconds <= 0:
        return
    query = {
        "watch": "true",
        "fieldSelector": f"metadata.name={name}",
        "resourceVersion": version,
        "timeoutSeconds": max(1, math.ceil(seconds)),
    }
    response = transport.stream(path, what=f"watch {where}", query=query, read_seconds=max(seconds, 0.05))
    try:
        for line in lines(response):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise KubernetesError(
                    f"watch {where}: {cut(str(status.get('message', '')))}",
                    status=int(status.get("code", 500)),
                    reason=str(status.get("reason", "")),
                    todo="Try again.",
                )
            if event["type"] != "BOOKMARK":
                yield event["type"], event["object"]
    except (urllib3.exceptions.HTTPError, OSError):
        return  # quiet for the whole time, or cut: the caller lists again
    finally:
        response.close()


def lines(response: urllib3.response.BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of a body as they come, a last one without its newline too."""
    rest = b""
    for piece in response.stream(65536):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest


def describe(obj: Object | None) -> str:
    """The state of an object in a line: phase, conditions, what its containers wait for."""
    if obj is None:
        return "it does not exist"
    status = obj.get("status") or {}
    parts = []
    if obj.get("metadata", {}).get("deletionTimestamp"):
        held = ", ".join(obj["metadata"].get("finalizers") or []) or "nothing"
        parts.append(f"being deleted, held by {held}")
    if status.get("phase"):
        reason = status.get("phaseReason") or status.get("reason") or ""
        parts.append(f"phase {status['phase']!r}" + (f" ({reason})" if reason else ""))
    if status.get("error"):
        parts.append(f"error {status['error']!r}")
    for condition in status.get("conditions") or []:
        said = ": ".join(filter(None, (condition.get("reason", ""), condition.get("message", ""))))
        parts.append(f"{condition.get('type')}={condition.get('status')}" + (f" ({said})" if said else ""))
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        for state, detail in (container.get("state") or {}).items():
            if state != "running":
                said = ": ".join(filter(None, (detail.get("reason", ""), detail.get("message", ""))))
                parts.append(f"container {container.get('name')} {state}" + (f" ({said})" if said else ""))
    parts += [f"{count} {status[count]}" for count in ("active", "succeeded", "failed") if status.get(count)]
    return cut("; ".join(parts) or "it exists, without a status")
