"""Writes deploy/image/requirements.txt: what the core alone needs, from the project's own lock: ``python tests/unit/core_requirements.py``."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKED = ROOT / "deploy" / "image" / "requirements.txt"


def closure(wanted: list[str]) -> set[str]:
    """The canonical names of these requirements and of all that they need here, extras included."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(item) for item in wanted]
    while left:
        item = left.pop()
        name = canonicalize_name(item.name)
        for extra in {"", *item.extras}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                needs = requires(item.name) or []
            except PackageNotFoundError:
                continue  # a requirement of another platform
            wants = map(Requirement, needs)
            left += [need for need in wants if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def core() -> str:
    """The part of requirements.txt that the core needs, with its hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = closure(project["dependencies"])
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([A-Za-z0-9._-]+)==.*?(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^[A-Za-z0-9._-]+==.*?(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
    kept = [block for name, block in zip(entries, blocks, strict=True) if canonicalize_name(name) in names]
    return "".join(kept).rstrip() + "\n"


if __name__ == "__main__":
    LOCKED.parent.mkdir(parents=True, exist_ok=True)
    LOCKED.write_text(core(), encoding="utf-8")
    sys.stdout.write(f"{LOCKED}\n")
