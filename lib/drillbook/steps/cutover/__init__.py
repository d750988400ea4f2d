"""Steps that put what was restored into service."""

from drillbook.steps.cutover.access import OpenToClients
from drillbook.steps.cutover.carry import CarryDatabase, CompareCarried
from drillbook.steps.cutover.containment import (
    ArchiveNow,
    BlockWrites,
    CheckRecoveryReadiness,
    HoldBackups,
    PutBackAndRemove,
)
from drillbook.steps.cutover.drain import DrainApplication, ScaleUpApplication
from drillbook.steps.cutover.fence import FenceOldCluster
from drillbook.steps.cutover.rebuild import CreateUnderOldName, FinishRebuild, RemoveOldCluster
from drillbook.steps.cutover.rebuild_check import CheckRebuild
from drillbook.steps.cutover.repoint import CheckRepoint, KeepReplacement, RepointApplication, RepointPoolers
from drillbook.steps.cutover.schedules import MoveSchedules
from drillbook.steps.cutover.swap_check import CheckCanBeCarried, CheckSwapFits
from drillbook.steps.cutover.swap_database import DropDamaged, SwapBack, SwapDatabase

__all__ = [
    "ArchiveNow",
    "BlockWrites",
    "CarryDatabase",
    "CheckCanBeCarried",
    "CheckRebuild",
    "CheckRecoveryReadiness",
    "CheckRepoint",
    "CheckSwapFits",
    "CompareCarried",
    "CreateUnderOldName",
    "DrainApplication",
    "DropDamaged",
    "FenceOldCluster",
    "FinishRebuild",
    "HoldBackups",
    "KeepReplacement",
    "MoveSchedules",
    "OpenToClients",
    "PutBackAndRemove",
    "RemoveOldCluster",
    "RepointApplication",
    "RepointPoolers",
    "ScaleUpApplication",
    "SwapBack",
    "SwapDatabase",
]
