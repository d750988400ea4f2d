"""Which of the lab's programs a container is: by what its command begins with, or by its image's name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from drillbook_lab.api.errors import Object
from drillbook_lab.operator.places import PodPlaces

Program = Callable[[Object, PodPlaces], list[str]]
"""From a container and its pod's places to the command line that really runs."""


def agent(module: str) -> Program:
    """One of our programs that reads the spec file which the pod's preparer wrote."""

    def argv(container: Object, places: PodPlaces) -> list[str]:
        return [sys.executable, "-m", f"drillbook_lab.{module}", "--spec", str(places.spec_file)]

    return argv


def program(module: str) -> Program:
    """One of our programs that takes everything from its environment, and the container's arguments as they are."""

    def argv(container: Object, places: PodPlaces) -> list[str]:
        return [sys.executable, "-m", f"drillbook_lab.{module}", *map(str, container.get("args") or ())]

    return argv


def drillbook(container: Object, places: PodPlaces) -> list[str]:
    """This installation's own `drillbook`. Where it is to listen on every address of the pod, there is one: not the machine's."""
    _, *rest = map(str, (*container["command"], *(container.get("args") or ())))
    asked = [re.sub(r"^0\.0\.0\.0(?=:\d+$)", places.address, part) for part in rest]
    return [sys.executable, "-m", "drillbook", *asked]


# The beginning of a container's command; the longest match counts.
PROGRAMS: dict[tuple[str, ...], Program] = {
    ("/controller/manager", "instance", "init"): agent("agent.initdb"),
    ("/controller/manager", "instance", "restore"): agent("agent.recovery"),
    ("/controller/manager", "instance", "join"): agent("agent.join"),
    ("/controller/manager", "instance", "run"): agent("agent.instance"),
    ("/controller/manager", "pgbouncer", "run"): agent("agent.pgbouncer"),
    ("drillbook",): drillbook,
}

# An image's name, without registry, tag and digest, for containers that leave the command to the image.
IMAGES: dict[str, Program] = {
    "drillbook-lab/sample-app": program("sample_app"),
}


def command_line(container: Object, places: PodPlaces) -> list[str]:
    """What really runs for a container. `LookupError`: the lab has no such image."""
    asked = tuple(map(str, (*(container.get("command") or ()), *(container.get("args") or ()))))
    for length in range(len(asked), 0, -1):
        found = PROGRAMS.get(asked[:length])
        if found is not None:
            return found(container, places)
    image = str(container.get("image") or "")
    if not container.get("command"):
        for name, found in IMAGES.items():
            if _names(image, name):
                return found(container, places)
    what = f"for the command {list(asked)!r}" if container.get("command") else f"{image!r}"
    raise LookupError(f"this lab has no image {what}: it runs its own programs only")


def _names(image: str, name: str) -> bool:
    """Whether an image reference is of that name: any registry, any tag, any digest."""
    path = image.partition("@")[0]
    if ":" in path.rpartition("/")[2]:
        path = path.rpartition(":")[0]
    return path == name or path.endswith(f"/{name}")
