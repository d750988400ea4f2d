"""Runs: one step at a time in a notebook, each journalled before and after."""

from drillbook.run.engine import Run
from drillbook.run.entering import open_run, resume_run
from drillbook.run.gate import Section
from drillbook.run.holding import LEASE_SECONDS, acts_elsewhere, require_ended
from drillbook.run.opening import NOBODY_THERE, lease_name, validate
from drillbook.run.places import copy_to_work_on, find_run, outputs_dir, project_root

__all__ = [
    "LEASE_SECONDS",
    "NOBODY_THERE",
    "Run",
    "Section",
    "acts_elsewhere",
    "copy_to_work_on",
    "find_run",
    "lease_name",
    "open_run",
    "outputs_dir",
    "project_root",
    "require_ended",
    "resume_run",
    "validate",
]
