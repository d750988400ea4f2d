"""Runs the tests marked ``soak`` and writes what they did, with date and commit, to a page.

``make test-soak`` runs it: ``python tests/soak.py --page docs/soak.md -- PYTEST-ARGUMENTS``. It ends with pytest's status.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
OUTCOMES = ("passed", "failed", "skipped")

HEAD = """# The soak

Repetitions, and full matrices of kills and faults: `make test-soak`. They take longer than CI has, so they are run before a
change of what they test is released. This page is written by the run itself.

"""


def outcome(case: ElementTree.Element) -> str:
    """What pytest says of one test."""
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def table(report: Path) -> str:
    """Each file's tests counted by outcome, with the seconds that they took."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        name = case.get("classname", "").replace(".", "/") + ".py"
        counts[name][outcome(case)] += 1
        seconds[name] += float(case.get("time", "0"))  # type: ignore[assignment]
    rows = [
        f"| `{name}` | {' | '.join(str(counts[name][o]) for o in OUTCOMES)} | {seconds[name]:.0f} |"
        for name in sorted(counts)
    ]
    total = sum(counts.values(), Counter())
    rows.append(f"| **all** | {' | '.join(str(total[o]) for o in OUTCOMES)} | {sum(seconds.values()):.0f} |")
    return "\n".join([f"| file | {' | '.join(OUTCOMES)} | seconds |", "|---|---|---|---|---|", *rows])


def commit() -> str:
    """The commit that was tested, and whether the tree differed from it."""
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


def main() -> int:
    """Run, write, and end as pytest did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("pytest", nargs="*")
    asked = parser.parse_args()
    tested, begun = commit(), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "soak.xml"
        argv = [sys.executable, "-m", "pytest", "-m", "soak", f"--junitxml={report}", *asked.pytest]
        code = subprocess.run(argv, cwd=ROOT, check=False).returncode
        minutes = (datetime.now(UTC) - begun).total_seconds() / 60
        result = f"Last run: {begun:%Y-%m-%d}, commit `{tested}`, {minutes:.0f} minutes.\n\n{table(report)}\n"
    asked.page.write_text(HEAD + result, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
