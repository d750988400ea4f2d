"""Runs the tests marked ``soak`` and writes what they did, with date and commit, to a page that keeps what it had.

``make test-soak`` runs it: ``python tests/soak.py --page docs/soak.md -- PYTEST-ARGUMENTS``. It ends with pytest's
status.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]

HEAD = """# The soak

Repetitions, and full matrices of kills and faults: `make test-soak`. They take longer than CI has, so they are run before a
change of what they test is released. This page is written by the run itself: a test keeps the row of its last run, whole
files or single tests (`make test-soak SOAK="tests/drills/test_swap_majors.py"`). A soak test without a row was not run.

| test | outcome | seconds | date | commit |
|---|---|---|---|---|
"""


def outcome(case: ElementTree.Element) -> str:
    """What pytest says of one test."""
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def rows(report: Path, date: str, tested: str) -> dict[str, str]:
    """A row for each test that was run, by its name."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        found[name] = f"| `{name}` | {outcome(case)} | {float(case.get('time', '0')):.0f} | {date} | `{tested}` |"
    return found


def known(page: Path) -> dict[str, str]:
    """The rows that the page has, by test."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.is_file() else []
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def commit(page: Path) -> str:
    """The commit that was tested, and whether the tree differed from it in anything but the page itself."""
    described = _git("describe", "--always")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){page}")
    return described + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> int:
    """Run, write, and end as pytest did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("pytest", nargs="*")
    asked = parser.parse_args()
    tested, begun = commit(asked.page), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "soak.xml"
        argv = [sys.executable, "-m", "pytest", "-m", "soak", f"--junitxml={report}", *asked.pytest]
        code = subprocess.run(argv, cwd=ROOT, check=False).returncode
        found = known(asked.page) | rows(report, f"{begun:%Y-%m-%d}", tested)
    asked.page.write_text(HEAD + "\n".join(found[name] for name in sorted(found)) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
