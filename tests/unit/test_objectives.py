"""The achieved recovery time and point compared with their objectives: one check each, whatever was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drillbook.engine.step import Context, NullRecorder
from drillbook.evidence.facts import Facts, MeasuredLag
from drillbook.model import ClusterRef, Verdict
from drillbook.profile import load_site
from drillbook.steps.checks.outcome import CompareWithObjectives
from drillbook.steps.recovery.copy import Recovered

RECOVERED = Recovered(
    ref=ClusterRef(namespace="drills", name="copy"),
    timeline=2,
    stopped="before",
    stopped_xid=700,
    stopped_at=datetime(2026, 11, 1, tzinfo=UTC),
    last_completed_at=None,
    segments=1,
    provision_seconds=1.0,
    fetch_seconds=1.0,
    replay_seconds=1.0,
    promote_seconds=1.0,
    recovery_seconds=4.0,
    log="",
)


class Knows(NullRecorder):
    """What a run has learned of the lag of its archive; None: nothing."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    @property
    def facts(self) -> Facts:
        return Facts() if self._seconds is None else Facts(archive_lag=MeasuredLag(seconds=self._seconds))


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(0.0, Verdict.VERIFIED), (5.0, Verdict.VERIFIED), (7200.0, Verdict.FAILED), (None, Verdict.UNPROVEN)],
)
def test_the_recovery_point_is_judged_once_and_a_lag_of_nothing_is_a_measured_one(
    seconds: float | None, verdict: Verdict
) -> None:
    ctx = Context(
        site=load_site(str(Path(__file__).parents[2] / "sites" / "synergyflow.yaml")),
        run_id="",
        mode="plan",
        recorder=Knows(seconds),
        mask=str,
    )
    checks = CompareWithObjectives(recovered=RECOVERED).observe(ctx)
    assert [(one.name, one.verdict) for one in checks if one.name == "objective: recovery point"] == [
        ("objective: recovery point", verdict)
    ]
