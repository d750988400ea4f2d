"""Type-checks the code cells of every runbook, as one program each: ``make types`` runs it.

A name that a step's result doesn't have (``target.bakcup``) is found here, before anybody steps through the notebook.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def program(notebook: Path) -> str:
    """The code cells in their order; a line says which cell the next ones are from."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [(number, cell.source) for number, cell in enumerate(cells) if cell.cell_type == "code"]
    return "\n\n".join(f"# cell {number}\n{source}" for number, source in code) + "\n"


def main(notebooks: list[Path]) -> int:
    """Write the programs, and end as mypy does."""
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            (Path(folder) / f"{notebook.stem.replace('-', '_')}.py").write_text(program(notebook), encoding="utf-8")
        files = sorted(str(path) for path in Path(folder).glob("*.py"))
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
        return subprocess.run([*command, *files], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or sorted((ROOT / "runbooks").glob("*.ipynb"))))
