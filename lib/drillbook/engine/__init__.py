"""Runs: one step at a time in a notebook, each journalled before and after."""

from drillbook.engine.cluster_lock import LEASE_SECONDS, acts_elsewhere, require_ended
from drillbook.engine.engine import Run
from drillbook.engine.gate import Section
from drillbook.engine.opening import UNATTENDED_ENV, lease_name, validate
from drillbook.engine.run_folders import copy_to_work_on, find_run, find_runbook, outputs_dir, project_root
from drillbook.engine.start import open_run, resume_run

__all__ = [
    "LEASE_SECONDS",
    "UNATTENDED_ENV",
    "Run",
    "Section",
    "acts_elsewhere",
    "copy_to_work_on",
    "find_run",
    "find_runbook",
    "lease_name",
    "open_run",
    "outputs_dir",
    "project_root",
    "require_ended",
    "resume_run",
    "validate",
]
