"""What a test's copy of a runbook calls after each step: die as by kill -9, if the environment names that step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import nbformat


def after(step: int) -> None:
    """Die if DIE_AFTER is this step's number."""
    if os.environ.get("DIE_AFTER") == str(step):
        os.kill(os.getpid(), signal.SIGKILL)


def mortal(runbook: Path, folder: Path) -> tuple[Path, int]:
    """The runbook with such a call after each of its steps, under its own name; and how many steps it has."""
    notebook = nbformat.read(runbook, as_version=4)
    cells, steps = [], 0
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code" and "run.do(" in cell.source:
            steps += 1
            cells.append(nbformat.v4.new_code_cell(f"import dying\ndying.after({steps})"))
    notebook.cells = cells
    path = folder / runbook.name
    nbformat.write(notebook, path)
    return path, steps
