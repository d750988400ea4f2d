"""Pods of the application, asked as they are: a few requests at once, their own gauges, their sessions on the server."""

from __future__ import annotations

import http.client
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from drillbook import kube as k8s
from drillbook.connections.watching import STUCK_SECONDS, Burst, Gauges, PodSeen, Share, gauges
from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.kube import workloads
from drillbook.manifests.canary import CANARY
from drillbook.model import Frozen
from drillbook.profile.schema import Application
from drillbook.steps.connections.path import FoundPath

REQUESTS = 5
"""How many requests each client of a burst makes, one after the other."""
ANYWHERE = "an address that is not shown"
_SECONDS = 10.0
_BETWEEN_LOOKS = 0.005
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*(?:\{.*\})?) ([0-9.eE+-]+)", re.MULTILINE)


class _Client:
    """One connection to a pod that is used again and again: opening one by port-forward takes longer than a request."""

    def __init__(self, forward: k8s.Forward, host: str) -> None:
        self._connection = http.client.HTTPConnection(forward.host, forward.port, timeout=_SECONDS)
        self._host, self._used = host, False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. OSError or HTTPException: no answer, also on a connection that was opened for it."""
        try:
            return self._get(path)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            if not self._used:
                raise
        self._used = False  # the pod had closed it in the meantime: that is no error of the pod's
        return self._get(path)

    def _get(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers={"Host": self._host})
        answer = self._connection.getresponse()
        body = answer.read()
        self._used = True
        return answer.status, body

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class PodProbe:
    """Requests to one pod by port-forward while the context lasts: its health path, which asks the database through the pool."""

    def __init__(self, ctx: Context, app: Application, pod: str) -> None:
        self._app, self.pod = app, pod
        self._forward = ctx.kube.forward(app.namespace, pod, app.port)
        own = app.metrics_port in (0, app.port)
        self._measuring = self._forward if own else ctx.kube.forward(app.namespace, pod, app.metrics_port)
        self._clients: list[_Client] = []
        self._scraper: _Client | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for forward in {id(one): one for one in (self._forward, self._measuring)}.values():
            self._stack.enter_context(forward)
        if self._app.metrics_path:
            self._scraper = _Client(self._measuring, self.pod)
            self._stack.callback(self._scraper.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def burst(self, clients: int) -> tuple[Burst, list[Gauges]]:
        """So many clients at once, each with a few requests; and the pool's gauges that were seen in the meantime."""
        while len(self._clients) < clients:
            self._clients.append(_Client(self._forward, self.pod))
            self._stack.callback(self._clients[-1].close)
        seen: list[Gauges] = []
        with ThreadPoolExecutor(clients) as pool:
            waiting = [pool.submit(self._requests, client) for client in self._clients[:clients]]
            while not all(one.done() for one in waiting):
                if (found := self.gauges()) is not None:
                    seen.append(found)
                time.sleep(_BETWEEN_LOOKS)
            parts = [one.result() for one in waiting]
        latencies = tuple(latency for part, _ in parts for latency in part)
        return Burst(latencies=latencies, failed=sum(failed for _, failed in parts)), seen

    def _requests(self, client: _Client) -> tuple[list[float], int]:
        latencies, failed = [], 0
        for _ in range(REQUESTS):
            began = time.monotonic()
            try:
                status, _body = client.get(self._app.health_path)
            except (OSError, http.client.HTTPException):
                failed += 1
                continue
            if status == 200:
                latencies.append(time.monotonic() - began)
            else:
                failed += 1
        return latencies, failed

    def gauges(self) -> Gauges | None:
        """What the pod's metrics say of its pool; None if it shows none."""
        if self._scraper is None:
            return None
        try:
            status, body = self._scraper.get(self._app.metrics_path)
        except (OSError, http.client.HTTPException):
            return None
        text = body.decode(errors="replace")
        return gauges({name: float(value) for name, value in _SAMPLE.findall(text)}) if status == 200 else None


class Sessions(Frozen):
    """The role's sessions at one time, by state; ``everybody`` are the sessions of all roles on the server.

    ``stuck`` are those by address that have done nothing in an open transaction for longer than a request takes. ``hidden``:
    Drillbook's role may see neither state nor address; then transactions count that are open as long, under one name.
    ``transactions`` are those that are open.
    """

    role: int = 0
    active: int = 0
    in_transaction: int = 0
    idle: int = 0
    everybody: int = 0
    limit: int = -1
    slots: int = 0
    hidden: bool = False
    stuck: dict[str, int] = Field(default_factory=dict)
    transactions: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {self.limit}" if self.limit >= 0 else ""
        if self.hidden:
            return f"{self.role}{of}: {len(self.transactions)} in a transaction (pg_read_all_stats would show their states)"
        return f"{self.role}{of}: {self.active} active, {self.in_transaction} idle in a transaction, {self.idle} idle"

    def shares(self, more: int, before: Sessions) -> tuple[Share, ...]:
        """The use of the role's limit and of the server's slots; ``more`` are the connections that new pods may add."""
        found = []
        if self.limit > 0:
            found.append(Share(limit="the role's limit", used=self.role, size=self.limit, expected=before.role + more))
        found.append(
            Share(limit="max_connections", used=self.everybody, size=self.slots, expected=before.everybody + more)
        )
        return tuple(found)


