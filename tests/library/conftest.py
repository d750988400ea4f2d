"""Fixtures of the library's tests, named for what they give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.library.fix_integrity import Server, running
from tests.library.fix_kube import api, kube, link, linked
from tests.library.fix_psql import superuser

__all__ = ["api", "kube", "link", "linked", "server", "superuser"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A healthy PostgreSQL; each test makes its own databases in it."""
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started
