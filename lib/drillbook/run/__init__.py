"""Runs: one step at a time in a notebook, each journalled before and after."""

from drillbook.run.engine import Run, open_run
from drillbook.run.gate import Section
from drillbook.run.gatekeeping import NOBODY_THERE
from drillbook.run.holding import LEASE_SECONDS, acts_elsewhere, require_ended
from drillbook.run.opening import lease_name, validate
from drillbook.run.places import find_run, outputs_dir, project_root

__all__ = [
    "LEASE_SECONDS",
    "NOBODY_THERE",
    "Run",
    "Section",
    "acts_elsewhere",
    "find_run",
    "lease_name",
    "open_run",
    "outputs_dir",
    "project_root",
    "require_ended",
    "validate",
]
