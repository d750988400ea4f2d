"""Steps that end a runbook: announcements, and what Git has to learn."""

from drillbook.steps.finish.announce import Announce, MayIDeployNow
from drillbook.steps.finish.closing import TellPeople
from drillbook.steps.finish.full_restore_closing import TellOfRestore
from drillbook.steps.finish.git_patch import PatchForGit

__all__ = [
    "Announce",
    "MayIDeployNow",
    "PatchForGit",
    "TellOfRestore",
    "TellPeople",
]
