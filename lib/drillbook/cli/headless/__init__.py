"""Headless runs: a notebook executed by papermill, and any run closed, resumed or abandoned whatever became of its kernel."""

from drillbook.cli.headless.housekeeping import RunSummary, cleanup, runs
from drillbook.cli.headless.resuming import Abandoned, abandon, approve, resume, waits_at
from drillbook.cli.headless.runner import execute
from drillbook.cli.headless.settling import RunOutcome, finish

__all__ = [
    "Abandoned",
    "RunOutcome",
    "RunSummary",
    "abandon",
    "approve",
    "cleanup",
    "execute",
    "finish",
    "resume",
    "runs",
    "waits_at",
]
