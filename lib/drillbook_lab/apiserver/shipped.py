"""The CustomResourceDefinitions that the lab serves, read from the package's YAML files."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

from drillbook_lab.apiserver.errors import Object
from drillbook_lab.apiserver.patches import copy
from drillbook_lab.apiserver.registry import Registry


def shipped_crds() -> list[Object]:
    """CloudNativePG's kinds, in our own writing: Backup, Cluster, ObjectStore, ScheduledBackup."""
    found: list[Object] = copy(_read())
    return found


@cache
def _read() -> list[Object]:
    folder = resources.files("drillbook_lab") / "crds"
    found: list[Object] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            crd: Object = yaml.safe_load(file.read_text(encoding="utf-8"))
            # The anchors' home: part of how the file is written, not of what it declares.
            crd["spec"].pop("x-shapes", None)
            found.append(crd)
    return found


def cnpg_registry(*, history: int = 8192, watcher_limit: int = 4096) -> Registry:
    """A registry that serves the built-in kinds and CloudNativePG's."""
    registry = Registry(history=history, watcher_limit=watcher_limit)
    for crd in shipped_crds():
        registry.register_crd(crd)
    return registry
