"""Headless runs: a notebook executed by papermill, and any run closed, resumed or abandoned whatever became of its kernel."""

from drillbook.headless.housekeeping import RunSummary, cleanup, runs
from drillbook.headless.resuming import Abandoned, abandon, approve, resume, waits_at
from drillbook.headless.runner import execute
from drillbook.headless.settling import RunOutcome, finish
from drillbook.headless.undoing import WayBack, drop_kept, way_back

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
