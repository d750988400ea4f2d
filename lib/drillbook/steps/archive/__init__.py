"""Steps that read the archive: what it holds, where a recovery can stop, and what it would lose."""

from drillbook.steps.archive.base_backup import ArchivingLive, ChooseBaseBackup, WalChainUnbroken
from drillbook.steps.archive.damage import FindDamage
from drillbook.steps.archive.forecast import ForecastRecovery
from drillbook.steps.archive.git_rebuild import NameRebuild, ReadDeclared, ReadWhatIsThere, WouldComeUp
from drillbook.steps.archive.losses import ShowLosses
from drillbook.steps.archive.recoverability import RecoverabilityVerdict, WouldReach
from drillbook.steps.archive.restore_point import ChooseRestorePoint, ShowRestoreLosses
from drillbook.steps.archive.room import RoomForReplacement, RoomInPlace
from drillbook.steps.archive.salvage import ArchiveRemainingWal
from drillbook.steps.archive.status import ClusterHealthy, LastVerifiedDrill
from drillbook.steps.archive.targets import ResolveTarget
from drillbook.steps.archive.weekly import (
    BackupEachDay,
    BackupSchedule,
    BucketSafeguards,
    CertificatesValid,
    Growth,
    MetricsAlive,
    RetentionWorks,
    SupportedMethod,
)
from drillbook.steps.archive.window import (
    CheckArchiveDamage,
    CheckBaseBackups,
    CheckRecoveryWindow,
    CheckWalChains,
    FindArchive,
    ReadArchive,
)

__all__ = [
    "ArchiveRemainingWal",
    "ArchivingLive",
    "BackupEachDay",
    "BackupSchedule",
    "BucketSafeguards",
    "CertificatesValid",
    "CheckArchiveDamage",
    "CheckBaseBackups",
    "CheckRecoveryWindow",
    "CheckWalChains",
    "ChooseBaseBackup",
    "ChooseRestorePoint",
    "ClusterHealthy",
    "FindArchive",
    "FindDamage",
    "ForecastRecovery",
    "Growth",
    "LastVerifiedDrill",
    "MetricsAlive",
    "NameRebuild",
    "ReadArchive",
    "ReadDeclared",
    "ReadWhatIsThere",
    "RecoverabilityVerdict",
    "ResolveTarget",
    "RetentionWorks",
    "RoomForReplacement",
    "RoomInPlace",
    "ShowLosses",
    "ShowRestoreLosses",
    "SupportedMethod",
    "WalChainUnbroken",
    "WouldComeUp",
    "WouldReach",
]
