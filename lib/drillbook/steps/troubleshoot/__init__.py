"""Steps that look for the one cause of a symptom, from the root to the leaves, and make the fix that is one change of one object."""

from drillbook.steps.troubleshoot.backup_failed import (
    BackupAfterFix,
    BackupCauses,
    BackupSymptom,
    NameBackupCause,
    ReadBackupState,
)
from drillbook.steps.troubleshoot.connection_changed import (
    ConnectionAfterFix,
    ConnectionCauses,
    ConnectionSymptom,
    NameConnectionCause,
    ReadConnectionState,
)
from drillbook.steps.troubleshoot.fix import ApplyFix
from drillbook.steps.troubleshoot.recovery_slow import (
    NameRecoveryCause,
    ReadRecoveryState,
    RecoveryAfterFix,
    RecoveryCauses,
    RecoverySymptom,
)

__all__ = [
    "ApplyFix",
    "BackupAfterFix",
    "BackupCauses",
    "BackupSymptom",
    "ConnectionAfterFix",
    "ConnectionCauses",
    "ConnectionSymptom",
    "NameBackupCause",
    "NameConnectionCause",
    "NameRecoveryCause",
    "ReadBackupState",
    "ReadConnectionState",
    "ReadRecoveryState",
    "RecoveryAfterFix",
    "RecoveryCauses",
    "RecoverySymptom",
]
