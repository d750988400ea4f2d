"""What the tests of one folder share, such as a lab: made for the first that asks, gone when the folder's last test has ended.

A fixture of the session would stand until the end of all tests, and an idle lab costs a tenth of a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class Standing:
    """The shared things of ``folder``. Its conftest takes over `pytest_runtest_teardown`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, tuple[Any, Iterator[Any]]] = {}

    def get(self, name: str, make: Callable[[], Iterator[T]]) -> T:
        """What ``make`` yields; what comes after its yield is done at the end."""
        if name not in self._kept:
            made = make()
            self._kept[name] = (next(made), made)
        found: T = self._kept[name][0]
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> Iterator[None]:
        """End everything, the newest first and also after a teardown that failed, unless the next test is of this folder too."""
        try:
            yield
        finally:
            if nextitem is None or nextitem.path.parent != self._folder:
                while self._kept:
                    _, (_, made) = self._kept.popitem()
                    next(made, None)
