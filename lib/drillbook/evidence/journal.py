"""The journal: what a run intended, did and saw, on the disk before the next thing happens.

One JSON object a line: ``seq`` from 1, ``at`` in UTC, ``type``, ``prev`` (the digest of the line before, ``""`` in the
first), and the event's data. Nothing is rewritten. A torn end is followed by an event ``torn``, which says how many
lines and bytes were lost after which line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drillbook.errors import Changed, EvidenceUnwritable
from drillbook.evidence.canonical import now, plain
from drillbook.evidence.chain import ChainFile, Tail
from drillbook.evidence.mask import Masker
from drillbook.model import Effect

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
        """Write one event, masked and synced to the disk, and answer it as it was written.

        EvidenceUnwritable: it can't be; what the run has changed before that is read from the journal itself.
        """
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
            try:
                self._file.append(make, lambda head: {"prev": head})
            except EvidenceUnwritable as error:
                raise self._after_what(error) from error.__cause__
        return event

    @property
    def second_place(self) -> Path:
        """Where events go for which the journal has no room."""
        return Path(tempfile.gettempdir()) / f"drillbook-{self.path.parent.name}.jsonl"

    def note(self, type: str, **data: Any) -> dict[str, Any]:
        """Like :meth:`append`, for undoing, which goes on though nothing can be written: never raises for that.

        The event then goes to :attr:`second_place` and to standard error, and has the reason under ``unwritten``.
        """
        try:
            return self.append(type, **data)
        except EvidenceUnwritable as error:
            event: dict[str, Any] = self.masker.mask(
                {"at": now(), "type": type} | plain(data) | {"unwritten": error.what}
            )
        line = json.dumps(event)
        try:
            with self.second_place.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError:
            pass  # it is full as well: what follows is all that can be done
        try:
            sys.stderr.write(f"not in the journal ({event['unwritten']}): {line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody listens any more
        return event

    def _after_what(self, error: EvidenceUnwritable) -> EvidenceUnwritable:
        changed = changed_so_far(self.events() if self.path.is_file() else [])
        if changed is not Changed.NOTHING:
            error.changed, error.exit_code = changed, EvidenceUnwritable.MIDWAY  # type: ignore[misc]
            error.todo = (
                "Make room for it or make it writable; then `drillbook list` says what is open, and `drillbook resume` or "
                "`drillbook cleanup` goes on from there."
            )
        return error

    def head(self) -> tuple[int, str]:
        """The number of the last event on the disk and the digest of its line, which stands for all before it."""
        last = next((line for line in reversed(self._file.lines()) if line.value is not None), None)
        return (int(last.value["seq"]), last.sha256) if last is not None and last.value is not None else (0, "")

    def events(self) -> list[dict[str, Any]]:
        """The events on the disk, oldest first; broken lines are left out (their ``torn`` event tells of them)."""
        return [line.value for line in self._file.lines() if line.value is not None]


def changed_so_far(events: Sequence[Mapping[str, Any]]) -> Changed:
    """What the run has changed, by its journal: unknown while a step that changes something has not been seen to end."""
    ended: dict[int, str] = {}
    for event in events:
        if event["type"] == "step_started" and event["effect"] != Effect.READS:
            ended[event["n"]] = ""
        elif event["type"] == "step_finished" and event["n"] in ended:
            ended[event["n"]] = event["status"]
    if {"", "failed"} & set(ended.values()):
        return Changed.UNKNOWN
    return Changed.DONE if "done" in ended.values() else Changed.NOTHING
