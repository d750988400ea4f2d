"""Steps that take a base backup, or close one WAL segment."""

from drillbook.steps.backup.manual_backup import (
    ArchivingWorks,
    CheckBackupReadiness,
    ReadArchiveBefore,
    RequestBackup,
    VerifyInBucket,
    WaitForBackup,
)
from drillbook.steps.backup.safety_backup import (
    ArchiveServingWal,
    BackUpBeforeCutover,
    BackUpNewTimeline,
    BackUpOld,
    BackUpReplacement,
)
from drillbook.steps.backup.switch_wal import ArchiveTheEnd

__all__ = [
    "ArchiveServingWal",
    "ArchiveTheEnd",
    "ArchivingWorks",
    "BackUpBeforeCutover",
    "BackUpNewTimeline",
    "BackUpOld",
    "BackUpReplacement",
    "CheckBackupReadiness",
    "ReadArchiveBefore",
    "RequestBackup",
    "VerifyInBucket",
    "WaitForBackup",
]
