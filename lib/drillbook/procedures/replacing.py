"""A point in time by `repoint` or `rebuild`: the whole cluster goes back, with every tenant of it.

The steps of a replacement, put together under the names that every strategy has. Steps of one section are planned before
any of them is done: what the later ones act on is named by the run's id, and looked up when they are done.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from drillbook import kube as k8s
from drillbook import restoring
from drillbook.errors import VerificationError
from drillbook.model import Check, Effect, Frozen, Instant, causes
from drillbook.objectstore import ResolvedTarget
from drillbook.procedures.atpoint import BothSides, ReachedPoint
from drillbook.procedures.drain import DrainApplication, InService, ScaleUpAndHold
from drillbook.procedures.fence import FenceOldCluster, is_fenced
from drillbook.procedures.ladder import AppCanLogIn, CatalogueSound, QuestionsAnswered
from drillbook.procedures.newline import ReadNewLine
from drillbook.procedures.readiness import SourceCluster
from drillbook.procedures.rebuild import CreateUnderOldName, FinishRebuild, RemoveOldCluster
from drillbook.procedures.replacefits import BUILT, Built, ReplaceFits, built, done, every_tenants_loss, joined
from drillbook.procedures.replacement import CreateReplacementCluster, ReplacementCluster, WaitForReplacement
from drillbook.procedures.repoint import KeepReplacement, RepointApplication, RepointPoolers
from drillbook.procedures.salvage import ArchiveWhatIsLeft
from drillbook.procedures.schedules import MoveSchedules
from drillbook.replacements import Replacement
from drillbook.step import Context, Plan, Rung, Step


@dataclass(frozen=True)
class BuildBeside(Step[Built]):
    """Recover the whole cluster again, as one that can go into service.

    The quarantined copy was looked at; this one stands beside the source with all its instances, archives under a
    serverName of its own, and is nobody's yet.
    """

    effect: ClassVar[Effect] = Effect.CREATES
    gated: ClassVar[bool] = True
    fits: ReplaceFits
    target: ResolvedTarget

    @property
    def _create(self) -> CreateReplacementCluster:
        return CreateReplacementCluster(self.fits.old, self.target.backup, self.target.target)

    def check(self, ctx: Context) -> None:
        self._create.check(ctx)

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=self.title) if self.unknown is not None else self._create.plan(ctx)

    def do(self, ctx: Context) -> Built:
        made: ReplacementCluster = done(ctx, self._create)
        found = Built(replacement=made, recovered=done(ctx, WaitForReplacement(self.fits.old, made)))
        ctx.recorder.fact(BUILT, found.model_dump(mode="json"))
        return found

    def verify(self, ctx: Context, result: Built) -> None:
        self._create.verify(ctx, result.replacement)


@dataclass(frozen=True)
class ReplacementAsChecked(Rung):
    """The replacement stops where the copy did, and answers as it did.

    Healthy is not complete: commits on both sides of the target, catalogue, the site's questions and the applications'
    logins are asked of the cluster that is going into service.
    """

    gated: ClassVar[bool] = True
    name: ClassVar[str] = "replacement"
    proves: ClassVar[str] = "what goes into service is what was recovered and checked"
    cluster: SourceCluster
    target: ResolvedTarget

    def observe(self, ctx: Context) -> Sequence[Check]:
        recovered = built(ctx).recovered
        rungs: list[Rung] = [
            ReachedPoint(self.cluster, self.target, recovered),
            BothSides(self.target, recovered),
            CatalogueSound(recovered),
            QuestionsAnswered(recovered),
            AppCanLogIn(recovered),
        ]
        checks = [check for rung in rungs for check in rung.do(ctx).checks]
        return [check.model_copy(update={"name": f"{self.name}: {check.name}"}) for check in checks]


class Stopped(Frozen):
    """The old cluster has no server running, and the archive has all that it had."""

    pods: tuple[str, ...]
    salvaged: tuple[str, ...]
    stopped_at: Instant


@dataclass(frozen=True)
class StopOldCluster(Step[Stopped]):
    """Drain the application, then stop the old cluster with all its tenants, and archive the last of its WAL.

    Two writable primaries of one history would part it for good. What was committed after the target stays in the
    archive under the old serverName: a later recovery can still have it.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: ReplaceFits
    target: ResolvedTarget

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        steps = DrainApplication(self.cluster, self.fits), FenceOldCluster(self.fits.old), self._salvage
        return joined(self.title, *(step.plan(ctx) for step in steps))

    @property
    def _salvage(self) -> ArchiveWhatIsLeft:
        return ArchiveWhatIsLeft(self.fits.old, self.target.backup)

    def do(self, ctx: Context) -> Stopped:
        if not is_fenced(ctx.cluster_object(self.cluster.ref)):  # nobody can be drained from servers that are down
            done(ctx, DrainApplication(self.cluster, self.fits))
            for (
                promise
            ) in ctx.recorder.promises():  # the old cluster is left as it was found, for whoever goes back to it
                if promise.kind == "Writes":
                    restoring.restore(ctx, promise)
        fenced = done(ctx, FenceOldCluster(self.fits.old))
        salvaged = done(ctx, self._salvage)
        return Stopped(pods=fenced.pods, salvaged=salvaged.segments, stopped_at=datetime.now(UTC))

    def verify(self, ctx: Context, result: Stopped) -> None:
        found = ctx.kube.get(k8s.CLUSTER, self.cluster.ref.namespace, self.cluster.ref.name)
        if found is not None and found["metadata"]["uid"] == self.fits.old.uid and not is_fenced(found):
            raise VerificationError(
                f"Cluster {self.cluster.ref} is not fenced any more",
                expected="fenced until it is replaced, or gone back to",
                observed="no fence",
                todo="Find out who lifted it: what is written there now is in no replacement.",
            )


