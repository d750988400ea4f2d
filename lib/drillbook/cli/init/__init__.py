"""The way from a cluster to its first drill: what is found there, what a person decides, and the files to apply.

Discovery reads with the person's own kubeconfig and changes nothing; whatever is to change the cluster is written
into a folder first, each file with what it grants. No Secret's value is written.
"""

from drillbook.cli.init.choices import Check, Choices, choose, usual
from drillbook.cli.init.discovery import Found, discover
from drillbook.cli.init.site_folder import APPLY, PROFILE, require_room, write

__all__ = ["APPLY", "PROFILE", "Check", "Choices", "Found", "choose", "discover", "require_room", "usual", "write"]
