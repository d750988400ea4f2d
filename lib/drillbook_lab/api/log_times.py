"""When a line of a log was written, for `--since` and `--timestamps`.

The lab's containers write straight to their files, so a line's time is the one that it tells itself: the `ts` of a
JSON line, or a date at its beginning. A line that tells none has the time of the line before it, the first ones
that of the container's start.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from drillbook_lab.api import errors

_TOLD = re.compile(
    rb'^(?:\{.{0,200}?"ts": ?"|\[)?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?)(Z| ?UTC| ?[+-]\d\d:?\d\d)?'
)


def since(seconds: str, instant: str) -> datetime | None:
    """The moment that `sinceSeconds` or `sinceTime` means."""
    if seconds and instant:
        raise errors.bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
    if seconds:
        if not seconds.isdigit() or int(seconds) < 1:
            raise errors.bad_request(f'sinceSeconds: Invalid value: "{seconds}": must be greater than 0')
        return datetime.now(UTC) - timedelta(seconds=int(seconds))
    if instant:
        try:
            return datetime.fromisoformat(instant.replace("Z", "+00:00"))
        except ValueError:
            raise errors.bad_request(f'sinceTime: Invalid value: "{instant}"') from None
    return None


class Clock:
    """The time of the line that was seen last."""

    def __init__(self, started: str) -> None:
        self.now = _instant(started) or datetime.fromtimestamp(0, UTC)

    def see(self, line: bytes) -> datetime:
        """A line's time."""
        told = _TOLD.match(line)
        if told:
            zone = (told[2] or b"Z").decode().strip()
            text = told[1].decode().replace(",", ".") + ("+00:00" if zone in ("Z", "UTC") else zone)
            self.now = _instant(text) or self.now
        return self.now


def seek(file: BinaryIO, clock: Clock, begin: datetime) -> None:
    """Go to the first line that isn't older; the end, if all are."""
    at = file.tell()
    for line in iter(file.readline, b""):
        if clock.see(line) >= begin:
            break
        at += len(line)
    file.seek(at)


class Stamping:
    """Puts its time before every line, however the lines are cut into chunks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._inside = False

    def stamp(self, chunk: bytes) -> bytes:
        """The chunk with times; the time of a line that is cut is given by its first part."""
        shown = []
        for line in chunk.splitlines(keepends=True):
            if not self._inside:
                at = self._clock.see(line)
                shown.append(at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode() + b" ")
            shown.append(line)
            self._inside = not line.endswith(b"\n")
        return b"".join(shown)


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
