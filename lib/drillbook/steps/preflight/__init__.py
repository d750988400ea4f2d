"""Steps before anything is touched."""

from drillbook.steps.preflight.earlier_runs import EarlierRunsKnown
from drillbook.steps.preflight.old_cluster import ReadOldCluster
from drillbook.steps.preflight.pausing import DeclaredStateAgrees
from drillbook.steps.preflight.readiness import CheckReadiness, NothingElseRunning

__all__ = [
    "CheckReadiness",
    "DeclaredStateAgrees",
    "EarlierRunsKnown",
    "NothingElseRunning",
    "ReadOldCluster",
]
