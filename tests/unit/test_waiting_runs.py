"""Where a run that has not ended stands, as the next one that is opened says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drillbook.engine import waiting_runs

AT = "2026-11-29T14:13:00Z"


def step(n: int, title: str, status: str) -> list[dict[str, Any]]:
    begun = {"type": "step_started", "at": AT, "n": n, "title": title}
    return [begun, {"type": "step_finished", "at": AT, "n": n, "status": status}]


def test_c17_a_run_stands_at_the_step_that_stopped_it_and_not_at_the_cells_run_behind_it(tmp_path: Path) -> None:
    opened = {"type": "opened", "at": AT, "run_id": "r1", "runbook": "drill-annual-archive-restore"}
    events = [opened, *step(6, "Ask", "done"), *step(7, "Wait for the archive", "failed")]
    assert "stopped midway at step 7 (Wait for the archive)" in str(waiting_runs.of(tmp_path, events))
    events += [*step(8, "Create a copy", "not run"), *step(9, "Wait for it", "not run")]
    assert "stopped midway at step 7 (Wait for the archive)" in str(waiting_runs.of(tmp_path, events))
    events += step(8, "Create a copy", "failed")
    assert "at step 8 (Create a copy)" in str(waiting_runs.of(tmp_path, events)), "resumed since"
