"""One lab for all drills of this folder, with little data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fix_drills import DrillLab


@pytest.fixture(scope="session")
def drill_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The first site, its writer running."""
    lab = DrillLab(tmp_path_factory.mktemp("drills"), "first", 2)
    yield lab
    lab.down()


@pytest.fixture(scope="session")
def second_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The second site: other names, other namespaces, one tenant."""
    lab = DrillLab(tmp_path_factory.mktemp("second"), "second", 2)
    yield lab
    lab.down()


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each drill, however it ended, nothing of it is left in the cluster."""
    yield
    for name in {"drill_lab", "second_lab"} & set(request.fixturenames):
        lab: DrillLab = request.getfixturevalue(name)
        assert lab.left() == []
