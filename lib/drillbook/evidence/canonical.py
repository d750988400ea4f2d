"""One way to write a value as bytes, and the digests made of such bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drillbook.model import Lsn, show_instant

SCHEMA = "drillbook.record/1"
"""What a record's fields mean. A record of another schema is kept as it is and not computed again."""

_NOT_THE_PROCEDURE = {"injected-parameters", "papermill-error-cell-tag", "parameters", "operation-note"}
"""What papermill adds, and what an engineer is meant to write: parameters are in the journal, the note in the copy."""


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: models, dataclasses, enums, instants and LSNs become objects and text.

    Raises ``TypeError`` for anything else: evidence holds nothing that it can't say exactly.
    """
    if value is None or (isinstance(value, bool | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        # A lone surrogate (a byte that was no UTF-8) can't be stored as UTF-8; it is kept as its escape.
        return value.encode("utf-8", errors="backslashreplace").decode()
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, datetime):
        return show_instant(value)
    if isinstance(value, Lsn | Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    raise TypeError(f"evidence can't hold a {type(value).__name__}: give it as text, number, list or mapping")


def canonical(value: Any) -> bytes:
    """``value`` as one line of UTF-8 JSON: keys sorted, no spaces, no NaN; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """The digest of ``data`` in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The digest of a file as it is stored."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notebook_digest(path: Path) -> str:
    """The digest of a notebook's prose and code, the same for a source and for each executed copy of it.

    Outputs, execution counts, cell ids and metadata don't count, nor do empty cells, the cells that papermill adds, the
    parameters and the operation note.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        if _NOT_THE_PROCEDURE & set(cell.get("metadata", {}).get("tags", [])):
            continue
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        if text.strip():  # JupyterLab adds an empty cell when the last one is run
            cells.append([cell["cell_type"], text])
    return sha256(canonical(cells))


def now() -> str:
    """This instant in RFC 3339, UTC, always with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
