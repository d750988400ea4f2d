"""The way from a cluster to its first drill: what is found there, what a person decides, and the files to apply.

Discovery reads with the person's own kubeconfig and changes nothing; whatever is to change the cluster is written into a
folder first, each file with what it grants. No Secret's value is written.
"""

from drillbook.beginning.choosing import Choices, choose
from drillbook.beginning.finding import Found, discover
from drillbook.beginning.writing import APPLY, PROFILE, write

__all__ = ["APPLY", "PROFILE", "Choices", "Found", "choose", "discover", "write"]
