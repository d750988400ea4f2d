"""Telling a living run from a dead one: a lock that the kernel's death releases."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class RunLock:
    """Held by the process that runs the notebook, for as long as it lives."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._fd: int | None = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._fd is not None

    def release(self) -> None:
        """Release and remove the lock; safe to call twice."""
        if self._fd is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None


def alive(folder: Path) -> bool:
    """Whether the process that opened the run still lives on this machine."""
    path = folder / ".lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
