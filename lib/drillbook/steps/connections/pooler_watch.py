"""What PgBouncer says of itself while it is loaded: SHOW POOLS, as CloudNativePG's exporter in the pooler's pod publishes it."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Self

import urllib3

from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.model import Frozen
from drillbook.steps.connections.load_path import PooledCopy

PORT = 9127
_SAMPLE = re.compile(r"^cnpg_pgbouncer_pools_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_EVERY_SECONDS = 0.5


class PoolerSeen(Frozen):
    """The most of each that was seen: clients that waited, server connections at work; the longest wait in seconds.

    ``unread`` is why PgBouncer could not be asked, "" if it was.
    """

    looks: int = 0
    waiting: int = 0
    active: int = 0
    longest_wait: float = 0.0
    unread: str = ""

    def __str__(self) -> str:
        if self.unread:
            return f"not read: {self.unread}"
        return (
            f"at most {self.waiting} clients waited (cl_waiting), {self.active} server connections were at work "
            f"(sv_active), longest wait {self.longest_wait:.2f} s, in {self.looks} looks"
        )


class PoolerWatch:
    """Looks at a database's pools in the pooler twice a second while the context lasts."""

    def __init__(self, ctx: Context, pooled: PooledCopy, database: str) -> None:
        self.seen = PoolerSeen(unread=pooled.why_not)
        self._database = f'database="{database}"'
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._forward = None if pooled.why_not else ctx.kube.forward(pooled.ref.namespace, pooled.pod, PORT)

    def __enter__(self) -> Self:
        if self._forward is not None:
            try:
                self._forward.__enter__()
            except RunbookError as error:
                self._forward, self.seen = None, PoolerSeen(unread=error.what)
            else:
                self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._forward is not None:
            self._thread.join(5)
            self._forward.close()

    def _look(self) -> None:
        assert self._forward is not None  # noqa: S101 - the thread is started with it only
        address = f"http://{self._forward.host}:{self._forward.port}/metrics"
        with urllib3.PoolManager(timeout=3, retries=False) as http:
            while not self._stop.wait(_EVERY_SECONDS):
                try:
                    text = http.request("GET", address).data.decode(errors="replace")
                except urllib3.exceptions.HTTPError as error:
                    if not self.seen.looks:
                        self.seen = PoolerSeen(unread=f"port {PORT} of the pod does not answer: {type(error).__name__}")
                    continue
                self.seen = pools(text, self._database, self.seen)


def pools(text: str, label: str, before: PoolerSeen) -> PoolerSeen:
    """What the exporter's text adds to what was seen; a text without the pools leaves it as it is, and says so."""
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if label in labels:
            found[name] = found.get(name, 0.0) + float(value)
    if "cl_waiting" not in found:
        return before if before.looks else PoolerSeen(unread="the exporter shows no pool of this database")
    return PoolerSeen(
        looks=before.looks + 1,
        waiting=max(before.waiting, int(found["cl_waiting"])),
        active=max(before.active, int(found.get("sv_active", 0))),
        longest_wait=max(before.longest_wait, found.get("maxwait", 0.0) + found.get("maxwait_us", 0.0) / 1e6),
    )


__all__ = ["PoolerSeen", "PoolerWatch", "pools"]
