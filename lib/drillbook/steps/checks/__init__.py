"""Checks of what was restored, and of the application on it."""

from drillbook.steps.checks.at_target import RestoredToTarget
from drillbook.steps.checks.completeness import CopyVerified, ReplacementComplete
from drillbook.steps.checks.full_restore import (
    ClosedReplacementSound,
    EndAndCompleteness,
    InstancesEventsAndQuarantine,
    NewestAndStructure,
    ReplacementSound,
)
from drillbook.steps.checks.launch import (
    DrillScheduled,
    GoOrNoGo,
    ObjectivesMet,
    PeopleReady,
    ProceduresTested,
    StatusOnThreeDays,
)
from drillbook.steps.checks.outcome import CompareWithObjectives
from drillbook.steps.checks.recovered_copy import (
    AppCanLogIn,
    CopyQuarantined,
    IntegrityChecks,
    SameAsSource,
    SiteQuestionsAndLogins,
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
    "CopyQuarantined",
    "CopyVerified",
    "DrillScheduled",
    "EndAndCompleteness",
    "GoOrNoGo",
    "InstancesEventsAndQuarantine",
    "IntegrityChecks",
    "NewestAndStructure",
    "ObjectivesMet",
    "PeopleReady",
    "ProceduresTested",
    "ReplacementComplete",
    "ReplacementSound",
    "RestoredToTarget",
    "SameAsSource",
    "SiteQuestionsAndLogins",
    "StatusOnThreeDays",
    "TargetAndBoundary",
]
