"""Conformance: the facts about CloudNativePG that library and runbooks rely on, each asked of a real cluster.

``drillbook doctor --conformance`` asks them of any cluster, ``make conformance`` asks them of the embedded lab; the
runbooks are worth as much off the lab as the two answers agree.
"""

from drillbook.conformance import admission, archive, lifecycle, recovery  # noqa: F401 - importing declares the probes
from drillbook.conformance.environment import Options, ProbeEnvironment
from drillbook.conformance.page import page
from drillbook.conformance.probe import PROBES, Probe, ProbeResult, State
from drillbook.conformance.survey import ConformanceSurvey, survey

__all__ = [
    "PROBES",
    "ConformanceSurvey",
    "Options",
    "Probe",
    "ProbeEnvironment",
    "ProbeResult",
    "State",
    "page",
    "survey",
]
