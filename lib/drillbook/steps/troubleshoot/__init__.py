"""Steps that look for the one cause of a symptom, from the root to the leaves; they change nothing."""

from drillbook.steps.troubleshoot.backup_failed import BackupCauses, BackupSymptom, NameBackupCause, ReadBackupState
from drillbook.steps.troubleshoot.recovery_slow import (
    NameRecoveryCause,
    ReadRecoveryState,
    RecoveryAfterFix,
    RecoveryCauses,
    RecoverySymptom,
)

__all__ = [
    "BackupCauses",
    "BackupSymptom",
    "NameBackupCause",
    "NameRecoveryCause",
    "ReadBackupState",
    "ReadRecoveryState",
    "RecoveryAfterFix",
    "RecoveryCauses",
    "RecoverySymptom",
]
