"""Steps about connections: their path, their limits, their load."""

from drillbook.steps.connections.load_checks import CandidateJudged, GeneratorKeptUp, ModelHolds, PoolerOnPath
from drillbook.steps.connections.load_path import PutPoolerInFront
from drillbook.steps.connections.load_plan import CheckLoadReadiness, ReadLoadPlan
from drillbook.steps.connections.load_run import CompareUnderLoad, MeasureCurve

__all__ = [
    "CandidateJudged",
    "CheckLoadReadiness",
    "CompareUnderLoad",
    "GeneratorKeptUp",
    "MeasureCurve",
    "ModelHolds",
    "PoolerOnPath",
    "PutPoolerInFront",
    "ReadLoadPlan",
]
