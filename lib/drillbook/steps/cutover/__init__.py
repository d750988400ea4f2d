"""Steps that put what was restored into service."""

from drillbook.steps.cutover.access import OpenToClients
from drillbook.steps.cutover.containment import ArchiveNow, BlockWrites, CheckRecoveryReadiness, PutBack, SuspendBackups
from drillbook.steps.cutover.drain import DrainApplication, ScaleUpApplication
from drillbook.steps.cutover.fence import FenceOldCluster
from drillbook.steps.cutover.rebuild import CreateUnderOldName, FinishRebuild, RemoveOldCluster
from drillbook.steps.cutover.rebuild_check import CheckRebuild
from drillbook.steps.cutover.repoint import CheckRepoint, KeepReplacement, RepointApplication, RepointPoolers
from drillbook.steps.cutover.schedules import MoveSchedules
from drillbook.steps.cutover.swap_check import CheckSwapFits, CheckTransferable
from drillbook.steps.cutover.swap_database import SwapBack, SwapDatabase
from drillbook.steps.cutover.transfer import CompareTransferred, TransferDatabase

__all__ = [
    "ArchiveNow",
    "BlockWrites",
    "CheckRebuild",
    "CheckRecoveryReadiness",
    "CheckRepoint",
    "CheckSwapFits",
    "CheckTransferable",
    "CompareTransferred",
    "CreateUnderOldName",
    "DrainApplication",
    "FenceOldCluster",
    "FinishRebuild",
    "KeepReplacement",
    "MoveSchedules",
    "OpenToClients",
    "PutBack",
    "RemoveOldCluster",
    "RepointApplication",
    "RepointPoolers",
    "ScaleUpApplication",
    "SuspendBackups",
    "SwapBack",
    "SwapDatabase",
    "TransferDatabase",
]
