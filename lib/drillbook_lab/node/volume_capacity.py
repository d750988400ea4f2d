"""How full a volume is: its files' apparent sizes against the capacity of its claim.

A volume is a directory on the machine's own disk, so the kernel never says ENOSPC for it: what a real volume's file
system would refuse, those who write to it refuse by this account. A sparse file counts with its whole length: it is
ballast that takes no room on the machine. The capacity is in a file in the volume, where programs in a pod find it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook_lab.quantities import quantity

CAPACITY_FILE = ".capacity"
# On a real pod these are on the node's scratch space, not on the volume.
_ELSEWHERE = frozenset({CAPACITY_FILE, "wal-restore-spool", "wal-restore-batch"})

NO_SPACE_EXIT_CODE = 4
"""CNPG's instance manager ends with it when there is no room for WAL; the operator knows it by that."""


@dataclass(frozen=True)
class Account:
    """A volume's capacity and use, in bytes; None is a volume without its own size."""

    capacity: int | None
    used: int

    @property
    def free(self) -> int | None:
        """What may still be written; negative when more was written than it holds."""
        return None if self.capacity is None else self.capacity - self.used

    def has_room(self, wanted: int) -> bool:
        """Whether that many bytes more would fit."""
        return self.free is None or self.free >= wanted


def account(volume: Path) -> Account:
    """The account of a volume as it is now."""
    try:
        capacity = int((volume / CAPACITY_FILE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return Account(None, 0)
    return Account(capacity, usage(volume))


def usage(volume: Path) -> int:
    """The apparent size of all files below a volume's directory, links not followed; what vanishes in the meantime is 0."""
    total = 0
    folders = [str(volume)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name in _ELSEWHERE:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += _size(entry)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def set_capacity(volume: Path, claim: dict[str, Any]) -> None:
    """Write down what a bound claim holds; again whenever it may have grown. Nothing happens without a directory."""
    status = (claim.get("status") or {}).get("capacity") or {}
    asked = (claim["spec"].get("resources") or {}).get("requests") or {}
    size = quantity(str(status.get("storage") or asked.get("storage") or ""))
    path = volume / CAPACITY_FILE
    if size is None or not volume.is_dir():
        return
    text = str(int(size))
    if path.exists() and path.read_text(encoding="ascii") == text:
        return
    draft = path.with_name(CAPACITY_FILE + ".new")
    draft.write_text(text, encoding="ascii")
    draft.chmod(0o644)
    draft.replace(path)


def is_out_of_space(pod: dict[str, Any]) -> bool:
    """Whether an instance's pod ended because its volume had no room for WAL, and has not become ready since."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status["name"] != "postgres":
            continue
        states = [status.get("state") or {}, {} if status.get("ready") else status.get("lastState") or {}]
        return any((state.get("terminated") or {}).get("exitCode") == NO_SPACE_EXIT_CODE for state in states)
    return False
