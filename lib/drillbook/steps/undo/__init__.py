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
from drillbook.steps.undo.point_in_time import AnnounceUndoneSwap, FindCut, FindPutAside, ShowWrittenSinceSwap

__all__ = [
    "AddressesBack",
    "AnnounceUndoneRestore",
    "AnnounceUndoneSwap",
    "BackUpOldTimeline",
    "FenceReplacement",
    "FindCut",
    "FindPutAside",
    "FindRestore",
    "PoolersBack",
    "SchedulesBack",
    "ServeOldCluster",
    "ShowWrittenSinceRestore",
    "ShowWrittenSinceSwap",
]
