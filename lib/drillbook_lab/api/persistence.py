"""What the server knows, on disk: every change is written through, so that kill -9 loses none of them.

SQLite in WAL mode without fsync: a killed process leaves its writes with the kernel, and that is the case that
matters here. A machine that loses power may lose the last moments of a lab.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from drillbook_lab.api.errors import Object

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Journal:
    """The objects as they are now, and the newest resource version."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # Secrets lie in it
        # One thread at a time, though not always the same one: a test's server runs next to the test.
        self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=OFF")
        self._base.executescript(_SCHEMA)

    @property
    def version(self) -> int:
        """The newest version that was ever given; 0 in a new file."""
        row = self._base.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()
        return int(row[0]) if row else 0

    def objects(self) -> Iterator[Object]:
        """Everything that was there at the last write."""
        for (body,) in self._base.execute("SELECT body FROM objects"):
            yield json.loads(body)

    def put(self, key: tuple[str, str, str], encoded: str, version: int) -> None:
        """Write one object and its version, both or neither."""
        self._write("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, encoded), version)

    def remove(self, key: tuple[str, str, str], version: int) -> None:
        """Take one object out."""
        self._write("DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", key, version)

    def _write(self, statement: str, values: tuple[str, ...], version: int) -> None:
        with self._base:  # both are undone if one fails
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute(statement, values)
            self._base.execute("INSERT OR REPLACE INTO counters VALUES ('version', ?)", (version,))

    def close(self) -> None:
        """Let the file go."""
        self._base.close()
