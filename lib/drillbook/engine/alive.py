"""Distinguishing a living run from a dead one: a lock that the kernel's death releases."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from drillbook.errors import EvidenceUnwritable

_GLANCE_SECONDS = 2.0


class RunLock:
    """Held by the process that runs the notebook, for as long as it lives."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._fd: int | None = None
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _take(fd)
        except OSError as error:
            os.close(fd)
            held = isinstance(error, BlockingIOError)
            why = (
                "another kernel on this machine has it open" if held else f"its folder knows no locks: {error.strerror}"
            )
            raise EvidenceUnwritable(
                f"run {folder.name} can't be opened: {why}",
                todo="Go on in that kernel, or shut it down."
                if held
                else "Name a folder on a local disk in DRILLBOOK_OUTPUTS.",
            ) from error
        self._fd = fd

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


def _take(fd: int) -> None:
    deadline = time.monotonic() + _GLANCE_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:  # `drillbook list` looks by locking it for an instant
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


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
