"""What a pod uses: processor and memory from the kernel's account of its process, gauges from its own `/metrics`.

In place of metrics-server and an adapter for custom metrics. Where there is no /proc, the first two aren't known.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from drillbook_lab.api.errors import Object
from drillbook_lab.quantities import quantity

_SCRAPE_SECONDS = 2.0
_LEAST_SECONDS = 0.5  # between two looks at a process: less says nothing


class Usage:
    """Remembers the last look at each process, since a rate needs two."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}  # pid -> processor seconds, and when
        self._rates: dict[int, float] = {}

    def resource(self, name: str, pid: int) -> float | None:
        """Cores or bytes; None while it can't be known."""
        return self._cores(pid) if name == "cpu" else _resident(pid) if name == "memory" else None

    def forget(self, pids: set[int]) -> None:
        """Keep only what is known of these."""
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in pids}
        self._rates = {pid: rate for pid, rate in self._rates.items() if pid in pids}

    def _cores(self, pid: int) -> float | None:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        spent, now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), time.monotonic()
        before = self._seen.get(pid)
        if before is None:
            self._seen[pid] = spent, now
        elif now - before[1] >= _LEAST_SECONDS:
            self._rates[pid] = (spent - before[0]) / (now - before[1])
            self._seen[pid] = spent, now
        return self._rates.get(pid)


def requested(pod: Object, resource: str) -> float | None:
    """What the pod's containers ask for together; None if one doesn't say."""
    total = 0.0
    for container in pod["spec"]["containers"]:
        found = quantity(str(((container.get("resources") or {}).get("requests") or {}).get(resource, "")))
        if found is None:
            return None
        total += float(found)
    return total


async def gauge(pod: Object, name: str) -> float | None:
    """A metric's samples in the pod's exposition, summed; None if it doesn't tell of it. The first port is asked."""
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    address = (pod.get("status") or {}).get("podIP")
    if not ports or not address:
        return None
    try:
        async with asyncio.timeout(_SCRAPE_SECONDS):
            reader, writer = await asyncio.open_connection(address, int(ports[0]["containerPort"]))
            try:
                writer.write(f"GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
                text = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")[2]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    values = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    found = [float(value) for sample, _, value in values if sample.partition("{")[0] == name]
    return sum(found) if found else None


def _resident(pid: int) -> float | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
