"""Fixtures of the lab's tests, named for what they give."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_apiserver import api, kubectl, listening
from fix_clusters import small
from fix_lab import STANDING, lab
from fix_workloads import backend

__all__ = ["api", "backend", "kubectl", "lab", "listening", "small"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab by itself is tested with the long ones: `make test` uses it, through the product."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", autouse=True)
def built_and_not_copied() -> Iterator[None]:
    """The lab's own tests run a lab that was built, as a person starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DRILLBOOK_LAB_IMAGES", raising=False)
        yield


pytest_runtest_teardown = STANDING.pytest_runtest_teardown
