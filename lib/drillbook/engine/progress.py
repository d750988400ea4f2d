"""What a run is doing now, kept in ``.progress`` of the outputs folder: for anyone who can't see its cell.

After a reload JupyterLab draws nothing more in a cell whose step goes on: its link to that cell's outputs is lost
with the page. The file is no evidence, so it is outside the run's folder; what it says is masked. Without room for it
the step goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drillbook.model import show_seconds

_SECONDS = 1.0


class Progress:
    """Writes what the running step says, once a second at most."""

    def __init__(self, folder: Path, mask: Callable[[Any], Any]) -> None:
        self._path, self._mask, self._written = _path(folder), mask, 0.0

    def say(self, n: int, title: str, text: str, fraction: float | None, rows: Sequence[tuple[str, str]]) -> None:
        """Keep what step ``n`` says in place of what was said before."""
        if time.monotonic() - self._written < _SECONDS:
            return
        self._written = time.monotonic()
        said = {
            "n": n,
            "title": title,
            "text": text,
            "fraction": fraction,
            "rows": [list(row) for row in rows],
            "at": datetime.now(UTC).isoformat(),
        }
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.parent.mkdir(exist_ok=True)
            part.write_text(json.dumps(self._mask(said)), encoding="utf-8")
            part.replace(self._path)  # anyone who reads it sees one of the two, whole

    def begin(self) -> None:
        """Another step begins: what the one before said is over, and what this one says first is kept at once."""
        self._written = 0.0
        self.forget()

    def forget(self) -> None:
        """Take the file away; safe to call twice."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def doing(folder: Path, events: Sequence[dict[str, Any]]) -> str:
    """What a living run is doing now, in a line: its step, and what that said last; "" between two steps."""
    last = next((event for event in reversed(events) if event["type"] in ("step_started", "step_finished")), None)
    if last is None or last["type"] != "step_started":
        return ""
    step = f"step {last['n']} ({last['title']}) since {str(last['at'])[11:19]} UTC"
    try:
        said = json.loads(_path(folder).read_text(encoding="utf-8"))
        ago = (datetime.now(UTC) - datetime.fromisoformat(said["at"])).total_seconds()
    except (OSError, ValueError, KeyError):
        return step
    if said["n"] != last["n"]:
        return step
    share = f"{said['fraction']:.0%}, " if said["fraction"] is not None else ""
    rows = "".join(f"; {name}: {value}" for name, value in said["rows"])
    return f"{step}: {share}{said['text']}{rows} ({show_seconds(ago)} ago)"


def _path(folder: Path) -> Path:
    return folder.parent.parent / ".progress" / f"{folder.name}.json"


__all__ = ["Progress", "doing"]
