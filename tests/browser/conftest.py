"""The lab of the drills, for the browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "drills"))

from fix_drills import DrillLab


@pytest.fixture(scope="session")
def browser_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The first site, its writer running, with little data."""
    lab = DrillLab(tmp_path_factory.mktemp("browser"), "first", 2)
    yield lab
    lab.down()
