"""Who listens on the machine's localhost: in a lab all pods share it, and a port-forward must reach its own pod's only.

Linux only, by ``/proc``; elsewhere nobody is found, and a forward goes to the pod's own address.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

_LISTENING = "0A"
LOCALHOST = "127.0.0.1"


def sockets_on(port: int, table: Path = Path("/proc/net/tcp")) -> set[str]:
    """The sockets that listen on localhost at that port, as a process's descriptors name them."""
    (address,) = struct.unpack("=I", socket.inet_aton(LOCALHOST))
    wanted, found = f"{address:08X}:{port:04X}", set()
    with contextlib.suppress(OSError):
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1] == wanted and fields[3] == _LISTENING:
                found.add(f"socket:[{fields[9]}]")
    return found


def owned_by(sockets: set[str], pids: Iterable[int]) -> bool:
    """Whether one of these processes has one of these sockets open."""
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208 - links that may vanish while they are read
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{name}") in sockets:  # noqa: PTH115
                        return True
    return False
