"""Steps that read the archive: what it holds, where a recovery can stop, and what it would lose."""

from drillbook.steps.archive.base_backup import ArchivingLive, ChooseBaseBackup, WalChainUnbroken
from drillbook.steps.archive.damage import FindDamage
from drillbook.steps.archive.forecast import ForecastRecovery
from drillbook.steps.archive.losses import ShowLosses
from drillbook.steps.archive.recoverability import CanWeRecover, WouldReach
from drillbook.steps.archive.restore_point import ChooseRestorePoint, ShowWhatIsLost
from drillbook.steps.archive.salvage import ArchiveWhatIsLeft
from drillbook.steps.archive.targets import ResolveTarget
from drillbook.steps.archive.window import (
    FindArchive,
    JudgeCatalogue,
    JudgeChains,
    JudgeDamage,
    JudgeWindow,
    ReadArchive,
)

__all__ = [
    "ArchiveWhatIsLeft",
    "ArchivingLive",
    "CanWeRecover",
    "ChooseBaseBackup",
    "ChooseRestorePoint",
    "FindArchive",
    "FindDamage",
    "ForecastRecovery",
    "JudgeCatalogue",
    "JudgeChains",
    "JudgeDamage",
    "JudgeWindow",
    "ReadArchive",
    "ResolveTarget",
    "ShowLosses",
    "ShowWhatIsLost",
    "WalChainUnbroken",
    "WouldReach",
]
