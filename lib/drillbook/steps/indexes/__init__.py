"""Steps that change indexes on the source, and go back from that."""

from drillbook.steps.indexes.change import BackUpBeforeChange, CheckChangeReadiness, FindIndexChange, ReadIndexChange
from drillbook.steps.indexes.change_apply import BuildIndexes, DropIndexes
from drillbook.steps.indexes.change_checks import ReadyToChange
from drillbook.steps.indexes.change_measures import AnnounceIndexChange, CompareWithBefore, MeasureBefore, NoteUndone

__all__ = [
    "AnnounceIndexChange",
    "BackUpBeforeChange",
    "BuildIndexes",
    "CheckChangeReadiness",
    "CompareWithBefore",
    "DropIndexes",
    "FindIndexChange",
    "MeasureBefore",
    "NoteUndone",
    "ReadIndexChange",
    "ReadyToChange",
]
