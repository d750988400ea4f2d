"""Runs: one step at a time in a notebook, each journalled before and after."""

from drillbook.run.engine import LEASE_SECONDS, Run, open_run
from drillbook.run.opening import lease_name, validate
from drillbook.run.places import find_run, outputs_dir, project_root

__all__ = ["LEASE_SECONDS", "Run", "find_run", "lease_name", "open_run", "outputs_dir", "project_root", "validate"]
