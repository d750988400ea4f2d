"""A file of JSON lines to which one only appends, each line naming the digest of the one before."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drillbook.errors import Changed, EvidenceTampered, EvidenceUnwritable
from drillbook.evidence.canonical import canonical, sha256

LOCK_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Line:
    """A line as it is stored: ``number`` from 1, its digest with the newline, and its object (``None``: no JSON)."""

    number: int
    raw: bytes
    sha256: str
    value: dict[str, Any] | None


@dataclass
class Tail:
    """Where the next line attaches.

    ``head`` is the digest of the last line, ``last`` the last whole object and ``after`` its digest; ``torn`` are the
    broken lines behind it, left by a writer that died midway.
    """

    head: str = ""
    last: dict[str, Any] | None = None
    after: str = ""
    torn: list[bytes] = field(default_factory=list)

    def take(self, raw: bytes) -> None:
        """Go on by one line, given without its newline."""
        self.head = sha256(raw + b"\n")
        value = parse(raw)
        if value is None:
            self.torn.append(raw)
        else:
            self.last, self.after, self.torn = value, self.head, []


def parse(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in ``raw``, or ``None`` if it isn't one (a proper beginning of an object never is)."""
    try:
        value = json.loads(raw.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_lines(data: bytes) -> tuple[list[Line], bytes]:
    """The whole lines in ``data``, and what follows the last newline (empty in a file that nobody tore)."""
    *whole, rest = data.split(b"\n")
    lines = [Line(n, raw, sha256(raw + b"\n"), parse(raw)) for n, raw in enumerate(whole, start=1)]
    return lines, rest


class ChainFile:
    """Appends under an exclusive lock, synced to the disk; several processes may write in turn.

    What is there is never rewritten: the next append closes a torn end with a newline and reports it in
    ``Tail.torn``, so that it can note it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._offset = 0
        self._tail = Tail()

    def create(self) -> None:
        """Make the file and its folder; raises :class:`EvidenceUnwritable` if that can't be done."""
        with self._unwritable():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            os.close(self._open())
            if new:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def append(self, make: Callable[[Tail], list[dict[str, Any]]], link: Callable[[str], dict[str, Any]]) -> None:
        """Append the objects that ``make`` answers to the present tail, each with the ``link`` to the line before it.

        ``make`` runs under the lock. Raises :class:`EvidenceUnwritable`: then nothing of it counts as written.
        """
        with self._unwritable(), self._locked() as file:
            glue = self._catch_up(file)
            data = glue
            for value in make(self._tail):
                value |= link(self._tail.head)
                line = canonical(value)
                self._tail.take(line)
                data += line + b"\n"
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
            self._offset += len(data)

    def lines(self) -> list[Line]:
        """The whole lines as they are stored; none if there is no file."""
        return read_lines(self.path.read_bytes())[0] if self.path.exists() else []

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _catch_up(self, file: int) -> bytes:
        """Read what others have appended; the newline that is missing at the end, if one is."""
        size = os.fstat(file).st_size
        if size < self._offset:
            raise EvidenceTampered(
                f"{self.what} {self.path} has {size} bytes, less than the {self._offset} that were written to it",
                todo="Find out who shortened it; restore it from its copy.",
                changed=Changed.UNKNOWN,
            )
        data = b""
        while self._offset + len(data) < size and (block := os.pread(file, size, self._offset + len(data))):
            data += block
        *whole, rest = data.split(b"\n")
        for raw in whole:
            self._tail.take(raw)
        if rest:
            self._tail.take(rest)
        self._offset += len(data)
        return b"\n" if rest else b""

    @contextmanager
    def _locked(self) -> Iterator[int]:
        file = self._open()
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
            yield file
        finally:
            os.close(file)  # gives the lock back

    @contextmanager
    def _unwritable(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # What is at the end now is not known: the next append reads the file again from its start.
            self._offset, self._tail = 0, Tail()
            if not isinstance(error, OSError):
                raise
            held = isinstance(error, BlockingIOError)
            why = f"another process has held it for {LOCK_TIMEOUT_SECONDS:.0f} s" if held else error.strerror
            raise EvidenceUnwritable(
                f"{self.what} {self.path} can't be written: {why}",
                todo="Make room for it or make it writable, then start again: nothing is done without evidence.",
            ) from error
