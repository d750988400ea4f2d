"""Runs: one step at a time in a notebook, each journalled before and after."""

from drillbook.run.engine import Run, open_run, validate
from drillbook.run.places import find_run, outputs_dir, project_root

__all__ = ["Run", "find_run", "open_run", "outputs_dir", "project_root", "validate"]
