"""The lab of the drills, for the browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "drills"))

from fix_drills import DrillLab
from tests.standing import Standing

STANDING = Standing(Path(__file__).parent)


def _lab(folder: Path) -> Iterator[DrillLab]:
    lab = DrillLab(folder, "first", 2)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def browser_lab(tmp_path_factory: pytest.TempPathFactory) -> DrillLab:
    """The first site, its writer running, with little data; one for all files of the folder."""
    return STANDING.get("browser", lambda: _lab(tmp_path_factory.mktemp("browser")))


pytest_runtest_teardown = STANDING.pytest_runtest_teardown
