"""Steps about connections: their path, their limits, their load."""

from drillbook.steps.connections.limits import (
    ComputeLimits,
    DecideOnGrowth,
    Headroom,
    LimitsAtGrowth,
    LimitsNow,
    LimitsWhenSomethingFails,
    PoolersFit,
    TenantsLimited,
)
from drillbook.steps.connections.load_checks import CandidateJudged, GeneratorKeptUp, LoadThroughPooler, ModelHolds
from drillbook.steps.connections.load_path import PutPoolerInFront
from drillbook.steps.connections.load_plan import CheckLoadReadiness, ReadLoadPlan
from drillbook.steps.connections.load_run import CompareUnderLoad, MeasureCurve
from drillbook.steps.connections.path import FindPath, PoolerOnPath
from drillbook.steps.connections.server import DiagnoseError, ReadServer

__all__ = [
    "CandidateJudged",
    "CheckLoadReadiness",
    "CompareUnderLoad",
    "ComputeLimits",
    "DecideOnGrowth",
    "DiagnoseError",
    "FindPath",
    "GeneratorKeptUp",
    "Headroom",
    "LimitsAtGrowth",
    "LimitsNow",
    "LimitsWhenSomethingFails",
    "LoadThroughPooler",
    "MeasureCurve",
    "ModelHolds",
    "PoolerOnPath",
    "PoolersFit",
    "PutPoolerInFront",
    "ReadLoadPlan",
    "ReadServer",
    "TenantsLimited",
]
