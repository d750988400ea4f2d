"""A fault of the caller's, distinguished from the lab's own: the command line ends with another status."""

from __future__ import annotations

from drillbook_lab.errors import LabError


class UsageFault(LabError):
    """What was asked for can't be; nothing has been touched."""
