"""What the real operator answered, next to what the lab answers. The recordings are not part of the project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from fix_replay import replay

__all__ = ["recordings", "replay"]

VARIABLE = "DRILLBOOK_RECORDINGS"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recorded scenarios; without it a test skips and says so."""
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder with recordings of the real operator")
    return Path(folder)
