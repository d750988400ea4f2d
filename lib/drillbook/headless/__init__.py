"""Headless runs: a notebook executed by papermill, and any run closed whatever became of its kernel."""

from drillbook.headless.runner import RunOutcome, RunSummary, cleanup, execute, finish, runs

__all__ = ["RunOutcome", "RunSummary", "cleanup", "execute", "finish", "runs"]
