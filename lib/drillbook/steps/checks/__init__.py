"""Checks of what was restored, and of the application on it."""

from drillbook.steps.checks.at_target import RestoredToThePoint
from drillbook.steps.checks.completeness import CopyIsRight, ReplacementComplete
from drillbook.steps.checks.full_restore import (
    ClosedReplacementSound,
    EndAndCompleteness,
    InstancesEventsAndQuarantine,
    NewestAndStructure,
    ReplacementSound,
)
from drillbook.steps.checks.outcome import CompareWithObjectives
from drillbook.steps.checks.recovered_copy import (
    AppCanLogIn,
    CopyQuarantined,
    SameAsSource,
    SiteAgrees,
    SoundInside,
    TargetAndBoundary,
)
from drillbook.steps.checks.rows_back import AreMyRowsBack
from drillbook.steps.checks.validation import ApplicationIsBack, ApplicationsAreBack

__all__ = [
    "AppCanLogIn",
    "ApplicationIsBack",
    "ApplicationsAreBack",
    "AreMyRowsBack",
    "ClosedReplacementSound",
    "CompareWithObjectives",
    "CopyIsRight",
    "CopyQuarantined",
    "EndAndCompleteness",
    "InstancesEventsAndQuarantine",
    "NewestAndStructure",
    "ReplacementComplete",
    "ReplacementSound",
    "RestoredToThePoint",
    "SameAsSource",
    "SiteAgrees",
    "SoundInside",
    "TargetAndBoundary",
]
