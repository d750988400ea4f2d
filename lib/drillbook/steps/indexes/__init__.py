"""An index migration: rehearsed on a copy, and brought to production as it was proven."""

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
    "ClaimsMeasured",
    "FileRuns",
    "ForeignKeysIndexed",
    "NoteSource",
    "ReadMigration",
    "RedundantIndexes",
    "RehearseMigration",
    "SamePlanner",
    "SourceUntouched",
]
