"""The journal: what a run intended, did and saw, on the disk before the next thing happens.

One JSON object a line: ``seq`` from 1, ``at`` in UTC, ``type``, ``prev`` (the digest of the line before, ``""`` in the
first), and the event's data. Nothing is rewritten. A torn end is followed by an event ``torn``, which says how many
lines and bytes were lost after which line.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from drillbook.evidence.canonical import now, plain
from drillbook.evidence.chain import ChainFile, Tail
from drillbook.evidence.mask import Masker

OWN_KEYS = frozenset({"seq", "at", "type", "prev"})


class Journal:
    """A run's journal. Threads and processes may append in turn."""

    def __init__(self, path: Path, masker: Masker | None = None) -> None:
        self.path = path
        self.masker = masker or Masker()
        self._file = ChainFile(path, "journal")
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, masker: Masker | None = None) -> Journal:
        """Open or create the journal; raises :class:`EvidenceUnwritable` if it can't be written.

        A torn end is noted by the next :meth:`append`, not here: who only reads changes nothing.
        """
        journal = cls(path, masker)
        journal._file.create()
        return journal

    def append(self, type: str, **data: Any) -> dict[str, Any]:
        """Write one event, masked and synced to the disk, and answer it as it was written."""
        if clash := OWN_KEYS & data.keys():
            raise TypeError(f"an event's data can't set {', '.join(sorted(clash))}")
        event: dict[str, Any] = self.masker.mask({"type": type} | plain(data))

        def make(tail: Tail) -> list[dict[str, Any]]:
            seq = 0 if tail.last is None else int(tail.last["seq"])
            at = now()
            events = [event]
            if tail.torn:
                lost = {"after": tail.after, "lines": len(tail.torn), "bytes": sum(len(raw) for raw in tail.torn)}
                events = [{"type": "torn"} | lost, event]
            for step, item in enumerate(events, start=1):
                item |= {"seq": seq + step, "at": at}
            return events

        with self._lock:
            self._file.append(make, lambda head: {"prev": head})
        return event

    def events(self) -> list[dict[str, Any]]:
        """The events on the disk, oldest first; broken lines are left out (their ``torn`` event tells of them)."""
        return [line.value for line in self._file.lines() if line.value is not None]
