"""A lab for each cut-over: it replaces the lab's cluster, so no other test may share it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "drills"))

from fix_cutover import CutLab


@pytest.fixture
def cut_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CutLab]:
    """The second site, its application running."""
    from fix_drills import DrillLab

    lab = DrillLab(tmp_path_factory.mktemp("cutover"), "second", 1)
    yield CutLab(lab)
    lab.down()
