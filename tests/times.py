"""Where the time of the tests goes: seconds by file and the longest tests, from the reports of the last runs.

``make test-times`` runs it: ``python tests/times.py REPORT.xml…``. Seconds are each test's own, with set-up and tear-down;
two files run at a time, so the whole takes about half of their sum.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

MOST = 25


def main(reports: list[Path]) -> int:
    """Print both tables for each report that is there; 1 if there is none."""
    console, found = Console(), [path for path in reports if path.is_file()]
    for path in found:
        cases = [
            (case.get("classname", "").replace(".", "/"), case.get("name", ""), float(case.get("time", "0")))
            for case in ElementTree.parse(path).iter("testcase")  # noqa: S314 - our own report
        ]
        files: dict[str, float] = defaultdict(float)
        for file, _, seconds in cases:
            files[file] += seconds
        table = Table(title=f"{path.stem}: {len(cases)} tests, {sum(files.values()):.0f} s", box=None)
        for column in ("seconds", "file"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for file, seconds in sorted(files.items(), key=lambda item: -item[1])[:MOST]:
            table.add_row(f"{seconds:.1f}", file)
        longest = Table(title="the longest tests", box=None)
        for column in ("seconds", "test"):
            longest.add_column(column, justify="right" if column == "seconds" else "left")
        for file, name, seconds in sorted(cases, key=lambda case: -case[2])[:MOST]:
            longest.add_row(f"{seconds:.1f}", f"{file.rpartition('/')[2]}::{name}")
        console.print(table, longest)
    if not found:
        console.print("There is no report yet: run `make test`, or `make test-long`.")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
