"""What the server needs of anyone who runs the pods: their logs, a process inside, a port.

The kubelet implements this; the server never learns how a pod is run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol


class PodRuntime(Protocol):
    """The real thing behind `pods/log`, `pods/exec` and `pods/portforward`."""

    def log_path(self, namespace: str, pod: str, container: str | None) -> Path:
        """The file that holds a container's output. `KeyError`: there is no such pod or container."""
        ...

    async def exec(
        self, namespace: str, pod: str, container: str | None, command: list[str], *, stdin: bool, tty: bool
    ) -> asyncio.subprocess.Process:
        """Start a command inside the container, its standard streams as pipes. `KeyError` as above."""
        ...

    async def connect(self, namespace: str, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a port of the pod. `ConnectionError` when nobody listens."""
        ...
