"""Steps that restore: the boundary, the recovery copy, the replacement."""

from drillbook.steps.recovery.archive_end import NoteNewestChanges, ReadArchiveEnd
from drillbook.steps.recovery.boundary import MarkBefore, ProveTargetReachable, SimulateMistake, SwitchWal
from drillbook.steps.recovery.copy import CreateRecoveryCluster, RemoveRecoveryCluster, WaitForRecovery
from drillbook.steps.recovery.replacement import CreateReplacementCluster, WaitForReplacement

__all__ = [
    "CreateRecoveryCluster",
    "CreateReplacementCluster",
    "MarkBefore",
    "NoteNewestChanges",
    "ProveTargetReachable",
    "ReadArchiveEnd",
    "RemoveRecoveryCluster",
    "SimulateMistake",
    "SwitchWal",
    "WaitForRecovery",
    "WaitForReplacement",
]
