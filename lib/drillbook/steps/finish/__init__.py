"""Steps that end a runbook: announcements, and what Git has to learn."""

from drillbook.steps.finish.announce import AnnounceDecision, DeployDecision
from drillbook.steps.finish.closing import AnnounceRecovery
from drillbook.steps.finish.full_restore_closing import AnnounceRestore
from drillbook.steps.finish.git_patch import PatchForGit

__all__ = [
    "AnnounceDecision",
    "AnnounceRecovery",
    "AnnounceRestore",
    "DeployDecision",
    "PatchForGit",
]
