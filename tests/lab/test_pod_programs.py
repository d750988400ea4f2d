"""Every program that the lab runs in a container is a module that exists."""

import importlib.util
from pathlib import Path

import pytest

from drillbook_lab.node.pod_programs import IMAGES, PROGRAMS, command_line
from drillbook_lab.operator.places import PodPlaces

CONTAINERS = [
    *({"command": list(command)} for command in PROGRAMS),
    *({"image": f"registry.example/{image}:1"} for image in IMAGES),
]


def runnable(module: str) -> bool:
    """Whether `python -m MODULE` finds what it runs: a module, or a package with a `__main__`."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    return spec is not None


@pytest.mark.parametrize("container", CONTAINERS, ids=str)
def test_a_containers_program_is_a_module_that_exists(container: dict[str, object], tmp_path: Path) -> None:
    argv = command_line(container, PodPlaces(tmp_path, tmp_path, "127.0.0.1", {}))
    assert runnable(argv[argv.index("-m") + 1]), argv
