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
from drillbook.steps.connections.path import FindPath, PoolerOnPath
from drillbook.steps.connections.server import ReadServer

__all__ = [
    "ComputeLimits",
    "DecideOnGrowth",
    "FindPath",
    "Headroom",
    "LimitsAtGrowth",
    "LimitsNow",
    "LimitsWhenSomethingFails",
    "PoolerOnPath",
    "PoolersFit",
    "ReadServer",
    "TenantsLimited",
]
