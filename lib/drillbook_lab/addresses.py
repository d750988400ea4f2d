"""The loopback addresses of a lab: each lab has a /16 of its own, and who has been given one keeps it.

Written down whenever one is given, so that a daemon that was killed comes back to the same addresses: connection
strings, forwards and pinned sites that were made before stay good.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
from pathlib import Path
from typing import Any

from drillbook_lab.errors import LabError
from drillbook_lab.home import write_json

_PORTS = range(20000, 30000)
"""Below those that kernels lend to clients, so no connection of anybody's takes one before we listen, or while a
killed lab is down."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port of the address that nobody has. `LabError`: none of hundreds tried was free."""
    for _ in range(500):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise LabError("no free port", f"{host}, ports {_PORTS.start}-{_PORTS.stop - 1}", "end some of what listens there")


class AddressBook:
    """Gives out addresses; with a file, it remembers them."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        known: dict[str, Any] = {}
        if path is not None and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
        self._net: str = known.get("net") or f"127.{2 + secrets.randbelow(250)}.{1 + secrets.randbelow(253)}"
        self._next: int = known.get("next", 2)
        self._given: dict[str, str] = known.get("given", {})

    @property
    def net(self) -> str:
        """The first three parts of its addresses."""
        return self._net

    def of_pod(self, namespace: str, name: str) -> str:
        """A pod's address. One that is recreated under the same name keeps it: forwards and clients find it again."""
        if not re.search(r"-\d+$", name):  # a Job's pod is never met again
            return self._take()
        return self.of(f"{namespace}/{name}")

    def of(self, holder: str) -> str:
        """The address of anyone who goes by that name, for as long as the lab exists."""
        if holder not in self._given:
            self._given[holder] = self._take()
            self._write()
        return self._given[holder]

    def release(self, holder: str) -> None:
        """Forget a holder that won't come back."""
        if self._given.pop(holder, None) is not None:
            self._write()

    def _take(self) -> str:
        host = self._next
        self._next += 1
        self._write()
        first, second, third = self._net.split(".")
        return f"{first}.{second}.{(int(third) + host // 250) % 256}.{2 + host % 250}"

    def _write(self) -> None:
        if self._path is not None:
            write_json(self._path, {"net": self._net, "next": self._next, "given": self._given})
