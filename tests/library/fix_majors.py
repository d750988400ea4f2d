"""The PostgreSQLs of this machine: Debian's majors, those that `make majors` unpacked, and the lab's own wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drillbook_lab import pgbin
from drillbook_lab.errors import LabError

PACKAGED = Path("/usr/lib/postgresql")
UNPACKED = Path(sys.prefix) / "majors"
OLDEST, NEWEST = 14, 18
# For a fixture: `make test` runs the newest, the long tests the others.
MAJORS = [
    pytest.param(major, marks=() if major == NEWEST else pytest.mark.long, id=f"PostgreSQL {major}")
    for major in range(OLDEST, NEWEST + 1)
]


def major_of(folder: Path) -> int:
    """0 for one that doesn't start here: a library that it needs is not on this machine."""
    done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True)
    return int(done.stdout.split()[2].split(".")[0]) if done.returncode == 0 else 0


def found() -> dict[int, Path]:
    """The folder of each supported major; the lab's own one last, so that it stands for its major."""
    folders = [path.parent for place in (UNPACKED, PACKAGED) for path in place.glob("*/bin/postgres")]
    try:
        folders.append(pgbin.bin_dir())
    except LabError:
        pass
    return {major: folder for folder in folders if OLDEST <= (major := major_of(folder)) <= NEWEST}


def why_missing(major: int) -> str:
    return f"PostgreSQL {major} is not on this machine: neither the wheel, nor in {PACKAGED}, nor from `make majors` with the libraries that it needs"
