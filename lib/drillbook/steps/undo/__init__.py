"""Steps that undo a recovery."""

from drillbook.steps.undo.full_restore import (
    AddressesBack,
    AnnounceUndoneRestore,
    BackUpOldTimeline,
    FenceReplacement,
    FindRestore,
    PoolersBack,
    SchedulesBack,
    ServeOldCluster,
    ShowWrittenSinceRestore,
)
from drillbook.steps.undo.point_in_time import AnnounceUndoneSwap, FindCut, LetItWrite, ShowWrittenSinceSwap
from drillbook.steps.undo.put_aside import FindPutAside, NewestBackupIsWhole, dropping

__all__ = [
    "AddressesBack",
    "AnnounceUndoneRestore",
    "AnnounceUndoneSwap",
    "BackUpOldTimeline",
    "FenceReplacement",
    "FindCut",
    "FindPutAside",
    "FindRestore",
    "LetItWrite",
    "NewestBackupIsWhole",
    "PoolersBack",
    "SchedulesBack",
    "ServeOldCluster",
    "ShowWrittenSinceRestore",
    "ShowWrittenSinceSwap",
    "dropping",
]
