"""The ways to put recovered data into service, each under the same names: checked, built, compared, drained, cut, served.

A notebook has no branches: it names a strategy, and gets the steps of it. What a strategy does not need is a step that
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drillbook.errors import ParameterError
from drillbook.procedures.carry import CarryDatabase, CompareCarried
from drillbook.procedures.copy import Recovered
from drillbook.procedures.drain import DrainApplication, ScaleUpApplication
from drillbook.procedures.readiness import SourceCluster
from drillbook.procedures.swapdatabase import RemoveCarried, SwapDatabase
from drillbook.procedures.swapfits import CheckSwapFits, SwapFits
from drillbook.step import Step


@dataclass(frozen=True)
class CutOver:
    """The steps of one strategy, in their order; the section of ``title`` is confirmed as a whole.

    ``tidy`` removes what was built and did not go into service; after a cut there is nothing to remove.
    """

    title: str
    build: Step[Any]
    compare: Step[Any]
    drain: Step[Any]
    cut: Step[Any]
    serve: Step[Any]
    tidy: Step[Any]

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """What the gate covers."""
        return self.build, self.compare, self.drain, self.cut, self.serve

    def _ipython_display_(self) -> None:
        """Nothing: the section's card shows its plan."""


def _swap_database(cluster: SourceCluster, fits: SwapFits, recovered: Recovered) -> CutOver:
    return CutOver(
        title="Put the recovered database into service",
        build=CarryDatabase(cluster, fits, recovered),
        compare=CompareCarried(cluster, fits, recovered),
        drain=DrainApplication(cluster, fits),
        cut=SwapDatabase(cluster, fits),
        serve=ScaleUpApplication(cluster, fits),
        tidy=RemoveCarried(cluster, fits),
    )


_CHECKS: Mapping[str, Callable[[SourceCluster, str], Step[Any]]] = {"swap-database": CheckSwapFits}
_WAYS: Mapping[str, Callable[[SourceCluster, Any, Recovered], CutOver]] = {"swap-database": _swap_database}


def strategies() -> tuple[str, ...]:
    """The strategies by name."""
    return tuple(_WAYS)


def fits(strategy: str, cluster: SourceCluster, database: str) -> Step[Any]:
    """The step that asks whether the strategy fits, before any gate: every fault at once, nothing changed."""
    return _CHECKS[_known(strategy)](cluster, database)


def cut_over(strategy: str, cluster: SourceCluster, fits: Any, recovered: Recovered) -> CutOver:
    """The steps of the strategy; the same objects are planned, confirmed and done."""
    return _WAYS[_known(strategy)](cluster, fits, recovered)


def _known(strategy: str) -> str:
    if strategy not in _WAYS:
        raise ParameterError([f"strategy: {strategy!r} is none of {', '.join(_WAYS)}"], where="parameters")
    return strategy


__all__ = ["CutOver", "cut_over", "fits", "strategies"]
