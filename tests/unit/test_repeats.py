"""A cell that is run again: its recorded result, or another look where a person may have fixed something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from drillbook.engine.repeats import Repeats
from drillbook.engine.step import CheckStep
from drillbook.model import Check, Verdict
from drillbook.steps.troubleshoot import BackupAfterFix, ConnectionAfterFix, RecoveryAfterFix


@dataclass(frozen=True)
class Look(CheckStep):
    """Look."""

    name: ClassVar[str] = "look"
    proves: ClassVar[str] = "it is well"


@dataclass(frozen=True)
class LookAgain(Look):
    """Look, also after a person's fix."""

    looks_again: ClassVar[bool] = True


def noted(step: Look, *verdicts: Verdict, required: bool = False) -> Repeats:
    found = Repeats()
    for n, verdict in enumerate(verdicts, 1):
        found.note(step, n, None, [Check(name="look", proves="it is well", verdict=verdict, required=required)])
    return found


UNMET = [Verdict.FAILED, Verdict.UNPROVEN]


@pytest.mark.parametrize("verdict", UNMET)
def test_c17_what_is_not_fixed_yet_is_looked_at_again(verdict: Verdict) -> None:
    assert noted(LookAgain(), verdict).find(LookAgain()) is None
    assert noted(Look(), verdict).find(Look()) is not None, "any other step shows its recorded result"


@pytest.mark.parametrize(
    ("verdicts", "required"),
    [
        ([Verdict.VERIFIED], False),
        ([Verdict.NOT_APPLICABLE], False),
        ([Verdict.UNPROVEN], True),  # what a required check has said stays so for the run
        ([Verdict.UNPROVEN, Verdict.VERIFIED], False),  # the last look counts
    ],
)
def test_c17_what_is_over_is_not_looked_at_again(verdicts: list[Verdict], required: bool) -> None:
    found = noted(LookAgain(), *verdicts, required=required).find(LookAgain())
    assert found is not None and found.n == len(verdicts)


def test_c17_each_proof_after_a_fix_looks_again() -> None:
    assert all(step.looks_again for step in (BackupAfterFix, ConnectionAfterFix, RecoveryAfterFix))
