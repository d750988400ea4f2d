"""Steps on long-term backups: the retention audit, the choice, the retrieval from an archive class, and the restore."""

from drillbook.steps.long_term.audit import AuditRetention, ReadLongTermBackups
from drillbook.steps.long_term.checks import OldestRestored, RandomRestored
from drillbook.steps.long_term.choice import ChooseLongTermBackups
from drillbook.steps.long_term.readiness import CheckLongTermReadiness
from drillbook.steps.long_term.recovery import CreateLongTermCopy, WaitForOldest, WaitForRandom
from drillbook.steps.long_term.report import CompareWithPromise
from drillbook.steps.long_term.retrieval import AskForArchivedObjects, WaitUntilReadable

__all__ = [
    "AskForArchivedObjects",
    "AuditRetention",
    "CheckLongTermReadiness",
    "ChooseLongTermBackups",
    "CompareWithPromise",
    "CreateLongTermCopy",
    "OldestRestored",
    "RandomRestored",
    "ReadLongTermBackups",
    "WaitForOldest",
    "WaitForRandom",
    "WaitUntilReadable",
]
