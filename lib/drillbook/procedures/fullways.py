"""The ways to put a restored cluster in the place of the lost one, each under the same names.

`repoint` makes it beside the old one, which stays, fenced; the applications follow to another name. `rebuild` removes the
old one first and makes it again under its own name. A notebook has no branches: what a strategy does not need is a step
that says so, and nobody is asked to confirm it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drillbook.errors import NotReady, ParameterError
from drillbook.model import BaseBackup, Frozen
from drillbook.procedures.application import addressed
from drillbook.procedures.archive import ArchivedWal
from drillbook.procedures.completeness import LATEST, ReplacementComplete
from drillbook.procedures.copy import Recovered
from drillbook.procedures.fence import FenceOldCluster
from drillbook.procedures.oldcluster import OldCluster
from drillbook.procedures.rebuild import CheckRebuild, CreateUnderOldName, FinishRebuild, Rebuildable, RemoveOldCluster
from drillbook.procedures.replacement import CreateReplacementCluster, ReplacementCluster, WaitForReplacement
from drillbook.procedures.repoint import KeepReplacement, RepointApplication, RepointPoolers, follow_faults
from drillbook.procedures.safetycopy import BackUpOld
from drillbook.procedures.salvage import ArchiveWhatIsLeft
from drillbook.procedures.schedules import MoveSchedules
from drillbook.replacements import Replacement
from drillbook.step import Context, Plan, Step


class _Section:
    """Steps that are confirmed together; a notebook shows their plan, not this."""

    def _ipython_display_(self) -> None:
        """Nothing: the section's card shows its plan."""


@dataclass(frozen=True)
class Stop(_Section):
    """What comes before anything is made, the same for every strategy."""

    back_up: Step[Any]
    fence: Step[Any]
    salvage: Step[Any]
    title: str = "Stop the old cluster"

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """What the gate covers."""
        return self.back_up, self.fence, self.salvage


@dataclass(frozen=True)
class Make(_Section):
    """Making the replacement, and what has to go for it."""

    clear: Step[Any]
    build: Step[ReplacementCluster]
    title: str = "Make the replacement"

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """What the gate covers: a cluster that is made beside the old one replaces nothing yet."""
        return (self.clear, self.build) if self.build.gated else (self.clear,)


@dataclass(frozen=True)
class CutOver(_Section):
    """Putting it into service."""

    poolers: Step[Any]
    applications: Step[Any]
    schedules: Step[Any]
    keep: Step[Any]
    title: str = "Put the replacement into service"

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """What the gate covers."""
        return self.poolers, self.applications, self.schedules, self.keep


class Skipped(Frozen):
    """Nothing was done, and why."""

    why: str


@dataclass(frozen=True)
class NotNeeded(Step[Skipped]):
    """Nothing to do here."""

    because: str

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=f"Nothing: {self.because}", harmless=True)

    def do(self, ctx: Context) -> Skipped:
        return Skipped(why=self.because)


class Repointable(Frozen):
    """What can be pointed at a replacement by this run, in words, and the tenants whose address is theirs to change."""

    server_name: str
    applications: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class CheckRepoint(Step[Repointable]):
    """Check that the applications can follow to another name.

    Where each one's address stands, whether it is one of the old cluster's services, and who would put it back; a
    serverName that was never used: every fault at once. Tenants whose address the profile does not know are named: they must be told.
    """

    old: OldCluster

    def do(self, ctx: Context) -> Repointable:
        names = Replacement.beside(self.old.ref, ctx.run_id)
        if faults := follow_faults(ctx, self.old, names):
            raise NotReady(faults, where=f"a replacement of {self.old.ref}")
        found, others = addressed(ctx)
        return Repointable(
            server_name=names.server_name, applications=tuple(one.where for one in found), others=tuple(others)
        )


def stop(old: OldCluster, backup: BaseBackup) -> Stop:
    """Backed up, fenced, and emptied of WAL that was never archived; the same objects are planned, confirmed and done."""
    return Stop(BackUpOld(old), FenceOldCluster(old), ArchiveWhatIsLeft(old, backup))


def _make_beside(old: OldCluster, backup: BaseBackup, fits: Any) -> Make:
    why = "the replacement stands beside the old cluster, under another name"
    return Make(NotNeeded(why), CreateReplacementCluster(old, backup, LATEST))


def _make_again(old: OldCluster, backup: BaseBackup, fits: Rebuildable) -> Make:
    return Make(
        RemoveOldCluster(old, backup, fits),
        CreateUnderOldName(old, backup, LATEST),
        title="Remove the old cluster, and make it again",
    )


def _follow(old: OldCluster, made: ReplacementCluster) -> CutOver:
    return CutOver(
        RepointPoolers(old, made), RepointApplication(old, made), MoveSchedules(old, made), KeepReplacement(old, made)
    )


def _same_name(old: OldCluster, made: ReplacementCluster) -> CutOver:
    return CutOver(
        NotNeeded("the Poolers stand over the same name"),
        NotNeeded("the connection strings stay"),
        FinishRebuild(old, made),
        NotNeeded("under its own name it is in service already"),
    )


_CHECKS: Mapping[str, Callable[[OldCluster], Step[Any]]] = {"repoint": CheckRepoint, "rebuild": CheckRebuild}
_MAKES: Mapping[str, Callable[[OldCluster, BaseBackup, Any], Make]] = {"repoint": _make_beside, "rebuild": _make_again}
_CUTS: Mapping[str, Callable[[OldCluster, ReplacementCluster], CutOver]] = {"repoint": _follow, "rebuild": _same_name}


def strategies() -> tuple[str, ...]:
    """The strategies by name."""
    return tuple(_MAKES)


def fits(strategy: str, old: OldCluster) -> Step[Any]:
    """The step that asks whether the strategy fits, before any gate; nothing is changed. ParameterError: no such one."""
    return _CHECKS[_known(strategy)](old)


def make(strategy: str, old: OldCluster, backup: BaseBackup, fits: Any) -> Make:
    """The steps that make the replacement."""
    return _MAKES[_known(strategy)](old, backup, fits)


def wait(old: OldCluster, made: ReplacementCluster) -> WaitForReplacement:
    """The step that waits until it is whole."""
    return WaitForReplacement(old, made)


def complete(
    old: OldCluster, backup: BaseBackup, archived: ArchivedWal, made: ReplacementCluster, recovered: Recovered
) -> ReplacementComplete:
    """The step that asks whether it holds all that there was, to the end of the archive."""
    return ReplacementComplete(old, backup, archived, LATEST, made, recovered)


def cut_over(strategy: str, old: OldCluster, made: ReplacementCluster) -> CutOver:
    """The steps that put it into service."""
    return _CUTS[_known(strategy)](old, made)


def _known(strategy: str) -> str:
    if strategy not in _MAKES:
        raise ParameterError([f"strategy: {strategy!r} is none of {', '.join(_MAKES)}"], where="parameters")
    return strategy


__all__ = ["CheckRepoint", "NotNeeded", "complete", "cut_over", "fits", "make", "stop", "strategies", "wait"]
