"""The questions travel with the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from drillbook.postgres.client import question

ROOT = Path(__file__).parents[2]
QUESTIONS = sorted(path.stem for path in (ROOT / "lib" / "drillbook" / "sql").glob("*.sql"))


def test_every_question_is_found_and_says_what_it_asks() -> None:
    """Each file begins with its comment."""
    assert QUESTIONS
    for name in QUESTIONS:
        assert question(name).startswith("-- "), name


def test_a_wheel_holds_the_questions(tmp_path: Path) -> None:
    """The built wheel has every file, and finds them even without being unpacked."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"drillbook/sql/{name}.sql" for name in QUESTIONS} <= names
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); import drillbook.postgres.client as p; "
        "assert '.whl' in p.__file__; assert p.question('archiver')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)
