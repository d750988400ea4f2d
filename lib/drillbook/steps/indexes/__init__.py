"""An index migration: rehearsed on a copy, brought to production as it was proven, and taken back."""

from drillbook.steps.indexes.change import BackUpBeforeChange, CheckChangeReadiness, FindIndexChange, ReadIndexChange
from drillbook.steps.indexes.change_apply import BuildIndexes, DropIndexes
from drillbook.steps.indexes.change_checks import ReadyToChange
from drillbook.steps.indexes.change_measures import AnnounceIndexChange, CompareWithBefore, MeasureBefore, NoteUndone
from drillbook.steps.indexes.majors import SameOnOtherMajors
from drillbook.steps.indexes.proposal import ReadMigration
from drillbook.steps.indexes.rehearsing import ClaimsMeasured, FileRuns, RehearseMigration
from drillbook.steps.indexes.source import (
    ForeignKeysIndexed,
    NoteSource,
    RedundantIndexes,
    SamePlanner,
    SourceUntouched,
)

__all__ = [
    "AnnounceIndexChange",
    "BackUpBeforeChange",
    "BuildIndexes",
    "CheckChangeReadiness",
    "ClaimsMeasured",
    "CompareWithBefore",
    "DropIndexes",
    "FileRuns",
    "FindIndexChange",
    "ForeignKeysIndexed",
    "MeasureBefore",
    "NoteSource",
    "NoteUndone",
    "ReadIndexChange",
    "ReadMigration",
    "ReadyToChange",
    "RedundantIndexes",
    "RehearseMigration",
    "SameOnOtherMajors",
    "SamePlanner",
    "SourceUntouched",
]
