"""Writing the files that Flyway gets of an index migration. Reads and writes files only."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from drillbook.errors import ParameterError
from drillbook.indexes import flyway
from drillbook.indexes.migration import load_migration


def write_flyway_files(console: Console, migration: Path, to: Path, *, build: bool, version: str) -> int:
    """Write them into the folder ``to``; the exit status.

    Raises ParameterError with every fault. A file that is there and says something else is not overwritten: a migration
    that Flyway has applied must not change.
    """
    make = flyway.building if build else flyway.adopting
    files = make(load_migration(migration), version)
    others = [
        f"{to / name} is there and says something else"
        for name, text in files.items()
        if (to / name).exists() and (to / name).read_text(encoding="utf-8", errors="replace") != text
    ]
    if others:
        todo = "Nothing was written. Remove them if Flyway has not applied them yet, or name another folder."
        raise ParameterError(others, where="drillbook flyway", todo=todo)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (to / name).write_text(text, encoding="utf-8")
            console.print(f"written   {to / name}")
    except OSError as error:
        fault = f"--to {to} can't be written: {error.strerror}"
        raise ParameterError([fault], where="drillbook flyway", todo="Name another folder.") from error
    if build:
        console.print(f"Flyway must run with {flyway.SESSION_LOCK}, or it waits for itself.")
    else:
        console.print(
            "Run the runbook change-indexes first: the file builds nothing, and fails until every index is there."
        )
    return 0
