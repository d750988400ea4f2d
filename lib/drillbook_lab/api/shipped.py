"""The CustomResourceDefinitions that the lab serves: the package's own, or those of a folder."""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from drillbook_lab.api.admission import configurations
from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.api.registry import Registry
from drillbook_lab.errors import LabError

FOLDER = "DRILLBOOK_LAB_CRDS"
"""The environment variable that names a folder with CRD files, to be served in place of ours."""

# The C parser, where there is one: the real Cluster's definition has half a megabyte.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def shipped_crds() -> list[Object]:
    """CloudNativePG's kinds, in our own writing: Backup, Cluster, Database, ObjectStore, Pooler, ScheduledBackup."""
    found: list[Object] = copy(_shipped())
    return found


@cache
def _shipped() -> list[Object]:
    return _definitions(resources.files("drillbook_lab") / "crds")


def _definitions(folder: Traversable) -> list[Object]:
    found: list[Object] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith((".yaml", ".yml")):
            continue
        # One file may hold several definitions, as upstream's releases do.
        for crd in yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader):
            if isinstance(crd, dict) and crd.get("kind") == "CustomResourceDefinition":
                # The anchors' home: part of how the file is written, not of what it declares.
                crd["spec"].pop("x-shapes", None)
                found.append(crd)
    return found


def served_crds() -> list[Object]:
    """What the lab serves: the definitions of the folder that the environment names, and ours where it has none."""
    named = os.environ.get(FOLDER, "")
    if not named:
        return shipped_crds()
    theirs = _definitions(Path(named)) if Path(named).is_dir() else []
    if not theirs:
        raise LabError(f"{FOLDER} names no folder with CustomResourceDefinitions", named, "name one, or unset it")
    known = {crd["metadata"]["name"] for crd in theirs}
    return [*theirs, *(crd for crd in shipped_crds() if crd["metadata"]["name"] not in known)]


def cnpg_registry(*, history: int = 8192, watcher_limit: int = 4096) -> Registry:
    """A registry that serves the built-in kinds and CloudNativePG's."""
    registry = Registry(history=history, watcher_limit=watcher_limit)
    for crd in served_crds():
        registry.register_crd(crd)
    for configuration in configurations():
        registry.create(configuration)
    return registry