class SessionsSeen:
    """Looks at the sessions of the application's role time and again, and knows since when a transaction has been open."""

    def __init__(self, ctx: Context, found: FoundPath) -> None:
        self._ctx, self._found = ctx, found
        self._since: dict[str, float] = {}

    def look(self) -> Sessions:
        """The sessions now, and the limits that they count against."""
        with self._ctx.source() as db:
            rows = db.ask("connections_watched", role=self._found.role)
            limits = db.ask_one("connection_limits", role=self._found.role, database=self._found.database)
        now = time.monotonic()
        hidden = bool(rows) and all(row["state"] is None for row in rows)
        # A transaction's name is used by one session, and never again while the server runs.
        opened = [str(row["transaction"]) for row in rows if row["transaction"]]
        self._since = {name: self._since.get(name, now) for name in opened}
        stuck: Counter[str] = Counter()
        for row in rows:
            idle = str(row["state"] or "").startswith("idle in transaction") and (row["seconds"] or 0) > STUCK_SECONDS
            lasts = hidden and row["transaction"] and now - self._since[str(row["transaction"])] > STUCK_SECONDS
            if idle or lasts:
                stuck[row["address"] or ANYWHERE] += 1
        states = Counter(str(row["state"] or "") for row in rows)
        slots = limits["max_connections"] - limits["superuser_reserved"] - limits["reserved"]
        return Sessions(
            role=len(rows),
            active=states["active"],
            in_transaction=sum(count for state, count in states.items() if state.startswith("idle in transaction")),
            idle=states["idle"],
            everybody=max((row["everybody"] for row in rows), default=0),
            limit=limits["role_limit"] if limits["role_limit"] is not None else -1,
            slots=slots,
            hidden=hidden,
            stuck=dict(stuck),
            transactions=tuple(sorted(opened)),
        )


Pod = dict[str, Any]


def is_ready(pod: Pod) -> bool:
    """Whether the pod's condition says so, and it is not on its way out."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def address(pod: Pod) -> str:
    """The pod's address; "" where it has none of its own."""
    return "" if pod["spec"].get("hostNetwork") else str((pod.get("status") or {}).get("podIP") or "")


def unchanged_pods(ctx: Context, deployment: dict[str, Any]) -> list[Pod]:
    """The Deployment's own pods: those of a canary have its labels too, and one more."""
    found = workloads.pods(ctx.kube, deployment)
    return [pod for pod in found if CANARY not in (pod["metadata"].get("labels") or {})]


def canary_pods(ctx: Context, namespace: str, run_id: str) -> list[Pod]:
    """The pods of a run's canary, those that are on their way out too."""
    return ctx.kube.list(k8s.POD, namespace, labels=f"{CANARY}={run_id}")


def seen(ctx: Context, app: Application, pod: Pod, probe: PodProbe | None) -> PodSeen:
    """One pod as it is now: ready, restarted, well by its own word, its gauges."""
    name = str(pod["metadata"]["name"])
    unwell = "" if is_ready(pod) else _why(pod)
    if not unwell:
        unwell = workloads.ask_health(ctx.kube, app, name)
    found = None
    if probe is not None:
        try:
            found = probe.gauges()
        except RunbookError as error:
            unwell = unwell or error.what
    return PodSeen(pod=name, restarts=restarts(pod), unwell=unwell, gauges=found)


def restarts(pod: Pod) -> int:
    """How often its containers have ended and were started again."""
    return sum(int(item.get("restartCount", 0)) for item in (pod.get("status") or {}).get("containerStatuses") or [])


def _why(pod: Pod) -> str:
    waits = [
        f"{item['name']}: {waiting.get('reason', 'waiting')}"
        for item in (pod.get("status") or {}).get("containerStatuses") or []
        if (waiting := (item.get("state") or {}).get("waiting"))
    ]
    return "; ".join(waits) or f"not ready (phase {(pod.get('status') or {}).get('phase', 'unknown')})"


__all__ = [
    "ANYWHERE",
    "PodProbe",
    "Sessions",
    "SessionsSeen",
    "address",
    "canary_pods",
    "is_ready",
    "restarts",
    "seen",
    "unchanged_pods",
]
