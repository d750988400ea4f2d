"""Headless runs: a notebook executed by papermill, and any run closed, resumed or abandoned whatever became of its kernel."""

from drillbook.cli.headless.housekeeping import RunSummary, cleanup, runs
from drillbook.cli.headless.resuming import Abandoned, abandon, approve, resume, waits_at
from drillbook.cli.headless.runner import execute
from drillbook.cli.headless.settling import RunOutcome, finish
from drillbook.cli.headless.undoing import WayBack, drop_kept, way_back

__all__ = [
    "Abandoned",
    "RunOutcome",
    "RunSummary",
    "WayBack",
    "abandon",
    "approve",
    "cleanup",
    "drop_kept",
    "execute",
    "finish",
    "resume",
    "runs",
    "waits_at",
    "way_back",
]
