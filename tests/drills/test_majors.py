"""The monthly drill on every PostgreSQL that this machine has: Debian's majors side by side, and the lab's own wheel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from fix_drills import DrillLab

from drillbook import kube as k8s
from drillbook_lab import pgbin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))

from fix_majors import NEWEST, OLDEST, found, why_missing

FOUND = found()


def marked(major: int) -> ParameterSet:
    """The newest is run each time, the others in the soak."""
    mark = pytest.mark.long if major == NEWEST else pytest.mark.soak
    return pytest.param(major, marks=mark, id=f"PostgreSQL {major}")


@pytest.fixture(params=[marked(major) for major in range(OLDEST, NEWEST + 1)])
def major(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One of the majors; labs that start in this test run it."""
    if request.param not in FOUND:
        pytest.skip(why_missing(request.param))
    monkeypatch.setenv(pgbin.VARIABLE, str(FOUND[request.param]))
    return int(request.param)


@pytest.fixture
def lab_of_major(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The first site on that major."""
    lab = DrillLab(tmp_path_factory.mktemp(f"pg{major}"), "first", 2)
    yield lab
    lab.down()


def test_the_drill_is_verified(lab_of_major: DrillLab, major: int) -> None:
    lab = lab_of_major
    source = lab.admin.get(k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name)
    assert source is not None and source["status"]["phase"] == "Cluster in healthy state"
    assert source["status"]["pgDataImageInfo"]["majorVersion"] == major
    assert int(lab.sql("postgres", "show server_version_num")) // 10000 == major
    drill = lab.drill()
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    for check in ("rows", "structure", "amcheck", "app login"):
        assert set(drill.verdicts(check).values()) == {"VERIFIED"}, check
    assert drill.check("boundary")["verdict"] == "VERIFIED"
    assert lab.left() == []
