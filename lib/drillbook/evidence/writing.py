"""Writing a file as a whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from drillbook.errors import Changed, EvidenceUnwritable


def write_whole(
    path: Path,
    data: bytes,
    mode: int = 0o644,
    *,
    todo: str = "Name a folder with room.",
    changed: Changed = Changed.NOTHING,
) -> None:
    """Put a file in its place with these rights, on the disk before this returns; EvidenceUnwritable with ``todo``."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise EvidenceUnwritable(f"{path} can't be written: {error.strerror}", todo=todo, changed=changed) from error


__all__ = ["write_whole"]