class Cut(Frozen):
    """What is in service from now on, and what has been pointed at it."""

    now: str
    server_name: str
    changed: tuple[str, ...]
    others: tuple[str, ...] = ()
    cut_at: Instant


@dataclass(frozen=True)
class FollowToReplacement(Step[Cut]):
    """Point everything at the replacement: Poolers, the applications' addresses, the backups' schedules.

    The old cluster stays, stopped, with its volumes: it is the way back. Tenants whose address the profile does not
    know are named, and must be told.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: ReplaceFits

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        touches, lost = every_tenants_loss(ctx, self.cluster)
        steps = self._steps(self._expected(ctx))
        return joined(self.title, *(step.plan(ctx) for step in steps), touches=touches, lost=lost)

    def _steps(self, made: ReplacementCluster) -> tuple[RepointPoolers, RepointApplication, MoveSchedules]:
        old = self.fits.old
        return RepointPoolers(old, made), RepointApplication(old, made), MoveSchedules(old, made)

    def _expected(self, ctx: Context) -> ReplacementCluster:
        """The replacement by its names, before it is there."""
        names = Replacement.beside(self.fits.old.ref, ctx.run_id, self.fits.server_name)
        return ReplacementCluster(
            ref=names.ref, uid="", created_at=datetime.fromtimestamp(0, UTC), objects=(), left_out=(),
            server_name=names.server_name, instances=self.fits.old.instances, note=names.made_by, secret="",
        )  # fmt: skip

    def do(self, ctx: Context) -> Cut:
        made = built(ctx).replacement
        poolers, applications, _ = (done(ctx, step) for step in self._steps(made))
        found = Cut(
            now=made.ref.name,
            server_name=made.server_name,
            changed=(*(f"Pooler {name}" for name in poolers.changed), *applications.changed),
            others=applications.others,
            cut_at=datetime.now(UTC),
        )
        ctx.recorder.fact("cut", found.model_dump(mode="json"))
        return found


@dataclass(frozen=True)
class MakeAgain(Step[Cut]):
    """Remove the old cluster, and make it again under its own name, as it was at the target.

    Connection strings, Services, Poolers and schedules stay. There is no way back but the archive: what the recovery
    relies on is read there once more, and the old volumes are proven gone before the name is used again.
    """

    effect: ClassVar[Effect] = Effect.DESTROYS
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: ReplaceFits
    target: ResolvedTarget

    def check(self, ctx: Context) -> None:
        ctx.require_preconditions()

    def plan(self, ctx: Context) -> Plan:
        if self.unknown is not None:
            return Plan(summary=self.title)
        touches, lost = every_tenants_loss(ctx, self.cluster)
        return joined(self.title, *(step.plan(ctx) for step in self._steps), touches=touches, lost=lost)

    @property
    def _steps(self) -> tuple[RemoveOldCluster, CreateUnderOldName]:
        old, backup, checked = self.fits.old, self.target.backup, self.fits.rebuild
        assert checked is not None  # noqa: S101 - CheckRebuildFits has filled it
        return RemoveOldCluster(old, backup, checked), CreateUnderOldName(old, backup, self.target.target)

    def do(self, ctx: Context) -> Cut:
        remove, create = self._steps
        done(ctx, remove)
        made: ReplacementCluster = done(ctx, create)
        recovered = done(ctx, WaitForReplacement(self.fits.old, made))
        ctx.recorder.fact(BUILT, Built(replacement=made, recovered=recovered).model_dump(mode="json"))
        self._require_as_checked(ctx, made)
        found = Cut(now=made.ref.name, server_name=made.server_name, changed=(), cut_at=datetime.now(UTC))
        ctx.recorder.fact("cut", found.model_dump(mode="json"))
        return found

    def _require_as_checked(self, ctx: Context, made: ReplacementCluster) -> None:
        """Nobody is let in before the cluster is seen to stop where the copy did, and to answer as it did."""
        checks = ReplacementAsChecked(self.cluster, self.target).do(ctx).checks
        for check in checks:
            ctx.recorder.check(check)
        bad = [check for check in checks if check.unmet]
        if bad:
            raise VerificationError(
                f"Cluster {made.ref} is not what was recovered and checked",
                expected="as the copy",
                observed=causes(bad),
                todo=f"What was before the cut lies under serverName {self.fits.old.server_name}: recover from there.",
            )


@dataclass(frozen=True)
class _Serve(Step[InService]):
    """What is in service from now on is handed over, and the application is brought back."""

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    cluster: SourceCluster
    fits: ReplaceFits
    target: ResolvedTarget

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary=self.title) if self.unknown is not None else self._up.plan(ctx)

    @property
    def _up(self) -> ScaleUpAndHold:
        return ScaleUpAndHold(self.cluster, self.fits)

    @abstractmethod
    def _hand_over(self, ctx: Context, made: ReplacementCluster) -> None:
        """What each way does before the application comes back."""

    def do(self, ctx: Context) -> InService:
        made = built(ctx).replacement
        self._hand_over(ctx, made)
        line: SourceCluster = ReadNewLine(self.fits.old, made).do(ctx)
        found: InService = done(ctx, self._up)
        return found.model_copy(update={"line": line})


@dataclass(frozen=True)
class ServeBeside(_Serve):
    """Keep the replacement, and bring the application back.

    What was promised to be undone before the cut is not any more: the old cluster stays stopped. Replicas are as they
    were; whoever was paused goes on only once what is declared agrees.
    """

    def _hand_over(self, ctx: Context, made: ReplacementCluster) -> None:
        done(ctx, KeepReplacement(self.fits.old, made))


@dataclass(frozen=True)
class ServeAgain(_Serve):
    """Let the schedules go on, and bring the application back.

    Superuser access is as it was, replicas are as they were; whoever was paused goes on only once what is declared agrees.
    """

    def _hand_over(self, ctx: Context, made: ReplacementCluster) -> None:
        done(ctx, FinishRebuild(self.fits.old, made))


__all__ = [
    "BuildBeside", "FollowToReplacement", "MakeAgain", "ReplacementAsChecked", "ServeAgain", "ServeBeside", "StopOldCluster",
]  # fmt: skip
