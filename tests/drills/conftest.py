"""One lab for all drills of this folder, with little data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_drills import DrillLab
from tests.standing import Standing

STANDING = Standing(Path(__file__).parent)


def _lab(folder: Path, profile: str) -> Iterator[DrillLab]:
    lab = DrillLab(folder, profile, 2)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def drill_lab(tmp_path_factory: pytest.TempPathFactory) -> DrillLab:
    """The first site, its writer running; one for all files of the folder."""
    return STANDING.get("first", lambda: _lab(tmp_path_factory.mktemp("drills"), "first"))


@pytest.fixture(scope="module")
def second_lab(tmp_path_factory: pytest.TempPathFactory) -> DrillLab:
    """The second site: other names, other namespaces, one tenant; one for all files of the folder."""
    return STANDING.get("second", lambda: _lab(tmp_path_factory.mktemp("second"), "second"))


pytest_runtest_teardown = STANDING.pytest_runtest_teardown


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each drill, however it ended, nothing of it is left in the cluster."""
    yield
    for name in {"drill_lab", "second_lab"} & set(request.fixturenames):
        lab: DrillLab = request.getfixturevalue(name)
        assert lab.left() == []
