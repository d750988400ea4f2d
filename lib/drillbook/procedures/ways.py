"""The ways to put recovered data into service, each under the same names: checked, built, compared, drained, cut, served.

A notebook has no branches: it names a strategy, and gets the steps of it. What a strategy does not need is a step that
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drillbook.errors import ParameterError
from drillbook.objectstore import ResolvedTarget
from drillbook.procedures import replacing
from drillbook.procedures.carry import CarryDatabase, CompareCarried
from drillbook.procedures.copy import Recovered
from drillbook.procedures.drain import DrainApplication, ScaleUpApplication
from drillbook.procedures.fullways import NotNeeded
from drillbook.procedures.losses import ShowLosses
from drillbook.procedures.readiness import SourceCluster
from drillbook.procedures.replacefits import CheckRebuildFits, CheckRepointFits, ReplaceFits
from drillbook.procedures.swapdatabase import SwapDatabase
from drillbook.procedures.swapfits import CheckCanBeCarried, CheckSwapFits, SwapFits
from drillbook.step import Later, Rung, Rungs, Step


@dataclass(frozen=True)
class CutOver:
    """The steps of one strategy, in their order; the section of ``title`` is confirmed as a whole."""

    title: str
    build: Step[Any]
    compare: Step[Any]
    drain: Step[Any]
    cut: Step[Any]
    serve: Step[Any]

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """What the gate covers."""
        return self.build, self.compare, self.drain, self.cut, self.serve

    def _ipython_display_(self) -> None:
        """Nothing: the section's card shows its plan."""


@dataclass(frozen=True)
class LastLook(Rungs):
    """What each tenant would lose, and what stays behind.

    Each tenant's newest commit in production beside its newest in the copy, by the archived WAL; and whether all of the
    recovered database can be put where the strategy puts it.
    """

    cluster: SourceCluster
    target: ResolvedTarget
    fits: Any
    recovered: Any
    strategy: str

    @property
    def unknown(self) -> Later | None:
        """A copy that isn't there yet keeps nobody from seeing what would be lost."""
        known = (self.cluster, self.target, self.fits)
        return next((value for value in known if isinstance(value, Later)), None)

    def rungs(self) -> Sequence[Rung]:
        alone = self.strategy == "swap-database"
        shown: list[Rung] = [ShowLosses(self.cluster, self.target, self.fits.names.database if alone else "")]
        if alone and not isinstance(self.recovered, Later):
            shown.append(CheckCanBeCarried(self.cluster, self.fits, self.recovered))
        return shown


def _swap_database(cluster: SourceCluster, target: ResolvedTarget, fits: SwapFits, recovered: Recovered) -> CutOver:
    return CutOver(
        title="Put the recovered database into service",
        build=CarryDatabase(cluster, fits, recovered),
        compare=CompareCarried(cluster, fits, recovered),
        drain=DrainApplication(cluster, fits),
        cut=SwapDatabase(cluster, fits),
        serve=ScaleUpApplication(cluster, fits),
    )


def _repoint(cluster: SourceCluster, target: ResolvedTarget, fits: ReplaceFits, recovered: Recovered) -> CutOver:
    return CutOver(
        title="Put the recovered cluster into service",
        build=replacing.BuildBeside(fits, target),
        compare=replacing.ReplacementAsChecked(cluster, target),
        drain=replacing.StopOldCluster(cluster, fits, target),
        cut=replacing.FollowToReplacement(cluster, fits),
        serve=replacing.ServeBeside(cluster, fits, target),
    )


def _rebuild(cluster: SourceCluster, target: ResolvedTarget, fits: ReplaceFits, recovered: Recovered) -> CutOver:
    return CutOver(
        title="Remove the cluster, and make it again as it was",
        build=NotNeeded("the cluster is made again under its own name"),
        compare=NotNeeded("what is made again is checked before the application is let in"),
        drain=replacing.StopOldCluster(cluster, fits, target),
        cut=replacing.MakeAgain(cluster, fits, target),
        serve=replacing.ServeAgain(cluster, fits, target),
    )


_CHECKS: Mapping[str, Callable[[SourceCluster, str, ResolvedTarget], Step[Any]]] = {
    "swap-database": CheckSwapFits,
    "repoint": CheckRepointFits,
    "rebuild": CheckRebuildFits,
}
_WAYS: Mapping[str, Callable[[SourceCluster, ResolvedTarget, Any, Recovered], CutOver]] = {
    "swap-database": _swap_database,
    "repoint": _repoint,
    "rebuild": _rebuild,
}


def strategies() -> tuple[str, ...]:
    """The strategies by name."""
    return tuple(_WAYS)


def fits(strategy: str, cluster: SourceCluster, database: str, target: ResolvedTarget) -> Step[Any]:
    """The step that asks whether the strategy fits, before any gate: every fault at once, nothing changed."""
    return _CHECKS[_known(strategy)](cluster, database, target)


def last_look(
    strategy: str, cluster: SourceCluster, target: ResolvedTarget, fits: Any, recovered: Recovered
) -> LastLook:
    """What is lost and what stays behind, seen before anybody is asked."""
    return LastLook(cluster, target, fits, recovered, _known(strategy))


def cut_over(
    strategy: str, cluster: SourceCluster, target: ResolvedTarget, fits: Any, recovered: Recovered
) -> CutOver:
    """The steps of the strategy; the same objects are planned, confirmed and done."""
    return _WAYS[_known(strategy)](cluster, target, fits, recovered)


def _known(strategy: str) -> str:
    if strategy not in _WAYS:
        raise ParameterError([f"strategy: {strategy!r} is none of {', '.join(_WAYS)}"], where="parameters")
    return strategy


__all__ = ["CutOver", "LastLook", "cut_over", "fits", "last_look", "strategies"]
