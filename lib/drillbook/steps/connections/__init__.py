"""Steps about connections: their path, their limits, their load, and what is changed of them."""

from drillbook.steps.connections.change import CheckConnectionReadiness, FindConnectionChange, ReadConnectionChange
from drillbook.steps.connections.change_closing import (
    AnnounceConnectionChange,
    CompareConnections,
    EndConnectionChange,
    MeasureConnections,
)
from drillbook.steps.connections.change_limits import ChangeLimits, PoolersFollow
from drillbook.steps.connections.change_pools import CanaryHolds, RollOut, RolloutHolds, RunCanary
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
    "AnnounceConnectionChange",
    "CanaryHolds",
    "CandidateJudged",
    "ChangeLimits",
    "CheckConnectionReadiness",
    "CheckLoadReadiness",
    "CompareConnections",
    "CompareUnderLoad",
    "ComputeLimits",
    "DecideOnGrowth",
    "DiagnoseError",
    "EndConnectionChange",
    "FindConnectionChange",
    "FindPath",
    "GeneratorKeptUp",
    "Headroom",
    "LimitsAtGrowth",
    "LimitsNow",
    "LimitsWhenSomethingFails",
    "LoadThroughPooler",
    "MeasureConnections",
    "MeasureCurve",
    "ModelHolds",
    "PoolerOnPath",
    "PoolersFit",
    "PoolersFollow",
    "PutPoolerInFront",
    "ReadConnectionChange",
    "ReadLoadPlan",
    "ReadServer",
    "RollOut",
    "RolloutHolds",
    "RunCanary",
    "TenantsLimited",
]
