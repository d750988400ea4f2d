"""Behind the point of no return what brings service back halts the run if it fails; what only clears up does not."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

from drillbook.engine.point_of_no_return import Midway
from drillbook.engine.step import Context, Step
from drillbook.errors import KubernetesError, StoppedMidway
from drillbook.evidence import Journal
from drillbook.steps.cutover.containment import PutBack
from drillbook.steps.cutover.drain import ScaleUpApplication
from drillbook.steps.recovery.copy import RemoveRecoveryCluster


@dataclass(frozen=True)
class Cut(Step[None]):
    """The cut."""

    point_of_no_return: ClassVar[bool] = True

    def do(self, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("kind", "behind", "halts"),
    [
        (ScaleUpApplication, True, True),
        (ScaleUpApplication, False, False),  # before it the run is put back like any other
        (PutBack, True, False),
        (RemoveRecoveryCluster, True, False),
    ],
)
def test_g03_what_serves_halts_the_run_behind_the_point_of_no_return(
    tmp_path: Path, kind: type, behind: bool, halts: bool
) -> None:
    midway = Midway(Journal.open(tmp_path / "journal.jsonl"), ())
    if behind:
        midway.begins(Cut())
    step = kind(*(None for _ in fields(kind)))
    midway.failed(step, "step 9 failed", error=KubernetesError("403", todo=""))
    assert bool(midway.halted) is halts
    if halts:
        with pytest.raises(StoppedMidway, match="Nothing was put back or removed"):
            midway.require_not("r1")
